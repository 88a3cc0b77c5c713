"""Random image folders and corpora: what goes in comes out, or is passed over, or is refused.

    python -m benchmarks.random_files                              # 2,000 folders, 3,000 corpora
    python -m benchmarks.random_files --folders 50 --corpora 0 --seed 7

Each input is made here from a seed, together with what must become of each of its files and lines.
That is worked out from what was put in, and not by the code under test. Then the task's loader gets
the input, and three things are compared:

* it is refused, by a `TaskError` of one line, where something was planted that must be refused, and
  only there; any other exception is a failure;
* each file and line is used, or counted as passed over under its own reason;
* the pixels and the sentences are those that were put in, each in its class, split and column.

A failure is printed with its seed, which makes that input again.
"""

from __future__ import annotations

import argparse
import bz2
import gzip
import itertools
import lzma
import os
import re
import shutil
import sys
import tempfile
import time
import traceback
import unicodedata
import zipfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pbt_flow.task import TaskError
from pbt_flow.tasks import translation_corpora as corpora
from pbt_flow.tasks import translation_scripts as scripts
from pbt_flow.tasks.gan_images import Images, load_images

Rng: TypeAlias = np.random.Generator
SIZE = 8


class Difference(Exception):
    """What came out is not what went in."""


def expect(what: str, found: Any, wanted: Any) -> None:
    if found != wanted:
        raise Difference(f"{what}: found {found!r:.500}, and not {wanted!r:.500}")


def pick(rng: Rng, things: Sequence[Any]) -> Any:
    return things[int(rng.integers(len(things)))]


def happens(rng: Rng, share: float) -> bool:
    return bool(rng.random() < share)


# --- pictures -------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture to write, and the pixels that must come of it."""

    image: Image.Image
    options: dict[str, Any] = field(default_factory=dict)
    endings: tuple[str, ...] = (".png",)
    pixels: NDArray[np.float64]
    """(8, 8) if it is grey, else (8, 8, 3); before scaling, where it has more than 8 bits."""
    depth: str = ""
    """`whole` or `real` where it has more than 8 bits."""
    tolerance: float = 0.0


def over_white(colours: NDArray[Any], alpha: NDArray[Any]) -> NDArray[np.float64]:
    share = alpha.astype(np.float64)[..., None] / 255
    return colours * share + 255 * (1 - share)


def grey(rng: Rng) -> Picture:
    values = rng.integers(0, 256, (SIZE, SIZE), np.uint8)
    endings = (".png", ".PNG", ".bmp", ".tif", ".pgm", ".tga")
    return Picture(image=Image.fromarray(values), pixels=values.astype(float), endings=endings)


def bits(rng: Rng) -> Picture:
    values = rng.integers(0, 2, (SIZE, SIZE), np.uint8) * 255
    return Picture(image=Image.fromarray(values).convert("1"), pixels=values.astype(float))


def colour(rng: Rng) -> Picture:
    values = rng.integers(0, 256, (SIZE, SIZE, 3), np.uint8)
    endings = (".png", ".bmp", ".tiff", ".ppm", ".webp", ".TGA")
    return Picture(
        image=Image.fromarray(values),
        pixels=values.astype(float),
        endings=endings,
        options={"lossless": True},
    )


def palette(rng: Rng) -> Picture:
    colours = rng.integers(0, 256, (16, 3), np.uint8)
    colours[0] = 255, 0, 7  # A palette of greys only would make the GIF grey.
    index = rng.integers(0, 16, (SIZE, SIZE), np.uint8)
    image = Image.fromarray(index)
    image.putpalette(colours.ravel().tolist())
    index[0, 0] = 0
    image = Image.fromarray(index)
    image.putpalette(colours.ravel().tolist())
    return Picture(image=image, pixels=colours[index].astype(float), endings=(".png", ".gif"))


def palette_with_a_hole(rng: Rng) -> Picture:
    made = palette(rng)
    index = np.asarray(made.image)
    pixels = np.where(index[..., None] == 0, 255, made.pixels)
    return Picture(image=made.image, pixels=pixels, options={"transparency": 0})


