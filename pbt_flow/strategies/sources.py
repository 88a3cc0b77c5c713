"""What a member takes from others, where weights and hyperparameters may have different sources."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Sources:
    """Whose weights and whose hyperparameters a member goes on with.

    An exploit strategy returns it in place of a member's number if what it takes cannot be said by
    its `copies` alone.

    Raises (when built):
        ValueError: Nothing would be taken.
    """

    weights: int | None
    """The member whose weights are taken; None to keep one's own."""
    hparams: int | None
    """The member whose hyperparameters are taken; None to keep one's own."""
    explores: bool = True
    """Whether the explore strategy then moves the hyperparameters."""

    def __post_init__(self) -> None:
        if self.weights is None and self.hparams is None:
            raise ValueError("sources must name a member; to take nothing, return None")

    @property
    def members(self) -> list[int]:
        """The members that are named."""
        return [member for member in (self.weights, self.hparams) if member is not None]
