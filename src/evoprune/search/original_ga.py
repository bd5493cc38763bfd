"""The reference system's genetic algorithm, as published.

R. Godse, "Automated Model Pruning using Genetic Algorithm": random genomes with a tenth of zeros; two parents
drawn with replacement from the living population; single-point crossover; mutation that only ever clears
bits; both children pushed on a heap and the two worst of all dropped at once, so the next pair is drawn from
the new population.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from evoprune.search.algorithm import Algorithm, Population, lexicographic_order

__all__ = ["OriginalGA"]


@dataclass(frozen=True)
class OriginalGA(Algorithm):
    """Steady-state GA with heap replacement.

    Attributes:
        length: G.
        size: P, genomes in the population; one generation asks for as many pairs of children.
        crossover_rate: probability that a pair is crossed; else the children are copies of their parents.
        mutation_rate: probability that a bit is cleared.
        initial_sparsity: expected share of zeros in the first population.
        start: (S, G) bool genomes of an earlier search to start from instead of random ones.
    """

    length: int
    size: int = 10
    crossover_rate: float = 1.0
    mutation_rate: float = 0.1
    initial_sparsity: float = 0.1
    start: Tensor | None = None

    @property
    def asks_per_generation(self) -> int:
        """P pairs of children."""
        return self.size

    def ask(self, population: Population | None, rng: torch.Generator) -> tuple[Tensor, Mapping[str, Tensor]]:
        """The first population (P, G), then two children (2, G) at a time."""
        if population is None:
            if self.start is not None:
                return self.start, {}
            return torch.rand(self.size, self.length, generator=rng) >= self.initial_sparsity, {}
        parents = population.genomes[torch.randint(len(population), (2,), generator=rng)]
        children = parents.clone()
        if self.length > 1 and float(torch.rand((), generator=rng)) < self.crossover_rate:
            point = int(torch.randint(1, self.length, (), generator=rng))
            children[:, point:] = parents.flip(0)[:, point:]
        children &= torch.rand(children.shape, generator=rng) >= self.mutation_rate
        return children, {}

    def tell(self, population: Population | None, candidates: Population) -> Population:
        """Push the candidates, drop as many of the worst."""
        if population is None:
            return candidates
        order = lexicographic_order(torch.cat([population.fitness, candidates.fitness]))
        return population.choose(candidates, order[: len(population)].sort().values)

    def floor(self, population: Population | None) -> float:  # noqa: ARG002
        """No bound: fitness mixes sparsity and score, so a poor score may still survive."""
        return -float("inf")