def grey_with_a_hole(rng: Rng) -> Picture:
    values = rng.integers(0, 256, (SIZE, SIZE), np.uint8)
    hole = int(values[0, 0])
    pixels = np.where(values == hole, 255, values).astype(float)
    return Picture(image=Image.fromarray(values), pixels=pixels, options={"transparency": hole})


def clear(rng: Rng) -> Picture:
    values = rng.integers(0, 256, (SIZE, SIZE, 4), np.uint8)
    pixels = over_white(values[..., :3], values[..., 3])
    return Picture(image=Image.fromarray(values), pixels=pixels, tolerance=2)


def opaque(rng: Rng) -> Picture:
    values = rng.integers(0, 256, (SIZE, SIZE, 4), np.uint8)
    values[..., 3] = 255
    return Picture(image=Image.fromarray(values), pixels=values[..., :3].astype(float))


def grey_and_clear(rng: Rng) -> Picture:
    values = rng.integers(0, 256, (SIZE, SIZE, 2), np.uint8)
    pixels = over_white(np.repeat(values[..., :1], 3, 2), values[..., 1])
    return Picture(image=Image.fromarray(values, "LA"), pixels=pixels, tolerance=2)


def print_colours(rng: Rng) -> Picture:
    values = rng.integers(0, 256, (SIZE, SIZE, 4), np.uint8)
    ink = 255 - values.astype(float)
    pixels = ink[..., :3] * ink[..., 3:] / 255
    image = Image.fromarray(values, "CMYK")
    return Picture(image=image, pixels=pixels, endings=(".tif",), tolerance=2)


def one_colour(rng: Rng) -> Picture:
    """Of any shape, so that it is cut and scaled; of one colour, so that this shows nowhere."""
    level = rng.integers(0, 256, 3, np.uint8)
    shape = tuple(int(pick(rng, (1, 2, 5, 8, 30, 200))) for _ in range(2))
    image = Image.fromarray(np.broadcast_to(level, (*shape, 3)).copy())
    pixels = np.broadcast_to(level, (SIZE, SIZE, 3)).astype(float)
    return Picture(image=image, pixels=pixels, endings=(".png", ".jpg", ".JPEG"), tolerance=6)


def frames(rng: Rng) -> Picture:
    first, *more = (palette(rng) for _ in range(3))
    options = {"save_all": True, "append_images": [picture.image for picture in more]}
    return Picture(image=first.image, pixels=first.pixels, options=options, endings=(".gif",))


def whole_numbers(rng: Rng, top: int) -> Picture:
    values = rng.integers(0, top + 1, (SIZE, SIZE))
    if happens(rng, 0.7):
        image, endings = Image.fromarray(values.astype(np.uint16)), (".png", ".tif")
    else:
        image, endings = Image.fromarray(values.astype(np.int32)), (".tif",)
    return Picture(
        image=image, pixels=values.astype(float), endings=endings, depth="whole", tolerance=1
    )


def real_numbers(rng: Rng, low: float, top: float) -> Picture:
    values = rng.uniform(low, top, (SIZE, SIZE)).astype(np.float32)
    return Picture(
        image=Image.fromarray(values),
        pixels=values.astype(float),
        endings=(".tif",),
        depth="real",
        tolerance=1,
    )


PLAIN = (
    [grey] * 4
    + [colour] * 3
    + [bits, palette, palette_with_a_hole, grey_with_a_hole, clear, opaque, grey_and_clear]
    + [print_colours, one_colour, frames]
)


def painter(rng: Rng) -> Callable[[Rng], Picture]:
    """A maker of pictures for one folder: all alike, or of several kinds."""
    top = int(pick(rng, (200, 255, 1000, 4095, 65535)))
    low, high = pick(rng, ((0.0, 1.0), (0.0, 255.0), (-3.0, 9.0), (0.0, 70000.0)))
    makers: list[Callable[[Rng], Picture]] = [pick(rng, PLAIN) for _ in range(rng.integers(1, 4))]
    if happens(rng, 0.3):
        makers.append(lambda r: whole_numbers(r, top))
    if happens(rng, 0.2):
        makers.append(lambda r: real_numbers(r, low, high))
    return lambda r: pick(r, makers)(r)


# --- folders --------------------------------------------------------------------------------------

