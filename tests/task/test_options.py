"""Options of a task: read by type, written down in full, given back as the task wants them."""

from __future__ import annotations

import dataclasses
import enum
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import pytest
from sample_tasks import Idle

from pbt_flow.exceptions import OptionError
from pbt_flow.task import Declaration, TaskError, check_options, complete_options, declare
from pbt_flow.task.options import arguments_of, compare_with_code, options_of
from pbt_flow.utils.values import is_same_in_json

if TYPE_CHECKING:
    from nowhere import Missing


class Colour(enum.Enum):
    RED = 1
    BLUE = "b"


@dataclasses.dataclass(frozen=True)
class Shape:
    sides: int = 3
    name: str = "triangle"


class Many(Idle):
    """Options of every kind, some with an annotation and some with a default alone."""

    def __init__(
        self,
        *,
        seed: int,
        device: str = "cpu",
        layers=(64, 64),
        sizes=[1, 2],  # noqa: B006
        rates=(1, 0.5),
        betas: tuple[float, float] = (0.9, 0.99),
        words: list[str] = ["a"],  # noqa: B006
        nested: list[list[int]] = [[1]],  # noqa: B006
        bare: tuple = (8, 8),
        names: Sequence[str] = (),
        drop=None,
        rate: float | None = None,
        count: int = None,  # noqa: RUF013
        choice: int | str = "auto",
        several: str | list[str] = "one",
        path=Path("x"),
        folder: Path | None = None,
        colour: Colour = Colour.RED,
        colours=(Colour.RED,),
        size: Literal["s", "m", 3] = "s",
        settings={"a": 1},  # noqa: B006
        limits: dict[str, float] | None = None,
        tags=frozenset({"x"}),
        shape: Shape = Shape(),  # noqa: B008
        flag: bool = False,
        scale: Annotated[float, "a note"] = 1.0,
        act=np.tanh,
        cast: type = int,
        unknown: Missing = 5,
        number=np.float32(0.5),  # noqa: B008
    ) -> None:
        super().__init__(seed=seed, device=device)
        self.given = {k: v for k, v in locals().items() if k not in ("self", "seed", "device")}


class Required(Idle):
    def __init__(self, *, seed: int, device: str = "cpu", width: int) -> None:
        super().__init__(seed=seed, device=device)


MANY: Declaration = declare(Many)


