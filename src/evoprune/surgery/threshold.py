"""One threshold over the weights of all layers, that empties none of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["global_threshold"]


def global_threshold(values: Tensor, sizes: Sequence[int], keep: int) -> Tensor:
    """The `keep` highest values of all layers, among them the highest of each.

    Args:
        values: (G,) float, the layers' weights joined.
        sizes: of L layers; G is their sum.
        keep: L to G.

    Returns:
        (G,) bool.
    """
    values = values.clone()
    for part in values.split(list(sizes)):
        part[part.argmax()] = float("inf")
    kept = torch.zeros(len(values), dtype=torch.bool)
    kept[values.topk(keep, sorted=False).indices] = True
    return kept
