"""Guidance: which weights a proposal tends to keep. It biases proposals only; fitness decides."""

from evoprune.guidance.choose import importances, priorities

__all__ = ["importances", "priorities"]