@pytest.mark.parametrize(
    ("name", "given", "recorded", "built"),
    [
        ("layers", "64,32", [64, 32], (64, 32)),
        ("layers", "[64, 32]", [64, 32], (64, 32)),
        ("layers", "(64, 32,)", [64, 32], (64, 32)),
        ("layers", "7", [7], (7,)),
        ("layers", "", [], ()),
        ("layers", (3, 4), [3, 4], (3, 4)),
        ("layers", np.array([3, 4]), [3, 4], (3, 4)),
        ("layers", [np.int64(3), "4"], [3, 4], (3, 4)),
        ("sizes", "1, 5", [1, 5], [1, 5]),
        ("rates", "1,2", [1.0, 2.0], (1.0, 2.0)),
        ("betas", "0.8, 0.9", [0.8, 0.9], (0.8, 0.9)),
        ("words", "a,b c", ["a", "b c"], ["a", "b c"]),
        ("words", '["a,b"]', ["a,b"], ["a,b"]),
        ("nested", "[[1, 2], [3]]", [[1, 2], [3]], [[1, 2], [3]]),
        ("bare", "4,2", [4, 2], (4, 2)),
        ("names", "p,q", ["p", "q"], ["p", "q"]),
        ("drop", "0.1", 0.1, 0.1),
        ("drop", "true", True, True),
        ("drop", "null", None, None),
        ("drop", "some text", "some text", "some text"),
        ("drop", "[1, 2]", [1, 2], [1, 2]),
        ("drop", '"5"', '"5"', '"5"'),
        ("drop", "nan", "nan", "nan"),
        ("rate", "1e-3", 0.001, 0.001),
        ("rate", "none", None, None),
        ("count", "3", 3, 3),
        ("count", "none", None, None),
        ("choice", "7", 7, 7),
        ("choice", "many", "many", "many"),
        ("several", "two", "two", "two"),
        ("several", '["a", "b"]', ["a", "b"], ["a", "b"]),
        ("path", "data/train", "data/train", Path("data/train")),
        ("path", Path("y"), "y", Path("y")),
        ("folder", "z", "z", Path("z")),
        ("colour", "BLUE", "BLUE", Colour.BLUE),
        ("colour", "b", "BLUE", Colour.BLUE),
        ("colour", Colour.BLUE, "BLUE", Colour.BLUE),
        ("colours", "BLUE,RED", ["BLUE", "RED"], (Colour.BLUE, Colour.RED)),
        ("size", "m", "m", "m"),
        ("size", "3", 3, 3),
        ("settings", '{"b": [1, {"c": null}]}', {"b": [1, {"c": None}]}, {"b": [1, {"c": None}]}),
        ("limits", '{"low": 1}', {"low": 1.0}, {"low": 1.0}),
        ("limits", "null", None, None),
        ("tags", "b,a", ["a", "b"], frozenset({"a", "b"})),
        ("shape", '{"sides": 4}', {"sides": 4}, Shape(sides=4)),
        ("shape", Shape(5, "x"), {"sides": 5, "name": "x"}, Shape(5, "x")),
        ("flag", "TRUE", True, True),
        ("scale", "2", 2.0, 2.0),
        ("scale", 3, 3.0, 3.0),
        ("scale", np.float32(0.5), 0.5, 0.5),
        ("unknown", "6", 6, 6),
        ("number", "2", 2.0, 2.0),
    ],
)
def test_an_option_is_read_by_its_type_and_given_back_to_the_task_as_it_wants_it(
    name: str, given: Any, recorded: Any, built: Any
) -> None:
    read = check_options(MANY, {name: given})[name]
    assert is_same_in_json(read, recorded)
    # What a record holds is read as itself, or a resume would differ from the run.
    assert is_same_in_json(check_options(MANY, {name: read})[name], recorded)
    got = Many(seed=0, **arguments_of(Many, {name: read})).given[name]
    assert got == built
    assert type(got) is type(built)


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("layers", "64,wide", r"option layers takes a list of int .*, got '64,wide'"),
        ("layers", "[64", r"option layers takes a list of int \(JSON, or separated by commas\)"),
        ("layers", [True], "option layers takes a list of int"),
        ("layers", 64, "option layers takes a list of int"),
        ("betas", "0.9", "option betas takes a list of float, float"),
        ("nested", "1,2", r"takes a list of a list of int \(JSON, or separated by commas\), got"),
        ("shape", '{"sids": 4}', "option shape takes a mapping in JSON with sides, name, got"),
        ("shape", {"sides": 4, "colour": 1}, "takes a mapping in JSON with sides, name, got"),
        ("words", [1], "option words takes a list of str"),
        ("rate", "fast", "option rate takes float or none, got 'fast'"),
        ("rate", [0.5], "option rate takes float or none"),
        ("count", "1.5", "option count takes int or none, got '1.5'"),
        ("count", 1.5, "option count takes int or none, got 1.5"),
        ("count", True, "option count takes int or none, got True"),
        ("colour", "GREEN", "option colour takes one of RED, BLUE, got 'GREEN'"),
        ("size", "xl", "option size takes one of s, m, 3, got 'xl'"),
        ("settings", "a=1", "option settings takes a mapping in JSON, got 'a=1'"),
        ("limits", '{"low": "x"}', "option limits takes a mapping in JSON or none"),
        ("flag", "yes", "option flag takes bool, got 'yes'"),
        ("flag", 1, "option flag takes bool, got 1"),
        ("path", 5, "option path takes str, got 5"),
        ("path", "a\0b", "option path takes str, .*null character"),
        ("drop", object(), "option drop takes any plain value, got <object.*JSON has nothing"),
        ("drop", int, "option drop takes any plain value, got <class 'int'>: JSON has nothing"),
        ("drop", {1: "a", "1": "b"}, "option drop takes .*: two of its keys are '1' in JSON"),
        ("act", "relu", "option act takes only its default, <ufunc 'tanh'>"),
        ("cast", float, "option cast takes only its default, got <class 'float'>: JSON has"),
        ("layer", "64", r"no option 'layer' \(did you mean layers\?\); there are "),
        ("seed", "3", r"no option 'seed': it is a setting of the population, given as --seed"),
        ("device", "cuda", r"no option 'device': .* given as --device and in Python as device="),
    ],
)
def test_what_an_option_does_not_take_is_refused_by_name(
    name: str, given: Any, message: str
) -> None:
    with pytest.raises(TaskError, match=message):
        check_options(MANY, {name: given})


