"""A folder of pictures with a folder for each class, and what there is other than it seems.

Such folders are collected by hand, by scripts and by other programs, so they hold more than
pictures of classes: hidden files, tables of labels, splits, links, pictures with transparency or 16
bits. What counts as a picture of a class is decided here, and so is how it becomes bytes; whatever
is passed over or changed on the way is counted and put into words.
"""

from __future__ import annotations

import os
import re
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from pbt_flow.task import TaskError

from .phrases import count, counted, listed, shown

LEAST = 10
"""Images that a class needs."""
FLAT = 8
"""An image whose levels (0 to 255) differ by less than this shows nothing."""
SYSTEM = frozenset(
    ("__MACOSX", "__pycache__", "@eaDir", "$RECYCLE.BIN", "System Volume Information")
)
"""Folders that programs leave behind, with names that begin with no dot."""

_STUBS = frozenset(("BUFR", "EPS", "GRIB", "HDF5", "IPTC", "MPEG", "WMF"))
"""Formats that Pillow knows by name, but which are documents, tables or films."""
_SURE = re.compile(
    r"\.(a?png|avif|bmp|dib|gif|j2k|jfif|jp2|jpe?g|jpe|p[bgnp]m|pfm|qoi|tga|tiff?|webp)"
)
"""Endings of pictures and nothing else: one that cannot be read is damaged, and is refused. Others
(.vst, .fit, .msp) are endings of other things too, and are passed over where they hold those."""
_SPLITS = {
    "train": "train|training|trn",
    "validation": "val|valid|validation|dev|eval|evaluation",
    "test": "test|testing|tst",
}
_SPLIT = re.compile(
    r"(?P<before>\w*[-_. ])?("
    + "|".join(f"(?P<{split}>{names})" for split, names in _SPLITS.items())
    + r")([-_ ]?(set|data|images|imgs|split|folder))?[-_ ]?\d*",
    re.IGNORECASE,
)
"""A folder of a split: `train`, `Test_set`, `seg_train`, `val2017`."""


@dataclass(frozen=True, kw_only=True)
class Folder:
    """What a folder of pictures holds."""

    images: NDArray[np.uint8]
    """(N, channels, size, size)."""
    labels: NDArray[np.int64]
    """(N,): which of `classes`."""
    held_out: NDArray[np.bool_]
    """(N,): whether the image is not to be trained on."""
    classes: tuple[str, ...]
    passed_over: Mapping[str, int]
    """How many files do not count, by the reason: `hidden`, `no image`, `outside`, `link`."""
    skipped: str
    """The same in words; empty where every file counts."""
    layout: str
    """Where the classes and the held-out images were found, if not in the usual place."""
    changes: str
    """What was done to pictures beyond cutting and scaling; may be empty."""


def read_folder(folder: Path, size: int) -> Folder:
    """All pictures in the class folders of a folder, cut to squares of `size` pixels.

    Every tenth image of a class is held out, unless the folder has splits of its own. The images
    are grey only if all are grey.

    Raises:
        TaskError: It is unclear what the classes are, a class is too small, or a picture is
            damaged.
    """
    plan = _plan(folder)
    passed = _Passed()
    passed.look_beside(plan)
    pictures: list[_Picture] = []
    labels: list[int] = []
    held_out: list[bool] = []
    names = list(dict.fromkeys(place.name for place, _ in plan.classes))
    label_of = {name: label for label, name in enumerate(names)}
    nested: list[str] = []
    inner_names: list[set[str]] = []
    for place, split in plan.classes:
        found = _list(place)
        nested += [shown(f"{place.name}/{inner}", 60) for inner in sorted(found.inner)]
        inner_names.append(set() if _has_pictures(place) else set(found.inner))
        least = 1 if split in ("validation", "test") else LEAST
        _refuse_few(place, len(found.pictures), least, found)
        number = 0
        for file in found.pictures:
            picture = _read_picture(file, size)
            if picture is None:
                found.others[file.suffix.lower()] += 1
                continue
            pictures.append(picture)
            labels.append(label_of[place.name])
            held_out.append(number % 10 == 9 if split == "all" else split != "train")
            number += 1
        _refuse_few(place, number, least, found)
        passed.add(found)
    images, changes = _to_arrays(pictures, size)
    layout = plan.layout
    if nested:
        inside = f"images in folders inside of classes were taken too ({listed(nested, 4)})"
        if len(inner_names[0]) > 1 and all(names == inner_names[0] for names in inner_names):
            inside += "; as all classes hold the same folders, are these the classes?"
        layout = f"{layout}; {inside}" if layout else inside
    return Folder(
        images=images,
        labels=np.asarray(labels, np.int64),
        held_out=np.asarray(held_out, bool),
        classes=tuple(shown(name) for name in names),
        passed_over=passed.numbers(),
        skipped=passed.words(),
        layout=layout,
        changes=changes,
    )


