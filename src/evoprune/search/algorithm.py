"""The ask/tell interface that every algorithm over bit genomes speaks.

A step is pure: `ask(population, rng)` proposes genomes, `tell(population, genomes, fitness)` returns the next
population. All state is in `Population`, all randomness in `rng`: that is why a run can be resumed anywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

__all__ = ["Algorithm", "Population", "best_of", "lexicographic_order"]


@dataclass(frozen=True)
class Population:
    """Scored genomes, and what the algorithm remembers of each.

    Attributes:
        genomes: (P, G) bool, True where the weight stays.
        fitness: (P, K) float64, compared column by column: the second only breaks ties of the first.
        traits: the algorithm's own numbers for each genome, each (P, ...), such as its mutation rate.
    """

    genomes: Tensor
    fitness: Tensor
    traits: Mapping[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.genomes.shape[0]

    def join(self, other: Population) -> Population:
        """The rows of both, this one's first."""
        traits = {name: torch.cat([values, other.traits[name]]) for name, values in self.traits.items()}
        genomes, fitness = torch.cat([self.genomes, other.genomes]), torch.cat([self.fitness, other.fitness])
        return Population(genomes, fitness, traits)

    def take(self, index: Tensor) -> Population:
        """The rows in `index`, an (I,) tensor of positions."""
        traits = {name: values[index] for name, values in self.traits.items()}
        return Population(self.genomes[index], self.fitness[index], traits)


class Algorithm(Protocol):
    """Makes better genomes from scored ones."""

    @property
    def asks_per_generation(self) -> int:
        """How often a generation asks and tells."""
        ...

    def ask(self, population: Population | None, rng: torch.Generator) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Propose candidates: (C, G) bool genomes and their traits. `None` asks for the first population."""
        ...

    def tell(self, population: Population | None, candidates: Population) -> Population:
        """The next population, from the present one and the scored candidates."""
        ...

    def floor(self, population: Population | None) -> float:
        """A candidate whose first fitness column stays below this cannot survive; -inf when any may."""
        ...


def lexicographic_order(fitness: Tensor) -> Tensor:
    """(P, K) fitness -> (P,) positions, best first; equal rows stay in order (older first)."""
    order = torch.arange(fitness.shape[0])
    for column in reversed(fitness.unbind(1)):
        order = order[torch.sort(column[order], descending=True, stable=True).indices]
    return order


def best_of(population: Population) -> int:
    """Position of the best genome."""
    return int(lexicographic_order(population.fitness)[0])
