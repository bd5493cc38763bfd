"""Budgets of layers at first, then the bits themselves: a genome is of one space or of the other."""

from __future__ import annotations

import torch
from torch import Tensor

from evoprune.core import Masks
from evoprune.spaces.allocation import AllocationSpace
from evoprune.spaces.space import Space
from evoprune.spaces.weights import WeightSpace

__all__ = ["MixtureSpace"]


class MixtureSpace:
    """Real-valued genomes are read by an allocation, bits by the weights they stand for.

    Attributes:
        genes: G of bit genomes.
    """

    def __init__(self, allocation: AllocationSpace, weights: WeightSpace) -> None:
        self.allocation, self.weights = allocation, weights
        self.genes = weights.genes

    def plans(self, genomes: Tensor) -> dict[str, Tensor]:
        """(P, ...) -> layer name -> (P, *weight shape) bool."""
        return self._of(genomes).plans(genomes)

    def masks(self, genome: Tensor) -> Masks:
        """One genome -> layer name -> bool tensor of the weight's shape."""
        return self._of(genome).masks(genome)

    def sparsity(self, genomes: Tensor) -> Tensor:
        """(P, ...) -> (P,) float64."""
        return self._of(genomes).sparsity(genomes)

    def bits(self, genome: Tensor) -> Tensor:
        """A genome of either kind -> (G,) bool, of the same masks."""
        return self.weights.join(self.masks(genome))

    def _of(self, genomes: Tensor) -> Space:
        return self.weights if genomes.dtype == torch.bool else self.allocation
