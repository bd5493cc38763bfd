"""One bit a weight: the genome is the masks of all layers, flattened and joined."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from evoprune.core import Layer

__all__ = ["WeightSpace"]


class WeightSpace:
    """Unstructured pruning of some layers.

    Args:
        layers: the layers that the genome speaks of, in order.

    Attributes:
        length: G, the number of weights of all layers.
        sizes: weights of each layer; gene positions run through the layers in order, row-major.
    """

    def __init__(self, layers: Sequence[Layer]) -> None:
        self.layers = tuple(layers)
        self.sizes = [layer.size for layer in layers]
        self.length = sum(self.sizes)

    def plans(self, genomes: Tensor) -> dict[str, Tensor]:
        """(P, G) bool genomes -> layer name -> (P, *weight shape) bool; views, nothing is copied."""
        parts = zip(self.layers, genomes.split(self.sizes, dim=1), strict=True)
        return {layer.name: part.view(-1, *layer.shape) for layer, part in parts}

    def sparsity(self, genomes: Tensor) -> Tensor:
        """(P, G) bool -> (P,) float64, the share of weights that go."""
        kept = [np.count_nonzero(row) for row in genomes.numpy()]  # ten times faster than torch's
        return 1 - torch.tensor(kept, dtype=torch.float64) / self.length

    def join(self, values: Mapping[str, Tensor]) -> Tensor:
        """Layer name -> tensor of the weight's shape (masks, priorities, ...) -> (G,) in gene order."""
        return torch.cat([values[layer.name].flatten() for layer in self.layers])
