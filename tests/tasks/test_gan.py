"""tasks/gan.py with tasks/gan_images.py and tasks/gan_inception.py: data, scores, training."""

from __future__ import annotations

import copy
import dataclasses
import functools
import gzip
import hashlib
import io
import json
import math
import pickle
import struct
import subprocess
import sys
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from file_server import Answer, Server, serving, well
from numpy.typing import NDArray
from patience import PATIENCE
from torch import Tensor, nn

pytest.importorskip("PIL")
pytest.importorskip("sklearn")

from PIL import Image

from pbt_flow.settings import Settings
from pbt_flow.task import Task, TaskError
from pbt_flow.tasks import gan
from pbt_flow.tasks import gan_images as images
from pbt_flow.tasks import gan_inception as inception
from pbt_flow.tasks.gan import GAN, make_discriminator, make_generator
from pbt_flow.tasks.gan_images import Images, load_images, scale
from pbt_flow.tasks.gan_inception import Recipe, inception_score, load_classifier
from pbt_flow.testing import TaskContract, assert_same, middle, through_checkpoint

TINY = Recipe(name="tiny", width=2, epochs=1, steps=4, seed=0)
DIGITS = {"data": "digits", "samples": 300}
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def cache(shared_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One cache for all tests, so that each classifier is trained once."""
    monkeypatch.setenv("PBT_FLOW_CACHE", str(shared_cache))
    return shared_cache


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache of the test's own, on the disk and in this process."""
    monkeypatch.setenv("PBT_FLOW_CACHE", str(tmp_path / "cache"))
    for cached in (load_classifier, load_images):
        cached.cache_clear()
    yield tmp_path / "cache"
    for cached in (load_classifier, load_images):
        cached.cache_clear()


def stripes(count: int, size: int, seed: int = 0) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Noisy images of three classes: stripes this way, that way, and none."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count, dtype=np.uint8) % 3
    made = rng.integers(0, 60, (count, size, size))
    wave = 180 * (np.arange(size) // 2 % 2)
    made += np.where(labels == 0, 1, 0)[:, None, None] * wave[:, None]
    made += np.where(labels == 1, 1, 0)[:, None, None] * wave[None, :]
    return made.astype(np.uint8), labels


def write_idx(folder: Path, size: int = 16, train: int = 300, test: int = 90) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for part, count in (("train", train), ("t10k", test)):
        pixels, labels = stripes(count, size, seed=count)
        header = struct.pack(">4i", 0x803, count, size, size)
        (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(
            gzip.compress(header + pixels.tobytes(), mtime=0)
        )
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(
            struct.pack(">2i", 0x801, count) + labels.tobytes()
        )
    return folder


def some_images(seed: int = 0) -> Images:
    pixels, labels = stripes(60, 16, seed)
    pair = torch.from_numpy(pixels)[:, None], torch.from_numpy(labels).long()
    return Images(
        name="stripes", train=pair[0], train_labels=pair[1], test=pair[0], test_labels=pair[1]
    )


# --- the contract ---------------------------------------------------------------------------------


class TestPerceptronsContract(TaskContract):
    task = GAN
    options = DIGITS
    steps = 8


class TestConvolutionsContract(TaskContract):
    task = GAN
    options: ClassVar = {"samples": 90, "width": 4, "batch": 16, "k": 2}
    steps = 3

    @pytest.fixture(autouse=True)
    def _data(self, tmp_path_factory: pytest.TempPathFactory, shared_cache: Path) -> None:
        folder = shared_cache / "stripes"
        if not folder.is_dir():
            write_idx(folder)
        type(self).options = {**self.options, "data": f"idx:{folder}"}


# --- the Inception score --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("logits", "score"),
    [
        (torch.zeros(50, 10), 1),
        (torch.eye(10).repeat(3, 1) * 1e4, 10),
        (torch.eye(10)[:4] * 1e4, 4),
        (torch.eye(10)[[7] * 20] * 1e4, 1),
        (torch.full((5, 10), math.nan), math.nan),
    ],
    ids=["undecided", "every class, certainly", "four classes of ten", "one class", "NaN"],
)
def test_the_inception_score_has_its_known_values(logits: Tensor, score: float) -> None:
    assert inception_score(logits) == pytest.approx(score, rel=1e-9, nan_ok=True)


def test_the_inception_score_is_the_formula_written_out() -> None:
    logits = 3 * torch.randn(40, 7, generator=torch.Generator().manual_seed(0))
    p = [[math.exp(x) / sum(map(math.exp, row)) for x in row] for row in logits.tolist()]
    q = [sum(row[c] for row in p) / len(p) for c in range(7)]
    divergences = [sum(row[c] * math.log(row[c] / q[c]) for c in range(7)) for row in p]
    assert inception_score(logits) == pytest.approx(math.exp(sum(divergences) / len(p)), rel=1e-6)


class Brightness(nn.Module):
    """Has an opinion about bytes, as networks of torch-fidelity do: there, a NaN is lost."""

    def forward(self, pixels: Tensor) -> tuple[Tensor]:
        assert pixels.dtype == torch.uint8
        assert pixels.shape[1] == 3
        return (pixels.float().flatten(2).mean(2),)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("of_bytes", [False, True])
def test_one_image_that_is_not_finite_makes_the_score_nan(bad: float, of_bytes: bool) -> None:
    classifier = load_classifier(TINY, some_images(), 60)
    if of_bytes:
        network = inception._InBytes(Brightness())
        classifier = dataclasses.replace(classifier, network=network)
    pictures = scale(some_images().test)
    assert math.isfinite(classifier.score(pictures))
    pictures[5, 0, 3, 3] = bad
    assert math.isnan(classifier.score(pictures))


# --- the classifiers and their cache --------------------------------------------------------------


def weights_of(network: nn.Module) -> str:
    state = network.state_dict().values()
    return hashlib.sha256(b"".join(value.numpy().tobytes() for value in state)).hexdigest()


def test_the_classifier_of_digits_tells_them_apart_and_scores_them_near_ten() -> None:
    classifier = load_classifier(inception.SELECTION, load_images("digits"), 300)
    assert classifier.accuracy > 0.95
    assert 9 < classifier.real_score <= 10


def test_a_classifier_comes_out_of_the_cache_as_it_went_in(empty_cache: Path) -> None:
    trained = load_classifier(TINY, some_images(), 60)
    changed = (empty_cache / "classifiers").stat().st_mtime_ns
    again = load_classifier(TINY, some_images(), 60)
    assert again.network is not trained.network
    assert weights_of(again.network) == weights_of(trained.network)
    assert (again.accuracy, again.real_score) == (trained.accuracy, trained.real_score)
    # It was the file, and no second training, which would have written beside it.
    assert (empty_cache / "classifiers").stat().st_mtime_ns == changed
    (file,) = (empty_cache / "classifiers").iterdir()
    torch.save({**torch.load(file, weights_only=True), "accuracy": 0.125}, file)
    assert load_classifier(TINY, some_images(), 60).accuracy == 0.125


def test_other_data_and_another_recipe_have_files_of_their_own(empty_cache: Path) -> None:
    load_classifier(TINY, some_images(), 60)
    load_classifier(TINY, some_images(seed=1), 60)
    load_classifier(dataclasses.replace(TINY, seed=1), some_images(), 60)
    load_classifier(TINY, some_images(), 60)
    assert len(list((empty_cache / "classifiers").iterdir())) == 3


def test_training_a_classifier_leaves_the_random_numbers_of_the_task_alone(
    empty_cache: Path,
) -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    load_classifier(TINY, some_images(), 60)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.slow
def test_two_processes_that_want_a_classifier_end_with_one_file(empty_cache: Path) -> None:
    program = """
import sys, torch
from pbt_flow.tasks.gan_images import Images
from pbt_flow.tasks.gan_inception import Recipe, load_classifier
pixels = torch.randint(256, (60, 1, 16, 16), generator=torch.Generator().manual_seed(0)).byte()
labels = torch.arange(60) % 3
images = Images(name="", train=pixels, train_labels=labels, test=pixels, test_labels=labels)
recipe = Recipe(name="tiny", width=2, epochs=1, steps=20, seed=0)
print("ready", flush=True)
sys.stdin.readline()
classifier = load_classifier(recipe, images, 60)
print([weight.tolist() for weight in classifier.network.parameters()])
"""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    answers = [process.communicate(timeout=PATIENCE)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    (file,) = (empty_cache / "classifiers").iterdir()
    weights = torch.load(file, weights_only=True)["weights"]
    written = [weights[name].tolist() for name in weights if weights[name].is_floating_point()]
    assert answers[0] == answers[1]
    assert all(weight in written for weight in json.loads(answers[0]))


@pytest.mark.parametrize("content", [b"", b"no classifier", pickle.dumps(print)])
def test_a_damaged_classifier_is_named(empty_cache: Path, content: bytes) -> None:
    load_classifier(TINY, some_images(), 60)
    (file,) = (empty_cache / "classifiers").iterdir()
    file.write_bytes(content)
    with pytest.raises(TaskError, match=rf"{file.name} is damaged: delete it"):
        load_classifier(TINY, some_images(), 60)


# --- data -----------------------------------------------------------------------------------------


def test_digits_are_split_and_keep_their_pixels() -> None:
    from sklearn.datasets import load_digits

    digits = load_images("digits")
    assert (digits.channels, digits.size, digits.classes) == (1, 8, 10)
    assert (len(digits.train), len(digits.test)) == (1438, 359)
    ours = torch.cat([digits.train, digits.test]).flatten(1).float().div(255 / 16).round()
    theirs = load_digits().data
    assert sorted(map(tuple, ours.int().tolist())) == sorted(
        map(tuple, theirs.astype(int).tolist())
    )


def test_without_a_name_the_data_are_fashion_mnist_where_it_lies_and_else_digits(
    empty_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "DEBIAN", tmp_path / "fashion-mnist")
    assert load_images().size == 8
    load_images.cache_clear()
    write_idx(tmp_path / "fashion-mnist", size=28)
    assert load_images().size == 28
    assert torch.equal(load_images().train, load_images("fashion-mnist").train)


def test_clothes_of_fashion_mnist_train_score_report_and_show(
    empty_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "DEBIAN", tmp_path / "fashion-mnist")
    for name in ("SELECTION", "REPORT"):  # The real ones take seconds to train.
        monkeypatch.setattr(gan, name, dataclasses.replace(TINY, name=name.lower()))
    write_idx(tmp_path / "fashion-mnist", size=28, train=120, test=60)
    task = GAN(seed=0, data="fashion-mnist", width=2, batch=8, samples=30)
    assert isinstance(task.generator[1], nn.Unflatten)  # convolutions, not a perceptron
    task.reseed(1)
    hparams = {"lr_generator": 1e-3, "lr_discriminator": 1e-3}
    assert all(math.isfinite(value) for value in task.train(hparams, 2).values())
    assert 1 <= task.evaluate() <= 3
    assert 1 <= task.report()["inception_score"] <= 3
    task.samples(tmp_path / "shown")
    assert Image.open(tmp_path / "shown" / "samples.png").size == ((28 * 8 + 7) * 2,) * 2


def test_idx_files_are_read_packed_and_plain(tmp_path: Path) -> None:
    read = load_images(f"idx:{write_idx(tmp_path)}")
    pixels, labels = stripes(300, 16, seed=300)
    assert torch.equal(read.train, torch.from_numpy(pixels)[:, None])
    assert read.train_labels.tolist() == labels.tolist()
    assert (len(read.test), read.classes) == (90, 3)


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("train-labels-idx1-ubyte", None, "train-labels-idx1-ubyte.gz cannot be read"),
        ("train-labels-idx1-ubyte", b"\0\0\x0d\1" + bytes(8), "its magic number is 3329, not 2049"),
        ("train-labels-idx1-ubyte", b"", "its magic number is 0, not 2049"),
        (
            "t10k-images-idx3-ubyte.gz",
            gzip.compress(struct.pack(">4i", 0x803, 90, 16, 16) + bytes(7), mtime=0),
            r"should hold \[90, 16, 16\] bytes, but has 7",
        ),
        ("t10k-images-idx3-ubyte.gz", b"no gzip", "cannot be read: Not a gzipped file"),
        (
            "train-labels-idx1-ubyte",
            struct.pack(">2i", 0x801, 4) + bytes(4),
            "300 images, but 4 labels",
        ),
        (
            "train-labels-idx1-ubyte",
            struct.pack(">2i", 0x801, 300) + bytes(300),
            "at least two classes of images, got 1",
        ),
        (
            "t10k-labels-idx1-ubyte",
            struct.pack(">2i", 0x801, 90) + bytes([9] * 90),
            "a test image has a class that no training image has",
        ),
    ],
)
def test_a_bad_idx_file_is_told(
    tmp_path: Path, name: str, content: bytes | None, complaint: str
) -> None:
    file = write_idx(tmp_path) / name
    file.unlink() if content is None else file.write_bytes(content)
    with pytest.raises(TaskError, match=complaint):
        load_images(f"idx:{tmp_path}")


def batches() -> list[tuple[NDArray[np.uint8], list[int]]]:
    """CIFAR-10 in small: five training batches and one to test on."""
    rng = np.random.default_rng(0)
    return [
        (rng.integers(0, 256, (4, 3072), dtype=np.uint8), rng.permutation(4).tolist())
        for _ in range(6)
    ]


def of_python_2(pixels: NDArray[np.uint8], labels: list[int]) -> bytes:
    """A batch as Python 2 pickled it in 2009: with its strings of bytes, which are gone since."""

    def text(value: bytes) -> bytes:
        return b"T" + struct.pack("<i", len(value)) + value

    shape = b"".join(b"M" + struct.pack("<H", n) for n in pixels.shape)
    dtype = (
        b"cnumpy\ndtype\n"
        + text(b"u1")
        + b"K\0K\1\x87R(K\3"
        + text(b"|")
        + b"NNN"
        + (b"J\xff\xff\xff\xff" * 2 + b"K\0tb")
    )
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85"
        + text(b"b")
        + (b"\x87R(K\1" + shape + b"\x86" + dtype + b"\x89" + text(pixels.tobytes()) + b"tb")
    )
    listed = b"](" + b"".join(b"K" + bytes([n]) for n in labels) + b"e"
    return b"\x80\2}(" + text(b"data") + array + text(b"labels") + listed + b"u."


