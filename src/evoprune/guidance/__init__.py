"""Guidance: which weights a proposal tends to keep. It biases proposals only; fitness decides."""

from evoprune.guidance.choose import Advice, advise, importances

__all__ = ["Advice", "advise", "importances"]