# --- which folders are classes --------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """Which folders hold the images of which class, and for what."""

    above: tuple[Path, ...]
    """The folders on the way down to the classes: what lies in them belongs to no class."""
    classes: tuple[tuple[Path, str], ...]
    """Each with its split: `train`, `validation`, `test`, or `all` where there are none."""
    layout: str


def _plan(folder: Path) -> _Plan:
    """Find the class folders.

    Raises:
        TaskError: They are unclear; the message says what to name instead.
    """
    above, inside = _go_in(folder)
    layout = f"the classes are the folders in {shown(str(above[-1]), 200)}" if above[1:] else ""
    splits = _splits_of(inside)
    others = [place for place in inside if place not in splits]
    # One such name among others is a class: a "train" beside a "plane".
    if len(inside) == 1 or not splits or (len(splits) == 1 and _is_class(splits, others)):
        classes = tuple((place, "all") for place in inside)
    else:
        entered = _enter(list(splits))
        within = {place: folders for place, (_, folders) in entered.items()}
        _check_splits(above[-1], splits, others, within)
        ordered = sorted(splits, key=lambda place: list(_SPLITS).index(splits[place]))
        for place in ordered:
            above += entered[place][0]
        classes = tuple((inner, splits[place]) for place in ordered for inner in within[place])
        held = listed([shown(place.name) for place in ordered[1:]])
        layout = f"{shown(ordered[0].name)} is trained on, and {held} held out, as the folders say"
    _refuse_overlap([place for place, _ in classes])
    return _Plan(above=tuple(above), classes=classes, layout=layout)


def _go_in(folder: Path) -> tuple[list[Path], list[Path]]:
    """The folders on the way to the first that holds several, and those that it holds.

    Archives have one folder around all classes. The bound is for links that lead back.
    """
    above, inside = [folder], _folders(folder)
    while len(inside) == 1 and len(above) < 8:
        deeper = _folders(inside[0])
        if not deeper or _has_pictures(inside[0]):
            break
        above, inside = [*above, inside[0]], deeper
    return above, inside


def _enter(splits: Sequence[Path]) -> dict[Path, tuple[list[Path], list[Path]]]:
    """For each split what `_go_in` tells, unless its only folder is a class of another split."""
    direct = {place: _folders(place) for place in splits}
    several = {inner.name for inside in direct.values() if len(inside) > 1 for inner in inside}
    return {
        place: ([place], inside) if inside and inside[0].name in several else _go_in(place)
        for place, inside in direct.items()
    }


def _splits_of(places: Sequence[Path]) -> dict[Path, str]:
    """The folders that are called like splits, with the split.

    Where something goes before (`seg_train`), it must be the same for several splits: a
    `steam_train` beside a `bullet_train` are classes.
    """
    found = {place: match for place in places if (match := _SPLIT.fullmatch(place.name))}
    splits = {
        place: next(split for split in _SPLITS if match[split]) for place, match in found.items()
    }
    roles: dict[str, set[str]] = {}
    for place, match in found.items():
        roles.setdefault(match["before"] or "", set()).add(splits[place])
    return {
        place: splits[place]
        for place, match in found.items()
        if not match["before"] or len(roles[match["before"]]) > 1
    }


def _is_class(splits: Mapping[Path, str], others: Sequence[Path]) -> bool:
    return bool(others) and all(_has_pictures(place) for place in splits)