NAMES = (
    "cat",
    "Dog",
    "naïve",
    "日本",
    "with blank",
    "dot.ted",
    "new\nline",
    "-dash",
    "#1",
    "'",
    "10",
)
HIDDEN = (".DS_Store", "._000.png", ".ipynb_checkpoints/a.png", ".git/x/y.jpg", "__MACOSX/a.png")
OTHERS = (
    "readme.txt",
    "labels.h5",
    "Thumbs.db",
    "x.pdf",
    "a.svg",
    "LICENSE",
    "run.fit",
    "film.mpg",
)
PLANTS: dict[str, str] = {
    "cut": "cannot be read as an image",
    "empty file": "cannot be read as an image",
    "no picture": "cannot be read as an image",
    "not finite": "values that are not finite",
    "few": "a class needs at least",
    "none": "holds 0 images",
    "one class": "at least two classes",
    "link": "symbolic link",
    "split lacks": "lacks 1 class",
    "split beside": "beside others",
    "one level": "all pixels of all images are equal",
}
"""What is planted to be refused, and a part of the message."""


@dataclass(kw_only=True)
class Made:
    """An input, and what must become of it."""

    place: str
    refusal: str = ""
    """A part of the message; empty where it must be accepted."""


@dataclass(kw_only=True)
class MadeFolder(Made):
    pictures: dict[tuple[str, str], dict[Path, Picture]]
    """By split (`train`, `test`, ... or empty) and class."""
    passed_over: Counter[str]


def make_folder(rng: Rng, root: Path) -> MadeFolder:
    plant = str(pick(rng, list(PLANTS))) if happens(rng, 0.25) else ""
    top = root
    for name in pick(rng, ((), (), ("images",), ("download", "data set"))):
        top = top / name
    names = [NAMES[i] for i in rng.permutation(len(NAMES))[: int(rng.integers(2, 4))]]
    splits = [""]
    if plant.startswith("split") or (happens(rng, 0.25) and not plant):
        splits = list(pick(rng, (("train", "test"), ("Train", "VAL", "test"), ("training", "dev"))))
    if plant == "one class":
        names, splits = names[:1], [""]
        top = root
    paint = painter(rng)
    made = MadeFolder(
        place=str(root), refusal=PLANTS.get(plant, ""), pictures={}, passed_over=Counter()
    )
    for split in splits:
        for name in names:
            number = int(rng.integers(10, 13)) if split in ("", splits[0]) else 3
            if plant == "few" and name == names[-1] and split == splits[0]:
                number = int(rng.integers(1, 10))
            files = {}
            for index in range(number):
                picture = paint(rng)
                if files and happens(rng, 0.02):
                    picture = pick(rng, list(files.values()))  # a copy
                if plant == "one level":
                    image = Image.new("L", (SIZE, SIZE), 9)
                    picture = Picture(image=image, pixels=np.full((SIZE, SIZE), 9.0))
                inner = pick(rng, ("", "", "", "deep", "deep/er"))
                ending = pick(rng, picture.endings)
                file = top / split / name / inner / f"{index:02}{ending}"
                file.parent.mkdir(parents=True, exist_ok=True)
                picture.image.save(file, **picture.options)
                files[file] = picture
            made.pictures[split, name] = files
    folders = [top / split / name for split in splits for name in names]
    _sprinkle(rng, made, root, top, folders)
    _plant(rng, plant, top, folders, made)
    return made


def _sprinkle(rng: Rng, made: MadeFolder, root: Path, top: Path, folders: list[Path]) -> None:
    """Add what is to be passed over."""
    some = next(iter(next(iter(made.pictures.values()))))
    places = [*folders, top, root]
    for number in range(int(rng.integers(0, 5))):
        kind = pick(rng, ("hidden", "no image", "outside", "link"))
        if kind == "hidden":
            file = pick(rng, places) / pick(rng, HIDDEN)
        elif kind == "no image":
            file = pick(rng, places) / pick(rng, OTHERS)
        elif kind == "outside":
            file = top / f"outside{number}{some.suffix}"
            if top != root:
                continue  # Pictures beside a folder of classes: that would be a class itself.
        else:
            link = pick(rng, folders) / f"link{number}"
            link.symlink_to(root, target_is_directory=True)
            made.passed_over["link"] += 1
            continue
        if file.exists():
            continue
        file.parent.mkdir(parents=True, exist_ok=True)
        if kind == "outside" or (kind == "hidden" and happens(rng, 0.5)):
            shutil.copy(some, file)
        else:
            file.write_bytes(rng.bytes(int(rng.integers(0, 60))))
        made.passed_over[kind] += 1


