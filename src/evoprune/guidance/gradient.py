"""Gradient: weights whose removal changes the loss least go first, judged by an expansion of the loss.

Molchanov et al., "Importance estimation for neural network pruning", CVPR 2019: the squared first-order change of the
loss, (w g)^2, averaged over batches. In a trained network the mean gradient is near zero and what is left is the
spread of the batches' gradients, so this is w^2 times the diagonal of the empirical Fisher information up to a
factor: the saliency of "Optimal brain damage" (LeCun et al., NIPS 1989). It is in one unit for all layers, and zero
for a weight that no longer reaches the output.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evoprune.core import Layer, equal_parts, weight_of
from evoprune.scoring import device_of, evaluating
from evoprune.training import Loss, at_least_float32

__all__ = ["gradient_effects"]

BATCH_SIZE = 50
"""Small batches: more of them, and more of the spread is seen."""


def gradient_effects(
    model: nn.Module, layers: Sequence[Layer], inputs: Tensor, targets: Tensor, loss: Loss = F.cross_entropy
) -> dict[str, Tensor]:
    """Layer name -> mean over batches of (weight * gradient of the loss)^2, of the weight's shape.

    Args:
        model: as found afterwards; zeros for a layer that its loss does not depend on.
        layers: the layers asked for.
        inputs: (N, ...), on any device.
        targets: (N,) class numbers, or what `loss` takes.
        loss: (outputs, targets) -> a tensor of one number; the outputs come in float32 at least.
    """
    weights = [weight_of(model, layer.name) for layer in layers]
    frozen = [weight for weight in weights if not weight.requires_grad]
    squares = [torch.zeros_like(weight, dtype=torch.float32) for weight in weights]
    parts = equal_parts(len(inputs), BATCH_SIZE)
    device, cudnn = device_of(model), torch.backends.cudnn
    enabled = cudnn.enabled
    if any(isinstance(module, nn.RNNBase) for module in model.modules()):
        cudnn.enabled = False  # its recurrent layers have gradients in train mode only
    for weight in frozen:
        weight.requires_grad_(True)
    try:
        with evaluating(model), torch.enable_grad():
            for part in parts:
                outputs = model(inputs[part].to(device, copy=True))  # it may change them in place
                value = loss(at_least_float32(outputs), targets[part].to(device, copy=True))
                gradients = torch.autograd.grad(value, weights, allow_unused=True)
                for square, gradient in zip(squares, gradients, strict=True):
                    if gradient is not None:
                        square.add_(gradient.float().square(), alpha=1 / len(parts))
    finally:
        cudnn.enabled = enabled
        for weight in frozen:
            weight.requires_grad_(False)
    effects = (weight.detach().float().square() * square for weight, square in zip(weights, squares, strict=True))
    return {layer.name: effect.cpu() for layer, effect in zip(layers, effects, strict=True)}
