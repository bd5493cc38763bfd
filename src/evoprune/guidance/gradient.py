"""Gradient: weights whose removal changes the loss least go first, judged by a first-order expansion.

Molchanov et al., "Importance estimation for neural network pruning", CVPR 2019.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evoprune.core import Layer, weight_of
from evoprune.scoring import evaluating

__all__ = ["gradient_effects"]


def gradient_effects(model: nn.Module, layers: Sequence[Layer], inputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """Layer name -> |weight * gradient of the cross-entropy|, of the weight's shape, summed over batches of 250.

    Args:
        model: a classifier, as found afterwards; zeros for a layer that its loss does not depend on.
        layers: the layers asked for.
        inputs: (N, ...).
        targets: (N,) class numbers.
    """
    weights = [weight_of(model, layer.name) for layer in layers]
    frozen = [weight for weight in weights if not weight.requires_grad]
    totals = [torch.zeros_like(weight) for weight in weights]
    for weight in frozen:
        weight.requires_grad_(True)
    try:
        with evaluating(model), torch.enable_grad():
            for batch, labels in zip(inputs.split(250), targets.split(250), strict=True):
                gradients = torch.autograd.grad(F.cross_entropy(model(batch), labels), weights, allow_unused=True)
                for total, weight, gradient in zip(totals, weights, gradients, strict=True):
                    if gradient is not None:
                        total.add_((weight * gradient).abs().detach())
    finally:
        for weight in frozen:
            weight.requires_grad_(False)
    return {layer.name: total.detach().cpu().float() for layer, total in zip(layers, totals, strict=True)}
