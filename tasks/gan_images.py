"""Labelled images for the GAN task: one option names the data, one record holds them.

=====================  =============================================================================
`digits`               1,797 grey digits of 8 x 8 pixels that scikit-learn brings along
`fashion-mnist`        70,000 grey clothes of 28 x 28: Debian's package `dataset-fashion-mnist`,
                       or else downloaded once, 31 MB
`idx:FOLDER`           four IDX files named like those of MNIST, plain or gzip
`cifar10`              60,000 colour images of 32 x 32: downloaded once, 170 MB
`cifar10:FOLDER`       the same from a folder, in the binary or in the Python version
`folder:FOLDER`        one folder of image files per class, cut and scaled to `size` pixels; also
                       inside of folders called train, val and test, which then are the splits
nothing                `fashion-mnist` where it lies on this machine, else `digits`; no network
=====================  =============================================================================
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import io
import itertools
import math
import pickle
import tarfile
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pbt_flow.task import TaskError

from .cache import CacheError, cache_folder, download
from .phrases import count, counted, listed

try:
    from .gan_folders import FLAT, read_folder
except ModuleNotFoundError as error:
    raise TaskError(f"the gan task needs {error.name}: pip install scikit-learn pillow") from error

Arrays: TypeAlias = tuple[NDArray[np.uint8], NDArray[Any]]
"""Images, (N, channels, height, width), and their labels, (N,)."""

CIFAR10_BATCHES = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
DEBIAN = Path("/usr/share/datasets/fashion-mnist")
FASHION_MNIST = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com"
FASHION_MNIST_FILES = {
    "train-images-idx3-ubyte.gz": (
        26_421_880,
        "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
    ),
    "train-labels-idx1-ubyte.gz": (
        29_515,
        "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
    ),
    "t10k-images-idx3-ubyte.gz": (
        4_422_102,
        "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
    ),
    "t10k-labels-idx1-ubyte.gz": (
        5_148,
        "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
    ),
}
"""Size and SHA-256 of each file: nothing but the digest vouches for what came over plain HTTP."""
CIFAR10 = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
CIFAR10_SIZE = 170_052_171
CIFAR10_SHA256 = "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"


@dataclass(frozen=True, kw_only=True, eq=False)
class Images:
    """Square images with their classes, split into those to train on and those held out."""

    name: str
    train: Tensor
    """uint8, (N, channels, size, size)."""
    train_labels: Tensor
    """int64, (N,), from 0 to classes - 1."""
    test: Tensor
    test_labels: Tensor
    understood: Mapping[str, str] = field(default_factory=dict)
    """What was understood of the data, in a sentence for each topic (see `Task.understood`)."""
    passed_over: Mapping[str, int] = field(default_factory=dict)
    """How many files of a folder do not count, by the reason."""

    def __post_init__(self) -> None:
        if self.classes < 2:
            raise TaskError(
                f"data {self.name!r}: an Inception score needs at least two classes of images, "
                f"got {self.classes}"
                + ("; each class takes a folder of its own" if "folder:" in self.name else "")
            )
        height, width = self.train.shape[2:]
        if height != width or self.test.shape[1:] != self.train.shape[1:] or not len(self.test):
            raise TaskError(
                f"data {self.name!r}: training and test images must be square and of one size, got "
                f"shapes {tuple(self.train.shape)} and {tuple(self.test.shape)}"
            )
        if int(self.test_labels.max()) >= self.classes:
            raise TaskError(
                f"data {self.name!r}: a test image has a class that no training image has"
            )

    @property
    def classes(self) -> int:
        return int(self.train_labels.max()) + 1 if len(self.train_labels) else 0

    @property
    def channels(self) -> int:
        return self.train.shape[1]

    @property
    def size(self) -> int:
        return self.train.shape[-1]

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of all pixels and labels, in hexadecimal."""
        parts = (self.train, self.train_labels, self.test, self.test_labels)
        sha = hashlib.sha256(repr([tuple(part.shape) for part in parts]).encode())
        for part in parts:
            sha.update(part.numpy().data)
        return sha.hexdigest()


def scale(images: Tensor) -> Tensor:
    """From bytes to the range of tanh, -1 to 1, in which all networks here work."""
    return images.float() / 127.5 - 1


