"""Which columns of a table hold the source and the target, and what in it is no sentence.

Tables of sentence pairs come with headers, identifiers, scores, names of contributors, and the
quotes of a spreadsheet. Each rule here is said when it has done something.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from .phrases import count, shown
from .translation_texts import CorpusError

Pair: TypeAlias = tuple[str, str]

_SAMPLE = 2_000
"""How many rows are looked at to tell what a column holds."""
_NUMBER = re.compile(r"\s*[-+]?[\d.,]*\d[\d.,]*([eE][-+]?\d+)?%?\s*")
_IDENTIFIER = re.compile(r"[!-~]*\d[!-~]*|[!-~]*\w[-_/:@.#]+\w[!-~]*")
"""One word with a digit in it, or with marks between its letters, as names of files have."""
_LOCALE = re.compile(r"([a-z]{2,3})[-_][a-z]{2,4}")
_ENTITY = re.compile(r"&(amp|quot|apos|lt|gt|nbsp|#\d+);")
_ROLES = """
source src target tgt trg input output lang language original translation translated translations
sentence sentences text texts phrase phrases quelle ziel quelltext zieltext origen destino cible
"""
_LANGUAGES = """
arabic bengali bulgarian cantonese catalan chinese croatian czech danish dutch english estonian
finnish french german greek hebrew hindi hungarian icelandic indonesian irish italian japanese
korean latin latvian lithuanian malay mandarin norwegian persian polish portuguese romanian russian
serbian slovak slovenian spanish swahili swedish tamil thai turkish ukrainian urdu vietnamese welsh

deutsch englisch chinesisch französisch spanisch italienisch russisch japanisch türkisch allemand
espagnol russe chinois alemán francés chino ruso français francais anglais
español espanol inglés italiano inglese português nederlands svenska dansk norsk suomi polski
čeština magyar türkçe русский английский
українська 中文 英文 汉语 漢語 英语 英語 日本語 한국어 영어 العربية עברית हिन्दी ไทย ελληνικά

ar bg bn ca cs cy da de el en es et fa fi fr ga he hi hr hu id is it ja ko lt lv ms nl no pl pt ro
ru sk sl sr sv sw ta th tr uk ur vi zh ara bul ces cmn cze dan deu dut ell eng est fin fra fre ger
gre heb hin hun ind isl ita jpn kor lat lit nld nob nor pol por ron rum rus slk slv spa swe tha tur
ukr vie yue zho chi
"""
_BESIDE = """
segment string line column raw clean the a in of and id human reference ref
cn tw hk us gb br mx hans hant latn cyrl simplified traditional
"""
_NAMES = frozenset((_ROLES + _LANGUAGES).split())
"""Words that columns of sentences are called by: their role, a language, its code."""
_WORDS = _NAMES.union(_BESIDE.split())
"""Words that such names are made of."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Pairs as they stand in the data, and what was made of what stands around them."""

    pairs: list[Pair]
    source: str
    """Where the source sentences are from: a column, a file, a language."""
    target: str
    notes: tuple[str, ...] = ()
    passed_over: Mapping[str, int] = field(default_factory=dict)
    """How many lines are no pairs, by the reason."""


def read_table(lines: Sequence[str], name: str) -> Reading:
    """Pairs from columns set apart by tabs; blank lines are passed over.

    Two columns are source and target. Of three or four, those that hold no sentences (numbers,
    identifiers, one word again and again) do not count. If two are left, these are they; else, of
    three the third is an attribution (ManyThings), and four are id, source, id, target (Tatoeba).

    Raises:
        CorpusError: There are no such columns.
    """
    rows = [(n, line.rstrip("\r").split("\t")) for n, line in enumerate(lines, 1) if line.strip()]
    width = len(rows[0][1]) if rows else 0
    if width not in (2, 3, 4):
        raise CorpusError(
            f"translation: {name} has {width} column(s) between tabs; it takes source and target, "
            "source, target and attribution, or id, source, id and target"
            + _other_table(lines, width)
        )
    for number, columns in rows:
        if len(columns) != width:
            quotes = any(cell.count('"') % 2 for cell in columns)
            raise CorpusError(
                f"translation: {name}, line {number} has {len(columns)} column(s), but the first "
                f"line has {width}"
                + (": perhaps a cell in quotes holds a line break or a tab" if quotes else "")
            )
    table = [columns for _, columns in rows]
    left, right = _choose(table, width)
    pairs = [(columns[left], columns[right]) for columns in table]
    beside = [column for column in range(width) if column not in (left, right)]
    headed = any(_is_head_of_numbers([row[column] for row in table]) for column in beside)
    of = "" if width == 2 else f" of {width}"
    return tidy(
        Reading(
            pairs=pairs,
            source=f"column {left + 1}{of}",
            target=f"column {right + 1}{of}",
            passed_over={"blank": len(lines) - len(rows)},
        ),
        headed=headed,
    )


def _other_table(lines: Sequence[str], width: int) -> str:
    """What to say to a file that is a table of another kind."""
    first = [line for line in lines if line.strip()][:5]
    if width != 1:
        return ""
    if all(line.lstrip().startswith("{") for line in first):
        return "; it looks like lines of JSON: give its folder as data=hf:FOLDER"
    for mark, noun in ((",", "commas"), (";", "semicolons"), ("|", "bars")):
        if all(mark in line for line in first):
            return f"; it looks like a table with {noun}: save it with tabs in their place"
    return "; of two files, one for each language, give both: data=files:SOURCE,TARGET"


