"""One parent, many small mutations of it, and a selection in rounds on more and more samples.

Sieberling et al., "EvoPress: Accurate Dynamic Model Compression via Evolutionary Search", 2024: (1 + lambda) with
level switches between few layers. Most offspring are worse, and few samples are enough to see it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from evoprune.search.algorithm import Algorithm, Population, Screening, lexicographic_order
from evoprune.search.genes import Genes, Proposal
from evoprune.search.selection import best

__all__ = ["EvoPress"]


@dataclass(frozen=True)
class EvoPress(Algorithm):
    """(1 + lambda) with screening. The population is the parent alone.

    Attributes:
        genes: what genomes are made of.
        size: lambda, offspring in a generation.
        shares: of the samples, in the screening rounds.
        pace: how many times fewer candidates each round leaves.
    """

    genes: Genes
    size: int = 32
    shares: tuple[float, ...] = (0.05, 0.25)
    pace: int = 4

    @property
    def screening(self) -> Screening:
        """Rounds before the full evaluation of the few that are left."""
        return tuple(
            (share, max(1, -(-self.size // self.pace**number))) for number, share in enumerate(self.shares, start=1)
        )

    def ask(self, population: Population | None, rng: torch.Generator) -> Proposal:
        """Lambda first genomes, then as many mutations of the parent."""
        if population is None:
            return self.genes.first(self.size, rng)
        return self.genes.switch(population, torch.zeros(self.size, dtype=torch.long), rng)

    def tell(self, population: Population | None, candidates: Population) -> Population:
        """The best of the parent and the candidates that came through the rounds."""
        if population is None:
            return candidates.take(lexicographic_order(candidates.fitness)[:1])
        return best(population, candidates, 1)
