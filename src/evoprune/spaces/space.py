"""What every space can say of genomes."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

__all__ = ["Space"]


class Space(Protocol):
    """What may be pruned, and what a genome means for it."""

    @property
    def length(self) -> int:
        """G."""
        ...

    def plans(self, genomes: Tensor) -> dict[str, Tensor]:
        """(P, G) genomes -> layer name -> (P, *weight shape) bool, True where a weight stays."""
        ...

    def sparsity(self, genomes: Tensor) -> Tensor:
        """(P, G) -> (P,) float64, the share of weights that go."""
        ...
