"""What a run works on: the model, its layers, the score, and the data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from evoprune.core import EvopruneError, Layer
from evoprune.scoring import CallableScore, DataScore
from evoprune.training import BatchSource, Loss

__all__ = ["Score", "Task"]

Score = Callable[[nn.Module], float]


@dataclass
class Task:
    """The live objects of a run.

    Attributes:
        model: changed in place by the run.
        layers: what may be pruned.
        val_score: model -> float, higher is better; selection uses it.
        train: training batches, or None: then nothing is fine-tuned.
        samples: (N, ...) inputs and (N,) targets for guidance, or None.
        test_score: read once at the end, for the dense and for the pruned model.
        loss: of training, instead of cross-entropy.
    """

    model: nn.Module
    layers: list[Layer]
    val_score: DataScore | CallableScore
    train: BatchSource | None = None
    samples: tuple[Tensor, Tensor] | None = None
    test_score: DataScore | CallableScore | None = None
    loss: Loss | None = None

    def __post_init__(self) -> None:
        if not self.layers:
            raise EvopruneError("the model has no layer with a plain weight of two or more dimensions to prune")
