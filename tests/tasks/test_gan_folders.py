"""tasks/gan_folders.py: what counts as a picture of a class, and what is said of the rest."""

from __future__ import annotations

import doctest
import os
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

pytest.importorskip("PIL")
pytest.importorskip("sklearn")

from PIL import Image

from pbt_flow.task import TaskError
from pbt_flow.tasks import phrases
from pbt_flow.tasks.gan import GAN
from pbt_flow.tasks.gan_images import Images, _understand, load_images


@pytest.fixture(autouse=True)
def _no_cache() -> None:
    load_images.cache_clear()  # Each test writes its own folder, perhaps of the same name.


def noise(seed: int, shape: tuple[int, ...] = (12, 12)) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def fill(folder: Path, count: int = 12, start: int = 0) -> Path:
    """Grey noise, a different one in each file."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(start, start + count):
        seed = zlib.crc32(f"{folder.parent.name}/{folder.name}/{number}".encode())
        Image.fromarray(noise(seed)).save(folder / f"{number:03}.png")
    return folder


def classes(folder: Path, names: str = "a b", count: int = 12) -> Path:
    for name in names.split():
        fill(folder / name, count)
    return folder


def load(folder: Path, size: int = 8) -> Images:
    return load_images(f"folder:{folder}", size)


def said(folder: Path) -> str:
    return "; ".join(f"{topic}: {text}" for topic, text in load(folder).understood.items())


def test_the_examples_in_the_docstrings_are_true() -> None:
    found = doctest.testmod(phrases)
    assert found.attempted
    assert not found.failed


# --- files that do not count ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("places", "words"),
    [
        ([".ipynb_checkpoints/x.png"], "1 hidden file passed over"),
        (["a/.ipynb_checkpoints/x.png", "a/._000.png"], "2 hidden files passed over"),
        ([".DS_Store", "a/deep/.git/x/y.png", "__MACOSX/a/x.png"], "3 hidden files passed over"),
        (["a/@eaDir/x.png/thumb.jpg"], "1 hidden file passed over"),
        (["a/readme.pdf"], "1 file that is no image (.pdf 1) passed over"),
        (["b/labels.h5", "b/clip.mpg", "labels.csv"], "3 files that are no images"),
        (["b/Thumbs.db", "b/LICENSE"], "2 files that are no images (.db 1, no ending 1)"),
        (["b/drawing.vst", "b/run.fit"], "2 files that are no images (.fit 1, .vst 1)"),
    ],
)
def test_a_file_that_is_no_picture_of_a_class_is_passed_over_and_said(
    tmp_path: Path, places: list[str], words: str
) -> None:
    before = load(classes(tmp_path / "d")).digest
    for place in places:
        file = tmp_path / "d" / place
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.suffix in (".png", ".jpg"):
            shutil.copy(tmp_path / "d/a/000.png", file)
        else:
            file.write_bytes(b"no picture")
    load_images.cache_clear()
    now = load(tmp_path / "d")
    assert now.digest == before
    assert words in now.understood["data"]
    assert sum(now.passed_over.values()) == len(places)


def test_an_image_outside_of_the_class_folders_is_said(tmp_path: Path) -> None:
    fill(classes(tmp_path), 1)
    read = load(tmp_path)
    assert "1 image outside of the class folders passed over" in read.understood["data"]
    assert len(read.train) + len(read.test) == 24


@pytest.mark.parametrize("content", [b"", b"<html>404</html>", "cut"])
def test_a_damaged_picture_is_refused_by_its_name(tmp_path: Path, content: bytes | str) -> None:
    file = classes(tmp_path) / "a" / "004.png"
    file.write_bytes(file.read_bytes()[:90] if content == "cut" else content)  # type: ignore[arg-type]
    with pytest.raises(TaskError, match=r"a/004.png cannot be read as an image"):
        load(tmp_path)


def test_a_link_to_nowhere_is_refused_and_a_pipe_is_not_opened(tmp_path: Path) -> None:
    classes(tmp_path)
    os.mkfifo(tmp_path / "a" / "pipe.png")
    assert "no image (.png 1)" in said(tmp_path)
    (tmp_path / "a" / "gone.png").symlink_to("nowhere.png")
    load_images.cache_clear()
    with pytest.raises(TaskError, match=r"gone.png cannot be read as an image"):
        load(tmp_path)


def test_a_name_that_is_not_utf_8_can_be_said(tmp_path: Path) -> None:
    classes(tmp_path, "a b c", 12)
    (tmp_path / "c").rename(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\n\xe2\x80\xae"))
    told = said(tmp_path)
    assert "(a, b, ?)" in told
    assert told.encode()
    assert "\n" not in told


# --- classes and splits ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "names",
    [
        ("train", "test"),
        ("Train", "VALID"),
        ("training_set", "test_set"),
        ("train2017", "dev"),
        ("train", "val", "test"),
        ("seg_train", "seg_test"),
        ("train/train", "test/test"),
    ],
)
def test_folders_that_are_called_like_splits_are_the_splits(
    tmp_path: Path, names: tuple[str, ...]
) -> None:
    classes(tmp_path / names[0], "x y z")
    for name in names[1:]:
        classes(tmp_path / name, "x y z", 2)
    read = load(tmp_path)
    held = 6 * (len(names) - 1)
    assert (read.classes, len(read.train), len(read.test)) == (3, 36, held)
    assert f"(x, y, z), {held} held out" in read.understood["data"]
    assert f"{names[0].split('/')[0]} is trained on, and " in read.understood["layout"]
    directly = load_images(f"folder:{tmp_path / names[0]}", 8)
    whole = np.concatenate([directly.train.numpy(), directly.test.numpy()])
    assert sorted(x.tobytes() for x in whole) == sorted(x.tobytes() for x in read.train.numpy())


@pytest.mark.parametrize(
    ("folders", "complaint"),
    [
        ("train/x train/y test/x", "test lacks 1 class that another .* has: y; give each"),
        ("train/x train/y test/x/deep test/x/er", "test lacks 1 class .*: y"),
        ("train/x test/x test/y", "train lacks 1 class .*: y"),
        ("train/x train/y test", "test is called like a split, but holds no class folders"),
        ("train test", "is called like a split, but holds no class folders"),
        ("train/x train/y test/x test/y more/x", "called like splits .* beside others .more."),
        ("val/x val/y test/x test/y", "but none to train on: name the folder"),
        ("train/x test/x val/x valid/x", "but more than one for validation"),
        ("train/x plane", "called like splits .train. beside others .plane."),
        ("plane car/deep empty", "empty holds 0 images; .* if it is no class, move it away"),
    ],
)
def test_an_unclear_layout_is_refused_with_a_way_out(
    tmp_path: Path, folders: str, complaint: str
) -> None:
    for name in folders.split():
        fill(tmp_path / name, 0 if name == "empty" else 12)
    with pytest.raises(TaskError, match=complaint) as caught:
        load(tmp_path)
    assert "--set data=folder:" in str(caught.value)


@pytest.mark.parametrize(
    "names", ["car plane train", "bullet_train steam_train", "crash_test dry_run train"]
)
def test_a_train_beside_a_plane_is_a_class(tmp_path: Path, names: str) -> None:
    classes(tmp_path, names)
    assert f" classes of 12 images ({', '.join(names.split())})" in said(tmp_path)


@pytest.mark.parametrize("inner", ["images", "download/images", "images/train"])
def test_one_folder_around_all_classes_is_gone_into_and_said(tmp_path: Path, inner: str) -> None:
    classes(tmp_path / inner)
    told = said(tmp_path)
    assert "2 classes of 12 images (a, b), 2 held out" in told
    assert f"the classes are the folders in {tmp_path / inner}" in told


def test_folders_inside_of_classes_are_said(tmp_path: Path) -> None:
    for name in "ab":
        fill(tmp_path / name / "train")
        fill(tmp_path / name / "test")
    told = said(tmp_path)
    assert "inside of classes were taken too (a/test, a/train, b/test, b/train)" in told
    assert "as all classes hold the same folders, are these the classes?" in told


@pytest.mark.parametrize(
    ("link", "target"), [("c", "a"), ("c", "."), ("c", "a/deep"), ("test", "train")]
)
def test_a_link_by_which_pictures_would_count_twice_is_refused(
    tmp_path: Path, link: str, target: str
) -> None:
    if target == "train":
        classes(tmp_path / "train")
    else:
        classes(tmp_path)
        fill(tmp_path / "a/deep")
    (tmp_path / link).symlink_to(target, target_is_directory=True)
    with pytest.raises(TaskError, match=r"symbolic link.* count twice: remove one"):
        load(tmp_path)


def test_a_class_that_is_a_link_to_another_place_is_read(tmp_path: Path) -> None:
    fill(classes(tmp_path / "d").parent / "elsewhere")
    (tmp_path / "d" / "c").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (tmp_path / "d" / "a" / "more").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    told = said(tmp_path / "d")
    assert "3 classes of 12 images (a, b, c)" in told
    assert "1 link to folders inside of classes passed over" in told


def test_a_thousand_classes_are_said_in_a_line() -> None:
    told = say_classes(counts=[3] * 999 + [30])
    assert len(told) < 200
    assert "1,000 classes, from 3 images (class 0) to 30 (class 999)" in told
    assert "very unequal: the largest class is 10 times the smallest" in told


def say_classes(counts: list[int]) -> str:
    labels = torch.cat([torch.full((n,), label) for label, n in enumerate(counts)])
    pixels = torch.arange(len(labels) * 4).remainder(251).byte().reshape(-1, 1, 2, 2)
    images = Images(
        name="", train=pixels[1:], train_labels=labels[1:], test=pixels[:1], test_labels=labels[:1]
    )
    return _understand(images)["data"]


def test_classes_and_counts_are_said_with_the_largest_first(tmp_path: Path) -> None:
    for name, count in (("bird", 10), ("cat", 30), ("dog", 20)):
        fill(tmp_path / name, count)
    assert load(tmp_path).understood["data"] == (
        "3 classes (cat 30, dog 20, bird 10), 6 held out, 8 x 8 pixels in grey"
    )


def test_a_gan_says_what_its_images_are() -> None:
    assert GAN(seed=0, data="digits").understood() == {
        "data": "digits, 10 classes, from 174 images (class 8) to 183 (class 3), 359 held out, "
        "8 x 8 pixels in grey"
    }


# --- copies ---------------------------------------------------------------------------------------


def test_copies_are_counted_over_splits_and_classes(tmp_path: Path) -> None:
    classes(tmp_path, "a b", 20)
    shutil.copy(tmp_path / "a/000.png", tmp_path / "a/009.png")  # the tenth is held out
    shutil.copy(tmp_path / "a/001.png", tmp_path / "b/001.png")
    told = load(tmp_path).understood["copies"]
    assert told == (
        "2 images are copies of another, pixel for pixel; 1 of the held-out images are trained on "
        "too; 2 images stand in more than one class"
    )


def test_a_class_of_one_picture_is_said_and_data_of_one_colour_refused(tmp_path: Path) -> None:
    classes(tmp_path)
    for file in (tmp_path / "b").iterdir():
        Image.new("L", (9, 9)).save(file)
    assert "1 class holds one picture only, again and again (b)" in said(tmp_path)
    for file in (tmp_path / "a").iterdir():
        Image.new("L", (5, 5)).save(file)
    load_images.cache_clear()
    with pytest.raises(TaskError, match=r"all pixels of all images are equal \(0\)"):
        load(tmp_path)


# --- pictures that are not of 8 bits, or not opaque -----------------------------------------------


def deep(seed: int, top: int, low: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(low, top + 1, (8, 8), np.uint16))


def write(folder: Path, make: Callable[[int], Image.Image], ending: str = "png") -> Path:
    for label in range(2):
        (folder / "ab"[label]).mkdir(parents=True)
        for number in range(10):
            make(10 * label + number).save(folder / "ab"[label] / f"{number}.{ending}")
    return folder


@pytest.mark.parametrize(
    ("make", "ending", "low", "high"),
    [
        (lambda n: deep(n, 65535), "png", 0, 65535),
        (lambda n: deep(n, 65535), "tif", 0, 65535),
        (lambda n: deep(n, 4000), "png", 0, 4095),
        (lambda n: deep(n, 200), "png", 0, 255),
        (lambda n: Image.fromarray(noise(n, (8, 8)).astype(np.int32) * 256), "tif", 0, 65535),
        (lambda n: Image.fromarray(noise(n, (8, 8)) / np.float32(255)), "tif", 0, 1),
        (lambda n: Image.fromarray(noise(n, (8, 8)).astype(np.float32)), "tif", 0, 255),
    ],
    ids=["16 bits", "TIFF", "12 bits", "8 of 16", "32 bits", "0 to 1", "floats to 255"],
)
def test_pictures_of_more_than_8_bits_are_scaled_and_not_cut_off(
    tmp_path: Path, make: Callable[[int], Image.Image], ending: str, low: float, high: float
) -> None:
    read = load(write(tmp_path, make, ending))
    for label, part in ((0, read.train[:9]), (1, read.train[9:])):
        for number, pixels in enumerate(part):
            values = np.asarray(make(10 * label + number), np.float64)
            expected = np.rint((values - low) * 255 / (high - low))
            assert abs(pixels[0].numpy() - expected).max() <= 1
    told = read.understood["images"]
    assert ("scaled from 0 to" in told) == (high != 255)
    assert "20 images of" in told


@pytest.mark.parametrize("offset", [0, 32_000])
def test_a_hot_pixel_or_an_offset_does_not_leave_the_rest_in_the_dark(
    tmp_path: Path, offset: int
) -> None:
    def make(number: int) -> Image.Image:
        values = noise(number, (40, 40)).astype(np.uint16) * 4 + offset
        if number == 3:
            values[0, 0] = 65535
        return Image.fromarray(values)

    read = load_images(f"folder:{write(tmp_path, make)}", 40)
    assert read.train.float().std() > 60
    assert len(read.train.unique()) > 200


def test_values_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    def make(number: int) -> Image.Image:
        return Image.fromarray(np.full((8, 8), np.nan if number == 4 else number, np.float32))

    with pytest.raises(TaskError, match=r"a/4.tif cannot be read .* values that are not finite"):
        load(write(tmp_path, make, "tif"))


def clear(mode: str, seed: int, ground: int = 255) -> Image.Image:
    """Noise in the middle, and outside red (or what is left of it) that nobody sees."""
    rgba = np.zeros((8, 8, 4), np.uint8)
    rgba[..., 0] = 255
    rgba[2:6, 2:6, :3] = noise(seed, (4, 4, 1)) if ground == 255 else 255
    rgba[2:6, 2:6, 3] = 255 if ground == 255 else noise(seed, (4, 4))
    image = Image.fromarray(rgba)
    if mode == "P":  # with a palette of colours and their alpha
        return image.quantize(64, method=Image.Quantize.FASTOCTREE)
    return image.convert(mode)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_shines_through_is_white_and_not_the_colour_behind(tmp_path: Path, mode: str) -> None:
    read = load(write(tmp_path, lambda n: clear(mode, n)))
    edge = np.ones((8, 8), bool)
    edge[2:6, 2:6] = False
    assert read.train.numpy()[:, :, edge].min() == 255
    assert read.train.numpy()[:, :, ~edge].std() > 50
    assert read.understood["images"].startswith("20 images with transparency laid on white")


def test_white_drawings_on_nothing_are_laid_on_black(tmp_path: Path) -> None:
    read = load(write(tmp_path, lambda n: clear("RGBA", n, ground=0)))
    assert read.train.float().std() > 30
    assert "laid on black, since 20 would show nothing on white" in read.understood["images"]


def test_a_picture_that_is_wholly_transparent_is_said(tmp_path: Path) -> None:
    def make(number: int) -> Image.Image:
        return Image.new("RGBA", (8, 8)) if number == 5 else clear("RGBA", number)

    assert "1 image wholly transparent" in said(write(tmp_path, make))


def test_what_is_opaque_has_the_pixels_that_it_always_had(tmp_path: Path) -> None:
    def make(number: int) -> Image.Image:
        return Image.fromarray(noise(number, (8, 8, 3))).convert("RGBA")

    read = load(write(tmp_path, make))
    assert np.array_equal(read.train[0], np.moveaxis(noise(0, (8, 8, 3)), 2, 0))
    assert "images" not in read.understood


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((3, 3000), "of the worst, 3,000 x 3, 0.1% is left"),
        ((1, 1), "24 images smaller than half of 8 x 8 and enlarged, the smallest 1 x 1"),
    ],
)
def test_an_extreme_shape_is_said(tmp_path: Path, shape: tuple[int, int], words: str) -> None:
    classes(tmp_path)
    for number, file in enumerate(sorted(tmp_path.rglob("*.png"))):
        Image.fromarray(noise(number, shape)).save(file)
    assert words in said(tmp_path)


def test_frames_print_colours_and_grey_among_colours_are_said(tmp_path: Path) -> None:
    classes(tmp_path)
    frames = [Image.fromarray(noise(n)) for n in range(3)]
    frames[0].save(tmp_path / "a/x.gif", save_all=True, append_images=frames[1:])
    Image.fromarray(noise(9, (12, 12, 4)), "CMYK").save(tmp_path / "a/y.jpg")
    told = load(tmp_path).understood["images"]
    assert "of 1 file with several pictures the first was taken" in told
    assert "1 image in the colours of print (CMYK) converted" in told
    assert "of 26 images are grey, and the others in colour: all in colour" in told


def test_a_picture_too_large_to_open_is_refused_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # a warning above it, an error above twice
    classes(tmp_path)
    assert load(tmp_path).classes == 2
    Image.fromarray(noise(1, (20, 20))).save(tmp_path / "b/big.png")
    load_images.cache_clear()
    with pytest.raises(TaskError, match=r"big.png cannot be read .* more pixels than Pillow opens"):
        load(tmp_path)
