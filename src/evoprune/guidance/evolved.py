"""Guidance `none`: the order in which a layer's weights go is evolved, unit by unit (search/units.py).

What each step of that order costs, as a share of the layer's output a weight, can be compared between layers: cut at
one such price, all layers together lose the least of their outputs for so many weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor, nn

from evoprune.core import Layer, Masks, generator, weight_of
from evoprune.evaluation.moments import layer_moments
from evoprune.search.units import nested_ranks

__all__ = ["evolved_prices"]

CHEAPEST = 1e-30
"""A price above zero, for what costs nothing."""


def evolved_prices(
    model: nn.Module,
    layers: Sequence[Layer],
    masks: Masks,
    inputs: Tensor,
    smallest: float,
    seed_path: tuple[int, ...],
    on_layer: Callable[[int], None],
) -> tuple[dict[str, Tensor], bool]:
    """Layer name -> what each weight is worth, of the weight's shape, and whether that means something in all layers.

    Where a layer's inputs cannot be had (see `layer_moments`), it is random. `on_layer` is told how many layers are
    done.
    """
    moments = layer_moments(model, [layer.name for layer in layers], inputs)

    def evolved(index: int, layer: Layer) -> Tensor:
        rng = generator(*seed_path, index)
        weight = weight_of(model, layer.name).detach().cpu().float()
        if layer.name not in moments:
            return torch.rand(weight.shape, generator=rng)
        mask = masks[layer.name].flatten(1)
        ranks, sizes, lost = nested_ranks(weight.flatten(1), moments[layer.name], mask, smallest, rng)
        return _prices(ranks, sizes, lost).view_as(weight)

    # Operations of some microseconds each: several threads do better with a layer each than together.
    threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            prices = {}
            for layer, found in zip(layers, pool.map(evolved, range(len(layers)), layers), strict=True):
                prices[layer.name] = found
                on_layer(len(prices))
            return prices, moments.keys() >= prices.keys()
    finally:
        torch.set_num_threads(threads)  # what was set last is what later threads begin with


def _prices(ranks: Tensor, sizes: Sequence[int], lost: Sequence[float]) -> Tensor:
    """What a weight costs when it goes in its turn: the share of the output lost a weight, growing with the rank.

    Args:
        ranks: (U, D), of L + 1 levels, as of `nested_ranks`.
        sizes: (L + 1,) weights that are left at each level.
        lost: (L + 1,) share of the output that is lost there.
    """
    left, gone = torch.tensor([*sizes, 0], dtype=torch.float64), torch.tensor([*lost, 1.0], dtype=torch.float64)
    steps = (gone.diff() / (-left.diff()).clamp(min=1)).clamp(min=CHEAPEST).log().cummax(0).values
    steps = torch.cat([steps, 2 * steps[-1:] - steps[-2:-1]])  # the last weights: dearer, as those before
    level = ranks.clamp(min=0).long()
    price = torch.lerp(steps[level], steps[level + 1], (ranks - level).double()).exp()
    return torch.where(ranks < 0, -1.0, price).float()
