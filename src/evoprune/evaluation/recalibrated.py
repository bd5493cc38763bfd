"""Score candidates with batch norms that fit them, since the dense model's statistics fit none that is sparse.

Li et al., "EagleEye: Fast Sub-net Evaluation for Efficient Neural Network Pruning", ECCV 2020.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from evoprune.core import Evaluator, Plans, Scores
from evoprune.evaluation.reference import check_plans, masked
from evoprune.surgery import batch_norms, put_back, recalibrate, statistics_of

__all__ = ["RecalibratedEvaluator"]


class RecalibratedEvaluator:
    """Measure a candidate's batch norms anew, score it, put the statistics back; one candidate after the other.

    Args:
        model: as found after every call.
        evaluator: scores the candidates; what it keeps must not depend on statistics.
        batches: (B, ...) training inputs to measure on, augmented as in training.

    Attributes:
        peak_bytes: that of the evaluator.
    """

    def __init__(self, model: nn.Module, evaluator: Evaluator, batches: Sequence[Tensor]) -> None:
        self.model, self.evaluator, self.batches = model, evaluator, batches

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
        found = [(norm, statistics_of(norm)) for norm in batch_norms(self.model)]
        parts = []
        try:
            for candidate in range(candidates):
                with masked(self.model, {name: masks[candidate] for name, masks in plans.items()}):
                    recalibrate(self.model, self.batches, dtype)
                parts.append(self.evaluator({name: masks[candidate, None] for name, masks in plans.items()}, floor))
        finally:
            for norm, statistics in found:
                put_back(norm, statistics)
        losses = [part.loss for part in parts if part.loss is not None]
        measured = candidates * sum(map(len, self.batches)) if losses else 0
        return Scores(
            score=torch.cat([part.score for part in parts]),
            loss=torch.cat(losses) if losses else None,
            complete=torch.cat([part.complete for part in parts]),
            samples=sum(part.samples for part in parts) + measured,
        )