@pytest.mark.parametrize("version", ["binary", "python 2", "python 3"])
@pytest.mark.parametrize("inside", [True, False], ids=["the folder", "the folder above"])
def test_cifar10_is_read_in_each_version(tmp_path: Path, version: str, inside: bool) -> None:
    folder = tmp_path / ("cifar-10-batches-bin" if version == "binary" else "cifar-10-batches-py")
    folder.mkdir()
    names = [*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"]
    for name, (pixels, labels) in zip(names, batches(), strict=True):
        if version == "binary":
            rows = np.concatenate([np.array(labels, np.uint8)[:, None], pixels], axis=1)
            (folder / f"{name}.bin").write_bytes(rows.tobytes())
        elif version == "python 2":
            (folder / name).write_bytes(of_python_2(pixels, labels))
        else:
            (folder / name).write_bytes(pickle.dumps({"data": pixels, "labels": labels}, 2))
    read = load_images(f"cifar10:{folder if inside else tmp_path}")
    *train, test = batches()
    assert read.train_labels.tolist() == [label for _, labels in train for label in labels]
    assert read.test_labels.tolist() == test[1]
    assert torch.equal(read.test, torch.from_numpy(test[0]).reshape(4, 3, 32, 32))
    assert torch.equal(read.train[8], torch.from_numpy(train[2][0][0]).reshape(3, 32, 32))


class Hostile:
    """Runs code when an ordinary unpickler meets it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("executed"),)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (pickle.dumps({"data": Hostile()}), "asks for pathlib"),
        (b"no pickle", "is no batch of CIFAR-10"),
        (pickle.dumps({"data": np.zeros((2, 3072), np.uint8)}, 2), "is no batch of CIFAR-10"),
        (
            pickle.dumps({"data": np.zeros((2, 3072), np.uint8), "labels": [0, 1, 2]}, 2),
            "2 images, but 3 labels",
        ),
    ],
    ids=["hostile", "no pickle", "no labels", "too many labels"],
)
def test_a_bad_batch_of_cifar10_is_told_and_runs_no_code(
    tmp_path: Path, content: bytes, complaint: str
) -> None:
    (tmp_path / "data_batch_1").write_bytes(content)
    with pytest.raises(TaskError, match=complaint):
        load_images(f"cifar10:{tmp_path}")
    assert not Path("executed").exists()


def write_pictures(folder: Path, name: str, mode: str, count: int, size: tuple[int, int]) -> None:
    (folder / name).mkdir(parents=True)
    for number in range(count):
        Image.new(mode, size, 10 * number if mode == "L" else (10 * number, 0, 200)).save(
            folder / name / f"{number:02}.png"
        )


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("RGB", 3)])
def test_a_folder_of_images_has_a_class_for_each_folder_in_it(
    tmp_path: Path, mode: str, channels: int
) -> None:
    write_pictures(tmp_path, "cats", "L", 10, (40, 30))
    write_pictures(tmp_path, "dogs", mode, 20, (20, 50))
    (tmp_path / "dogs" / "readme.txt").write_text("no image")
    read = load_images(f"folder:{tmp_path}", 28)
    assert read.train.shape == (27, channels, 28, 28)
    assert read.train_labels.tolist() == [0] * 9 + [1] * 18
    assert read.test_labels.tolist() == [0, 1, 1]
    assert read.test[0].unique().tolist() == [90]  # The tenth cat.
    assert read.test[2].amax((1, 2)).tolist() == ([190] if mode == "L" else [190, 0, 200])


def test_a_bad_folder_of_images_is_told(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="at least two classes of images, got 0"):
        load_images(f"folder:{tmp_path}")
    write_pictures(tmp_path, "cats", "L", 10, (8, 8))
    with pytest.raises(TaskError, match="at least two classes of images, got 1"):
        load_images(f"folder:{tmp_path}")
    write_pictures(tmp_path, "dogs", "L", 9, (8, 8))
    with pytest.raises(TaskError, match="dogs holds 9 images; a class needs at least 10"):
        load_images(f"folder:{tmp_path}")
    (tmp_path / "dogs" / "10.png").write_bytes(b"no image")
    with pytest.raises(TaskError, match=r"10.png cannot be read as an image"):
        load_images(f"folder:{tmp_path}")


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        ("fasion-mnist", "there are no data 'fasion-mnist'; there are digits, fashion-mnist"),
        ("digits:here", "there are no data 'digits:here'"),
        ("idx", "there are no data 'idx'"),
        ("idx:nowhere", "there is no folder 'nowhere'"),
        ("folder:", "there is no folder ''"),
        ("cifar10:.", "there is no data_batch_1.bin or data_batch_1"),
        ("cifar10", "cannot be downloaded: 404 .*: --set data=cifar10:FOLDER"),
        ("fashion-mnist", "cannot be downloaded: 404 .*: --set data=idx:FOLDER"),
    ],
)
def test_data_that_are_not_there_are_told(
    data: str, complaint: str, empty_cache: Path, downloads: Server
) -> None:
    downloads.answers = [lambda handler, first: handler.begin(404, 0)]
    with pytest.raises(TaskError, match=complaint):
        load_images(data)


@pytest.fixture
def downloads(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server in the place of those of the data sets, and no data set on this machine."""
    monkeypatch.setattr(images, "DEBIAN", Path("nowhere"))
    with serving() as server:
        monkeypatch.setattr(images, "FASHION_MNIST", server.url)
        monkeypatch.setattr(images, "CIFAR10", f"{server.url}/cifar-10-binary.tar.gz")
        yield server


def one_after_another(contents: Iterable[bytes]) -> list[Answer]:
    return [functools.partial(well, content=content) for content in contents]


def test_fashion_mnist_is_downloaded_once_and_a_download_that_broke_goes_on(
    empty_cache: Path, tmp_path: Path, downloads: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_idx(tmp_path / "shelf", size=28)
    files = {}
    for name in images.FASHION_MNIST_FILES:
        plain = tmp_path / "shelf" / name.removesuffix(".gz")
        packed = tmp_path / "shelf" / name
        files[name] = packed.read_bytes() if packed.is_file() else gzip.compress(plain.read_bytes())
    known = {name: (len(raw), hashlib.sha256(raw).hexdigest()) for name, raw in files.items()}
    monkeypatch.setattr(images, "FASHION_MNIST_FILES", known)
    first, second, *others = files.values()
    downloads.answers = one_after_another([first, second, b"an error in words", *others])
    with pytest.raises(TaskError, match=r"SHA-256 differs.*--set data=idx:FOLDER"):
        load_images("fashion-mnist")
    # Half of a data set is none, and what came before the error need not come again.
    assert load_images().size == 8
    load_images.cache_clear()
    assert load_images("fashion-mnist").size == 28
    assert len(downloads.asked) == 5
    load_images.cache_clear()
    assert load_images().size == 28
    assert len(downloads.asked) == 5


def test_cifar10_is_downloaded_once_and_read_out_of_its_archive(
    empty_cache: Path, downloads: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [np.arange(30_730, dtype=np.uint16).astype(np.uint8) + batch for batch in range(6)]
    for batch in rows:
        batch[::3073] = np.arange(10)  # the labels
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        for name, row in zip(images.CIFAR10_BATCHES, rows, strict=True):
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}.bin")
            member.size = row.size
            tar.addfile(member, io.BytesIO(row.tobytes()))
    raw = archive.getvalue()
    monkeypatch.setattr(images, "CIFAR10_SIZE", len(raw))
    monkeypatch.setattr(images, "CIFAR10_SHA256", hashlib.sha256(raw).hexdigest())
    downloads.answers = one_after_another([raw])
    for _ in range(2):
        read = load_images("cifar10")
        assert (read.train.shape, read.test.shape) == ((50, 3, 32, 32), (10, 3, 32, 32))
        assert read.test_labels.tolist() == list(range(10))
        assert read.test[0].flatten().tolist() == rows[5][1:3073].tolist()
        load_images.cache_clear()
    assert len(downloads.asked) == 1
    # The same from a folder, and what is in the cache from an earlier version.
    with tarfile.open(fileobj=io.BytesIO(raw)) as tar:
        tar.extractall(empty_cache / "CIFAR10", filter="data")
    assert torch.equal(load_images(f"cifar10:{empty_cache}/CIFAR10").train, read.train)
    (empty_cache / "cifar-10-binary.tar.gz").unlink()
    assert torch.equal(load_images("cifar10").train, read.train)
    assert len(downloads.asked) == 1


def test_a_damaged_archive_of_cifar10_is_named(tmp_path: Path) -> None:
    for content in (b"no archive", gzip.compress(b"nor this")):
        (tmp_path / "cifar.tar.gz").write_bytes(content)
        with pytest.raises(TaskError, match=r"cifar.tar.gz cannot be read"):
            images._cifar10_archive(tmp_path / "cifar.tar.gz")


# --- networks -------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [8, 16, 28, 30, 32, 64])
def test_generator_and_discriminator_fit_each_other(size: int, channels: int) -> None:
    pictures = make_generator(5, 4, channels, size)(torch.randn(3, 5))
    assert pictures.shape == (3, channels, size, size)
    assert make_discriminator(4, channels, size)(pictures).shape == (3, 1)


# --- training -------------------------------------------------------------------------------------


def train(task: Task, steps: int, **hparams: float) -> dict[str, float]:
    task.reseed(1)
    return dict(task.train({**middle(GAN.space), **hparams}, steps))


def test_its_defaults_are_settings() -> None:
    settings, _ = Settings.for_task(GAN)
    assert settings.interval == GAN.defaults["interval"]


@pytest.mark.parametrize("k", [1, 3])
def test_a_step_is_k_updates_of_the_discriminator_and_one_of_the_generator(k: int) -> None:
    task = GAN(seed=0, k=k, **DIGITS)
    train(task, 5)
    updates = {
        name: {int(s["step"]) for s in task.state_dict()[f"{name}_adam"]["state"].values()}
        for name in ("generator", "discriminator")
    }
    assert updates == {"generator": {5}, "discriminator": {5 * k}}


@pytest.mark.parametrize(
    ("generator", "discriminator"), [(1e-3, 1e-4), (1e-4, 1e-3), (0.0, 1e-2), (1e-2, 0.0)]
)
def test_each_network_obeys_its_own_learning_rate(generator: float, discriminator: float) -> None:
    task = GAN(seed=0, **DIGITS)
    before = through_checkpoint(task.state_dict())
    train(task, 1, lr_generator=generator, lr_discriminator=discriminator)
    for name, lr in (("generator", generator), ("discriminator", discriminator)):
        moved = [
            (value - before[name][key]).abs().max().item()
            for key, value in task.state_dict()[name].items()
        ]
        # The first step of Adam moves a weight by the learning rate, whatever the gradient.
        assert max(moved) == pytest.approx(lr, rel=0.01, abs=1e-9)


def test_training_makes_better_digits_than_none() -> None:
    task = GAN(seed=0, **DIGITS)
    fresh = task.evaluate()
    train(task, 400, lr_generator=3e-3, lr_discriminator=3e-3)
    assert task.evaluate() > fresh + 1
    metrics = task.metrics()
    assert 9 < metrics["real_score"] <= 10
    assert metrics["classifier_accuracy"] > 0.95


def test_a_restored_task_shares_no_tensor_with_the_state_that_it_was_given() -> None:
    donor, task = (GAN(seed=seed, **DIGITS) for seed in (0, 1))
    train(donor, 2)
    state = donor.state_dict()
    kept = copy.deepcopy(state)
    task.load_state_dict(state)
    train(task, 2)
    for name in kept:
        assert_same(state[name], kept[name])


def test_scores_of_the_same_weights_are_equal_and_leave_training_alone() -> None:
    task = GAN(seed=0, **DIGITS)
    train(task, 20)
    torch.manual_seed(0)
    first = task.evaluate()
    numbers = torch.rand(3)
    torch.manual_seed(5)
    assert task.evaluate() == first
    torch.manual_seed(0)
    assert torch.equal(torch.rand(3), numbers)


@pytest.mark.slow
def test_a_collapsed_generator_scores_one_and_shows_no_spread() -> None:
    task = GAN(seed=0, **DIGITS)
    metrics = train(task, 300, lr_generator=1e-2, lr_discriminator=1e-5)
    assert task.evaluate() == pytest.approx(1, abs=0.05)
    assert metrics["spread"] < 0.1
    assert math.isfinite(metrics["generator_loss"])


@pytest.mark.parametrize("network", ["generator", "discriminator"])
def test_weights_that_are_not_finite_give_a_score_of_nan(network: str) -> None:
    task = GAN(seed=0, **DIGITS)
    state = through_checkpoint(task.state_dict())
    next(iter(state[network].values()))[0] = math.nan
    task.load_state_dict(state)
    assert math.isnan(task.evaluate())
    metrics = train(task, 2)
    assert math.isnan(task.evaluate())
    assert math.isnan(metrics["generator_loss"])


@pytest.mark.parametrize("name", ["lr_generator", "lr_discriminator"])
def test_training_that_diverges_ends_in_a_score_of_nan(name: str) -> None:
    task = GAN(seed=0, **DIGITS)
    train(task, 3, **{name: 1e38})
    assert math.isnan(task.evaluate())


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"k": 0}, "option k must be at least 1, got 0"),
        ({"batch": 1}, "option batch must be at least 2, got 1"),
        ({"samples": 0}, "option samples must be at least 2, got 0"),
        ({"width": -8}, "option width must be at least 1, got -8"),
        ({"latent": 0}, "option latent must be at least 1, got 0"),
        ({"size": 4}, "option size must be at least 8, got 4"),
    ],
)
def test_options_out_of_range_are_told(options: dict[str, int], complaint: str) -> None:
    with pytest.raises(TaskError, match=complaint):
        GAN(seed=0, data="digits", **options)


