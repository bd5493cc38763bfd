"""The control: fresh random genomes in every generation. What does not beat it has not searched."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from evoprune.search.algorithm import Population, Screening
from evoprune.search.genes import Genes, Proposal
from evoprune.search.selection import best, worst_fitness

__all__ = ["RandomSearch"]


@dataclass(frozen=True)
class RandomSearch:
    """Random search.

    Attributes:
        genes: what genomes are made of.
        size: P, genomes drawn in a generation and kept.
    """

    genes: Genes
    size: int = 12
    asks_per_generation: ClassVar[int] = 1
    screening: ClassVar[Screening] = ()

    def ask(self, population: Population | None, rng: torch.Generator) -> Proposal:
        """P genomes of a first population; the start, which is always the first of one, is asked for once."""
        if population is None:
            return self.genes.first(self.size, rng)
        genomes, traits = self.genes.first(self.size + 1, rng)
        return genomes[1:], {name: values[1:] for name, values in traits.items()}

    def tell(self, population: Population | None, candidates: Population) -> Population:
        """The best P seen."""
        return candidates if population is None else best(population, candidates, self.size)

    def floor(self, population: Population | None) -> float:
        """The worst genome kept."""
        return worst_fitness(population)
