"""Strategies as text: what is written can be read, and what cannot is refused with a way out."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pbt_flow.exceptions import PBTError, StrategyError
from pbt_flow.strategies.exploit import EXPLOITS, BinaryTournament, NoExploit, Truncation, TTest
from pbt_flow.strategies.explore import EXPLORES, Gaussian, NoExplore, Perturb, Resample
from pbt_flow.strategies.samplers import SAMPLERS, OptunaSampler, Sobol, Uniform
from pbt_flow.strategies.text import parse, write


@dataclasses.dataclass(frozen=True)
class Everything:
    """A strategy with a setting of every kind that can be written."""

    whole: int = 1
    part: float = 0.5
    words: tuple[str, ...] = ("a", "b")
    counts: tuple[int, ...] = (1, 2)
    flag: bool = False
    limit: int | None = None
    side: Literal["left", "right"] = "left"

    def __post_init__(self) -> None:
        if self.whole < 0:
            raise ValueError(f"whole must not be negative, got {self.whole}")


@dataclasses.dataclass(frozen=True)
class Needy:
    """A strategy whose setting has no default."""

    size: int


KINDS: dict[str, type[Any]] = {"everything": Everything}
OWN = f"{Everything.__module__}.{Everything.__qualname__}"


@pytest.mark.parametrize(
    ("text", "kinds", "strategy"),
    [
        ("truncation", EXPLOITS, Truncation()),
        (" truncation ", EXPLOITS, Truncation()),
        ("truncation:", EXPLOITS, Truncation()),
        (
            "truncation:fraction=0.2,copies=weights,ties=true",
            EXPLOITS,
            Truncation(fraction=0.2, copies="weights", ties=True),
        ),
        ("tournament:ties=false", EXPLOITS, BinaryTournament()),
        ("ttest:alpha=1e-3", EXPLOITS, TTest(alpha=0.001)),
        ("none", EXPLOITS, NoExploit()),
        (
            "perturb:factors=0.8/1.2,resample_probability=0",
            EXPLORES,
            Perturb(factors=(0.8, 1.2), resample_probability=0.0),
        ),
        ("perturb:ordered=size/act", EXPLORES, Perturb(ordered=("size", "act"))),
        ("perturb:factors=2", EXPLORES, Perturb(factors=(2.0,))),
        ("gaussian:sigma=0.05", EXPLORES, Gaussian(sigma=0.05)),
        ("resample:probability=0.5", EXPLORES, Resample(probability=0.5)),
        ("none", EXPLORES, NoExplore()),
        ("uniform", SAMPLERS, Uniform()),
        ("sobol", SAMPLERS, Sobol()),
        ("optuna:window=64", SAMPLERS, OptunaSampler(window=64)),
        ("everything:limit=none", KINDS, Everything()),
        ("everything:limit=3,flag=true", KINDS, Everything(limit=3, flag=True)),
        ("everything:counts=7/8/9", KINDS, Everything(counts=(7, 8, 9))),
        (OWN, {}, Everything()),
        (f"{OWN}:whole=4,side=right", {}, Everything(whole=4, side="right")),
        ("pbt_flow.strategies.exploit.TTest:alpha=0.1", {}, TTest(alpha=0.1)),
    ],
)
def test_text_becomes_the_strategy_that_it_describes(
    text: str, kinds: dict[str, type[Any]], strategy: Any
) -> None:
    assert parse(text, kinds, "a strategy") == strategy
    assert type(parse(text, kinds, "a strategy")) is type(strategy)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "truncate",
            r"exploit: there is no 'truncate' \(did you mean truncation\?\); choose from "
            r"'everything', 'mfpbt', 'none', ",
        ),
        ("", "exploit: there is no ''; choose from"),
        (":fraction=0.2", "exploit: there is no ''; choose from"),
        ("no.such.module.Class", "there is no 'no.such.module.Class'; .*package.module.Class"),
        (
            "pbt_flow.strategies.exploit.Missing",
            "there is no 'pbt_flow.strategies.exploit.Missing'",
        ),
        ("pbt_flow.strategies.exploit.welch_p", "welch_p': a strategy is a frozen dataclass, and"),
        ("pathlib.Path", "exploit 'pathlib.Path': a strategy is a frozen dataclass, and this is"),
        (
            "truncation:fractoin=0.2",
            r"exploit 'truncation': 'fractoin=0.2' is no setting of it "
            r"\(did you mean fraction\?\); it has 'copies', 'fraction', 'ties', 'until', "
            r"written truncation:key=value",
        ),
        ("truncation:fraction", "'fraction' is no setting of it"),
        ("truncation:0.2", "'0.2' is no setting of it"),
        ("none:ties=true", r"exploit 'none': 'ties=true' is no setting of it; it has none$"),
        ("truncation:fraction=", "exploit 'truncation': fraction cannot be ''"),
        ("truncation:fraction=half", "exploit 'truncation': fraction cannot be 'half'"),
        ("truncation:fraction=0,2", "'2' is no setting of it"),
        (
            "truncation:fraction=.2,ties=true,fraction=.3",
            "exploit 'truncation': fraction is given twice in 'truncation:fraction=.2,ties=true,f",
        ),
        (
            "truncation:copies=all",
            r"copies cannot be 'all': choose from 'both', 'weights', 'hparams'",
        ),
        ("tournament:ties=yes", "ties cannot be 'yes': choose true or false"),
        ("tournament:ties=True", "ties cannot be 'True': choose true or false"),
        ("truncation:fraction=0.6", "exploit 'truncation': fraction must lie above 0 and not"),
        ("truncation:fraction=0", "exploit 'truncation': fraction must lie above 0"),
        ("truncation:fraction=nan", "exploit 'truncation': fraction must lie above 0"),
        ("ttest:alpha=1", "exploit 'ttest': alpha must lie between 0 and 1, got 1.0"),
        ("everything:whole=1.5", "exploit 'everything': whole cannot be '1.5'"),
        ("everything:whole=-1", "exploit 'everything': whole must not be negative, got -1"),
        ("everything:counts=1/x", "exploit 'everything': counts cannot be '1/x'"),
        ("everything:limit=few", "exploit 'everything': limit cannot be 'few'"),
    ],
)
def test_text_that_describes_no_strategy_is_refused_with_what_there_is(
    text: str, message: str
) -> None:
    with pytest.raises(StrategyError, match=message):
        parse(text, {**EXPLOITS, **KINDS}, "exploit")


@pytest.mark.parametrize(
    "text",
    [
        "./own.py:Mine",
        "..exploit.Truncation",
        f"{Needy.__module__}.Needy",
        "pbt_flow.strategies.exploit.Candidate",
    ],
)
def test_text_that_python_cannot_import_or_build_is_refused_too(text: str) -> None:
    with pytest.raises(StrategyError):
        parse(text, EXPLOITS, "exploit")


def test_a_strategy_of_the_users_own_is_found_by_its_dotted_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_strategies.py").write_text(
        "from __future__ import annotations\n"
        "from dataclasses import dataclass\n"
        "@dataclass(frozen=True)\n"
        "class Best:\n"
        "    margin: float = 0.0\n",
    )
    monkeypatch.syspath_prepend(tmp_path)
    best = parse("my_strategies.Best:margin=0.5", EXPLOITS, "exploit")
    assert best.margin == 0.5
    assert write(best, EXPLOITS) == "my_strategies.Best:margin=0.5"


@pytest.mark.parametrize(
    ("strategy", "kinds", "text"),
    [
        (Truncation(), EXPLOITS, "truncation:fraction=0.25,copies=both,ties=false,until=none"),
        (NoExploit(), EXPLOITS, "none"),
        (
            Perturb(factors=(0.8, 1.2), ordered=("size",)),
            EXPLORES,
            "perturb:factors=0.8/1.2,resample_probability=0.25,choice_probability=0.25,ordered=size",
        ),
        (OptunaSampler(), SAMPLERS, "optuna:sampler=TPESampler,window=200"),
        (
            Everything(),
            {},
            f"{OWN}:whole=1,part=0.5,words=a/b,counts=1/2,flag=false,limit=none,side=left",
        ),
    ],
)
def test_a_strategy_is_written_with_all_its_settings(
    strategy: Any, kinds: dict[str, type[Any]], text: str
) -> None:
    assert write(strategy, kinds) == text


_words = st.from_regex(r"[a-z][a-z0-9_.\- ]{0,6}", fullmatch=True)


@given(
    st.builds(
        Everything,
        whole=st.integers(0, 10**12),
        part=st.floats(allow_nan=False, allow_infinity=False),
        words=st.lists(_words, min_size=1, max_size=4).map(tuple),
        counts=st.lists(st.integers(), min_size=1, max_size=4).map(tuple),
        flag=st.booleans(),
        limit=st.none() | st.integers(),
        side=st.sampled_from(["left", "right"]),
    )
)
def test_what_is_written_reads_as_an_equal_strategy(strategy: Everything) -> None:
    assert parse(write(strategy, KINDS), KINDS, "a strategy") == strategy
    assert parse(write(strategy, {}), {}, "a strategy") == strategy


@pytest.mark.parametrize(
    ("strategy", "kinds"),
    [
        *((kind(), EXPLOITS) for kind in EXPLOITS.values()),
        *((kind(), EXPLORES) for kind in EXPLORES.values()),
        *((kind(), SAMPLERS) for kind in SAMPLERS.values()),
        (Truncation(fraction=1 / 3, copies="hparams", ties=True), EXPLOITS),
        (Gaussian(sigma=1e-3, resample_probability=1.0), EXPLORES),
        (Perturb(factors=(0.8, 1.2)), EXPLORES),
        (Perturb(ordered=("activation", "width")), EXPLORES),
        (OptunaSampler(sampler="optuna.samplers.GPSampler", window=7), SAMPLERS),
    ],
    ids=str,
)
def test_every_strategy_of_ours_comes_back_from_its_text(
    strategy: Any, kinds: dict[str, type[Any]]
) -> None:
    assert parse(write(strategy, kinds), kinds, "a strategy") == strategy


def _local() -> Any:
    @dataclasses.dataclass(frozen=True)
    class Local:
        pass

    return Local()


class _Plain:
    pass


@pytest.mark.parametrize(
    "strategy",
    [_local(), _Plain(), Truncation, lambda me, others, rng: None, 3],
    ids=["local", "no dataclass", "a class", "a function", "a number"],
)
def test_a_strategy_that_a_resume_could_not_build_again_is_refused(strategy: Any) -> None:
    with pytest.raises(StrategyError, match="must be an object of a dataclass in an importable"):
        write(strategy, EXPLOITS)


def test_a_strategy_error_is_one_that_a_user_can_mend() -> None:
    assert issubclass(StrategyError, PBTError)
    assert issubclass(StrategyError, ValueError)


@pytest.mark.parametrize(
    ("code", "cause"),
    [
        ("import no_such_library", "ModuleNotFoundError: No module named 'no_such_library'"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("def f(:", "SyntaxError: "),
        ("from dataclasses import nothing", "ImportError: cannot import name 'nothing'"),
    ],
)
def test_a_module_that_is_there_and_cannot_be_imported_is_no_missing_one(
    code: str, cause: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_strategy.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    sentence = f"exploit 'broken_strategy.Mine': broken_strategy cannot be imported: {cause}"
    with pytest.raises(StrategyError, match=f"^{re.escape(sentence)}"):
        parse("broken_strategy.Mine", EXPLOITS, "exploit")
