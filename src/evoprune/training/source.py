"""Where training batches come from: tensors in memory, or any iterable of batches such as a DataLoader."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator
from itertools import count, islice
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evoprune.core import EvopruneError, equal_parts
from evoprune.training.random_state import OwnRandomState, generators_of

__all__ = [
    "Batch",
    "BatchSource",
    "FirstSteps",
    "LoaderSource",
    "TensorSource",
    "as_source",
    "first_batches",
    "first_samples",
    "is_pair",
]

log = logging.getLogger("evoprune")
SAMPLES_BYTES, LOGITS_BYTES = 2 << 30, 1 << 30
"""Memory for some samples of the training data, and for a teacher's logits of all."""


class Batch(NamedTuple):
    """Some samples.

    Attributes:
        inputs: (B, ...).
        targets: (B,) class numbers.
        teacher_logits: (B, C) a teacher's logits for these inputs, where they were computed beforehand.
    """

    inputs: Tensor
    targets: Tensor
    teacher_logits: Tensor | None = None


class BatchSource(Protocol):
    """Gives the batches of an epoch."""

    steps: int

    def batches(self, rng: torch.Generator) -> Iterator[Batch]:
        """One pass; everything random about it is drawn from `rng`."""
        ...


class TensorSource:
    """Samples in memory, shuffled and augmented anew in every epoch.

    Args:
        inputs: (N, ...) float; images (N, C, H, W) where they are to be augmented.
        targets: (N,) int64.
        batch_size: samples a step at most; an epoch is cut into steps of equal size.
        shift: move each image by up to this many pixels both ways.
        flip: mirror each image with probability 1/2.
        cutout: replace a square of this many pixels a side, anywhere in each image, even partly outside.
        fill: (C, 1, 1) what comes in at the edges of a shifted image and into the square, zero when None.
        device: where batches are to be.
    """

    def __init__(
        self,
        inputs: Tensor,
        targets: Tensor,
        batch_size: int,
        *,
        shift: int = 0,
        flip: bool = False,
        cutout: int = 0,
        fill: Tensor | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        if len(inputs) == 0 or len(inputs) != len(targets):
            raise EvopruneError(
                f"training data has {len(inputs)} inputs and {len(targets)} targets; expected as many, and at least one"
            )
        self.inputs, self.targets = inputs.to(device), targets.to(device)
        self.batch_size, self.shift, self.flip, self.cutout = batch_size, shift, flip, cutout
        fill = torch.zeros(1) if fill is None else fill
        self.fill = fill.to(device, inputs.dtype if inputs.is_floating_point() else fill.dtype)
        self.steps = math.ceil(len(inputs) / batch_size)
        self.windows = self._windows()
        self.teacher_logits: Tensor | None = None

    def augmented(self, shift: int, flip: bool, cutout: int) -> TensorSource:
        """The same samples, augmented so.

        Raises:
            EvopruneError: they are no images.
        """
        if self.inputs.dim() != 4:
            raise EvopruneError(
                f"shift, flip and cutout need images (N, C, H, W); the training data is {tuple(self.inputs.shape)}"
            )
        return TensorSource(
            self.inputs, self.targets, self.batch_size,
            shift=shift, flip=flip, cutout=cutout, fill=self.fill, device=self.inputs.device,
        )  # fmt: skip

    @torch.no_grad()
    def cache_teacher_logits(self, teacher: nn.Module) -> None:
        """Keep the teacher's logits for every sample, so that epochs need not run it again.

        Where images are augmented a teacher has to see each one anew: then nothing is kept. Nor is it where that would
        take more than `LOGITS_BYTES`, as with a class for every pixel.
        """
        self.teacher_logits = None
        if self.shift or self.flip or self.cutout:
            return
        with OwnRandomState(0).active(), torch.autocast(self.inputs.device.type, enabled=False):
            if len(self.targets) * teacher(self.inputs[:2].clone())[0].nbytes <= LOGITS_BYTES:
                self.teacher_logits = torch.cat(
                    [teacher(self.inputs[part].clone()) for part in equal_parts(len(self.inputs), self.batch_size)]
                )

    def _windows(self) -> Tensor:
        """(N, C, H, W) images as a view (N, C, 2*shift+1, 2*shift+1, H, W) of all their shifts."""
        if not self.shift:
            return self.inputs
        padded = F.pad(self.inputs - self.fill, (self.shift,) * 4) + self.fill
        return padded.unfold(2, self.inputs.shape[2], 1).unfold(3, self.inputs.shape[3], 1)

    def batches(self, rng: torch.Generator) -> Iterator[Batch]:
        """Batches of a random order."""
        samples, device = len(self.targets), self.targets.device
        order = torch.randperm(samples, generator=rng)
        shifts = torch.randint(2 * self.shift + 1, (2, samples), generator=rng).to(device)
        flips = (torch.rand(samples, generator=rng) < 0.5).to(device)
        for index in order.to(device).tensor_split(self.steps):
            if self.shift:
                down, right = shifts[:, index]
                inputs = self.windows[index, :, down, right]
            else:
                inputs = self.inputs[index]
            if self.flip:
                inputs = torch.where(flips[index, None, None, None], inputs.flip(3), inputs)
            if self.cutout:
                inputs = torch.where(self._squares(len(index), rng), self.fill, inputs)
            yield Batch(
                inputs, self.targets[index], None if self.teacher_logits is None else self.teacher_logits[index]
            )

    def _squares(self, count: int, rng: torch.Generator) -> Tensor:
        """(count, 1, H, W) bool: one square in each image, its centre anywhere."""
        inside = []
        for size in self.inputs.shape[2:]:
            first = torch.randint(size, (count, 1), generator=rng) - self.cutout // 2
            place = torch.arange(size)
            inside.append((place >= first) & (place < first + self.cutout))
        rows, columns = inside
        return (rows[:, None, :, None] & columns[:, None, None, :]).to(self.inputs.device)


MANY = 10_000
"""Batches that are counted in silence."""


class LoaderSource:
    """Any iterable of (inputs, targets) batches that can be iterated again and again."""

    def __init__(self, loader: Iterable[Any], device: str | torch.device = "cpu") -> None:
        self.loader, self.device = loader, device
        if getattr(loader, "persistent_workers", False):
            log.warning(
                "persistent_workers: the workers of the training loader keep their random state from epoch to epoch, so"
                " a run that is resumed may see other augmentation than an unbroken one"
            )
        try:
            self.steps = len(loader)  # type: ignore[arg-type]
        except TypeError:
            with OwnRandomState(0, generators_of(loader)).active():
                self.steps = 0
                for self.steps, _ in enumerate(loader, 1):
                    if self.steps == MANY:
                        log.warning(
                            "the training loader has no length, and its batches are counted, %d so far; if it never"
                            " ends, give one that does", MANY,
                        )  # fmt: skip
        if self.steps == 0:
            raise EvopruneError("the training data gives no batches; pass an iterable of (inputs, targets)")

    def batches(self, rng: torch.Generator) -> Iterator[Batch]:
        """The loader's own batches; what it draws from the global random states, or its own, follows `rng`."""
        state = OwnRandomState(int(torch.randint(2**62, (), generator=rng)), generators_of(self.loader))
        with state.active():
            batches = iter(self.loader)
        for number in count():
            with state.active():  # loaders draw when they start, and with every batch
                batch = next(batches, None)
            if batch is None:
                if number == 0:
                    raise EvopruneError(
                        "the training data gave no batches when it was iterated again; give a list of them, or a"
                        " DataLoader"
                    )
                return
            if not is_pair(batch):
                what = type(batch).__name__
                if isinstance(batch, (tuple, list)):
                    what += f" of {', '.join(type(part).__name__ for part in batch)}"
                raise EvopruneError(
                    f"the training data gives a {what} where a pair of tensors (inputs, targets) was expected; give a"
                    " collate_fn, or wrap the loader"
                )
            inputs, targets = batch
            if targets.dim() == 0:
                raise EvopruneError(
                    "the training data gives samples one by one; give batches, such as a DataLoader with a batch_size"
                )
            # A model may change its inputs in place, a loss the targets, and a list of batches is iterated again.
            to = torch.device(self.device)
            # From memory that a DataLoader has pinned anew for each batch; another might fill it again too early.
            at_once = to.type == "cuda" and bool(getattr(self.loader, "pin_memory", False))
            yield Batch(inputs.to(to, non_blocking=at_once, copy=True), targets.to(to, non_blocking=at_once, copy=True))


class FirstSteps:
    """The first batches of every epoch of another source, to time a few steps."""

    def __init__(self, source: BatchSource, steps: int) -> None:
        self.source, self.steps = source, min(steps, source.steps)

    def batches(self, rng: torch.Generator) -> Iterator[Batch]:
        """The first batches of the source."""
        return islice(self.source.batches(rng), self.steps)


def first_samples(source: BatchSource, count: int) -> tuple[Tensor, Tensor]:
    """Some `count` samples of the training data, always the same ones: (count, ...) inputs and (count,) targets.

    They are on the CPU: a GPU may have no room for so many large images at once; and fewer where they would take more
    than `SAMPLES_BYTES`. Where batches are padded to different lengths, those like the first.
    """
    inputs: list[Tensor] = []
    targets: list[Tensor] = []
    for batch_inputs, batch_targets, _ in source.batches(torch.Generator().manual_seed(0)):
        if inputs and (batch_inputs.shape[1:], batch_targets.shape[1:]) != (inputs[0].shape[1:], targets[0].shape[1:]):
            continue
        if not inputs:
            most = SAMPLES_BYTES * len(batch_inputs) // max(1, batch_inputs.nbytes + batch_targets.nbytes)
            count = min(count, max(2, most))
        inputs.append(batch_inputs.cpu())
        targets.append(batch_targets.cpu())
        if sum(len(part) for part in inputs) >= count:
            break
    return torch.cat(inputs)[:count], torch.cat(targets)[:count]


def first_batches(source: BatchSource, count: int) -> list[Tensor]:
    """Inputs of the first batches of an epoch, always the same ones, as they are trained on: `count` samples or more.

    They are on the CPU, and no more come once they take `SAMPLES_BYTES`. They end before a batch that is at most half
    as large as the first: the last of an epoch.
    """
    batches: list[Tensor] = []
    for inputs, *_ in source.batches(torch.Generator().manual_seed(0)):
        if batches and 2 * len(inputs) <= len(batches[0]):
            break
        batches.append(inputs.cpu())
        if sum(map(len, batches)) >= count or sum(batch.nbytes for batch in batches) >= SAMPLES_BYTES:
            break
    return batches


def is_pair(data: Any) -> bool:
    """Whether `data` is a pair of tensors: all inputs and targets, or a batch of them."""
    return isinstance(data, (tuple, list)) and len(data) == 2 and all(isinstance(part, Tensor) for part in data)


def as_source(data: Any, batch_size: int, device: str | torch.device = "cpu") -> BatchSource:
    """A pair of tensors, an iterable of batches or a ready source -> a source.

    Raises:
        EvopruneError: `data` is none of these, or empty.
    """
    if isinstance(data, (TensorSource, LoaderSource)):
        return data
    if is_pair(data):
        return TensorSource(data[0], data[1], batch_size, device=device)
    if not isinstance(data, Iterable) or isinstance(data, Iterator):
        raise EvopruneError(
            f"training data is a {type(data).__name__}; pass a DataLoader, a list of (inputs, targets) batches,"
            " or a pair of tensors"
        )
    return LoaderSource(data, device)