def _check_splits(
    folder: Path,
    splits: Mapping[Path, str],
    others: Sequence[Path],
    within: Mapping[Path, Sequence[Path]],
) -> None:
    """Refuse folders that are called like splits where they cannot be taken for splits."""
    where = shown(str(folder), 200)
    names = listed([shown(place.name) for place in splits])
    way_out = (
        "name the folder that holds the class folders (--set "
        f"data=folder:{shown(str(next(iter(splits))), 200)}), or move what is no class away"
    )
    if others:
        rest = listed([shown(place.name) for place in others])
        raise TaskError(
            f"{where} holds folders that are called like splits ({names}) beside others ({rest}), "
            f"so that it is unclear which are classes: {way_out}"
        )
    twice = [split for split, number in Counter(splits.values()).items() if number > 1]
    if twice or "train" not in splits.values():
        reason = f"more than one for {twice[0]}" if twice else "none to train on"
        raise TaskError(f"{where} holds splits ({names}), but {reason}: {way_out}")
    classes = {place: {inner.name for inner in inside} for place, inside in within.items()}
    for place, found in classes.items():
        if not found:
            raise TaskError(
                f"{shown(str(place), 200)} is called like a split, but holds no class folders: "
                f"{way_out}"
            )
    everything = set().union(*classes.values())
    for place, found in classes.items():
        if lacking := sorted(everything - found):
            raise TaskError(
                f"{shown(str(place), 200)} lacks {count(len(lacking), 'class', 'classes')} that "
                f"another of the splits ({names}) has: {listed([shown(c) for c in lacking])}; "
                f"give each split the same class folders, or {way_out}"
            )


def _refuse_overlap(places: Sequence[Path]) -> None:
    """Refuse links that would count images in two classes or in two splits."""
    real: dict[Path, Path] = {}
    for place in places:
        target = place.resolve()
        if target in real:
            raise TaskError(
                f"{shown(str(place), 200)} and {shown(str(real[target]), 200)} are one folder (a "
                "symbolic link), and its images would count twice: remove one of them"
            )
        real[target] = place
    for target, place in real.items():
        for parent in target.parents:
            if parent in real:
                raise TaskError(
                    f"{shown(str(place), 200)} leads into {shown(str(real[parent]), 200)} (a "
                    "symbolic link), and its images would count twice: remove one of them"
                )


# --- which files are pictures ---------------------------------------------------------------------


@dataclass(kw_only=True)
class _Listing:
    """The files in a folder and in the folders inside."""

    pictures: list[Path] = field(default_factory=list)
    """By their ending; sorted."""
    inner: Counter[str] = field(default_factory=Counter)
    """How many pictures are in each of the folders inside."""
    others: Counter[str] = field(default_factory=Counter)
    """How many files have each other ending."""
    hidden: int = 0
    links: int = 0
    """Links to folders, which are not followed: they may lead anywhere."""


def _endings() -> frozenset[str]:
    known = Image.registered_extensions()
    readable = {
        ending for ending, name in known.items() if name in Image.OPEN and name not in _STUBS
    }
    return frozenset(readable | {".mpo"})  # Pillow opens MPO as JPEG.


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name in SYSTEM


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            return list(found)
    except OSError as error:
        reason = error.strerror or str(error)
        raise TaskError(f"{shown(str(folder), 200)} cannot be listed: {reason}") from None


def _folders(folder: Path) -> list[Path]:
    """The folders in a folder, sorted, links to folders among them."""
    return sorted(
        Path(entry.path)
        for entry in _entries(folder)
        if not _is_hidden(entry.name) and entry.is_dir()
    )


def _has_pictures(folder: Path) -> bool:
    """Whether pictures lie in the folder itself."""
    return any(
        not _is_hidden(entry.name) and not entry.is_dir() and _is_sure(entry.name)
        for entry in _entries(folder)
    )


def _is_sure(name: str) -> bool:
    return bool(_SURE.fullmatch(Path(name).suffix.lower()))


def _list(folder: Path) -> _Listing:
    found, endings = _Listing(), _endings()

    def walk(place: Path) -> None:
        for entry in _entries(place):
            ending = Path(entry.name).suffix.lower()
            if _is_hidden(entry.name):
                found.hidden += _files_in(entry)
            elif entry.is_dir(follow_symlinks=False):
                walk(Path(entry.path))
            elif entry.is_dir():
                found.links += 1
            elif ending in endings and (entry.is_file() or not os.path.exists(entry.path)):
                # A link to nowhere is listed too, and refused when it is read. A pipe is not:
                # whoever opens one waits for ever.
                found.pictures.append(Path(entry.path))
                if place != folder:
                    found.inner[str(place.relative_to(folder))] += 1
            else:
                found.others[ending] += 1

    walk(folder)
    found.pictures.sort()
    return found


