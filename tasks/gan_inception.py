"""The Inception score (Salimans et al. 2016, section 4) under classifiers of our own.

Population Based Training of GANs (Jaderberg et al. 2017, section 4.3) selects by the Inception
score of a small classifier trained on the same data, and reports that of another network: a number
that has been maximised is no evidence any more. Here the two are `SELECTION` and `REPORT`, trained
once per data set and kept in the cache, and `load_imagenet` has the ImageNet network.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pbt_flow.task import TaskError

from .cache import CacheError, cache_folder, download, keep
from .gan_images import Images, scale


def inception_score(logits: Tensor) -> float:
    """The exponential of the mean divergence of p(class | image) from p(class).

    It lies between 1 (all images are alike to the classifier, or it is undecided) and the number of
    classes (it is certain, and there are equally many of each). All images make one split; the
    usual ten splits are biased low.

    Args:
        logits: Of the classifier, (N, classes).

    >>> round(inception_score(torch.zeros(6, 3)), 6)
    1.0
    >>> round(inception_score(99 * torch.eye(3)), 6)
    3.0
    """
    p = logits.double().softmax(1)
    # The divergence as a difference of entropies, since entr(0) = 0 where 0 log 0 is not a number.
    certainty = -torch.special.entr(p).sum(1).mean()
    variety = torch.special.entr(p.mean(0)).sum()
    return float((variety + certainty).exp())


# --- the classifiers ------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a classifier is made."""

    name: str
    width: int
    """Channels of the first of three convolutions; each next one has twice as many."""
    epochs: int
    steps: int
    """At least so many steps of training, however few the images."""
    seed: int


IMAGENET = (
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
    "weights-inception-2015-12-05-6726825d.pth"
)
SELECTION = Recipe(name="selection", width=16, epochs=3, steps=150, seed=1)
REPORT = Recipe(name="report", width=32, epochs=3, steps=150, seed=2)


@dataclass(frozen=True, kw_only=True, eq=False)
class Classifier:
    """A trained classifier to score images with."""

    network: nn.Module
    """Images (N, channels, size, size) in [-1, 1] to logits (N, classes)."""
    real_score: float
    """The score of `real_count` real images: what there is to reach."""
    real_count: int
    """How many real images that is: as many as are scored, or all that are held out if those are
    fewer.

    A score grows with the number of images: of 1,797 digits it is 9.88, of 359 of them 9.78 (the
    mean of 20 draws, by the classifier of the report). Of the digits 359 are held out, so beside
    2,000 generated images `real_score` is about 1% low.
    """
    accuracy: float
    """Share of the held-out images that it classifies rightly."""

    def score(self, images: Tensor) -> float:
        """The Inception score of images; NaN if one of them is not finite."""
        return _score(self.network, images)


@torch.no_grad()
def _score(network: nn.Module, images: Tensor) -> float:
    if not images.isfinite().all():
        return math.nan
    return inception_score(torch.cat([network(part) for part in torch.split(images, 100)]))


def _classifier(
    network: nn.Module, accuracy: float, images: Images, count: int, device: str
) -> Classifier:
    order = torch.randperm(len(images.test), generator=torch.Generator().manual_seed(0))
    real = images.test[order[:count]]
    return Classifier(
        network=network,
        real_score=_score(network, scale(real).to(device)),
        real_count=len(real),
        accuracy=accuracy,
    )


@functools.lru_cache(maxsize=4)  # All members of a worker share one.
def load_classifier(recipe: Recipe, images: Images, count: int, device: str = "cpu") -> Classifier:
    """The classifier from the cache; trained first if it is not there. `count` images are scored.

    Its file is named by a digest of this code, the data and the recipe. Workers that want it at the
    same time each train it, since one that waited would do nothing better with its core; the first
    to finish leaves the file, and all use that one.

    Raises:
        TaskError: The file in the cache is damaged.
    """
    key = (hashlib.sha256(Path(__file__).read_bytes()).hexdigest(), images.digest, recipe)
    name = f"{recipe.name}-{hashlib.sha256(repr(key).encode()).hexdigest()[:16]}.pt"
    file = cache_folder() / "classifiers" / name
    if not file.is_file():
        trained, accuracy = _train(recipe, images)
        content = {"weights": trained.state_dict(), "accuracy": accuracy}
        keep(file, functools.partial(torch.save, content))
    network = _network(recipe, images)
    try:
        kept = torch.load(file, map_location="cpu", weights_only=True)
        network.load_state_dict(kept["weights"])
        accuracy = float(kept["accuracy"])
    except Exception as error:  # What a damaged file raises could be anything.
        raise TaskError(f"the classifier {file} is damaged: delete it") from error
    network.to(device).eval().requires_grad_(False)
    return _classifier(network, accuracy, images, count, device)


