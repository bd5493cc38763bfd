"""Plans to scores: the reference, one candidate at a time, and ways that give its scores faster."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from evoprune.core import Evaluator
from evoprune.evaluate.reference import ReferenceEvaluator

__all__ = ["ReferenceEvaluator", "make_evaluator"]

WAYS = ("prefix", "batched", "racing", "precision")


def make_evaluator(
    model: nn.Module,
    score: Callable[[nn.Module], Any],
    layers: Sequence[str],
    *,
    device: torch.device | str = "cpu",
    batch_memory_mb: int = 1024,
    methods: Sequence[str] = ("prefix", "batched", "racing"),
) -> Evaluator:
    """The fastest evaluator that fits model and score."""
    return ReferenceEvaluator(model, score)
