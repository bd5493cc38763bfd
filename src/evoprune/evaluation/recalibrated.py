"""Score candidates with batch norms that fit them, since the dense model's statistics fit none that is sparse.

Li et al., "EagleEye: Fast Sub-net Evaluation for Efficient Neural Network Pruning", ECCV 2020.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from evoprune.core import Evaluator, Plans, Scores
from evoprune.evaluation.reference import check_plans, masked
from evoprune.evaluation.sampled import SampledEvaluator
from evoprune.surgery import batch_norms, put_back, recalibrate, statistics_of

__all__ = ["RecalibratedEvaluator"]


class RecalibratedEvaluator:
    """Measure a candidate's batch norms anew, score it, put the statistics back; one candidate after the other.

    Args:
        model: as found after every call.
        evaluator: scores the candidates; what it keeps must not depend on statistics.
        batches: (B, ...) training inputs to measure on, augmented as in training.
    """

    def __init__(self, model: nn.Module, evaluator: Evaluator, batches: Sequence[Tensor]) -> None:
        self.model, self.evaluator, self.batches = model, evaluator, batches

    @property
    def samples(self) -> int:
        """N of a full evaluation, without those that statistics are measured on."""
        return self.evaluator.samples

    @property
    def peak_bytes(self) -> int:
        """That of the evaluator."""
        return self.evaluator.peak_bytes

    def __call__(self, plans: Plans, floor: float = -float("inf")) -> Scores:
        """Score P candidates, see `evoprune.core.Evaluator`.

        `samples` counts those that were measured on, too, but for the user's own function, of which it counts calls.
        """
        check_plans(self.model, plans)
        dtype = getattr(self.evaluator, "dtype", torch.float32)
        parts: list[Scores] = self._each(plans, dtype, lambda plan: self.evaluator(plan, floor))
        losses = [part.loss for part in parts if part.loss is not None]
        measured = len(parts) * sum(map(len, self.batches)) if losses else 0
        return Scores(
            score=torch.cat([part.score for part in parts]),
            loss=torch.cat(losses) if losses else None,
            complete=torch.cat([part.complete for part in parts]),
            samples=sum(part.samples for part in parts) + measured,
        )

    def sample_scores(self, plans: Plans, dtype: torch.dtype) -> Tensor:
        """As `SampledEvaluator.sample_scores`, with batch norms that are measured in `dtype`, too."""
        evaluator = self.evaluator
        assert isinstance(evaluator, SampledEvaluator)
        return torch.cat(self._each(plans, dtype, lambda plan: evaluator.sample_scores(plan, dtype)))

    def _each(self, plans: Plans, dtype: torch.dtype, scores: Callable[[Plans], Any]) -> list[Any]:
        """What `scores` gives for each candidate's plan, while the model has the statistics that fit it."""
        found, given = [(norm, statistics_of(norm)) for norm in batch_norms(self.model)], []
        try:
            for candidate in range(len(next(iter(plans.values())))):
                with masked(self.model, {name: masks[candidate] for name, masks in plans.items()}):
                    recalibrate(self.model, self.batches, dtype)
                given.append(scores({name: masks[candidate, None] for name, masks in plans.items()}))
        finally:
            for norm, statistics in found:
                put_back(norm, statistics)
        return given
