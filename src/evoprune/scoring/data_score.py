"""A score that is a mean over samples: what the fast evaluators know how to batch and to stop early."""

from __future__ import annotations

import copy
from collections.abc import Generator
from typing import Any

import torch
from torch import Tensor, nn

from evoprune.core import EvopruneError, equal_parts, generator, said
from evoprune.scoring.modes import device_of, evaluating
from evoprune.scoring.samples import as_tensors

__all__ = ["DataScore"]

BATCH_SIZE = 100
"""Samples at a time when the score is called on a model: activations stay in the caches of a CPU."""


class DataScore:
    """Mean of a value per sample, higher is better, over data held in memory.

    Args:
        inputs: (N, ...) inputs; or, without `targets`, a pair (inputs, targets) or batches of such pairs.
        targets: (N,) class numbers.

    Attributes:
        inputs: (N, ...).
        targets: (N,) int64.
        upper_bound: no sample's value is higher.

    Raises:
        EvopruneError: empty data, targets that are not class numbers, shapes that do not fit.
    """

    upper_bound: float

    def __init__(self, inputs: Any, targets: Tensor | None = None) -> None:
        self.inputs, self.targets = as_tensors(inputs if targets is None else (inputs, targets))
        self._highest = int(self.targets.max())

    @property
    def samples(self) -> int:
        """N."""
        return len(self.targets)

    @property
    def expected(self) -> Tensor:
        """(N, ...): what `values` and `losses` compare a sample's outputs with; the targets, unless overridden."""
        return self.targets

    def values(self, outputs: Tensor, expected: Tensor) -> Tensor:
        """Value of each sample: outputs (..., B, C) and the batch's part of `expected` to (..., B); minus its loss."""
        return -self.losses(outputs, expected)

    def losses(self, outputs: Tensor, expected: Tensor) -> Tensor:
        """Loss of each sample, (..., B) like `values`: its cross-entropy. The mean breaks ties between equal scores."""
        return cross_entropy(outputs, expected)

    def part(self, share: float) -> DataScore:
        """The same score on that share of the samples."""
        rows, smaller = self.rows_of(share), copy.copy(self)
        smaller.inputs, smaller.targets = self.inputs[rows], self.targets[rows]
        return smaller

    def rows_of(self, share: float) -> Tensor:
        """The samples of `part`: drawn at random, always the same; every so many might all be of one class."""
        count = max(1, round(share * self.samples))
        return torch.randperm(self.samples, generator=generator(0))[:count].sort().values

    def bind(self, model: nn.Module) -> None:
        """Told of the dense model before anything is scored; scores relative to it look at the first one here."""

    def rebind(self, model: nn.Module) -> None:
        """Told of another dense model, with which a run begins."""
        self.bind(model)

    def __call__(self, model: nn.Module) -> float:
        """The score of a model: run in eval mode and float32, left as found.

        Raises:
            EvopruneError: the outputs are not (B, C), targets are not below C, or the score is not a number, or
                infinity; minus infinity is the score of a model that gives NaN.
        """
        score, _ = self.measure(model)
        if not score < float("inf"):
            raise EvopruneError("the score is no number; does the model give NaN or infinite outputs?")
        return score

    def measure(self, model: nn.Module) -> tuple[float, float]:
        """Mean value and mean loss of a model; the loss tells two models of equal score apart."""
        self.bind(model)
        value = loss = 0.0
        for outputs, part in self.outputs(model):
            expected = self.expected[part].to(outputs.device)
            value += float(self.values(outputs, expected).double().sum())
            loss += float(self.losses(outputs, expected).double().sum())
        return value / self.samples, loss / self.samples

    def outputs(self, model: nn.Module) -> Generator[tuple[Tensor, slice]]:
        """The model's outputs (B, C), batch after batch, each with its place among the samples."""
        device = device_of(model)
        with evaluating(model):
            for part in equal_parts(self.samples, BATCH_SIZE):
                inputs = self.inputs[part].to(device, copy=True)  # a model may change its input in place
                try:
                    outputs = model(inputs)
                except torch.OutOfMemoryError:
                    raise
                except Exception as error:  # whatever a user's model says about these inputs
                    raise EvopruneError(
                        f"the model cannot take the scoring data, {inputs.dtype} of shape {tuple(inputs.shape)}:"
                        f" {said(error)}"
                    ) from error
                self.check_outputs(outputs, part.stop - part.start)
                yield outputs.float(), part

    def check_outputs(self, outputs: Any, batch_size: int) -> None:
        """Raise EvopruneError unless `outputs` are (B, C) with C above every target."""
        if not isinstance(outputs, Tensor) or outputs.dim() != 2 or len(outputs) != batch_size:
            what = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
            raise EvopruneError(
                f"the model's output for {batch_size} samples is {what}; expected a tensor ({batch_size}, classes);"
                " for other outputs give your own function model -> float as the score"
            )
        if self._highest >= outputs.shape[1]:
            raise EvopruneError(
                f"a target is class {self._highest} but the model has {outputs.shape[1]} outputs;"
                " expected class numbers from 0 to C - 1"
            )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.samples} samples, inputs {tuple(self.inputs.shape[1:])})"


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of each sample: logits (..., B, C), targets (B,) -> (..., B); infinite where not a number."""
    right = targets.expand(outputs.shape[:-1])[..., None]
    losses = outputs.logsumexp(-1) - outputs.gather(-1, right)[..., 0]
    return torch.where(losses.isnan(), float("inf"), losses)
