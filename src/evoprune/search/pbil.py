"""A chance for every bit instead of crossover: draw genomes from the chances, move them toward the better half.

Population-based incremental learning: Baluja, CMU-CS-94-163, 1994; the compact GA (Harik, Lobo and Goldberg, 1999)
moves them by single steps. Genomes are drawn under the budget.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from evoprune.core import EvopruneError
from evoprune.search.algorithm import Algorithm, Population, lexicographic_order
from evoprune.search.budgeted_bits import BudgetedBits
from evoprune.search.genes import Proposal
from evoprune.search.selection import best

__all__ = ["PBIL"]

MARGIN = 1e-4
"""No chance comes nearer to 0 or 1, so that no bit is lost for good."""


@dataclass(frozen=True)
class PBIL(Algorithm):
    """Estimation of distribution for bits; `chances` (G,) are its state.

    Attributes:
        genes: bits under a budget.
        size: P, genomes drawn in a generation and kept.
        rate: in (0, 1], how far the chances move toward the better half of the survivors in a generation.
    """

    genes: BudgetedBits
    size: int = 24
    rate: float = 0.2

    def __post_init__(self) -> None:
        if not 0 < self.rate <= 1:
            raise EvopruneError(f"rate must be above 0 and at most 1, not {self.rate:g}")

    def ask(self, population: Population | None, rng: torch.Generator) -> Proposal:
        """P genomes drawn from the chances."""
        if population is None:
            return self.genes.first(self.size, rng)
        return self.genes.sample(population.state["chances"], self.size, rng)

    def tell(self, population: Population | None, candidates: Population) -> Population:
        """The best P seen, from whose better half the chances learn."""
        if population is None:
            survivors, chances = candidates, self.genes.chances()
        else:
            survivors, chances = best(population, candidates, self.size), population.state["chances"]
        better = lexicographic_order(survivors.fitness)[: max(1, self.size // 2)].tolist()
        share = torch.zeros_like(chances)
        for row in better:  # one at a time: as floats they would not fit
            share.add_(survivors.genomes[row], alpha=1 / len(better))
        moved = torch.lerp(chances, share, self.rate).clamp_(MARGIN, 1 - MARGIN)
        return replace(survivors, state={"chances": moved})
