"""Two algorithms, one after the other: the second starts from the best genome that the first found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from evoprune.search.algorithm import Algorithm, Population, Screening, best_of
from evoprune.search.genes import Proposal

__all__ = ["InTurn"]


@dataclass(frozen=True)
class InTurn(Algorithm):
    """A sequence of two algorithms, whose genomes may be of different kinds.

    How often a population was told is kept in its state as `told`, so that the place in the sequence is found again,
    and the best genome of the first algorithm as `start`.

    Attributes:
        first: the algorithm to begin with.
        second: the algorithm to go on with, made from the genome of the first to start from.
        turn: how often the first is told before the second begins.
    """

    first: Algorithm
    second: Callable[[Tensor], Algorithm]
    turn: int

    @property
    def asks_per_generation(self) -> int:
        """The first's; that of the second has to be the same."""
        return self.first.asks_per_generation

    @property
    def screening(self) -> Screening:
        """The first's; that of the second has to be the same."""
        return self.first.screening

    def ask(self, population: Population | None, rng: torch.Generator) -> Proposal:
        """What the algorithm whose turn it is proposes."""
        algorithm, own = self._now(population)
        return algorithm.ask(own, rng)

    def tell(self, population: Population | None, candidates: Population) -> Population:
        """The next population of the algorithm whose turn it is."""
        algorithm, own = self._now(population)
        told = torch.tensor(1 + _told(population))
        following = algorithm.tell(own, candidates)
        state = {**following.state, "told": told}
        if told == self.turn:
            state["start"] = following.genomes[best_of(following)]
        elif population is not None and told > self.turn:
            state["start"] = population.state["start"]
        return replace(following, state=state)

    def screens(self, population: Population | None) -> bool:
        """Not where either begins."""
        return self._now(population)[1] is not None

    def floor(self, population: Population | None) -> float:
        """The floor of the algorithm whose turn it is."""
        algorithm, own = self._now(population)
        return algorithm.floor(own)

    def _now(self, population: Population | None) -> tuple[Algorithm, Population | None]:
        """The algorithm whose turn it is and its population, None at its beginning."""
        if population is None or _told(population) < self.turn:
            return self.first, population
        algorithm = self.second(population.state["start"])
        return algorithm, None if _told(population) == self.turn else population


def _told(population: Population | None) -> int:
    return 0 if population is None else int(population.state["told"])