def _choose(table: Sequence[Sequence[str]], width: int) -> tuple[int, int]:
    """The columns of source and target."""
    usual = (1, 3) if width == 4 else (0, 1)
    if width == 2:
        return usual
    body = table[1:] or table  # The first line may be a header.
    sample = body[:: max(1, len(body) // _SAMPLE)]
    texts = [n for n in range(width) if not _is_label([row[n] for row in sample])]
    return (texts[0], texts[1]) if len(texts) == 2 else usual


def _is_label(cells: Sequence[str]) -> bool:
    """Whether a column holds no sentences but numbers, identifiers, or one value for all."""
    most = 0.9 * len(cells)
    return (
        sum(not any(map(str.isalpha, cell)) for cell in cells) >= most
        or sum(bool(_NUMBER.fullmatch(cell)) for cell in cells) >= most
        or sum(bool(_IDENTIFIER.fullmatch(cell)) for cell in cells) >= most
        or (len(cells) >= 3 and len(set(cells)) == 1)
    )


def _is_head_of_numbers(cells: Sequence[str]) -> bool:
    """Whether the first cell of a column of numbers is a word: then its line is a header."""
    head, *body = cells[: _SAMPLE + 1]
    return (
        len(body) >= 2
        and any(map(str.isalpha, head))
        and not _NUMBER.fullmatch(head)
        and all(_NUMBER.fullmatch(cell) for cell in body)
    )


def tidy(reading: Reading, *, headed: bool = False) -> Reading:
    """Without a header line and the quotes of a spreadsheet.

    Args:
        reading: Pairs as they stand.
        headed: Whether the first is known to be a header, by what stands beside it.
    """
    pairs, notes, passed_over = reading.pairs, list(reading.notes), dict(reading.passed_over)
    pairs, said = _without_quotes(pairs)
    notes += said
    if pairs and (headed or is_header(pairs[0])):
        source, target = map(shown, pairs[0])
        notes.append(f"the first line is a header ({source} / {target}) and no pair")
        passed_over["header"] = 1
        pairs = pairs[1:]
    notes += _say_oddities(pairs)
    return Reading(
        pairs=pairs,
        source=reading.source,
        target=reading.target,
        notes=tuple(notes),
        passed_over=passed_over,
    )


def _say_oddities(pairs: Sequence[Pair]) -> list[str]:
    """What to say of sentences that bear traces of an earlier step; they are left as they are."""
    said = []
    entities = [found for pair in pairs for found in map(_ENTITY.search, pair) if found]
    if 20 * len(entities) > len(pairs):
        number = count(len(entities), "sentence")
        said.append(f"codes of HTML such as {entities[0][0]} in {number} were left as they are")
    if damaged := sum("\ufffd" in source + target for source, target in pairs):
        said.append(f"{count(damaged, 'pair')} with \ufffd, damaged before it came here")
    return said


def is_header(pair: Pair) -> bool:
    """Whether both cells are names of columns.

    >>> is_header(("source", "target")), is_header(("en", "de")), is_header(("zh-CN", "English"))
    (True, True, True)
    >>> is_header(("no", "nein")), is_header(("The source", "Die Quelle"))
    (False, False)
    """
    return pair[0].strip() != pair[1].strip() and all(map(_is_name, pair))


def _is_name(cell: str) -> bool:
    """Whether a cell is the name of a column of sentences."""
    folded = cell.casefold().strip()
    if (locale := _LOCALE.fullmatch(folded)) and locale[1] in _NAMES:
        return True
    words = [word for word in re.split(r"[\W\d_]+", folded) if word]
    return bool(_NAMES.intersection(words)) and _WORDS.issuperset(words)


def _without_quotes(pairs: list[Pair]) -> tuple[list[Pair], list[str]]:
    """Without the quotes that a spreadsheet puts around cells, and doubles inside of them.

    A sentence may be a quotation. So quotes go where a whole column has them, or where all quotes
    in the data follow the rules of a spreadsheet and some are doubled, as in no ordinary text.
    """
    quoted = [cell for pair in pairs for cell in pair if '"' in cell]
    if not quoted:
        return pairs, []
    ruled = [cell for cell in quoted if _is_quoted(cell)]
    everywhere = len(ruled) == len(quoted) and any('""' in cell[1:-1] for cell in ruled)
    sides = [
        everywhere or sum(_is_quoted(pair[side]) for pair in pairs) >= 0.9 * len(pairs)
        for side in (0, 1)
    ]
    bare: list[Pair] = []
    number = 0
    for pair in pairs:
        cells = list(pair)
        for side in (0, 1):
            if sides[side] and _is_quoted(pair[side]):
                cells[side] = pair[side].strip()[1:-1].replace('""', '"')
                number += 1
        bare.append((cells[0], cells[1]))
    if number:
        cells_ = count(number, "cell")
        return bare, [f"the quotes around {cells_} were taken away, as a spreadsheet puts them"]
    if 10 * len(ruled) >= 2 * len(pairs):
        return pairs, [f"{count(len(ruled), 'cell')} in quotes were left as they are"]
    return pairs, []


def _is_quoted(cell: str) -> bool:
    cell = cell.strip()
    return len(cell) >= 2 and cell[0] == cell[-1] == '"' and '"' not in cell[1:-1].replace('""', "")
