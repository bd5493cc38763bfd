"""Budgets of layers at first, then the bits themselves: a genome is of one space or of the other."""

from __future__ import annotations

import torch
from torch import Tensor

from evoprune.spaces.allocation import AllocationSpace
from evoprune.spaces.space import Space
from evoprune.spaces.weights import WeightSpace

__all__ = ["MixtureSpace"]


class MixtureSpace:
    """Real-valued genomes are read by an allocation, bits by the weights they stand for.

    Attributes:
        length: G of bit genomes.
    """

    def __init__(self, allocation: AllocationSpace, weights: WeightSpace) -> None:
        self.allocation, self.weights = allocation, weights
        self.length = weights.length

    def plans(self, genomes: Tensor) -> dict[str, Tensor]:
        """(P, ...) -> layer name -> (P, *weight shape) bool."""
        return self._of(genomes).plans(genomes)

    def sparsity(self, genomes: Tensor) -> Tensor:
        """(P, ...) -> (P,) float64."""
        return self._of(genomes).sparsity(genomes)

    def bits(self, genome: Tensor) -> Tensor:
        """A genome of either kind -> (G,) bool, of the same masks."""
        return self.weights.join({name: plan[0] for name, plan in self.plans(genome[None]).items()})

    def _of(self, genomes: Tensor) -> Space:
        return self.weights if genomes.dtype == torch.bool else self.allocation
