"""The control: fresh random genomes in every generation. What does not beat it has not searched."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from evoprune.search.algorithm import Algorithm, Population
from evoprune.search.genes import Genes, Proposal
from evoprune.search.selection import best

__all__ = ["RandomSearch"]


@dataclass(frozen=True)
class RandomSearch(Algorithm):
    """New random genomes in each generation; the best of all so far are kept.

    Attributes:
        genes: what genomes are made of.
        size: P, genomes drawn in a generation and kept.
    """

    genes: Genes
    size: int = 12

    def ask(self, population: Population | None, rng: torch.Generator) -> Proposal:
        """P genomes of a first population; the start's, which is always the first of one, is asked for once."""
        if population is None:
            return self.genes.first(self.size, rng)
        genomes, traits = self.genes.first(self.size + 1, rng)
        return genomes[1:], {name: values[1:] for name, values in traits.items()}

    def tell(self, population: Population | None, candidates: Population) -> Population:
        """The best P seen."""
        return candidates if population is None else best(population, candidates, self.size)