def _plant(rng: Rng, plant: str, top: Path, folders: list[Path], made: MadeFolder) -> None:
    """Add what is to be refused."""
    victim = pick(rng, folders)
    bad = victim / "zz.png"
    if plant == "cut":
        Image.fromarray(rng.integers(0, 256, (SIZE, SIZE, 3), np.uint8)).save(bad)
        bad.write_bytes(bad.read_bytes()[: int(rng.integers(60, 120))])
    elif plant == "empty file":
        bad.touch()
    elif plant == "no picture":
        bad.write_bytes(b"<html>" + rng.bytes(20))
    elif plant == "not finite":
        values = np.full((SIZE, SIZE), pick(rng, (np.nan, np.inf)), np.float32)
        Image.fromarray(values).save(victim / "zz.tif")
    elif plant == "none":
        (folders[0].parent / "zz").mkdir()
        if len(made.pictures) > 2 and folders[0].parent != top:
            made.refusal = "lacks 1 class"
    elif plant == "link":
        (folders[0].parent / "zz").symlink_to(folders[-1], target_is_directory=True)
    elif plant == "split lacks":
        shutil.rmtree(victim)
    elif plant == "split beside":
        shutil.copytree(victim, top / "more", symlinks=True)


def check_folder(made: MadeFolder, loaded: Images) -> None:
    pictures = [p for files in made.pictures.values() for p in files.values()]
    everything_grey = all(picture.pixels.ndim == 2 for picture in pictures)
    expect("channels", loaded.channels, 1 if everything_grey else 3)
    scale = _scales(pictures)
    wanted: dict[str, list[tuple[int, Picture]]] = {"train": [], "test": []}
    classes = sorted({name for _, name in made.pictures})
    splits = list(dict.fromkeys(split for split, _ in made.pictures))
    # Validation goes before test, whatever they are called.
    order = ("", "train", "val", "dev", "test")
    for split in sorted(splits, key=lambda name: order.index(name.lower().removesuffix("ing"))):
        for label, name in enumerate(classes):
            files = made.pictures[split, name]
            for number, file in enumerate(sorted(files, key=lambda path: path.parts)):
                held = number % 10 == 9 if not split else not split.lower().startswith("train")
                wanted["test" if held else "train"].append((label, files[file]))
    for part, pixels, labels in (
        ("train", loaded.train.numpy(), loaded.train_labels.tolist()),
        ("test", loaded.test.numpy(), loaded.test_labels.tolist()),
    ):
        expect(f"labels of {part}", labels, [label for label, _ in wanted[part]])
        for row, (_, picture) in zip(pixels, wanted[part], strict=True):
            low, high = scale.get(picture.depth, (0.0, 255.0))
            should = np.atleast_3d((picture.pixels - low) * 255 / (high - low))
            found = np.moveaxis(row.astype(float), 0, 2)
            gap = float(abs(found - should).max())
            if gap > picture.tolerance + 0.5:
                raise Difference(f"pixels of a {picture.image.mode} are {gap} away")
    found = {reason: number for reason, number in loaded.passed_over.items() if number}
    expect("passed over", found, dict(made.passed_over))
    told = loaded.understood
    rows = np.concatenate([loaded.train.numpy(), loaded.test.numpy()])
    copies = len(rows) - len(np.unique(rows.reshape(len(rows), -1), axis=0))
    expect("copies, as told", told.get("copies", "0 ").split()[0], str(copies))
    expect("held out, as told", f"{len(wanted['test']):,} held out" in told["data"], True)
    check_told(told)


