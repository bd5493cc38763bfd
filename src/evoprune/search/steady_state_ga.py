"""A pair of children at a time, which replace the worst and may be parents at once.

Steady state: Whitley, "The GENITOR Algorithm and Selection Pressure", 1989; Syswerda, "A Study of Reproduction in
Generational and Steady-State Genetic Algorithms", 1991. The original preset's scheme with selected parents and
with operators of the genes' own.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from evoprune.search.algorithm import Algorithm, Population, lexicographic_order
from evoprune.search.genes import Genes, Proposal
from evoprune.search.selection import best, tournament

__all__ = ["SteadyStateGA"]


@dataclass(frozen=True)
class SteadyStateGA(Algorithm):
    """Two children at a time, and the best of all live on before the next are made.

    Attributes:
        genes: what genomes are made of.
        size: P, genomes in the population; a generation asks for about as many children.
        crossover_rate: probability that a pair is crossed.
    """

    genes: Genes
    size: int = 12
    crossover_rate: float = 0.8

    @property
    def asks_per_generation(self) -> int:
        """Pairs of children for each genome to be replaced once."""
        return -(-self.size // 2)

    def ask(self, population: Population | None, rng: torch.Generator) -> Proposal:
        """The first population, then the two children of two parents."""
        if population is None:
            return self.genes.first(self.size, rng)
        mothers = tournament(lexicographic_order(population.fitness), (2,), rng)
        crossed = float(torch.rand((), generator=rng)) < self.crossover_rate
        return self.genes.breed(population, mothers, mothers.flip(0) if crossed else mothers, rng)

    def tell(self, population: Population | None, candidates: Population) -> Population:
        """The best P of the population and the pair."""
        return candidates if population is None else best(population, candidates, self.size)
