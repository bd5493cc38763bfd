"""Free bits: nothing is held fixed, so a genome's density evolves too.

Uniform crossover (Syswerda 1989) and bit flips, with a rate for each direction that adapts itself: with one rate
for both, mutation alone would drive every genome to half ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from evoprune.core import EvopruneError
from evoprune.search.algorithm import Population
from evoprune.search.genes import Proposal
from evoprune.search.random_bits import LEVELS, coin_flips, hits, random_levels
from evoprune.search.self_adaptation import adapted

__all__ = ["PlainBits"]


@dataclass(frozen=True)
class PlainBits:
    """(C, G) bool genomes of any number of ones.

    Attributes:
        length: G.
        density: expected share of ones in the first population.
        mutation_rate: first share of bits that a mutation flips; as many set as cleared at the first density.
    """

    length: int
    density: float = 0.5
    mutation_rate: float = 0.01

    def __post_init__(self) -> None:
        if not 0 < self.density < 1:
            raise EvopruneError(f"density must be between 0 and 1, not {self.density:g}")
        if not 0 <= self.mutation_rate < 1:
            raise EvopruneError(f"mutation_rate must be at least 0 and below 1, not {self.mutation_rate:g}")

    def first(self, count: int, rng: torch.Generator) -> Proposal:
        """Random bits."""
        return self.sample(self.chances(), count, rng)

    def breed(self, population: Population, mothers: Tensor, fathers: Tensor, rng: torch.Generator) -> Proposal:
        """Uniform crossover, then flips."""
        genomes = population.genomes[mothers]
        for child, father in zip(genomes, fathers.tolist(), strict=True):
            child.bitwise_xor_((child ^ population.genomes[father]) & coin_flips(self.length, rng))
        return self._mutated(genomes, population, mothers, rng)

    def switch(self, population: Population, parents: Tensor, rng: torch.Generator) -> Proposal:
        """Flips only: free bits know no layers that could trade."""
        return self._mutated(population.genomes[parents], population, parents, rng)

    def chances(self) -> Tensor:
        """(G,) the first density."""
        return torch.full((self.length,), self.density)

    def sample(self, chances: Tensor, count: int, rng: torch.Generator) -> Proposal:
        """Every bit by its own chance."""
        limits = (chances * LEVELS).clamp(max=LEVELS - 1).short()
        genomes = torch.stack([random_levels(self.length, rng) < limits for _ in range(count)])
        return genomes, {
            "set_rate": torch.full((count,), 2 * self.density * self.mutation_rate),
            "clear_rate": torch.full((count,), 2 * (1 - self.density) * self.mutation_rate),
        }

    def _mutated(self, genomes: Tensor, population: Population, mothers: Tensor, rng: torch.Generator) -> Proposal:
        """Flip bits of (C, G) `genomes` in place, by rates inherited from the mothers and mutated first."""
        highest = max(0.2, 2 * self.mutation_rate)
        rates = {
            name: adapted(population.traits[name][mothers], 0.5, min(1e-6, self.mutation_rate), highest, rng)
            for name in ("set_rate", "clear_rate")
        }
        for child, set_rate, clear_rate in zip(genomes, *(r.split(1) for r in rates.values()), strict=True):
            to_set, to_clear = hits(self.length, set_rate, rng), hits(self.length, clear_rate, rng)
            child[to_clear] = False
            child[to_set] = True
        return genomes, rates