def test_images_that_cannot_be_halved_are_told(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="even number of pixels, got 17"):
        GAN(seed=0, data=f"idx:{write_idx(tmp_path, size=17)}")


# --- what the winner shows ------------------------------------------------------------------------


@pytest.mark.slow
def test_the_report_is_by_another_classifier_on_other_samples() -> None:
    task = GAN(seed=0, **DIGITS)
    train(task, 50, lr_generator=3e-3, lr_discriminator=3e-3)
    report = task.report()
    assert next(iter(report)) == "inception_score"
    assert 1 < report["inception_score"] < report["inception_score_real"] <= 10
    assert report["classifier_accuracy"] > 0.95
    judge, other = (
        load_classifier(recipe, task.images, 300)
        for recipe in (inception.REPORT, inception.SELECTION)
    )
    assert report["inception_score_real"] == judge.real_score
    assert task.metrics()["real_score"] == other.real_score != judge.real_score
    # Selection looked at neither these samples nor through this classifier.
    seen = task._generate(300, 1)
    assert task.evaluate() == other.score(seen)
    assert report["inception_score"] not in (judge.score(seen), other.score(seen))
    assert task.report() == report


def latents_of_report(task: Task) -> int:
    """The seed of the latent vectors that a report draws next."""
    return int(copy.deepcopy(task.rng).integers(4, 2**31))