def test_all_options_are_on_record_and_read_back_to_the_same_from_any_process() -> None:
    full = complete_options(MANY, {"layers": "1,2"})
    assert list(full) == list(MANY.options)
    assert (full["layers"], full["path"], full["colour"]) == ([1, 2], "x", "RED")
    assert (full["tags"], full["shape"]) == (["x"], {"sides": 3, "name": "triangle"})
    assert full["cast"] == "<builtins.int>"
    # A controller gets the declaration from a worker, and does not import the task.
    sent = pickle.dumps(MANY.options)
    assert b"Colour" not in sent
    assert b"Shape" not in sent
    assert complete_options(dataclasses.replace(MANY, options=pickle.loads(sent)), full) == full
    built, alone = Many(seed=0, **arguments_of(Many, full)).given, Many(seed=0).given
    assert built == {**alone, "layers": (1, 2)}
    assert built["act"] is np.tanh


def test_an_option_without_a_default_must_be_given() -> None:
    with pytest.raises(
        TaskError, match=r"option width has no default; give --set width=\.\.\., int"
    ):
        complete_options(declare(Required), {})
    assert complete_options(declare(Required), {"width": "3"}) == {"width": 3}


def test_what_the_code_has_changed_since_a_population_began_is_told() -> None:
    class Now(Idle):
        def __init__(
            self, *, seed: int, device: str = "cpu", scale: float = 100.0, new: tuple = (1,)
        ) -> None:
            super().__init__(seed=seed, device=device)

    known = options_of(Now)
    options, notes = compare_with_code(known, {"scale": 1.0}, {"scale": 1.0})
    assert options == {"scale": 1.0, "new": [1]}
    assert notes == [
        "option scale: the code's default is 100.0 now and was 1.0; this goes on with 1.0, as "
        "recorded",
        "options that are not on record take the code's defaults: new=[1]",
    ]
    assert arguments_of(Now, options) == {"scale": 1.0}
    # An earlier version recorded what was given, and that alone.
    assert compare_with_code(known, {"scale": 5.0, "new": [2]}, {}) == (
        {"scale": 5.0, "new": [2]},
        [],
    )
    with pytest.raises(ValueError, match=r"option old, with which .* \(3\), is not taken by"):
        compare_with_code(known, {"old": 3}, {})
    with pytest.raises(ValueError, match="option scale takes float, got 'x'"):
        compare_with_code(known, {"scale": "x"}, {})
    with pytest.raises(ValueError, match="option width is required by the task's class now"):
        compare_with_code(options_of(Required), {}, {})


def test_what_a_dataclass_does_not_take_is_said_in_one_line():
    with pytest.raises(
        OptionError, match=r"option shape cannot be .*: sides: Input should be a val"
    ) as one:
        arguments_of(Many, {"shape": {"sides": "many"}})
    assert "\n" not in str(one.value)
