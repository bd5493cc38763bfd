"""Bits near the boundary of an order: which weights a layer keeps, not how many.

A layer that keeps its first n weights has a boundary at rank n. A genome differs from that only near the
boundary: kept weights of high rank are exchanged for pruned ones of low rank in the same layer. Crossover and
mutation are exchanges too, so every layer keeps its number, and nothing has to be repaired.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from evoprune.core import EvopruneError
from evoprune.search.algorithm import Population
from evoprune.search.genes import Proposal
from evoprune.search.random_bits import coin_flips
from evoprune.search.self_adaptation import adapted

__all__ = ["BoundarySwaps"]


@dataclass(frozen=True)
class BoundarySwaps:
    """(C, G) bool genomes with as many ones in each layer as the start.

    Attributes:
        sizes: weights of each of the L layers; G is their sum.
        ranks: (G,) int, the order of each layer's weights: 0 stays longest.
        start: (G,) bool, the genome to start from.
        reach: weights on either side of a layer's boundary that may change, as a share of those that it keeps.
        swap_rate: first share of a layer's changeable kept weights that a mutation exchanges.
    """

    sizes: Sequence[int]
    ranks: Tensor
    start: Tensor
    reach: float = 0.2
    swap_rate: float = 0.05

    def __post_init__(self) -> None:
        assert self.start.shape == self.ranks.shape == (self.length,)
        if not (0 < self.reach <= 1 and 0 < self.swap_rate <= 1):
            raise EvopruneError(f"reach {self.reach:g} and swap_rate {self.swap_rate:g} must be above 0, 1 at most")

    @property
    def length(self) -> int:
        """G."""
        return sum(self.sizes)

    def first(self, count: int, rng: torch.Generator) -> Proposal:
        """The start, then mutations of it."""
        rate = torch.full((count,), self.swap_rate)
        genomes = self.start.repeat(count, 1)
        for genome in genomes[1:]:
            self._mutate(genome, self.swap_rate, rng)
        return genomes, {"swap_rate": rate}

    def breed(self, population: Population, mothers: Tensor, fathers: Tensor, rng: torch.Generator) -> Proposal:
        """Half of the exchanges that lead from the mother to the father, then a mutation."""
        genomes, rate = population.genomes[mothers], self._rates(population, mothers, rng)
        for child, father in enumerate(fathers.tolist()):
            self._cross(genomes[child], population.genomes[father], rng)
            self._mutate(genomes[child], float(rate[child]), rng)
        return genomes, {"swap_rate": rate}

    def switch(self, population: Population, parents: Tensor, rng: torch.Generator) -> Proposal:
        """Mutations only."""
        return self.breed(population, parents, parents, rng)

    def _rates(self, population: Population, mothers: Tensor, rng: torch.Generator) -> Tensor:
        return adapted(population.traits["swap_rate"][mothers], 0.5, 1e-4, 1.0, rng)

    def _cross(self, child: Tensor, father: Tensor, rng: torch.Generator) -> None:
        """As many ones lead one way as the other, since both keep as many: pair them at random, take half."""
        for near in self._near:
            theirs = father[near]
            _exchange(child, near[child[near] & ~theirs], near[~child[near] & theirs], None, rng)

    def _mutate(self, child: Tensor, rate: float, rng: torch.Generator) -> None:
        for near in self._near:
            kept = child[near]
            mean = torch.tensor(rate * int(kept.count_nonzero()))
            _exchange(child, near[kept], near[~kept], int(torch.poisson(mean, generator=rng)), rng)

    @cached_property
    def _near(self) -> list[Tensor]:
        """For each layer the positions that may change: equally many ranks on both sides of the boundary."""
        found, first = [], 0
        for size in self.sizes:
            part = slice(first, first + size)
            count = int(self.start[part].count_nonzero())
            reach = min(math.ceil(self.reach * count), size - count)
            distance = self.ranks[part] - count
            found.append(first + ((distance >= -reach) & (distance < reach)).nonzero()[:, 0])
            first += size
        return found


def _exchange(genome: Tensor, ones: Tensor, zeros: Tensor, number: int | None, rng: torch.Generator) -> None:
    """Clear some of the positions `ones` and set as many of `zeros`, in place: `number`, or each pair by a coin."""
    ones = ones[torch.randperm(len(ones), generator=rng)]
    zeros = zeros[torch.randperm(len(zeros), generator=rng)]
    pairs = min(len(ones), len(zeros))
    taken = coin_flips(pairs, rng) if number is None else torch.arange(pairs) < number
    genome[ones[:pairs][taken]] = False
    genome[zeros[:pairs][taken]] = True
