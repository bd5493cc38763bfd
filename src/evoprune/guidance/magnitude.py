"""Magnitude: small weights go first (Han et al., "Learning both weights and connections", NIPS 2015)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from evoprune.core import Layer, weight_of

__all__ = ["lamp_scores", "magnitudes"]


def magnitudes(model: nn.Module, layers: Sequence[Layer]) -> dict[str, Tensor]:
    """Layer name -> |weight|, of the weight's shape."""
    return {layer.name: weight_of(model, layer.name).detach().abs().cpu().float() for layer in layers}


def lamp_scores(magnitudes: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Magnitudes, so scaled in each layer that one threshold may cut them all; float64, of the same shapes.

    Lee et al., "Layer-adaptive sparsity for the magnitude-based pruning", ICLR 2021: a weight's square over the sum of
    the squares of its layer's weights that are not smaller. The order inside a layer stays as it is.
    """
    scores = {}
    for name, magnitude in magnitudes.items():
        squares, order = magnitude.double().square().flatten().sort(descending=True, stable=True)
        score = torch.empty_like(squares)
        score[order] = squares / squares.cumsum(0).clamp(min=torch.finfo(torch.float64).tiny)
        scores[name] = score.view_as(magnitude)
    return scores
