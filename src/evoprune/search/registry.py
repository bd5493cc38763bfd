"""Algorithms by the names that users give."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from typing import Any

from evoprune.search.algorithm import Algorithm
from evoprune.search.boundary_swaps import BoundarySwaps
from evoprune.search.budgeted_bits import BudgetedBits
from evoprune.search.cmaes import CMAES
from evoprune.search.evopress import EvoPress
from evoprune.search.generational_ga import GenerationalGA
from evoprune.search.genes import Genes
from evoprune.search.nsga2 import NSGA2
from evoprune.search.pareto import load_pymoo
from evoprune.search.pbil import PBIL
from evoprune.search.random_search import RandomSearch
from evoprune.search.shares import Shares
from evoprune.search.steady_state_ga import SteadyStateGA

__all__ = ["ALGORITHMS", "Entry", "make_algorithm"]


@dataclass(frozen=True)
class Entry:
    """An algorithm and the genes it can evolve.

    Attributes:
        kind: the class; its fields after the first two are rates that may be given.
        genes: types of genes that fit.
        check_installed: raises EvopruneError where a package is missing that it needs.
    """

    kind: Callable[..., Algorithm]
    genes: tuple[type, ...] = (BoundarySwaps, BudgetedBits, Shares)
    check_installed: Callable[[], object] = lambda: None

    def evolves(self, genes: Iterable[type]) -> bool:
        """Whether it can evolve genes of all these types."""
        return all(issubclass(kind, self.genes) for kind in genes)

    @property
    def rates(self) -> tuple[str, ...]:
        """Names of the options beside genes and size."""
        return tuple(field.name for field in fields(self.kind)[2:])  # type: ignore[arg-type]


ALGORITHMS: dict[str, Entry] = {
    "ga": Entry(GenerationalGA),
    "steady": Entry(SteadyStateGA),
    "evopress": Entry(EvoPress),
    "cmaes": Entry(CMAES, (Shares,)),
    "pbil": Entry(PBIL, (BudgetedBits,)),
    "nsga2": Entry(NSGA2, (Shares,), load_pymoo),
    "random": Entry(RandomSearch),
}


def make_algorithm(name: str, genes: Genes, size: int, **rates: Any) -> Algorithm:
    """The algorithm called `name`.

    Args:
        name: a key of ALGORITHMS.
        genes: what genomes are made of; one of the kinds that the algorithm can evolve.
        size: P.
        rates: options of that algorithm, of those that its entry names.

    Raises:
        EvopruneError: an option is out of its range.
    """
    return ALGORITHMS[name].kind(genes, size, **rates)
