"""The default search by its short name: the generational GA over bits under a budget."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from evoprune.search.budgeted_bits import BudgetedBits
from evoprune.search.generational_ga import GenerationalGA

__all__ = ["BudgetGA"]


def BudgetGA(
    sizes: Sequence[int],
    keep: int,
    start: Tensor,
    priority: Tensor | None = None,
    size: int = 12,
    crossover_rate: float = 0.8,
    mutation_rate: float = 0.002,
    budget_step: float = 0.5,
) -> GenerationalGA:
    """See `BudgetedBits` and `GenerationalGA`."""
    genes = BudgetedBits(sizes, keep, start, priority, mutation_rate, budget_step)
    return GenerationalGA(genes, size, crossover_rate)
