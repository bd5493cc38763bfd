"""Second moments of what goes into each layer, for the evolution of its units."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evoprune.core import generator
from evoprune.scoring import watch_inputs
from evoprune.surgery import batch_norms

__all__ = ["layer_moments", "layers_normed", "layers_seen"]

ROWS_AN_INPUT, FEWEST_ROWS = 64, 100_000
"""Positions of images that a moment is measured on: so many for each input of a unit, all together at least these."""

COLUMN_BYTES = 1 << 29
"""Memory for the inputs of units at all positions: those of some samples at a time."""

MOST_INPUTS = 8192
"""Layers with more inputs a unit are left out: their moment would take more than 256 MB."""


def layer_moments(
    model: nn.Module, names: Iterable[str], inputs: Tensor, centred: Collection[str] = ()
) -> dict[str, Tensor]:
    """Mean over samples of x x', summed over positions: x are inputs of linear and (ungrouped) 2-d convolution layers.

    Args:
        model: run in eval mode and float32; its mode is left as found.
        names: the layers asked for.
        inputs: (N, ...), on any device.
        centred: layers whose x is taken from its mean over all samples and positions.

    Returns:
        Layer name -> (D, D) float32, D the weights of one unit, in the order of `weight.flatten(1)`. Layers
        of other kinds, and those of more than `MOST_INPUTS` inputs, are missing.
    """
    wanted = set(names)
    moments: dict[str, Tensor] = {}
    sums: dict[str, Tensor] = {}  # of x, and behind it of 1: how many positions there are

    def add(name: str, module: nn.Module, given: Tensor) -> None:
        for part in given.split(max(1, COLUMN_BYTES // _sample_bytes(module, given))):
            rows, weight = _rows(module, part.float(), len(inputs))
            moments[name] = moments.get(name, torch.zeros(())) + rows.T @ rows * (weight / len(inputs))
            if name in centred:
                total = F.pad(rows.sum(0), (0, 1), value=len(rows))
                sums[name] = sums.get(name, torch.zeros(())) + total * (weight / len(inputs))

    watch_inputs(model, inputs, lambda name, module: name in wanted and _supported(module), add)
    for name, total in sums.items():
        if total[-1] > 0:
            moments[name] = moments[name] - total[:-1, None] * total[:-1] / total[-1]
    return {name: moment.cpu() for name, moment in moments.items()}


def layers_normed(model: nn.Module, names: Iterable[str], inputs: Tensor) -> set[str]:
    """Those of `names` whose output a batch norm takes as it is, tried on a few `inputs` (N, ...).

    Once such a norm is measured anew, the mean of the output plays no part.
    """
    wanted, norms, found = set(names), {id(norm) for norm in batch_norms(model)}, set[str]()
    outputs: dict[int, tuple[str, int, Tensor]] = {}  # the tensor, so that no other has its id

    def take(_: str, module: nn.Module, given: Tensor) -> None:
        if id(module) in norms and id(given) in outputs:
            layer, version = outputs[id(given)][:2]
            if given._version == version:  # else an activation in place came between
                found.add(layer)

    def give(name: str, output: object) -> None:
        if name in wanted and isinstance(output, Tensor) and not output.is_inference():
            outputs[id(output)] = name, output._version, output

    watch_inputs(model, inputs, lambda name, module: name in wanted or id(module) in norms, take, give)
    return found


def layers_seen(model: nn.Module, names: Iterable[str], inputs: Tensor) -> set[str]:
    """Those of `names` that `layer_moments` would say something of, for a few `inputs` (N, ...) or for many."""
    wanted, seen = set(names), set[str]()
    watch_inputs(
        model, inputs, lambda name, module: name in wanted and _supported(module), lambda name, *_: seen.add(name)
    )
    return seen


def _sample_bytes(module: nn.Module, given: Tensor) -> int:
    """What the inputs of one unit at all positions of one sample take, about."""
    kernel = math.prod(module.kernel_size) if isinstance(module, nn.Conv2d) else 1
    return max(1, 4 * kernel * given[:1].numel())


def _supported(module: nn.Module) -> bool:
    if isinstance(module, nn.Conv2d):
        fits = module.groups == 1 and not isinstance(module.padding, str) and module.padding_mode == "zeros"
    else:
        fits = isinstance(module, nn.Linear)
    return fits and int(cast(Tensor, module.weight)[0].numel()) <= MOST_INPUTS


def _rows(module: nn.Module, given: Tensor, samples: int) -> tuple[Tensor, float]:
    """Inputs of one unit at every sample and some positions, (rows, D), and how many positions each stands for."""
    if not isinstance(module, nn.Conv2d):
        return given.flatten(0, -2), 1.0
    columns = F.unfold(given, module.kernel_size, module.dilation, module.padding, module.stride)  # type: ignore[arg-type]
    inputs, positions = columns.shape[1:]
    some = min(positions, math.ceil(max(FEWEST_ROWS, ROWS_AN_INPUT * inputs) / samples))
    if some < positions:
        columns = columns[:, :, torch.randperm(positions, generator=generator(0))[:some]]
    return columns.transpose(1, 2).flatten(0, 1), positions / some