def _scales(pictures: Sequence[Picture]) -> dict[str, tuple[float, float]]:
    """Which values become 0 and 255 where pictures have more than 8 bits."""
    scale = {}
    for depth in ("whole", "real"):
        values = [picture.pixels for picture in pictures if picture.depth == depth]
        if not values:
            continue
        low, high = float(np.min(values)), float(np.max(values))
        if depth == "whole":
            tops = [2**n - 1 for n in range(8, 33)]
            scale[depth] = 0.0, float(next(top for top in tops if top >= high))
        elif low < 0:
            scale[depth] = low, high
        else:
            scale[depth] = 0.0, next((top for top in (1.0, 255.0) if high <= top), high)
    return scale


def check_told(told: Any) -> None:
    for topic, sentence in told.items():
        sentence.encode()
        if not sentence.strip() or "\n" in sentence or len(sentence) > 1_500:
            raise Difference(f"{topic} is told by {sentence!r:.300}")


# --- corpora --------------------------------------------------------------------------------------

LANGUAGES = {
    "western": "abcdefghij",
    "german": "äöüßabcdef",
    "russian": "абвгдежзик",
    "chinese": "的一是不了人我在有他",
    "japanese": "のにをはがでとした日",
    "thai": "กขคงจฉชซฌญ",
}
TOKENIZERS = {"chinese": "zh", "japanese": "char", "thai": "char"}
HEADERS = (("source", "target"), ("en", "de"), ("English", "German"), ("src text", "tgt text"))
BAD_LINES: dict[str, str] = {
    "ragged": "but the first line has",
    "latin": "is not UTF-8",
    "columns": r"column\(s\) between tabs",
    "few": "it takes at least 10, 2 and 2",
    "page": "marked-up document",
    "uneven": "must translate line i",
    "cut": "cannot read",
}


@dataclass(kw_only=True)
class MadeCorpus(Made):
    kept: set[tuple[str, str]]
    """Pairs that may be used: with words, of different sides, short enough, in the first lines."""
    left_out: Counter[str]
    lines: int
    script: str
    """Of the targets."""
    files: list[str]


def sentence(rng: Rng, letters: str, words: int) -> str:
    return " ".join(
        "".join(letters[i] for i in rng.integers(0, len(letters), int(rng.integers(2, 7))))
        for _ in range(words)
    )


def make_corpus(rng: Rng, root: Path) -> MadeCorpus:
    root.mkdir(parents=True)
    plant = str(pick(rng, list(BAD_LINES))) if happens(rng, 0.25) else ""
    script = str(pick(rng, list(LANGUAGES)))
    two_files = plant == "uneven" or (happens(rng, 0.35) and plant not in ("ragged", "columns"))
    number = int(rng.integers(2, 9)) if plant == "few" else int(rng.integers(30, 61))
    pairs = [
        (
            sentence(rng, "klmnopqrst", int(rng.integers(1, 5))) + f" z{n}",
            sentence(rng, LANGUAGES[script], int(rng.integers(2, 5))),
        )
        for n in range(number)
    ]
    left_out: Counter[str] = Counter()
    rows: list[tuple[str, str]] = []
    kept: dict[tuple[str, str], None] = {}
    for pair in pairs:
        rows.append(pair)
        kept[pair] = None
        fate = str(pick(rng, ("",) * 9 + ("duplicate", "equal", "wordless", "long", "twin")))
        if plant == "few" or not fate:
            continue
        if fate == "twin":  # another translation, which is used unless its source is held out
            twin = (pair[0], sentence(rng, LANGUAGES[script], 3))
            rows.append(twin)
            kept[twin] = None
            continue
        again = {
            "duplicate": (f"  {pair[0]}", f"{pair[1]} "),
            "equal": (pair[0], pair[0]),
            "wordless": pick(rng, ((pair[0], "..."), ("", pair[1]), ("!?", "-"))),
            "long": (f"{pair[0]} {'lang ' * 9}", pair[1]),
        }[fate]
        if fate == "wordless" and not two_files and not (again[0] + again[1]).strip():
            continue
        rows.append(again)
        left_out[fate] += 1
    body = list(rows)
    header = happens(rng, 0.3)
    if header:
        rows.insert(0, pick(rng, HEADERS))
        left_out["header"] += 1
    quoted = happens(rng, 0.15)
    cells = [tuple(f'"{cell}"' if quoted else cell for cell in row) for row in rows]
    if two_files:
        texts = [[row[side] for row in cells] for side in (0, 1)]
        if plant == "uneven":
            texts[0].append("one more")
        names = ["left", "right"]
    else:
        texts, blank = _table(rng, cells, header, plant)
        left_out["blank"] += blank
        names = ["pairs.tsv"]
    if plant == "page":
        texts[0].insert(0, "<!doctype html>")
    files = [_write(rng, root / name, text, plant) for name, text in zip(names, texts, strict=True)]
    place = f"files:{','.join(files)}" if two_files else f"tsv:{files[0]}"
    return MadeCorpus(
        place=place,
        refusal=BAD_LINES.get(plant, ""),
        kept=set(kept),
        left_out=left_out,
        lines=len(body) + left_out["blank"] + left_out["header"],
        script=script,
        files=files,
    )


