"""The genetic algorithm `ga`: all children at once, the best of parents and children survive.

(mu + lambda) selection: Schwefel, "Numerical Optimization of Computer Models", 1981. Parents win tournaments of
two: Goldberg and Deb, "A Comparative Analysis of Selection Schemes", 1991.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from evoprune.search.algorithm import Algorithm, Population, lexicographic_order
from evoprune.search.genes import Genes, Proposal
from evoprune.search.selection import best, tournament

__all__ = ["GenerationalGA"]


@dataclass(frozen=True)
class GenerationalGA(Algorithm):
    """As many children as parents in each generation, and the best of both live on.

    Attributes:
        genes: what genomes are made of.
        size: P, genomes in the population and children in a generation.
        crossover_rate: probability that a child has two parents.
    """

    genes: Genes
    size: int = 12
    crossover_rate: float = 0.8

    def ask(self, population: Population | None, rng: torch.Generator) -> Proposal:
        """P children."""
        if population is None:
            return self.genes.first(self.size, rng)
        order = lexicographic_order(population.fitness)
        mothers, fathers = tournament(order, (2, self.size), rng)
        crossed = torch.rand(self.size, generator=rng) < self.crossover_rate
        return self.genes.breed(population, mothers, torch.where(crossed, fathers, mothers), rng)

    def tell(self, population: Population | None, candidates: Population) -> Population:
        """The best P of parents and children."""
        return candidates if population is None else best(population, candidates, self.size)