def test_fresh_scores_of_one_seed_are_of_the_same_latent_vectors_and_of_none_of_training() -> None:
    one, two = (GAN(seed=seed, **DIGITS) for seed in (0, 1))
    two.load_state_dict(through_checkpoint(one.state_dict()))
    found = {one.evaluate()}
    for seed in (5, 6):
        for task in (one, two):
            task.reseed(seed)
        assert one.evaluate_fresh() == two.evaluate_fresh() == one.evaluate_fresh()
        found.add(one.evaluate_fresh())
    assert len(found) == 3


def test_reports_of_one_seed_are_of_the_same_latent_vectors_and_of_another_of_others() -> None:
    one, two = (GAN(seed=seed, **DIGITS) for seed in (0, 1))
    two.load_state_dict(through_checkpoint(one.state_dict()))
    reports = []
    for seed in (5, 6):
        for task in (one, two):
            task.reseed(seed)
        reports.append(one.report())
        assert one.report() == two.report() == reports[-1]
    assert reports[0]["inception_score"] != reports[1]["inception_score"]


@pytest.mark.parametrize("samples", [300, 600])
def test_the_score_beside_that_of_real_images_is_of_as_many_images(samples: int) -> None:
    task = GAN(seed=0, data="digits", samples=samples)
    report = task.report()
    judge = load_classifier(inception.REPORT, task.images, samples)
    assert judge.real_count == min(samples, 359)
    generated = task._generate(samples, latents_of_report(task))
    assert report["inception_score"] == judge.score(generated)
    assert report["inception_score_matched"] == judge.score(generated[: judge.real_count])


