"""The built-in scores: accuracy, the negative loss, and fidelity to the dense model."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from evoprune.core import EvopruneError
from evoprune.scoring.data_score import DataScore
from evoprune.scoring.samples import Samples

__all__ = ["Accuracy", "Fidelity", "NegativeLoss", "accuracy", "fidelity", "loss"]


class Accuracy(DataScore):
    """Share of samples whose highest output is the target's; ties between candidates go to the lower cross-entropy."""

    upper_bound = 1.0

    def values(self, outputs: Tensor, expected: Tensor) -> Tensor:
        """1 where right, else 0: (..., B). Never where an output is NaN, which `argmax` takes for the highest."""
        return (outputs.argmax(-1) == expected) & ~outputs.isnan().any(-1)

    def is_guessing(self, score: float) -> bool:
        """Whether an accuracy is about what guessing gives with the classes that the targets have."""
        classes = len(self.targets.unique())
        chance = 1 / classes
        return classes > 1 and score < chance + 3 * (chance * (1 - chance) / self.samples) ** 0.5


class NegativeLoss(DataScore):
    """Minus the mean cross-entropy."""

    upper_bound = 0.0


class Fidelity(DataScore):
    """Minus the mean squared distance between a model's outputs and the dense model's, summed over classes.

    The dense model is the one that the latest run began with, before any run the first that `bind` or a call sees; its
    outputs are kept.
    """

    upper_bound = 0.0
    _dense: Tensor | None = None

    def part(self, share: float) -> DataScore:
        """The same score on a share of the samples; outputs of the dense model, where they are known, are kept."""
        smaller = super().part(share)
        assert isinstance(smaller, Fidelity)
        smaller._dense = None if self._dense is None else self._dense[self.rows_of(share)]
        return smaller

    @property
    def expected(self) -> Tensor:
        """(N, C) outputs of the dense model.

        Raises:
            EvopruneError: no model was bound yet.
        """
        if self._dense is None:
            raise EvopruneError("fidelity has not seen the dense model yet; call score.bind(model) first")
        return self._dense

    def bind(self, model: nn.Module) -> None:
        """Keep the outputs of the first model that comes."""
        if self._dense is None:
            self._dense = torch.cat([outputs for outputs, _ in self.outputs(model)])

    def rebind(self, model: nn.Module) -> None:
        """Keep the outputs of this model."""
        self._dense = None
        self.bind(model)

    def losses(self, outputs: Tensor, expected: Tensor) -> Tensor:
        """Squared distance: (..., B)."""
        losses = (outputs - expected).square().sum(-1)
        return torch.where(losses.isnan(), float("inf"), losses)


def accuracy(data: Samples) -> Accuracy:
    """Accuracy on a DataLoader, other batches of (inputs, targets), or a pair of tensors; all are kept in memory."""
    return Accuracy(data)


def fidelity(data: Samples) -> Fidelity:
    """Closeness to the dense model's outputs on data as for `accuracy`; see `Fidelity`."""
    return Fidelity(data)


def loss(data: Samples) -> NegativeLoss:
    """Minus the mean cross-entropy on data as for `accuracy`."""
    return NegativeLoss(data)
