"""Guidance: which weights a proposal tends to keep. It biases proposals only; fitness decides."""

from evoprune.guidance.choose import NEED_SAMPLES, Advice, advise

__all__ = ["NEED_SAMPLES", "Advice", "advise"]
