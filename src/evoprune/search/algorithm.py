"""The ask/tell interface that every algorithm speaks.

A step is pure: `ask(population, rng)` proposes genomes, `tell(population, candidates)` returns the next
population. All state is in `Population`, all randomness in `rng`: that is why a run can be resumed anywhere.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

__all__ = ["Algorithm", "Population", "Screening", "best_of", "lexicographic_order"]

Screening = tuple[tuple[float, int], ...]
"""Rounds of (share of the samples, candidates kept)."""


@dataclass(frozen=True)
class Population:
    """Scored genomes, and what the algorithm remembers: plain tensors, so that it can be written to disk.

    Attributes:
        genomes: (P, G) bool, True where the weight stays; or (P, G) float32, what real-valued genes stand for.
        fitness: (P, K) float64, compared column by column: the second only breaks ties of the first; for nsga2 they are
            equal objectives.
        traits: numbers of each genome, each (P, ...), such as its mutation rate.
        state: what is remembered of no genome in particular, such as the mean of a distribution, of any shape.
    """

    genomes: Tensor
    fitness: Tensor
    traits: Mapping[str, Tensor] = field(default_factory=dict)
    state: Mapping[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.genomes.shape[0]

    def choose(self, other: Population, index: Tensor) -> Population:
        """The rows in `index` of both, an (I,) tensor of positions in which the other's follow this one's.

        The state is this one's.
        """

        def rows(mine: Tensor, others: Tensor) -> Tensor:
            return torch.cat([mine, others])[index]

        genomes = [*self.genomes.unbind(), *other.genomes.unbind()]  # row by row: together they take memory
        chosen = torch.stack([genomes[position] for position in index.tolist()])
        traits = {name: rows(values, other.traits[name]) for name, values in self.traits.items()}
        return Population(chosen, rows(self.fitness, other.fitness), traits, self.state)

    def take(self, index: Tensor) -> Population:
        """The rows in `index`, an (I,) tensor of positions."""
        traits = {name: values[index] for name, values in self.traits.items()}
        return Population(self.genomes[index], self.fitness[index], traits, self.state)


class Algorithm(ABC):
    """Makes better genomes from scored ones.

    The caller asks, screens, evaluates and tells. To screen is to score all candidates on a share of the samples
    and to go on with the best of them, round after round; those that are left are evaluated in full, and only
    they are told. Most algorithms have no such rounds. In the first generation, when there is no population yet,
    the caller may leave them out.
    """

    @property
    def asks_per_generation(self) -> int:
        """How often a generation asks and tells."""
        return 1

    @property
    def screening(self) -> Screening:
        """The rounds between ask and evaluation, empty when every candidate is evaluated in full."""
        return ()

    @abstractmethod
    def ask(self, population: Population | None, rng: torch.Generator) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Propose candidates: (C, G) genomes and their traits. `None` asks for the first population."""

    @abstractmethod
    def tell(self, population: Population | None, candidates: Population) -> Population:
        """The next population, from the present one and the scored candidates."""

    def screens(self, population: Population | None) -> bool:
        """Whether what is asked for may be screened on fewer samples: the first population is wanted whole."""
        return population is not None

    def floor(self, population: Population | None) -> float:
        """A candidate whose first fitness column stays below this cannot survive; -inf when any may.

        Unless overridden that of the worst survivor, where the best of old and new survive.
        """
        return -float("inf") if population is None else float(population.fitness[:, 0].min())


def lexicographic_order(fitness: Tensor) -> Tensor:
    """(P, K) fitness -> (P,) positions, best first; equal rows stay in order (older first)."""
    order = torch.arange(fitness.shape[0])
    for column in reversed(fitness.unbind(1)):
        order = order[torch.sort(column[order], descending=True, stable=True).indices]
    return order


def best_of(population: Population) -> int:
    """Position of the best genome."""
    return int(lexicographic_order(population.fitness)[0])
