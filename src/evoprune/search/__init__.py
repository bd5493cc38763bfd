"""Search: genomes to better genomes. Arrays only: nothing here knows of models, data or disks."""

from evoprune.search.algorithm import Algorithm, Population, best_of, lexicographic_order
from evoprune.search.budget_ga import BudgetGA
from evoprune.search.original_ga import OriginalGA
from evoprune.search.units import evolve_units, nested_ranks

__all__ = [
    "Algorithm", "BudgetGA", "OriginalGA", "Population", "best_of", "evolve_units",
    "lexicographic_order", "nested_ranks",
]  # fmt: skip
