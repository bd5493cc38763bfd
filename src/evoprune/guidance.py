"""Guidance: which weights a proposal tends to keep. It biases proposals only; fitness decides.

`none` assumes nothing about weights: the order in which a layer's weights go is itself evolved, from how far
the layer's output moves (search/units.py). `magnitude` and `gradient` are the usual rules.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evoprune.core import Layer, Masks, generator, weight_of
from evoprune.evaluate.moments import layer_moments
from evoprune.search.units import nested_ranks

__all__ = ["priorities"]

SAMPLES = 3000
"""Training samples that moments and gradients are taken from."""


def priorities(
    kind: str,
    model: nn.Module,
    layers: Sequence[Layer],
    masks: Masks,
    samples: tuple[Tensor, Tensor] | None,
    smallest: float,
    seed_path: tuple[int, ...],
) -> Tensor | None:
    """A priority for every weight of `layers`, in gene order.

    Args:
        kind: `none`, `magnitude` or `gradient`.
        model: with its pruned weights at zero.
        layers: the layers searched.
        masks: what stays at present.
        samples: (N, ...) inputs and (N,) targets of the training data; None when there are none.
        smallest: the lowest density that a layer may get, as a share of its present one.
        seed_path: run seed and place in the run, for random numbers.

    Returns:
        (G,) float32 in [0, 1), only the order inside a layer means something; None when nothing is known.
    """
    if kind == "magnitude":
        values = {layer.name: weight_of(model, layer.name).detach().abs() for layer in layers}
    elif samples is None:
        return None
    elif kind == "gradient":
        values = _gradient_effects(model, layers, *samples)
    else:
        values = _evolved_ranks(model, layers, masks, samples[0], smallest, seed_path)
    return torch.cat([_even(values[layer.name], masks[layer.name]) for layer in layers])


def _even(values: Tensor, mask: Tensor) -> Tensor:
    """Any numbers -> their ranks, evenly spaced in [0, 1); what is pruned at present comes last."""
    values = torch.where(mask, values.cpu().float(), -1.0).flatten()
    ranks = torch.empty_like(values)
    ranks[values.argsort(stable=True)] = torch.arange(len(values)) / len(values)
    return ranks


def _gradient_effects(model: nn.Module, layers: Sequence[Layer], inputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """|weight * gradient|: the first-order change of the loss when a weight goes (Molchanov et al. 2019)."""
    weights = [weight_of(model, layer.name) for layer in layers]
    frozen = [weight for weight in weights if not weight.requires_grad]
    totals = [torch.zeros_like(weight) for weight in weights]
    mode = model.training
    model.eval()
    for weight in frozen:
        weight.requires_grad_(True)
    with torch.enable_grad():
        for batch, labels in zip(inputs.split(250), targets.split(250), strict=True):
            gradients = torch.autograd.grad(F.cross_entropy(model(batch), labels), weights, allow_unused=True)
            for total, weight, gradient in zip(totals, weights, gradients, strict=True):
                if gradient is not None:
                    total.add_((weight * gradient).abs().detach())
    model.train(mode)
    for weight in frozen:
        weight.requires_grad_(False)
    return {layer.name: total for layer, total in zip(layers, totals, strict=True)}


def _evolved_ranks(
    model: nn.Module,
    layers: Sequence[Layer],
    masks: Masks,
    inputs: Tensor,
    smallest: float,
    seed_path: tuple[int, ...],
) -> dict[str, Tensor]:
    moments = layer_moments(model, [layer.name for layer in layers], inputs)
    ranks = {}
    for index, layer in enumerate(layers):
        rng = generator(*seed_path, index)
        weight = weight_of(model, layer.name).detach().cpu()
        if layer.name in moments:
            mask = masks[layer.name].flatten(1)
            with _one_thread():
                rank = nested_ranks(weight.flatten(1), moments[layer.name], mask, smallest, rng)
            ranks[layer.name] = rank.view_as(weight)
        else:
            ranks[layer.name] = torch.rand(weight.shape, generator=rng)
    return ranks


@contextmanager
def _one_thread() -> Iterator[None]:
    """Operations of a few microseconds each: more threads only wait for one another."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