@functools.lru_cache(maxsize=2)  # All members of a worker share one copy.
def load_images(data: str = "", size: int = 32) -> Images:
    """The images that `data` names (see the table above); `size` matters to `folder:` only.

    Raises:
        TaskError: There are no such data, or a file of them is not what it should be.
    """
    kind, colon, place = data.partition(":")
    folder = Path(place).expanduser()
    readers: dict[str, Callable[[], tuple[Arrays, Arrays]]] = {
        "digits": _digits,
        "fashion-mnist": lambda: _idx(_fashion_mnist() or _download_fashion_mnist()),
        "idx:": lambda: _idx(folder),
        "cifar10": _downloaded_cifar10,
        "cifar10:": lambda: _cifar10(folder),
    }
    title, chosen = data, kind + colon
    if not data:
        chosen = "fashion-mnist" if _fashion_mnist() else "digits"
        title = {
            "fashion-mnist": "Fashion-MNIST, which lies on this machine",
            "digits": "digits, since Fashion-MNIST does not lie on this machine",
        }[chosen]
    if chosen not in readers and chosen != "folder:":
        raise TaskError(
            f"there are no data {data!r}; there are digits, fashion-mnist, idx:FOLDER, cifar10, "
            "cifar10:FOLDER and folder:FOLDER"
        )
    if colon and not (place and folder.is_dir()):
        raise TaskError(f"data {data!r}: there is no folder {place!r}")
    if chosen == "folder:":
        return _from_folder(data, folder, size)
    images = _as_images(data, *readers[chosen]())
    return replace(images, understood=_understand(images, title=title))


def _as_images(name: str, train: Arrays, test: Arrays) -> Images:
    return Images(
        name=name,
        train=torch.from_numpy(train[0]),
        train_labels=torch.from_numpy(train[1]).long(),
        test=torch.from_numpy(test[0]),
        test_labels=torch.from_numpy(test[1]).long(),
    )


def _from_folder(data: str, folder: Path, size: int) -> Images:
    found = read_folder(folder, size)
    test = found.held_out
    images = _as_images(
        data,
        (found.images[~test], found.labels[~test]),
        (found.images[test], found.labels[test]),
    )
    told = _understand(images, names=found.classes, skipped=found.skipped, layout=found.layout)
    if found.changes:
        told["images"] = found.changes
    return replace(images, understood=told, passed_over=found.passed_over)


# --- what was understood --------------------------------------------------------------------------


def _understand(
    images: Images,
    *,
    title: str = "",
    names: Sequence[str] = (),
    skipped: str = "",
    layout: str = "",
) -> dict[str, str]:
    """A sentence for each topic that there is something to say of.

    Raises:
        TaskError: All pixels are equal, so that there is nothing to learn.
    """
    low = min(int(part.min()) for part in (images.train, images.test))
    high = max(int(part.max()) for part in (images.train, images.test))
    if low == high:
        raise TaskError(
            f"data {images.name!r}: all pixels of all images are equal ({low}), so that there is "
            "nothing to learn"
        )
    told = {"data": _say_classes(images, title, names)}
    if skipped:
        told["data"] += f"; {skipped}"
    if layout:
        told["layout"] = layout
    if high - low < FLAT:
        told["contrast"] = f"all pixels lie between {low} and {high} of 255: the images show little"
    if copies := _say_copies(images, names):
        told["copies"] = copies
    return told


def _say_classes(images: Images, title: str, names: Sequence[str]) -> str:
    train = torch.bincount(images.train_labels, minlength=images.classes)
    test = torch.bincount(images.test_labels, minlength=images.classes)
    numbers = (train + test).tolist()
    names = names or [str(label) for label in range(images.classes)]
    least, most = min(numbers), max(numbers)
    if least == most:
        classes = f"{images.classes:,} classes of {most:,} images ({listed(names)})"
    elif images.classes <= 8:
        classes = f"{images.classes:,} classes ({counted(zip(names, numbers, strict=True))})"
    else:
        smallest, largest = names[numbers.index(least)], names[numbers.index(most)]
        classes = (
            f"{images.classes:,} classes, from {least:,} images (class {smallest}) to {most:,} "
            f"(class {largest})"
        )
    colour = "grey" if images.channels == 1 else "colour"
    told = [
        f"{title}, {classes}" if title else classes,
        f"{len(images.test):,} held out",
        f"{images.size} x {images.size} pixels in {colour}",
    ]
    missing = int((train == 0).sum())
    if missing:
        told.append(f"{count(missing, 'class', 'classes')} with no image to train on")
    elif most >= 10 * least:
        told.append(f"very unequal: the largest class is {most / least:,.0f} times the smallest")
    return ", ".join(told)


