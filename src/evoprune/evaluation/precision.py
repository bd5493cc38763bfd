"""bfloat16 where it pays: on hardware that computes in it, for models that are heavy, if the scores agree.

Nothing here is measured with a clock, so that the same run on the same machine decides the same again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from evoprune.core import Plans, generator, weight_of
from evoprune.evaluation.sampled import SampledEvaluator

__all__ = ["bfloat16_suits"]

CANDIDATES = 4
LEAST_FLOPS = 2e7
"""Operations that one candidate needs for one sample: below, conversions cost more than they save."""
TOLERANCE = 0.01
"""The scores may differ by this, and by this share of float32's."""


def bfloat16_suits(
    evaluator: SampledEvaluator,
    sample_scores: Callable[[Plans, torch.dtype], Tensor],
    model: nn.Module,
    layers: Sequence[str],
) -> bool:
    """Whether bfloat16 is fast here and agrees with float32 on the `sample_scores` of a few random candidates."""
    if not _computes_in_bfloat16(evaluator.device) or evaluator.sample_flops < LEAST_FLOPS:
        return False
    rng = generator(0)
    plans = {name: torch.rand(CANDIDATES, *weight_of(model, name).shape, generator=rng) < 0.8 for name in layers}
    exact = sample_scores(plans, torch.float32)
    try:
        rounded = sample_scores(plans, torch.bfloat16)
    except torch.OutOfMemoryError:
        raise
    except Exception:  # of an operation that autocast does not know, or of a user's code that wants float32
        return False
    return torch.allclose(rounded, exact, rtol=TOLERANCE, atol=TOLERANCE)


def _computes_in_bfloat16(device: torch.device) -> bool:
    """Whether there are bfloat16 matrix instructions, as opposed to an emulation that is slower than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
