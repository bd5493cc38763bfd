"""What a genome is made of, and how genomes of one kind are drawn, crossed and mutated.

An algorithm decides who survives and who is a parent; genes decide what children look like. Any algorithm that
only needs these three methods works with any genes. All are pure: randomness comes from `rng`, and what a
genome carries beside itself (its mutation rate, say) is a row in each of its traits.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

from evoprune.search.algorithm import Population

__all__ = ["Genes", "Proposal"]

Proposal = tuple[Tensor, Mapping[str, Tensor]]
"""(C, G) genomes and their traits, each (C, ...)."""


class Genes(Protocol):
    """Genomes of one kind."""

    @property
    def length(self) -> int:
        """G, genes of a genome."""
        ...

    def first(self, count: int, rng: torch.Generator) -> Proposal:
        """`count` genomes of a first population; the first of them is the start, of `BudgetedBits` a mutation of it."""
        ...

    def breed(self, population: Population, mothers: Tensor, fathers: Tensor, rng: torch.Generator) -> Proposal:
        """Cross and mutate.

        Args:
            population: the parents, with the traits that these genes gave them.
            mothers: (C,) positions in it.
            fathers: (C,) positions; where it is the mother's own, the child is hers alone.
            rng: source of all randomness.
        """
        ...

    def switch(self, population: Population, parents: Tensor, rng: torch.Generator) -> Proposal:
        """Small mutations only: a child of each parent (C,) in which a few pairs of layers trade weights."""
        ...
