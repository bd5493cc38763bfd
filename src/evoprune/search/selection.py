"""Who is a parent and who survives."""

from __future__ import annotations

import torch
from torch import Tensor

from evoprune.search.algorithm import Population, lexicographic_order

__all__ = ["best", "tournament"]


def tournament(order: Tensor, shape: tuple[int, ...], rng: torch.Generator) -> Tensor:
    """Winners of tournaments of two, drawn with replacement.

    Args:
        order: (P,) positions, best first.
        shape: of the result.
        rng: source of all randomness.
    """
    # In terms of ranks the better of two is simply the smaller.
    return order[torch.randint(len(order), (2, *shape), generator=rng).amin(0)]


def best(population: Population, candidates: Population, size: int) -> Population:
    """The `size` best of both, best first; of equals the older, so survival is (mu + lambda)."""
    order = lexicographic_order(torch.cat([population.fitness, candidates.fitness]))
    return population.choose(candidates, order[:size])
