"""Guidance `none`: the order in which a layer's weights go is evolved, unit by unit (search/units.py).

What each step of that order costs, as a share of the layer's output a weight, can be compared between layers: cut at
one such price, all layers together lose the least of their outputs for so many weights.

Where a batch norm follows that is measured anew, the mean of what goes missing counts for nothing, since the norm takes
it out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor, nn

from evoprune.core import Layer, Masks, generator, weight_of
from evoprune.evaluation.moments import layer_moments, layers_normed
from evoprune.search.units import nested_ranks

__all__ = ["evolved_order"]

CHEAPEST = 1e-30
"""A price above zero, for what costs nothing."""
DEARER = 1e-3
"""By this share at least what survives a mask more is dearer, so that one price never cuts against the order."""


def evolved_order(
    model: nn.Module,
    layers: Sequence[Layer],
    masks: Masks,
    inputs: Tensor,
    smallest: float,
    seed_path: tuple[int, ...],
    on_layer: Callable[[int], None],
    norms_anew: bool = False,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """In which order each layer's weights can go, and what they are worth.

    `on_layer` is told how many layers are done; `norms_anew` says whether candidates' batch norms are measured.

    Returns:
        Layer name -> numbers of the weight's shape that rise with the order, random where the layer's inputs cannot be
        had (see `layer_moments`); and of the other layers -> prices, which rise with it, too.
    """
    names = [layer.name for layer in layers]
    moments = layer_moments(model, names, inputs, layers_normed(model, names, inputs[:2]) if norms_anew else ())

    def evolved(index: int, layer: Layer) -> tuple[Tensor, Tensor | None]:
        rng = generator(*seed_path, index)
        weight = weight_of(model, layer.name).detach().cpu().float()
        if layer.name not in moments:
            return torch.rand(weight.shape, generator=rng), None
        mask = masks[layer.name].flatten(1)
        ranks, steps = nested_ranks(weight.flatten(1), moments[layer.name], mask, smallest, rng)
        return ranks.view_as(weight), _prices(ranks, steps).view_as(weight)

    # Operations of some microseconds each: several threads do better with a layer each than together.
    threads = torch.get_num_threads()
    order, prices = dict[str, Tensor](), dict[str, Tensor]()
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            found = pool.map(evolved, range(len(layers)), layers)
            for layer, (ranks, worth) in zip(layers, found, strict=True):
                order[layer.name] = ranks
                if worth is not None:
                    prices[layer.name] = worth
                on_layer(len(order))
    finally:
        torch.set_num_threads(threads)  # what was set last is what later threads begin with
    return order, prices


def _prices(ranks: Tensor, steps: Sequence[float]) -> Tensor:
    """What a weight costs when it goes in its turn: between its step's price and the next one's.

    Args:
        ranks: (U, D), as of `nested_ranks`.
        steps: (L + 1,) as of `nested_ranks`; one that is cheaper than the one before counts as that.
    """
    logs = torch.tensor(steps, dtype=torch.float64).clamp(min=CHEAPEST).log().cummax(0).values
    logs += DEARER * torch.arange(len(logs))
    logs = torch.cat([logs, 2 * logs[-1:] - logs[-2:-1]])  # the last weights: dearer, as those before
    level = ranks.clamp(min=0).long()
    price = torch.lerp(logs[level], logs[level + 1], (ranks - level).double()).exp()
    return torch.where(ranks < 0, -1.0, price).float()