def _files_in(entry: os.DirEntry[str]) -> int:
    """How many files a hidden entry stands for."""
    if not entry.is_dir(follow_symlinks=False):
        return 1
    return sum(_files_in(inner) for inner in _entries(Path(entry.path)))


def _refuse_few(place: Path, images: int, least: int, found: _Listing) -> None:
    if images >= least:
        return
    where = shown(str(place), 200)
    beside = _name_others(found.others)
    raise TaskError(
        f"{where} holds {count(images, 'image')}; a class needs at least {least}"
        + (f" (what else is there: {beside})" if beside else "")
        + (
            ""
            if images
            else ": if it is no class, move it away, or name the folder that holds the class "
            "folders: --set data=folder:FOLDER"
        )
    )


def _name_others(others: Mapping[str, int]) -> str:
    return counted(((ending or "no ending", number) for ending, number in others.items()), 4)


class _Passed:
    """Counts the files that do not count as images."""

    def __init__(self) -> None:
        self.hidden = self.outside = self.links = 0
        self.others: Counter[str] = Counter()

    def add(self, found: _Listing) -> None:
        self.hidden += found.hidden
        self.links += found.links
        self.others += found.others

    def look_beside(self, plan: _Plan) -> None:
        """What lies in the folders above the class folders."""
        for folder in plan.above:
            for entry in _entries(folder):
                ending = Path(entry.name).suffix.lower()
                if _is_hidden(entry.name):
                    self.hidden += _files_in(entry)
                elif entry.is_dir():
                    continue  # a class, or on the way to the classes
                elif _is_sure(entry.name):
                    self.outside += 1
                else:
                    self.others[ending] += 1

    def numbers(self) -> dict[str, int]:
        return {
            "hidden": self.hidden,
            "no image": self.others.total(),
            "outside": self.outside,
            "link": self.links,
        }

    def words(self) -> str:
        parts = []
        if self.hidden:
            parts.append(count(self.hidden, "hidden file"))
        if number := self.others.total():
            files = count(number, "file that is no image", "files that are no images")
            parts.append(f"{files} ({_name_others(self.others)})")
        if self.outside:
            parts.append(f"{count(self.outside, 'image')} outside of the class folders")
        if self.links:
            parts.append(f"{count(self.links, 'link')} to folders inside of classes")
        return f"{listed(parts)} passed over" if parts else ""


# --- from a picture to bytes ----------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Picture:
    """One picture, cut and scaled, and what there was about it."""

    pixels: NDArray[np.uint8] | NDArray[np.float32]
    """(size, size) or (size, size, 3); float where the file has more than 8 bits."""
    on_black: NDArray[np.uint8] | None
    """The same with a black background, of a picture with transparency."""
    invisible: bool
    """Whether no pixel of it shows at all."""
    mode: str
    """Pillow's."""
    levels: tuple[float, float]
    """The least and the greatest value in the file, where it has more than 8 bits."""
    shape: tuple[int, int]
    """Width and height in the file."""
    frames: bool
    """Whether more pictures follow it in the file."""


def _read_picture(file: Path, size: int) -> _Picture | None:
    """The first picture in a file; None if it holds something else, under an ambiguous ending."""
    try:
        with warnings.catch_warnings():
            # Pillow warns of files that are large, or damaged where it does not matter.
            warnings.simplefilter("ignore")
            with Image.open(file) as image:
                return _take(image, size)
    except UnidentifiedImageError:
        if not _is_sure(file.name):
            return None
        reason = "its content is no picture that Pillow knows"
    except Image.DecompressionBombError:
        reason = "it has more pixels than Pillow opens for safety; scale it down"
    except Exception as error:  # What a damaged picture raises could be anything.
        reason = shown(str(error) or type(error).__name__, 200)
    raise TaskError(f"{shown(str(file), 200)} cannot be read as an image: {reason}")


