"""Guidance `none`: the order in which a layer's weights go is evolved, unit by unit (search/units.py)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from evoprune.core import Layer, Masks, generator, weight_of
from evoprune.evaluate.moments import layer_moments
from evoprune.search.units import nested_ranks

__all__ = ["evolved_ranks"]


def evolved_ranks(
    model: nn.Module,
    layers: Sequence[Layer],
    masks: Masks,
    inputs: Tensor,
    smallest: float,
    seed_path: tuple[int, ...],
) -> dict[str, Tensor]:
    """Layer name -> ranks of the weight's shape; random where a layer's inputs cannot be had, see `layer_moments`."""
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
