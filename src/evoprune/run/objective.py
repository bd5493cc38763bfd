"""Score and sparsity together: the fitness that an algorithm sees."""

from __future__ import annotations

import torch
from torch import Tensor

from evoprune.core import Scores

__all__ = ["floor_of", "mixed_fitness", "score_fitness", "slack"]


def floor_of(floor: float | None, max_drop: float | None, dense_val_score: float | None) -> float | None:
    """The validation score that a pruned model has to keep, given as it is or in points below the dense model's."""
    if max_drop is None or dense_val_score is None:
        return floor
    return dense_val_score - max_drop / 100


def slack(target: float) -> float:
    """How far below a target a sparsity still counts as there: a thousandth, or a hundredth of what is to stay."""
    return min(1e-3, 0.01 * (1 - target))


def mixed_fitness(scores: Scores, sparsity: Tensor, alpha: float, floor: float) -> Tensor:
    """The reference system's fitness, (P, 1): alpha * sparsity + (1 - alpha) * score, 0 under the floor.

    Where the floor is below zero a fitness may be, too: then what lies under the floor has minus infinity.
    """
    worst = 0.0 if floor >= 0 else -float("inf")
    fitness = alpha * sparsity + (1 - alpha) * scores.score
    return torch.where(scores.score >= floor, fitness, worst)[:, None]


def score_fitness(scores: Scores) -> Tensor:
    """For genomes of equal sparsity, (P, 2): the score, ties broken by the lower loss."""
    if scores.loss is None:
        return scores.score[:, None]
    return torch.stack([scores.score, -scores.loss], dim=1)