def _take(image: Image.Image, size: int) -> _Picture:
    upright = ImageOps.exif_transpose(image)
    mode, square = upright.mode, (size, size)
    on_black: NDArray[np.uint8] | None = None
    invisible, levels = False, (0.0, 0.0)
    pixels: NDArray[np.uint8] | NDArray[np.float32]
    if mode.startswith("I") or mode == "F":
        # Pillow would cut off what is above 255, and the picture would be white.
        deep = (upright if mode == "F" else upright.convert("I")).convert("F")
        values = np.asarray(deep)
        if not np.isfinite(values).all():
            raise ValueError("it holds values that are not finite")
        levels = float(values.min()), float(values.max())
        pixels = np.array(ImageOps.fit(deep, square))
    else:
        kind = "L" if mode in ("1", "L") else "RGB"
        grounds = _lay_out(upright, kind)
        if grounds is None:
            pixels = np.array(ImageOps.fit(upright.convert(kind), square))
        else:
            white, black, invisible = grounds
            pixels = np.array(ImageOps.fit(white, square))
            on_black = np.array(ImageOps.fit(black, square))
    return _Picture(
        pixels=pixels,
        on_black=on_black,
        invisible=invisible,
        mode=mode,
        levels=levels,
        shape=upright.size,
        frames=_has_frames(image),
    )


def _has_frames(image: Image.Image) -> bool:
    # A telephone's MPO holds a map of depth as its second picture, and a PSD its layers.
    if image.format in ("MPO", "PSD"):
        return False
    try:
        return bool(getattr(image, "n_frames", 1) > 1)
    except Exception:  # Damage behind the first picture is no reason to refuse that one.
        return True


def _lay_out(image: Image.Image, kind: str) -> tuple[Image.Image, Image.Image, bool] | None:
    """A picture with transparency on white, on black, and whether nothing of it shows.

    None if it has none, or if all of it is opaque.
    """
    if "transparency" not in image.info and image.mode not in ("LA", "La", "PA", "RGBA", "RGBa"):
        return None
    full = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
    least, greatest = full.getchannel("A").getextrema()
    if least == 255:
        return None
    white, black = (
        Image.alpha_composite(Image.new("RGBA", full.size, (level,) * 3 + (255,)), full)
        for level in (255, 0)
    )
    return white.convert(kind), black.convert(kind), greatest == 0


def _to_arrays(pictures: Sequence[_Picture], size: int) -> tuple[NDArray[np.uint8], str]:
    """All pictures as bytes, (N, channels, size, size), and what was done to them."""
    if not pictures:
        return np.empty((0, 1, size, size), np.uint8), ""
    background, said = _background(pictures)
    deep, said_of_deep = _scale_deep(pictures)
    grey = all(picture.pixels.ndim == 2 for picture in pictures)
    images = np.empty((len(pictures), 1 if grey else 3, size, size), np.uint8)
    pixels: NDArray[np.uint8] | NDArray[np.float32]
    for row, picture in enumerate(pictures):
        if row in deep:
            pixels = deep[row]
        elif picture.on_black is not None and background == "black":
            pixels = picture.on_black
        else:
            pixels = picture.pixels
        # A grey picture among colours gets three equal channels.
        images[row] = np.moveaxis(np.atleast_3d(pixels), 2, 0)
    return images, "; ".join([*said, *said_of_deep, *_say_shapes(pictures, size, grey)])


def _background(pictures: Sequence[_Picture]) -> tuple[str, list[str]]:
    """White, unless most pictures with transparency show nothing on it; and what to say."""
    clear = [picture for picture in pictures if picture.on_black is not None]
    if not clear:
        return "white", []
    seen = [picture for picture in clear if not picture.invisible]
    lost = {
        "white": sum(_is_flat(picture.pixels) for picture in seen),
        "black": sum(_is_flat(picture.on_black) for picture in seen),
    }
    # Drawings in white on nothing are common: on white, all of them would be gone.
    background = (
        "black" if 2 * lost["white"] > len(seen) and lost["black"] < lost["white"] else "white"
    )
    said = f"{count(len(clear), 'image')} with transparency laid on {background}"
    if background == "black":
        said += f", since {lost['white']:,} would show nothing on white"
    elif lost["white"]:
        said += f", where {lost['white']:,} of them show nothing"
    unseen = len(clear) - len(seen)
    return background, [said, *([f"{count(unseen, 'image')} wholly transparent"] if unseen else [])]