def _say_copies(images: Images, names: Sequence[str]) -> str:
    """What to say of pictures that occur more than once, pixel for pixel."""
    digests = [
        [hashlib.blake2b(memoryview(row), digest_size=16).digest() for row in part.numpy()]
        for part in (images.train, images.test)
    ]
    labels = [images.train_labels.tolist(), images.test_labels.tolist()]
    times = Counter(itertools.chain(*digests))
    if len(times) == sum(map(len, digests)):
        return ""
    classes_of: dict[bytes, set[int]] = {}
    pictures_of: dict[int, set[bytes]] = {}
    for digest, label in zip(itertools.chain(*digests), itertools.chain(*labels), strict=True):
        classes_of.setdefault(digest, set()).add(label)
        pictures_of.setdefault(label, set()).add(digest)
    trained = set(digests[0])
    leaked = sum(digest in trained for digest in digests[1])
    mixed = sum(times[digest] for digest, classes in classes_of.items() if len(classes) > 1)
    alike = [label for label, pictures in sorted(pictures_of.items()) if len(pictures) == 1]
    copies = times.total() - len(times)
    told = [f"{count(copies, 'image is a copy', 'images are copies')} of another, pixel for pixel"]
    if leaked:
        told.append(f"{leaked:,} of the held-out images are trained on too")
    if mixed:
        told.append(f"{count(mixed, 'image stands', 'images stand')} in more than one class")
    if alike:
        shown_names = [names[label] if names else str(label) for label in alike]
        told.append(
            f"{count(len(alike), 'class holds', 'classes hold')} one picture only, again and "
            f"again ({listed(shown_names)})"
        )
    return "; ".join(told)


# --- one reader for each kind ---------------------------------------------------------------------


