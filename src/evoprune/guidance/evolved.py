"""Guidance `none`: the order in which a layer's weights go is evolved, unit by unit (search/units.py)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor, nn

from evoprune.core import Layer, Masks, generator, weight_of
from evoprune.evaluation.moments import layer_moments
from evoprune.search.units import nested_ranks

__all__ = ["evolved_ranks"]


def evolved_ranks(
    model: nn.Module,
    layers: Sequence[Layer],
    masks: Masks,
    inputs: Tensor,
    smallest: float,
    seed_path: tuple[int, ...],
    on_layer: Callable[[int], None],
) -> dict[str, Tensor]:
    """Layer name -> ranks of the weight's shape; random where a layer's inputs cannot be had, see `layer_moments`.

    `on_layer` is told how many layers have their ranks.
    """
    moments = layer_moments(model, [layer.name for layer in layers], inputs)

    def evolved(index: int, layer: Layer) -> Tensor:
        rng = generator(*seed_path, index)
        weight = weight_of(model, layer.name).detach().cpu().float()
        if layer.name not in moments:
            return torch.rand(weight.shape, generator=rng)
        mask = masks[layer.name].flatten(1)
        return nested_ranks(weight.flatten(1), moments[layer.name], mask, smallest, rng).view_as(weight)

    # Operations of some microseconds each: several threads do better with a layer each than together.
    threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            ranks = {}
            for layer, rank in zip(layers, pool.map(evolved, range(len(layers)), layers), strict=True):
                ranks[layer.name] = rank
                on_layer(len(ranks))
            return ranks
    finally:
        torch.set_num_threads(threads)  # what was set last is what later threads begin with
