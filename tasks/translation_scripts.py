"""Which writing a text is in, and which tokeniser of sacreBLEU counts its words.

BLEU counts words, and the usual tokeniser (13a) takes what stands between spaces for one. Chinese,
Japanese, Thai and some others write no spaces, so a sentence would be one word, right or wrong as a
whole: translations that miss one character of each sentence get a BLEU of 0.
"""

from __future__ import annotations

import bisect
from collections import Counter
from collections.abc import Iterable, Mapping

# The blocks of letters of scripts that are told apart here: first, last (as Unicode 15 has them).
_BLOCKS = (
    (0x0E00, 0x0E7F, "Thai"),
    (0x0E80, 0x0EFF, "Lao"),
    (0x0F00, 0x0FFF, "Tibetan"),
    (0x1000, 0x109F, "Burmese"),
    (0x1100, 0x11FF, "Korean"),
    (0x1780, 0x17FF, "Khmer"),
    (0x3005, 0x3007, "Chinese"),
    (0x3041, 0x30FF, "Japanese"),
    (0x3105, 0x312F, "Chinese"),
    (0x3131, 0x318E, "Korean"),
    (0x31F0, 0x31FF, "Japanese"),
    (0x3400, 0x4DBF, "Chinese"),
    (0x4E00, 0x9FFF, "Chinese"),
    (0xA960, 0xA97F, "Korean"),
    (0xA9E0, 0xA9FF, "Burmese"),
    (0xAA60, 0xAA7F, "Burmese"),
    (0xAC00, 0xD7FF, "Korean"),
    (0xF900, 0xFAFF, "Chinese"),
    (0xFF66, 0xFF9F, "Japanese"),
    (0xFFA0, 0xFFDC, "Korean"),
    (0x20000, 0x323AF, "Chinese"),
)
_STARTS = [first for first, _, _ in _BLOCKS]

UNSPACED = frozenset(("Chinese", "Japanese", "Thai", "Lao", "Tibetan", "Burmese", "Khmer"))
"""Scripts that put no spaces between words."""
ENOUGH = 0.25
"""A share of the letters that is about half of the words: a Chinese word has one or two letters, an
English one four or five."""
SOME = 0.05
"""A share that is worth a word."""

_LEARNT = frozenset(("spm", "flores101", "flores200", "spBLEU-1K"))
_SUITS = {
    "Chinese": _LEARNT | {"zh", "char"},
    "Japanese": _LEARNT | {"ja-mecab", "char"},
    "Korean": _LEARNT | {"ko-mecab", "char", "13a", "intl", "none"},
}
"""Which tokenisers suit a script; `char` and those that are learnt suit all without spaces."""


def script_of(letter: str) -> str:
    """The script of a letter, if it is one of those above; else `other`.

    >>> script_of("語"), script_of("の"), script_of("ก"), script_of("x")
    ('Chinese', 'Japanese', 'Thai', 'other')
    """
    code = ord(letter)
    _, last, script = _BLOCKS[max(0, bisect.bisect_right(_STARTS, code) - 1)]
    return script if _STARTS[0] <= code <= last else "other"


def shares(texts: Iterable[str]) -> dict[str, float]:
    """Which share of the letters each script has, the greatest first; empty without any letter.

    Chinese characters beside Japanese syllables are Japanese, unless these are rare.
    """
    characters: Counter[str] = Counter()
    for text in texts:
        characters.update(text)
    scripts: Counter[str] = Counter()
    for character, number in characters.items():
        if character.isalpha():
            scripts[script_of(character)] += number
    if 10 * scripts["Japanese"] >= scripts["Chinese"] + scripts["Japanese"]:
        scripts["Japanese"] += scripts.pop("Chinese", 0)
    letters = scripts.total()
    return {script: number / letters for script, number in scripts.most_common() if number}


def is_unspaced(found: Mapping[str, float]) -> bool:
    """Whether about half of the words or more stand without spaces between them."""
    return sum(share for script, share in found.items() if script in UNSPACED) >= ENOUGH


def choose_tokenizer(found: Mapping[str, float], given: str = "") -> tuple[str, str]:
    """The tokeniser for a target language, and a sentence that says why.

    Args:
        found: Which share of the target's letters each script has (see `shares`).
        given: What the user wants; empty: what suits.

    >>> choose_tokenizer(shares(["我们试试看"]))
    ('zh', 'zh, since 100% of the letters of the target are Chinese')
    >>> choose_tokenizer({"other": 1.0})
    ('13a', '13a, which suits a target with spaces between its words')
    >>> choose_tokenizer({"Chinese": 1.0}, "13a")
    ('13a', '13a, as given, but 100% of the letters of the target are Chinese, which zh suits')
    """
    special = {script: share for script, share in found.items() if script != "other"}
    script = max(special, key=lambda name: special[name], default="other")
    share = sum(special.values())
    fitting = "zh" if script == "Chinese" else "char"
    what = f"{share:.0%} of the letters of the target are {script}"
    if len(special) > 1:
        what += f" or {', '.join(sorted(special.keys() - {script}))}"
    if share < ENOUGH:
        fitting = "13a"
        if not given and share >= SOME and script in UNSPACED:
            return (
                "13a",
                f"13a, since only {what}; zh or char would tell words without spaces apart",
            )
    if not given:
        if fitting == "13a":
            return "13a", "13a, which suits a target with spaces between its words"
        return fitting, f"{fitting}, since {what}"
    suits = _SUITS.get(script, _LEARNT | {"char"})
    if share >= ENOUGH and given not in suits:
        return given, f"{given}, as given, but {what}, which {fitting} suits"
    if given in ("ja-mecab", "ko-mecab") and share < ENOUGH:
        return given, f"{given}, as given, but hardly a letter of the target is in its language"
    return given, f"{given}, as given"
