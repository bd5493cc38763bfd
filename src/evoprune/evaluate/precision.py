"""bfloat16 where it pays: measured on the first samples, and only if it gives float32's scores."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from torch import nn

from evoprune.core import generator, weight_of
from evoprune.evaluate.sampled import SampledEvaluator

__all__ = ["bfloat16_pays"]

CANDIDATES, REPEATS = 4, 3
NEEDED_GAIN = 1.2
"""bfloat16 is taken when it is this many times faster."""
TOLERANCE = 0.01
"""and the scores differ by no more than this, relative to float32's or absolute below 1."""


def bfloat16_pays(evaluator: SampledEvaluator, model: nn.Module, layers: Sequence[str]) -> bool:
    """Whether bfloat16 scores a few random candidates faster on one chunk, in agreement with float32."""
    rng = generator(0)
    plans = {name: torch.rand(CANDIDATES, *weight_of(model, name).shape, generator=rng) < 0.8 for name in layers}
    seconds, scores = {}, {}
    for dtype in (torch.float32, torch.bfloat16):
        taken = []
        for _ in range(REPEATS):
            begun = time.perf_counter()
            scores[dtype] = evaluator.sample_scores(plans, dtype)
            taken.append(time.perf_counter() - begun)
        seconds[dtype] = min(taken)
    faster = seconds[torch.float32] >= NEEDED_GAIN * seconds[torch.bfloat16]
    return faster and torch.allclose(scores[torch.bfloat16], scores[torch.float32], rtol=TOLERANCE, atol=TOLERANCE)