def _table(
    rng: Rng, cells: Sequence[tuple[str, ...]], header: bool, plant: str
) -> tuple[list[list[str]], int]:
    """The lines of a table, with columns beside the sentences, and how many are blank."""
    form = str(pick(rng, ("st", "st", "sta", "ist", "sti", "isit", "cscn", "xist")))
    if plant == "columns":
        form = str(pick(rng, ("s", "siiit")))
    lines, blank = [], 0
    for number, (source, target) in enumerate(cells):
        beside = {
            "i": "id" if header and number == 0 else str(int(rng.integers(10**6))),
            "x": "score" if header and number == 0 else f"{rng.random():.4f}",
            "a": "attribution"
            if header and number == 0
            else f"CC-BY by somebody {sentence(rng, 'xyz', 2)}",
            "c": "language" if header and number == 0 else "en",
        }
        columns = [
            {"s": source, "t": target, "n": target}.get(letter, beside.get(letter, ""))
            for letter in form
        ]
        lines.append("\t".join(columns))
        if happens(rng, 0.03):
            lines.append(str(pick(rng, ("", "  "))))
            blank += 1
    if plant == "ragged":
        lines.append("\t".join(["more"] * (len(form) + 1)))
    return [lines], blank


def _write(rng: Rng, file: Path, lines: Sequence[str], plant: str) -> str:
    """Write a text in some encoding, with some line ends, packed or not."""
    end = str(pick(rng, ("\n", "\n", "\n", "\r\n", "\r")))
    text = "".join(f"{line}{end}" for line in lines)
    # An empty last line without its end would be no line at all.
    if end == "\n" and lines[-1] and happens(rng, 0.3):
        text = text.removesuffix(end)
    encoding = str(pick(rng, ("utf-8",) * 5 + ("utf-8-sig", "utf-16", "utf-32")))
    raw = text.encode(encoding)
    if plant == "latin":
        raw = text.encode() + b"f\xfcnf\t5" + end.encode()
    how = pick(rng, ("",) * 5 + ("gz", "bz2", "xz", "zip"))
    if plant == "cut":
        how = pick(rng, ("gz", "bz2", "xz", "zip"))
    if how == "gz":
        raw = gzip.compress(raw, mtime=0)
    elif how == "bz2":
        raw = bz2.compress(raw)
    elif how == "xz":
        raw = lzma.compress(raw)
    elif how == "zip":
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr(f"{file.name}.txt", raw)
        raw = file.read_bytes()
    file.write_bytes(raw[: len(raw) - 12] if plant == "cut" else raw)
    return str(file)


def spoken(text: str) -> str:
    """What a sentence is without case, width, spaces and punctuation."""
    letters = unicodedata.normalize("NFKC", text).casefold()
    return "".join(c for c in letters if c.isalnum() or unicodedata.category(c)[0] == "M")