def _digits() -> tuple[Arrays, Arrays]:
    try:
        from sklearn.datasets import load_digits  # Takes a second: only for those who want digits.
    except ImportError:
        raise TaskError("the digits need scikit-learn: pip install scikit-learn pillow") from None
    images, labels = load_digits(return_X_y=True)
    pixels = np.rint(images * (255 / 16)).astype(np.uint8).reshape(-1, 1, 8, 8)
    test, train = np.split(np.random.default_rng(0).permutation(len(pixels)), [len(pixels) // 5])
    return (pixels[train], labels[train]), (pixels[test], labels[test])


def _idx(folder: Path) -> tuple[Arrays, Arrays]:
    """The IDX files of MNIST: a magic number, the sizes (all big-endian int32), then the bytes."""

    def read(name: str, dimensions: int) -> NDArray[np.uint8]:
        file = folder / name if (folder / name).is_file() else folder / f"{name}.gz"
        raw = _read(file)
        header, magic = 4 * (1 + dimensions), 0x800 + dimensions  # 8 is the type, unsigned bytes.
        numbers = np.frombuffer(raw[:header].ljust(header, b"\0"), ">i4").tolist()
        if numbers[0] != magic:
            raise TaskError(
                f"{file} is no IDX file of bytes in {dimensions} dimensions: its magic number is "
                f"{numbers[0]}, not {magic}"
            )
        if len(raw) - header != math.prod(numbers[1:]):
            raise TaskError(f"{file} should hold {numbers[1:]} bytes, but has {len(raw) - header}")
        return np.frombuffer(raw, np.uint8, offset=header).reshape(numbers[1:])

    def part(name: str) -> Arrays:
        return _matching(
            read(f"{name}-images-idx3-ubyte", 3)[:, None],
            read(f"{name}-labels-idx1-ubyte", 1),
            folder,
        )

    return part("train"), part("t10k")


def _cifar10(folder: Path) -> tuple[Arrays, Arrays]:
    """CIFAR-10 from the folder of its files or the one above it, binary or Python version."""
    for inner, ending, batch in (
        ("cifar-10-batches-bin", ".bin", _binary_batch),
        ("cifar-10-batches-py", "", _pickled_batch),
    ):
        for place in (folder, folder / inner):
            if (place / f"data_batch_1{ending}").is_file():
                files = [place / f"{name}{ending}" for name in CIFAR10_BATCHES]
                return _join_batches([batch(_read(file), file) for file in files])
    raise TaskError(f"there is no data_batch_1.bin or data_batch_1 of CIFAR-10 in {folder}")


def _cifar10_archive(archive: Path) -> tuple[Arrays, Arrays]:
    """CIFAR-10 from the archive of its binary version, out of which nothing is unpacked."""
    batches: list[Arrays] = []
    try:
        with tarfile.open(archive) as tar:
            for name in CIFAR10_BATCHES:
                member = tar.extractfile(f"cifar-10-batches-bin/{name}.bin")
                if member is None:
                    raise TaskError(f"{archive} holds no file {name}.bin")
                batches.append(_binary_batch(bytearray(member.read()), archive))
    except (OSError, EOFError, KeyError, tarfile.TarError, zlib.error) as error:
        raise TaskError(f"{archive} cannot be read: {error}") from None
    return _join_batches(batches)


def _join_batches(batches: Sequence[Arrays]) -> tuple[Arrays, Arrays]:
    """The batches to train on as one, and the last one, which is held out."""
    *train, test = batches
    images = np.concatenate([images for images, _ in train])
    labels = np.concatenate([labels for _, labels in train])
    return (images, labels), test


def _binary_batch(raw: bytearray, file: Path) -> Arrays:
    if len(raw) % 3073:
        raise TaskError(f"{file} is no batch of CIFAR-10: {len(raw)} bytes, no multiple of 3073")
    # A label, then 32 x 32 bytes of red, of green and of blue.
    rows = np.frombuffer(raw, np.uint8).reshape(-1, 3073)
    return rows[:, 1:].reshape(-1, 3, 32, 32), rows[:, 0]


def _pickled_batch(raw: bytearray, file: Path) -> Arrays:
    try:
        batch = _ArrayUnpickler(io.BytesIO(raw), encoding="latin1").load()
        images = np.asarray(batch["data"], np.uint8).reshape(-1, 3, 32, 32)
        return _matching(images, np.asarray(batch["labels"], np.int64), file)
    except TaskError:
        raise
    except Exception as error:  # What a damaged pickle raises could be anything.
        raise TaskError(f"{file} is no batch of CIFAR-10: {error}") from None


class _ArrayUnpickler(pickle.Unpickler):
    """Reads plain values and numpy arrays, and nothing else.

    An ordinary unpickler runs any code that a file asks for, and this trusts no file.
    """

    def find_class(self, module: str, name: str) -> Any:
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return np.empty(0).__reduce__()[0]  # numpy's public way to that private function.
        if (module, name) in (("numpy", "ndarray"), ("numpy", "dtype")):
            return getattr(np, name)
        if (module, name) == ("_codecs", "encode"):  # How Python 3 writes bytes for Python 2.
            return lambda text, _encoding: text.encode("latin1")
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no array needs")


def _read(file: Path) -> bytearray:
    """The bytes of a file, unpacked, and writable, since torch wants to own its memory."""
    try:
        return bytearray(
            gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
        )
    except (OSError, EOFError, zlib.error) as error:
        raise TaskError(f"{file} cannot be read: {error}") from None


def _matching(images: NDArray[np.uint8], labels: NDArray[Any], where: Path) -> Arrays:
    if len(images) != len(labels):
        raise TaskError(f"{where}: {len(images)} images, but {len(labels)} labels")
    return images, labels


# --- downloads ------------------------------------------------------------------------------------


def _fashion_mnist() -> Path | None:
    """Where Fashion-MNIST lies on this machine, if anywhere."""
    for place in (DEBIAN, cache_folder() / "FashionMNIST"):
        names = [place / name for name in FASHION_MNIST_FILES]
        # Plain or packed; torchvision, which earlier versions downloaded with, leaves both.
        if all(name.is_file() or name.with_suffix("").is_file() for name in names):
            return place
    return None


def _download_fashion_mnist() -> Path:
    folder = cache_folder() / "FashionMNIST"
    for name, (size, sha256) in FASHION_MNIST_FILES.items():
        _download(f"{FASHION_MNIST}/{name}", folder / name, sha256, size, "idx:FOLDER")
    return folder


def _downloaded_cifar10() -> tuple[Arrays, Arrays]:
    folder = cache_folder() / "CIFAR10"
    if folder.is_dir():  # Earlier versions left the Python version here, unpacked.
        return _cifar10(folder)
    archive = cache_folder() / CIFAR10.rpartition("/")[2]
    return _cifar10_archive(
        _download(CIFAR10, archive, CIFAR10_SHA256, CIFAR10_SIZE, "cifar10:FOLDER")
    )


def _download(url: str, path: Path, sha256: str, size: int, instead: str) -> Path:
    try:
        return download(url, path, sha256=sha256, size=size)
    except CacheError as error:
        raise TaskError(
            f"{error}; to go on without it, name a folder that holds the files: "
            f"--set data={instead}"
        ) from None
