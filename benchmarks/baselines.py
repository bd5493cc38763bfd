"""The rules that evolution has to beat: masks at a sparsity of the whole model, without any search.

Each function is pure and keeps exactly `kept_weights(layers, sparsity)` weights, at least one in every layer; but for
`unpruned`, the control.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from evoprune.core import Layer, Masks
from evoprune.guidance.magnitude import lamp_scores, magnitudes
from evoprune.search import share_budget
from evoprune.surgery import global_threshold

__all__ = [
    "allot",
    "erk",
    "global_magnitude",
    "highest_each",
    "kept_weights",
    "lamp",
    "random_uniform",
    "shuffled",
    "uniform",
    "unpruned",
]


def kept_weights(layers: Sequence[Layer], sparsity: float) -> int:
    """Weights that stay at a sparsity, as `evoprune prune --sparsity` counts them."""
    return max(len(layers), round((1 - sparsity) * sum(layer.size for layer in layers)))


def global_magnitude(model: nn.Module, layers: Sequence[Layer], sparsity: float) -> Masks:
    """The largest weights, one threshold for all layers (Han et al., NIPS 2015, with one for each)."""
    return _highest(magnitudes(model, layers), kept_weights(layers, sparsity))


def uniform(model: nn.Module, layers: Sequence[Layer], sparsity: float) -> Masks:
    """The largest weights of each layer, all layers equally dense."""
    return highest_each(magnitudes(model, layers), layers, _equal_density(layers, sparsity))


def erk(model: nn.Module, layers: Sequence[Layer], sparsity: float) -> Masks:
    """The largest weights of each layer, densities by Erdos-Renyi-Kernel.

    Evci et al., "Rigging the lottery", ICML 2020. A layer's density is proportional to the sum of its dimensions over
    their product, for a convolution (out + in + height + width) / (out * in * height * width). Where that exceeds 1
    the layer stays dense and the others share the rest.
    """
    shares = [float(sum(layer.shape)) for layer in layers]  # density * size
    counts = allot(shares, [layer.size for layer in layers], kept_weights(layers, sparsity))
    return highest_each(magnitudes(model, layers), layers, counts)


def lamp(model: nn.Module, layers: Sequence[Layer], sparsity: float) -> Masks:
    """One threshold over LAMP scores (Lee et al., ICLR 2021)."""
    return _highest(lamp_scores(magnitudes(model, layers)), kept_weights(layers, sparsity))


def random_uniform(layers: Sequence[Layer], sparsity: float, rng: torch.Generator) -> Masks:
    """Random bits, all layers equally dense."""
    scores = {layer.name: torch.rand(layer.shape, generator=rng) for layer in layers}
    return highest_each(scores, layers, _equal_density(layers, sparsity))


def shuffled(masks: Mapping[str, Tensor], rng: torch.Generator) -> Masks:
    """As many bits in each layer, at random places: what is left is what a method knows of layers, not of weights."""
    orders = {name: torch.randperm(mask.numel(), generator=rng) for name, mask in masks.items()}
    return {name: mask.flatten()[orders[name]].view_as(mask) for name, mask in masks.items()}


def unpruned(_: nn.Module, layers: Sequence[Layer], __: float = 0.0) -> Masks:
    """The dense model: all weights, at any sparsity."""
    return {layer.name: torch.ones(layer.shape, dtype=torch.bool) for layer in layers}


def allot(shares: Sequence[float], sizes: Sequence[int], total: int) -> list[int]:
    """Weights for each of L layers in proportion to `shares`, from 1 to its size, `total` in all."""
    base = torch.tensor(shares, dtype=torch.float64)
    counts: list[int] = share_budget(torch.zeros(1, len(sizes)), base, torch.tensor(sizes), total)[0].tolist()
    return counts


def _equal_density(layers: Sequence[Layer], sparsity: float) -> list[int]:
    sizes = [layer.size for layer in layers]
    return allot([float(size) for size in sizes], sizes, kept_weights(layers, sparsity))


def _highest(scores: Mapping[str, Tensor], keep: int) -> Masks:
    """The `keep` highest of all layers' scores, among them the highest of each layer."""
    sizes = [score.numel() for score in scores.values()]
    kept = global_threshold(torch.cat([score.flatten().double() for score in scores.values()]), sizes, keep)
    parts = kept.split(sizes)
    return {name: part.view_as(scores[name]).clone() for name, part in zip(scores, parts, strict=True)}


def highest_each(scores: Mapping[str, Tensor], layers: Sequence[Layer], counts: Sequence[int]) -> Masks:
    """The highest scores of each layer, as many as `counts` says."""
    masks: Masks = {}
    for layer, count in zip(layers, counts, strict=True):
        masks |= _highest({layer.name: scores[layer.name]}, count)
    return masks