def check_corpus(made: MadeCorpus, loaded: corpora.Corpus) -> None:
    used = list(itertools.chain(*loaded.splits))
    expect("pairs that are used twice", len(used) - len(set(used)), 0)
    expect("pairs that were not put in", set(used) - made.kept, set())
    found = Counter(loaded.left_out)
    twins = found.pop("twin", 0)
    expect("pairs that were put in", len(used) + twins, len(made.kept))
    expect("left out", found, +made.left_out)
    expect("lines", len(used) + twins + found.total(), made.lines)
    for side in (0, 1):
        parts = [{spoken(pair[side]) for pair in part} for part in loaded.splits]
        for one, other in itertools.combinations(parts, 2):
            expect("sentences in two splits", one & other, set())
    name, why = scripts.choose_tokenizer(loaded.target_scripts)
    expect("tokeniser", name, TOKENIZERS.get(made.script, "13a"))
    told = {**loaded.understood, "tokenizer": why}
    train, dev, test = map(len, loaded.splits)
    expect(
        "sizes, as told",
        told["data"].startswith(f"{train:,} pairs to train on, {dev:,} for dev and {test:,} for"),
        True,
    )
    if lines := found.total() + twins:
        expect("left out, as told", told["left out"].split(" of ")[0], f"{lines:,}")
    check_told(told)


# --- the run --------------------------------------------------------------------------------------


@dataclass(kw_only=True)
class Tally:
    accepted: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    files: int = 0
    failures: list[str] = field(default_factory=list)


def one_folder(seed: int, root: Path, tally: Tally) -> None:
    made = make_folder(np.random.default_rng([1, seed]), root)
    tally.files += sum(len(names) for _, _, names in os.walk(root))
    load_images.cache_clear()
    _try(made, tally, lambda: check_folder(made, load_images(f"folder:{made.place}", SIZE)))


def one_corpus(seed: int, root: Path, tally: Tally) -> None:
    made = make_corpus(np.random.default_rng([2, seed]), root)
    tally.files += made.lines
    sizes = {"source_vocabulary": 60, "target_vocabulary": 60, "max_pairs": 10_000}
    corpora.load.cache_clear()
    _try(
        made,
        tally,
        lambda: check_corpus(made, corpora.load(made.place, max_words=8, swap=False, **sizes)),
    )


def _try(made: Made, tally: Tally, check: Callable[[], None]) -> None:
    try:
        check()
    except TaskError as error:
        if not made.refusal or not re.search(made.refusal, str(error)):
            raise Difference(f"refused, and not for {made.refusal!r}: {error}") from None
        if "\n" in str(error):
            raise Difference(f"refused in several lines: {error}") from None
        tally.refused[made.refusal] += 1
        return
    if made.refusal:
        raise Difference(f"accepted, and not refused for {made.refusal!r}")
    tally.accepted += 1


def run(kind: Callable[[int, Path, Tally], None], number: int, seed: int) -> Tally:
    """Try `number` inputs of a kind, from `seed` on."""
    tally = Tally()
    before = os.environ.get("PBT_FLOW_CACHE")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["PBT_FLOW_CACHE"] = f"{folder}/cache"
        try:
            for index in range(seed, seed + number):
                root = Path(folder, "input")
                try:
                    kind(index, root, tally)
                except Difference as difference:
                    tally.failures.append(f"seed {index}: {difference}")
                except Exception:  # No exception but a TaskError is foreseen: each is a finding.
                    tally.failures.append(f"seed {index}: {traceback.format_exc()}")
                shutil.rmtree(root, ignore_errors=True)
                shutil.rmtree(f"{folder}/cache", ignore_errors=True)
        finally:
            if before is None:
                del os.environ["PBT_FLOW_CACHE"]
            else:
                os.environ["PBT_FLOW_CACHE"] = before
    return tally


def main() -> None:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--folders", type=int, default=2_000)
    parser.add_argument("--corpora", type=int, default=3_000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    failed = 0
    for noun, parts, kind, number in (
        ("image folders", "files", one_folder, given.folders),
        ("corpora", "lines", one_corpus, given.corpora),
    ):
        started = time.monotonic()
        tally = run(kind, number, given.seed)
        failed += len(tally.failures)
        print(
            f"{number:,} {noun} with {tally.files:,} {parts}: {tally.accepted:,} accepted, "
            f"{tally.refused.total():,} refused, {len(tally.failures):,} failures "
            f"({time.monotonic() - started:.0f} s)"
        )
        for reason, times in sorted(tally.refused.items()):
            print(f"    refused: {reason} {times:,}")
        for failure in tally.failures[:10]:
            print(failure, file=sys.stderr)
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