def test_the_grid_shows_the_same_latent_vectors_every_time(tmp_path: Path) -> None:
    task = GAN(seed=0, **DIGITS)
    task.samples(tmp_path / "first")
    torch.manual_seed(9)
    task.samples(tmp_path / "again")
    train(task, 20)
    task.samples(tmp_path / "later")
    first, again, later = (
        (tmp_path / name / "samples.png").read_bytes() for name in ("first", "again", "later")
    )
    assert first == again != later
    with Image.open(tmp_path / "later" / "samples.png") as grid:
        assert (grid.size, grid.mode) == (((8 * 9 - 1) * 8,) * 2, "L")
        # The second image of the first row stands beyond a white line, enlarged without blur.
        corner = np.asarray(grid)[:64:8, 72:136:8]
        assert (np.asarray(grid)[:, 64:72] == 255).all()
    picture = task._generate(64, 3)[1, 0]
    assert np.abs(corner - (picture.numpy() + 1) * 127.5).max() < 0.51


def test_the_grid_of_colour_images_is_in_colour_and_survives_nan(tmp_path: Path) -> None:
    for name in ("cats", "dogs"):
        write_pictures(tmp_path, name, "RGB", 10, (32, 32))
    task = GAN(seed=0, data=f"folder:{tmp_path}", width=2)
    next(task.generator.parameters()).data.fill_(math.nan)
    task.samples(tmp_path / "out")
    with Image.open(tmp_path / "out" / "samples.png") as grid:
        assert (grid.size, grid.mode) == (((8 * 33 - 1) * 2,) * 2, "RGB")
        assert (64 * 64 * 64, (128, 128, 128)) in grid.getcolors()
        assert len(grid.getcolors()) == 2


