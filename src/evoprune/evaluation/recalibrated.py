"""Score candidates with batch norms that fit them, since the dense model's statistics fit none that is sparse.

Li et al., "EagleEye: Fast Sub-net Evaluation for Efficient Neural Network Pruning", ECCV 2020.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from evoprune.core import Evaluator, Plans, Scores
from evoprune.evaluation.reference import check_plans, masked
from evoprune.surgery import batch_norms, recalibrate

__all__ = ["RecalibratedEvaluator"]


class RecalibratedEvaluator:
    """Measure a candidate's batch norms anew, score it, put the statistics back; one candidate after the other.

    Args:
        model: as found after every call.
        evaluator: scores the candidates; what it keeps must not depend on statistics.
        inputs: (N, ...) training samples to measure on, augmented as in training.
        batch_size: of them that run at a time at most.

    Attributes:
        peak_bytes: that of the evaluator.
    """

    def __init__(self, model: nn.Module, evaluator: Evaluator, inputs: Tensor, batch_size: int = 256) -> None:
        self.model, self.evaluator, self.inputs, self.batch_size = model, evaluator, inputs, batch_size

    @property
    def samples(self) -> int:
        """N of a full evaluation, without those that statistics are measured on."""
        return self.evaluator.samples

    @property
    def peak_bytes(self) -> int:
        """As of the evaluator, where it estimates it."""
        return getattr(self.evaluator, "peak_bytes", 0)

    def __call__(self, plans: Plans, floor: float = -float("inf")) -> Scores:
        """Score P candidates, see `evoprune.core.Evaluator`.

        `samples` counts those that were measured on, too, but for the user's own function, of which it counts calls.
        """
        candidates = check_plans(self.model, plans)
        dtype = getattr(self.evaluator, "dtype", torch.float32)
        statistics = [buffer for norm in batch_norms(self.model) for buffer in norm.buffers()]
        found = [buffer.clone() for buffer in statistics]
        parts = []
        try:
            for candidate in range(candidates):
                with masked(self.model, {name: masks[candidate] for name, masks in plans.items()}):
                    recalibrate(self.model, self.inputs, self.batch_size, dtype)
                parts.append(self.evaluator({name: masks[candidate, None] for name, masks in plans.items()}, floor))
        finally:
            for buffer, value in zip(statistics, found, strict=True):
                buffer.copy_(value)
        losses = [part.loss for part in parts if part.loss is not None]
        measured = candidates * len(self.inputs) if losses else 0
        return Scores(
            score=torch.cat([part.score for part in parts]),
            loss=torch.cat(losses) if losses else None,
            complete=torch.cat([part.complete for part in parts]),
            samples=sum(part.samples for part in parts) + measured,
        )
