"""One real-valued gene a layer: how much each keeps of an exact budget.

Which weights of a layer stay follows from a fixed order of its weights, so masks of falling size are nested and any
count is a level that a candidate can switch to (the level database of EvoPress, Sieberling et al. 2024, with a level
for every count and nothing to store but one rank a weight).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from evoprune.core import Layer
from evoprune.search import share_budget, share_costs

__all__ = ["AllocationSpace"]


class AllocationSpace:
    """Budgets of layers.

    Args:
        layers: the layers that the genome speaks of, in order.
        priority: (W,) float over the weights of all layers, flattened and joined; each layer keeps its highest.
        base: (L,) weights of each layer that a gene of 0 stands for, before the budget scales them.
        keep: weights that stay in all; with `unit`, what they may cost.
        free_total: whether a last gene, the log of the density relative to `base`, decides how many stay in all;
            never fewer than `keep`.
        unit: (L,) int64, what a weight of each layer costs; None where only their number counts.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        priority: Tensor,
        base: Tensor,
        keep: int,
        free_total: bool = False,
        unit: Tensor | None = None,
    ) -> None:
        assert unit is None or not free_total
        self.unit = unit
        self.layers = tuple(layers)
        self.sizes = torch.tensor([layer.size for layer in layers])
        self.length = len(self.layers) + free_total
        self.base, self.keep, self.free_total = base.clamp(min=1), keep, free_total
        parts = zip(self.layers, priority.split(self.sizes.tolist()), strict=True)
        self.ranks = {layer.name: _ranks(part).view(layer.shape) for layer, part in parts}

    def counts(self, genomes: Tensor) -> Tensor:
        """(P, G) float -> (P, L) weights that each layer keeps."""
        if self.unit is not None:
            return share_costs(genomes, self.base, self.sizes, self.unit, self.keep)
        total: int | Tensor = self.keep
        if self.free_total:
            start = float(self.base.sum())
            total = (start * genomes[:, -1].double().exp()).round().long().clamp(self.keep, int(self.sizes.sum()))
        return share_budget(genomes[:, : len(self.layers)], self.base, self.sizes, total)

    def plans(self, genomes: Tensor) -> dict[str, Tensor]:
        """(P, G) -> layer name -> (P, *weight shape) bool."""
        counts = self.counts(genomes).int()
        return {
            layer.name: self.ranks[layer.name] < counts[:, index].view(-1, *[1] * len(layer.shape))
            for index, layer in enumerate(self.layers)
        }

    def sparsity(self, genomes: Tensor) -> Tensor:
        """(P,) float64."""
        return 1 - self.counts(genomes).sum(1).double() / self.sizes.sum()


def _ranks(priority: Tensor) -> Tensor:
    """(N,) int32: 0 for the highest priority."""
    ranks = torch.empty(len(priority), dtype=torch.int32)
    ranks[priority.argsort(descending=True, stable=True)] = torch.arange(len(priority), dtype=torch.int32)
    return ranks
