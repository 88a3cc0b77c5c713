"""Generative adversarial networks (GAN) selected by Inception score: section 4.3 of the PBT paper.

As in the paper, PBT tunes the learning rates of the generator and of the discriminator, separately,
and doubles or halves them. It selects by the Inception score under a small classifier of the data;
what is reported is the score under another, larger one. Beside each stands the score of real
images, which is what there is to reach.

    python -m pbt_flow run --task gan
    python -m pbt_flow run --task gan --set data=cifar10:FOLDER --set width=32 --set k=5

A run of seconds, for tests:

    python -m pbt_flow run --task gan --quick

A GAN fails in silence: no exception, rarely a NaN, but the same picture for ever. Its Inception
score is then 1, and its `spread` near 0; PBT replaces it by a copy of a better one.

Sources: PBT, arXiv 1711.09846; GAN, arXiv 1406.2661, algorithm 1 and the non-saturating loss of its
section 3; DCGAN, arXiv 1511.06434, section 3; Inception score, arXiv 1606.03498, section 4.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from numpy.typing import NDArray
from optuna.distributions import FloatDistribution
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import pad, softplus

from pbt_flow.space import Hparams, Space
from pbt_flow.task import Task, TaskError

from .decay import Decay, Kind
from .gan_images import Images, load_images, scale
from .gan_inception import (
    REPORT,
    SELECTION,
    in_channels_last,
    load_classifier,
    load_imagenet,
)

SELECTION_LATENTS, GRID_LATENTS = 1, 3
"""Seeds of the latent vectors that every member is judged and shown by; reports draw later ones."""
GRID = 8
"""Rows and columns of the grid of samples."""


# --- networks -------------------------------------------------------------------------------------


def make_generator(latent: int, width: int, channels: int, size: int) -> nn.Module:
    """Latent vectors (N, latent) to images (N, channels, size, size) in [-1, 1].

    Transposed convolutions double the size, from 4 or 7 pixels up to 28, 32 or 64. Images below 16
    pixels come from a perceptron: three times as many steps a second.
    """
    if size < 16:
        hidden = 8 * width
        return nn.Sequential(
            nn.Linear(latent, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, channels * size**2),
            nn.Tanh(),
            nn.Unflatten(1, (channels, size, size)),
        )
    levels, base = _halvings(size)
    widths = [width * 2**level for level in reversed(range(levels))]
    layers: list[nn.Module] = [
        nn.Linear(latent, widths[0] * base**2, bias=False),
        nn.Unflatten(1, (widths[0], base, base)),
        nn.BatchNorm2d(widths[0]),
        nn.ReLU(),
    ]
    for inputs, outputs in itertools.pairwise(widths):
        layers += [
            nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
        ]
    layers += [nn.ConvTranspose2d(widths[-1], channels, 4, stride=2, padding=1), nn.Tanh()]
    return in_channels_last(nn.Sequential(*layers))


def make_discriminator(width: int, channels: int, size: int) -> nn.Module:
    """Images (N, channels, size, size) to logits (N, 1), positive for real ones."""
    if size < 16:
        hidden = 8 * width
        return nn.Sequential(
            nn.Flatten(),
            nn.Linear(channels * size**2, hidden),
            nn.LeakyReLU(0.2),
            nn.Linear(hidden, hidden),
            nn.LeakyReLU(0.2),
            nn.Linear(hidden, 1),
        )
    levels, base = _halvings(size)
    widths = [width * 2**level for level in range(levels)]
    layers: list[nn.Module] = [
        nn.Conv2d(channels, width, 4, stride=2, padding=1),
        nn.LeakyReLU(0.2),
    ]
    for inputs, outputs in itertools.pairwise(widths):
        layers += [
            nn.Conv2d(inputs, outputs, 4, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.LeakyReLU(0.2),
        ]
    layers += [nn.Flatten(), nn.Linear(widths[-1] * base**2, 1)]
    return in_channels_last(nn.Sequential(*layers))


def _halvings(size: int) -> tuple[int, int]:
    """How often a size is halved before it is odd or below 8, and what is left."""
    levels, base = 0, size
    while base >= 8 and base % 2 == 0:
        levels, base = levels + 1, base // 2
    return levels, base


# --- the task -------------------------------------------------------------------------------------


class GAN(Task):
    """A generator and a discriminator in contest.

    A step is `k` updates of the discriminator and one of the generator.
    """

    space: ClassVar[Space] = {
        "lr_generator": FloatDistribution(1e-5, 1e-2, log=True),
        "lr_discriminator": FloatDistribution(1e-5, 1e-2, log=True),
    }
    report_direction = "maximize"
    defaults: ClassVar[Mapping[str, Any]] = {
        "population": 8,
        "turns": 10,
        "interval": 250,
        # docs/results.md: with these stages 8 of 8 pairs were ahead of random search.
        "stages": "narrow",
        "exploit": "truncation:fraction=0.25",
        "explore": "perturb:factors=0.5/2,resample_probability=0.25",
        "samples": "rounds",
    }
    quick: ClassVar[Mapping[str, Any]] = {
        "population": 4,
        "turns": 3,
        "interval": 100,
        "stages": "none",
        "options": {"data": "digits"},
    }

    def __init__(
        self,
        *,
        seed: int,
        device: str = "cpu",
        data: str = "",
        size: int = 32,
        width: int = 8,
        latent: int = 32,
        batch: int = 64,
        k: int = 1,
        samples: int = 2000,
        imagenet: str = "",
        decay: Kind = "none",
    ) -> None:
        """Build both networks.

        Args:
            seed: Seeds their weights.
            device: As torch names it.
            data: Which images (see `gan_images.py`). Empty: Fashion-MNIST where it lies on this
                machine, else digits.
            size: Pixels of a side, for `data=folder:...`; the other data have their own.
            width: Channels of the largest feature maps; those half the size have twice as many.
            latent: Length of the vectors that images are made from.
            batch: Images per update.
            k: Discriminator updates before each generator update; 5 in the paper. Less gets
                further in the same time: on digits, both rates at 3e-3, one seed, k=1 scored 7.2
                after 6.0 CPU s, k=2 6.9 after 5.7, and k=5 5.8 after 8.4.
            samples: Images that a score is computed from.
            imagenet: Also report the Inception score of ImageNet's network (minutes): the file
                with its weights, or `download`.
            decay: With `cosine`, both learning rates are the first ones, and fall to 0.

        Raises:
            TaskError: An option is out of its range, or the data cannot be had.
        """
        super().__init__(seed=seed, device=device)
        for name, number, least in (
            ("size", size, 8),
            ("width", width, 1),
            ("latent", latent, 1),
            ("batch", batch, 2),
            ("k", k, 1),
            ("samples", samples, 2),
        ):
            if number < least:
                raise TaskError(f"gan: option {name} must be at least {least}, got {number}")
        self.images: Images = load_images(data, size)
        if self.images.size >= 16 and self.images.size % 2:
            raise TaskError(
                f"gan: images must have an even number of pixels, got {self.images.size}"
            )
        self.latent, self.batch, self.k = latent, batch, k
        self.count, self.imagenet = samples, imagenet
        shape = self.images.channels, self.images.size
        torch.manual_seed(seed)
        self.generator = make_generator(latent, width, *shape).to(device)
        self.discriminator = make_discriminator(width, *shape).to(device)
        self.decay = Decay(decay)
        self.follows_budget = self.decay.is_on
        # The learning rates are set by `train`; a beta of 0.5 is the advice of DCGAN.
        self.generator_adam, self.discriminator_adam = (
            torch.optim.Adam(network.parameters(), betas=(0.5, 0.999), fused=True)
            for network in (self.generator, self.discriminator)
        )

    def understood(self) -> Mapping[str, str]:
        """The classes and their sizes, and what there is about the pictures."""
        return {**self.images.understood, **self.decay.understood(self.budget)}

    def train(self, hparams: Hparams, steps: int) -> Mapping[str, float]:
        # Whoever has looked at the generator since the last turn left it in evaluation mode, in
        # which batch normalisation takes no statistics from the batch.
        self.generator.train()
        self.discriminator.train()
        adams = {
            name: (adam, float(hparams[name]))  # type: ignore[arg-type]
            for name, adam in (
                ("lr_generator", self.generator_adam),
                ("lr_discriminator", self.discriminator_adam),
            )
        }
        discriminating = list(self.discriminator.parameters())
        generator_loss = discriminator_loss = torch.zeros((), device=self.device)
        for _ in range(steps):
            rates = {
                f"rate/{name}": self.decay.set_rate(adam, first, self.budget)
                for name, (adam, first) in adams.items()
            }
            for _ in range(self.k):
                real = self._real()
                with torch.no_grad():
                    fake = self.generator(self._latents())
                # Two batches, not one of both: each is normalised by its own statistics.
                loss = (
                    softplus(-self.discriminator(real)).mean()
                    + softplus(self.discriminator(fake)).mean()
                )
                self.discriminator_adam.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                self.discriminator_adam.step()
                discriminator_loss = discriminator_loss + loss.detach() / (steps * self.k)
            # What the discriminator would learn here is not wanted: do not compute it.
            for weight in discriminating:
                weight.requires_grad_(False)
            loss = softplus(-self.discriminator(self.generator(self._latents()))).mean()
            self.generator_adam.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self.generator_adam.step()
            for weight in discriminating:
                weight.requires_grad_(True)
            generator_loss = generator_loss + loss.detach() / steps
            self.decay.age += 1
        return {
            **(rates if self.decay.is_on else {}),
            "generator_loss": float(generator_loss),
            "discriminator_loss": float(discriminator_loss),
            "spread": float(fake.std(0).mean() / real.std(0).mean()),
        }

    def _real(self) -> Tensor:
        rows = torch.randint(len(self.images.train), (self.batch,))
        return scale(self.images.train[rows].to(self.device))

    def _latents(self) -> Tensor:
        return torch.randn(self.batch, self.latent, device=self.device)

    def evaluate(self) -> float:
        """The Inception score under the small classifier; NaN if a weight is not finite."""
        if not self._is_finite():
            return math.nan
        classifier = load_classifier(SELECTION, self.images, self.count, self.device)
        return classifier.score(self._generate(self.count, SELECTION_LATENTS))

    def evaluate_fresh(self) -> float:
        """The same of other images: those of latent vectors that `self.rng` draws."""
        if not self._is_finite():
            return math.nan
        rng = copy.deepcopy(self.rng)  # Looking takes no random numbers away from training.
        classifier = load_classifier(SELECTION, self.images, self.count, self.device)
        return classifier.score(
            self._generate(self.count, int(rng.integers(GRID_LATENTS + 1, 2**31)))
        )

    def metrics(self) -> Mapping[str, float]:
        """What the score is to be seen beside: real images' own, and how good the classifier is.

        Where fewer real images are held out than are scored, `real_score` is a little low (see
        `Classifier.real_count`).
        """
        classifier = load_classifier(SELECTION, self.images, self.count, self.device)
        return {"real_score": classifier.real_score, "classifier_accuracy": classifier.accuracy}

    def _is_finite(self) -> bool:
        networks = (self.generator, self.discriminator)
        return all(bool(w.isfinite().all()) for network in networks for w in network.parameters())

    @torch.no_grad()
    def _generate(self, count: int, seed: int) -> Tensor:
        """Images of the generator from the latent vectors that belong to a seed."""
        latents = torch.randn(count, self.latent, generator=torch.Generator().manual_seed(seed))
        self.generator.eval()
        parts = torch.split(latents, 100)
        return torch.cat([self.generator(part.to(self.device)) for part in parts])

    def state_dict(self) -> dict[str, Any]:
        parts = {name: part.state_dict() for name, part in self._parts().items()}
        return {**parts, **self.decay.state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, part in self._parts().items():
            part.load_state_dict(copy.deepcopy(state[name]))  # Optimisers would share tensors.
        self.decay.restore(state)

    def _parts(self) -> dict[str, nn.Module | torch.optim.Optimizer]:
        return {
            "generator": self.generator,
            "discriminator": self.discriminator,
            "generator_adam": self.generator_adam,
            "discriminator_adam": self.discriminator_adam,
        }

    def report(self) -> dict[str, float]:
        """The Inception score of other samples under a classifier that selection never saw.

        With the score of real images, and both under ImageNet's network too, if wanted. Where fewer
        real images are held out than are generated, the score to set beside theirs is
        `inception_score_matched`, of as many generated ones: a score grows with their number.

        The latent vectors are drawn from `self.rng`, so reports of one population, and of a control
        with the same seed, are of the same ones; an interval over seeds includes their choice. (It
        is worth 0.07 at a score of 7.1 on digits: the deviation of 30 draws of 2,000.)
        """
        rng = copy.deepcopy(self.rng)  # A report takes no random numbers away from training.
        images = self._generate(self.count, int(rng.integers(GRID_LATENTS + 1, 2**31)))
        classifier = load_classifier(REPORT, self.images, self.count, self.device)
        metrics = {
            "inception_score": classifier.score(images),
            "inception_score_matched": classifier.score(images[: classifier.real_count]),
            "inception_score_real": classifier.real_score,
            "classifier_accuracy": classifier.accuracy,
        }
        if self.imagenet:
            network = load_imagenet(self.imagenet, self.images, self.count, self.device)
            metrics["imagenet_inception_score"] = network.score(images)
            metrics["imagenet_inception_score_real"] = network.real_score
        return metrics

    def samples(self, folder: Path) -> None:
        """Write `samples.png`: a grid of images from the same latent vectors at every turn."""
        images = self._generate(GRID**2, GRID_LATENTS).cpu().nan_to_num()
        pixels = ((images + 1) * 127.5).round().to(torch.uint8)
        channels, size = pixels.shape[1:3]
        pixels = pad(pixels, (0, 1, 0, 1), value=255)  # a line between one image and the next
        edge = size + 1
        rows = pixels.reshape(GRID, GRID, channels, edge, edge).permute(0, 3, 1, 4, 2)
        picture = rows.reshape(GRID * edge, GRID * edge, channels).squeeze(2).numpy()[:-1, :-1]
        zoom = max(1, round(64 / size))
        folder.mkdir(parents=True, exist_ok=True)
        whole = Image.fromarray(picture)
        whole.resize((whole.width * zoom,) * 2, Image.Resampling.NEAREST).save(
            folder / "samples.png"
        )

    def model(self) -> nn.Module:
        """The generator, in evaluation mode: latent vectors (N, latent) to images in [-1, 1]."""
        return self.generator.eval()

    def example(self) -> NDArray[Any]:
        """Latent vectors of four images."""
        generator = torch.Generator().manual_seed(GRID_LATENTS)
        return torch.randn(4, self.latent, generator=generator).numpy()
