"""Magnitude: small weights go first (Han et al., "Learning both weights and connections", NIPS 2015)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from evoprune.core import Layer, weight_of

__all__ = ["magnitudes"]


def magnitudes(model: nn.Module, layers: Sequence[Layer]) -> dict[str, Tensor]:
    """Layer name -> |weight|, of the weight's shape."""
    return {layer.name: weight_of(model, layer.name).detach().abs().cpu().float() for layer in layers}