def test_the_model_makes_images_from_latent_vectors() -> None:
    model = GAN(seed=0, **DIGITS).model()
    assert not model.training
    assert model(torch.randn(3, 32)).shape == (3, 1, 8, 8)


# --- the ImageNet network -------------------------------------------------------------------------


def test_without_torch_fidelity_the_imagenet_score_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)  # As if it were not installed.
    with pytest.raises(TaskError, match=r"needs torch-fidelity .*pip install torch-fidelity"):
        inception.load_imagenet("download", some_images(), 4)


def test_the_weights_of_imagenet_are_downloaded_once_and_taken_from_torch_fidelity_first(
    empty_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    digest = hashlib.sha256(b"weights").hexdigest()
    with serving() as server:
        monkeypatch.setattr(inception, "IMAGENET", f"{server.url}/weights-2015-{digest[:8]}.pth")
        server.answers = one_after_another([b"others", b"weights"])
        with pytest.raises(TaskError, match=r"SHA-256 differs.*--set imagenet=FILE"):
            inception._download_imagenet()
        for _ in range(2):
            assert inception._download_imagenet().read_bytes() == b"weights"
        assert len(server.asked) == 2
        theirs = Path(torch.hub.get_dir(), "checkpoints", f"weights-2015-{digest[:8]}.pth")
        theirs.parent.mkdir(parents=True)
        theirs.write_bytes(b"theirs")
        assert inception._download_imagenet() == theirs


@pytest.mark.slow
def test_the_imagenet_score_is_that_of_torch_fidelity(tmp_path: Path) -> None:
    try:
        from torch_fidelity import FeatureExtractorInceptionV3 as Extractor
        from torch_fidelity.metric_isc import isc_features_to_metric
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"torch-fidelity cannot be imported: {error}")
    # The real weights have to be downloaded; these are random, in the same layout. It is taken from
    # a network that was built and then found no weights in its file.
    file = tmp_path / "weights.pth"
    torch.save({}, file)
    network = Extractor.__new__(Extractor)
    torch.manual_seed(0)
    arguments = {"feature_extractor_weights_path": str(file)}
    with pytest.raises(RuntimeError, match="Missing key"):
        network.__init__("random", ["logits_unbiased"], **arguments)
    for layer in network.modules():  # Else what it says about two images hardly differs.
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, generator=torch.Generator().manual_seed(0))
    nn.init.normal_(network.fc.weight, std=10, generator=torch.Generator().manual_seed(1))
    torch.save(network.state_dict(), file)

    task = GAN(seed=0, data="digits", samples=8, imagenet=str(file))
    report = task.report()
    pixels = (
        ((task._generate(8, latents_of_report(task)) + 1) * 127.5)
        .round()
        .to(torch.uint8)
        .expand(-1, 3, -1, -1)
    )
    logits = Extractor("again", ["logits_unbiased"], **arguments)(pixels)[0]
    theirs = isc_features_to_metric(logits, splits=1)["inception_score_mean"]
    assert 1.01 < theirs < 8
    assert report["imagenet_inception_score"] == pytest.approx(theirs)
    assert 0.999 < report["imagenet_inception_score_real"] < 8  # random weights see no difference
    assert next(iter(report)) == "inception_score"

    torch.save({"run": print}, file)
    inception.load_imagenet.cache_clear()
    with pytest.raises(TaskError, match="gives no weights"):
        task.report()