def _network(recipe: Recipe, images: Images) -> nn.Module:
    widths = [images.channels, *(recipe.width * 2**level for level in range(3))]
    layers: list[nn.Module] = []
    # What the task draws next must not depend on whether a classifier was made just now.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(recipe.seed)
        for inputs, outputs in itertools.pairwise(widths):
            convolution = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False)
            layers += [convolution, nn.BatchNorm2d(outputs), nn.ReLU()]
        head = nn.Linear(4 * widths[-1], images.classes)
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), head)
    return in_channels_last(network)  # A quarter faster on a CPU.


def in_channels_last(network: nn.Sequential) -> nn.Sequential:
    """The same network with its weights laid out as convolutions are fast with."""
    # torch takes this argument, but declares it for tensors only.
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network


def _train(recipe: Recipe, images: Images) -> tuple[nn.Module, float]:
    """AdamW, batches of 128, a one-cycle learning rate; returns the accuracy on held-out images.

    It trains on the CPU, wherever the members train, so that their scores are by one classifier: a
    GPU adds up in another order each time.
    """
    count = len(images.train)
    batch = min(128, count)
    steps = max(recipe.epochs * count // batch, recipe.steps)
    network = _network(recipe, images)
    generator = torch.Generator().manual_seed(recipe.seed)
    epochs = math.ceil(steps * batch / count)
    order = torch.cat([torch.randperm(count, generator=generator) for _ in range(epochs)])
    optimiser = torch.optim.AdamW(network.parameters(), fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=1e-2, total_steps=steps)
    for rows in torch.split(order, batch)[:steps]:
        logits = network(scale(images.train[rows]))
        loss = F.cross_entropy(logits, images.train_labels[rows])
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
    network.eval()
    with torch.no_grad():
        parts = torch.split(images.test, 500)
        guesses = [network(scale(part)).argmax(1) for part in parts]
    return network, float((torch.cat(guesses) == images.test_labels).float().mean())


# --- the ImageNet network -------------------------------------------------------------------------


@functools.lru_cache(maxsize=1)
def load_imagenet(weights: str, images: Images, count: int, device: str = "cpu") -> Classifier:
    """Inception v3 with the weights of 2015, as torch-fidelity has converted them.

    Published scores are made with these. It takes 0.2 seconds an image on one core, ours 0.1 ms.

    Args:
        weights: The file with them, or `download`, which is done once.
        images: Data to score for comparison.
        count: How many images of them.
        device: As torch names it.

    Raises:
        TaskError: torch-fidelity cannot be imported, or there are no such weights.
    """
    try:
        from torch_fidelity import FeatureExtractorInceptionV3
    except (ImportError, RuntimeError) as error:  # RuntimeError: torchvision for another torch.
        raise TaskError(
            f"the ImageNet Inception score needs torch-fidelity and torchvision ({error}): "
            "pip install torch-fidelity"
        ) from None
    file = str(_download_imagenet()) if weights == "download" else weights
    try:
        # torch-fidelity runs whatever code is in the file: read it before, safely.
        torch.load(file, map_location="cpu", weights_only=True)
        extractor = FeatureExtractorInceptionV3(
            "inception-v3-compat", ["logits_unbiased"], feature_extractor_weights_path=file
        )
    except Exception as error:  # A wrong file, or no network: by many exceptions.
        raise TaskError(f"{weights!r} gives no weights of torch-fidelity's Inception v3") from error
    return _classifier(_InBytes(extractor).to(device), math.nan, images, count, device)


def _download_imagenet() -> Path:
    """The file of the weights: what torch-fidelity itself has downloaded, or ours in the cache."""
    name = IMAGENET.rpartition("/")[2]
    theirs = Path(torch.hub.get_dir(), "checkpoints", name)
    if theirs.is_file():
        return theirs
    try:
        # As torch.hub does it: the name of the file holds the beginning of its digest.
        sha256 = Path(name).stem.rpartition("-")[2]
        return download(IMAGENET, cache_folder() / name, sha256=sha256)
    except CacheError as error:
        raise TaskError(f"{error}; to go on without it, name a file: --set imagenet=FILE") from None


class _InBytes(nn.Module):
    """Gives a network of torch-fidelity what it wants: colour, and bytes."""

    def __init__(self, extractor: nn.Module) -> None:
        super().__init__()
        self.extractor = extractor

    def forward(self, images: Tensor) -> Tensor:
        pixels = ((images + 1) * 127.5).round().to(torch.uint8)
        logits: Tensor = self.extractor(pixels.expand(-1, 3, -1, -1))[0]
        return logits