def _is_flat(pixels: NDArray[np.uint8] | NDArray[np.float32] | None) -> bool:
    """Whether all pixels are of nearly one colour."""
    assert pixels is not None
    flat = np.atleast_3d(pixels).reshape(-1, 1 if pixels.ndim == 2 else 3)
    return bool((np.ptp(flat.astype(np.float32), axis=0) < FLAT).all())


def _scale_deep(pictures: Sequence[_Picture]) -> tuple[dict[int, NDArray[np.uint8]], list[str]]:
    """Pictures of more than 8 bits as bytes, by their row; and what to say of them.

    One scale holds for all of a kind, so that a dark picture stays darker than a light one.
    """
    made: dict[int, NDArray[np.uint8]] = {}
    said = []
    for floats, noun in ((False, "image of 16 or 32 bits"), (True, "image of real numbers")):
        rows = [
            row
            for row, picture in enumerate(pictures)
            if picture.pixels.dtype == np.float32 and (picture.mode == "F") == floats
        ]
        if not rows:
            continue
        least = min(pictures[row].levels[0] for row in rows)
        greatest = max(pictures[row].levels[1] for row in rows)
        values = np.stack([pictures[row].pixels.astype(np.float32, copy=False) for row in rows])
        low, high = _range(values, least, greatest, floats)
        scaled = (values - low) * (255 / (high - low))
        for row, pixels in zip(rows, np.rint(scaled.clip(0, 255)).astype(np.uint8), strict=True):
            made[row] = pixels
        plural = noun.replace("image", "images")
        said.append(
            f"{count(len(rows), noun, plural)} scaled from {low:,.6g} to {high:,.6g} down to "
            "0 to 255"
            if (low, high) != (0, 255)
            else f"{count(len(rows), noun, plural)} with no value above 255, taken as they are"
        )
    return made, said


def _range(
    values: NDArray[np.float32], least: float, greatest: float, floats: bool
) -> tuple[float, float]:
    """Which values are to become 0 and 255.

    Whole numbers have a depth of 8, 10, 12 or 16 bits that the file does not tell, so that it is
    taken from the greatest of all. Where nearly all values lie in a sixteenth of that range (one
    hot pixel, or an offset), bytes would have 16 levels or fewer for them: they get all 256.
    """
    if least < 0:
        low, high = least, greatest
    elif floats:
        low, high = 0.0, next((top for top in (1.0, 255.0) if greatest <= top), greatest)
    else:
        low, high = 0.0, 255.0
        while high < greatest:
            high = 2 * high + 1
    if (low, high) != (0.0, 255.0):
        most = np.quantile(values, [0.001, 0.999])
        if 0 < most[1] - most[0] < (high - low) / 16:
            low, high = float(most[0]), float(most[1])
    return low, max(high, low + 1e-6)


def _say_shapes(pictures: Sequence[_Picture], size: int, grey: bool) -> list[str]:
    """What to say of the pictures' shapes and colours."""
    said = []
    total = len(pictures)
    few = sum(picture.pixels.ndim == 2 for picture in pictures)
    if few and not grey:
        said.append(
            f"{few:,} of {total:,} images are grey, and the others in colour: all in colour"
        )
    if number := sum(picture.mode == "CMYK" for picture in pictures):
        said.append(f"{count(number, 'image')} in the colours of print (CMYK) converted")
    if number := sum(picture.frames for picture in pictures):
        said.append(f"of {count(number, 'file')} with several pictures the first was taken")
    cut = [picture.shape for picture in pictures if 2 * min(picture.shape) < max(picture.shape)]
    if cut:
        worst = max(cut, key=lambda shape: max(shape) / min(shape))
        kept = min(worst) / max(worst)
        said.append(
            f"{count(len(cut), 'image')} of {total:,} cut to less than half, so as to be square; "
            f"of the worst, {worst[0]:,} x {worst[1]:,}, {kept:.1%} is left"
        )
    small = [picture.shape for picture in pictures if 2 * min(picture.shape) < size]
    if small:
        least = min(small, key=min)
        said.append(
            f"{count(len(small), 'image')} smaller than half of {size} x {size} and enlarged, the "
            f"smallest {least[0]:,} x {least[1]:,}"
        )
    return said
