"""Several objectives at once: the population spreads along the front of the best trade-offs.

Deb et al., "A Fast and Elitist Multiobjective Genetic Algorithm: NSGA-II", 2002. The fitness columns are the
objectives, all maximized.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from evoprune.search.algorithm import Algorithm, Population
from evoprune.search.genes import Genes, Proposal
from evoprune.search.pareto import pareto_order
from evoprune.search.selection import tournament

__all__ = ["NSGA2"]


@dataclass(frozen=True)
class NSGA2(Algorithm):
    """As many children as parents in each generation; the less dominated live on, and of equals the lonelier.

    Attributes:
        genes: what genomes are made of.
        size: P, genomes in the population and children in a generation.
        crossover_rate: probability that a child has two parents.
    """

    genes: Genes
    size: int = 24
    crossover_rate: float = 0.9

    def ask(self, population: Population | None, rng: torch.Generator) -> Proposal:
        """P children of parents that win by front, then by crowding."""
        if population is None:
            return self.genes.first(self.size, rng)
        mothers, fathers = tournament(pareto_order(population.fitness), (2, self.size), rng)
        crossed = torch.rand(self.size, generator=rng) < self.crossover_rate
        return self.genes.breed(population, mothers, torch.where(crossed, fathers, mothers), rng)

    def tell(self, population: Population | None, candidates: Population) -> Population:
        """The first fronts of parents and children; of the one that does not fit, its least crowded."""
        if population is None:
            return candidates.take(pareto_order(candidates.fitness)[: self.size])
        order = pareto_order(torch.cat([population.fitness, candidates.fitness]))
        return population.choose(candidates, order[: self.size])

    def floor(self, population: Population | None) -> float:  # noqa: ARG002
        """No bound: whoever is poor in the first objective may be the best in another."""
        return -float("inf")
