"""Search: genomes to better genomes. Arrays only: nothing here knows of models, data or disks.

Variety comes from composing: genes (how genomes of one kind are drawn, crossed and mutated) x algorithm (who
survives, and who is a parent).
"""

from evoprune.search.algorithm import Algorithm, Population, Screening, best_of, lexicographic_order
from evoprune.search.boundary_swaps import BoundarySwaps
from evoprune.search.budget import share_budget
from evoprune.search.budgeted_bits import BudgetedBits
from evoprune.search.cmaes import CMAES
from evoprune.search.cost_budget import share_costs
from evoprune.search.evopress import EvoPress
from evoprune.search.generational_ga import GenerationalGA
from evoprune.search.genes import Genes, Proposal
from evoprune.search.in_turn import InTurn
from evoprune.search.nsga2 import NSGA2
from evoprune.search.original_ga import OriginalGA
from evoprune.search.pbil import PBIL
from evoprune.search.random_search import RandomSearch
from evoprune.search.registry import ALGORITHMS, make_algorithm
from evoprune.search.shares import Shares
from evoprune.search.steady_state_ga import SteadyStateGA
from evoprune.search.units import evolve_units, nested_ranks

__all__ = [
    "ALGORITHMS", "CMAES", "NSGA2", "PBIL", "Algorithm", "BoundarySwaps", "BudgetedBits", "EvoPress",
    "GenerationalGA", "Genes", "InTurn", "OriginalGA", "Population", "Proposal", "RandomSearch",
    "Screening", "Shares", "SteadyStateGA", "best_of", "evolve_units", "lexicographic_order", "make_algorithm",
    "nested_ranks", "share_budget", "share_costs",
]  # fmt: skip
