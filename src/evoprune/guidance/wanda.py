"""Wanda: magnitude times the norm of the input that a weight multiplies.

Sun et al., "A simple and effective pruning approach for large language models", 2023 (ICLR 2024). The paper compares
weights inside one output; here they are compared inside a layer, which it found no worse for image classifiers.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from evoprune.core import Layer
from evoprune.guidance.magnitude import magnitudes
from evoprune.scoring import CONVOLUTIONS, watch_inputs

__all__ = ["input_powers", "wanda_scores"]

Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d


def wanda_scores(model: nn.Module, layers: Sequence[Layer], inputs: Tensor) -> dict[str, Tensor]:
    """Layer name -> |weight| * norm of its input, of the weight's shape.

    The norm is the root of the mean over samples; a convolution's positions are summed, as its weight adds to the
    output at each of them. Layers that are neither linear nor convolutions, or that the model does not call, are
    scored by magnitude alone.
    """
    powers = input_powers(model, [layer.name for layer in layers], inputs)
    return {
        name: magnitude * powers[name].sqrt() if name in powers else magnitude
        for name, magnitude in magnitudes(model, layers).items()
    }


def input_powers(model: nn.Module, names: Sequence[str], inputs: Tensor) -> dict[str, Tensor]:
    """Mean over samples of the square of what each weight multiplies, summed over positions.

    Args:
        model: as found afterwards.
        names: the layers asked for.
        inputs: (N, ...), on any device.

    Returns:
        Layer name -> float32 of a shape that the weight broadcasts with; layers of other kinds are missing.
    """
    powers: dict[str, Tensor] = {}

    def add(name: str, module: nn.Module, given: Tensor) -> None:
        power = _convolution_power(module, given.float()) if isinstance(module, CONVOLUTIONS) else _power(given.float())
        powers[name] = powers.get(name, 0) + power.cpu() / len(inputs)

    def wanted(name: str, module: nn.Module) -> bool:
        return name in names and isinstance(module, (nn.Linear, *CONVOLUTIONS))

    watch_inputs(model, inputs, wanted, add)
    return powers


def _power(given: Tensor) -> Tensor:
    """(..., D) inputs of a linear layer -> (D,) sums of squares."""
    return given.flatten(0, -2).square().sum(0)


def _convolution_power(module: Convolution, given: Tensor) -> Tensor:
    """(B, C, *size) inputs -> (O, C / groups, *kernel): for each weight, its sum over samples and positions.

    Squares are summed over the batch first, so that the windows over them, which are views, stay small.
    """
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    padded = F.pad(given, module._reversed_padding_repeated_twice, mode)
    windows = padded.square().sum(0)  # (C, *padded size), then one axis after the other (C, *positions, *kernel)
    for axis, (kernel, step, dilation) in enumerate(
        zip(module.kernel_size, module.stride, module.dilation, strict=True), start=1
    ):
        windows = windows.unfold(axis, dilation * (kernel - 1) + 1, step)[..., ::dilation]
    power = windows.sum(tuple(range(1, len(module.kernel_size) + 1)))
    by_group: Tensor = power.unflatten(0, (module.groups, -1)).repeat_interleave(
        module.out_channels // module.groups, dim=0
    )
    return by_group
