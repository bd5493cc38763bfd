"""The `count` highest keys of a layer in linear time: a histogram finds the level at which they end.

Keys are small integers, so one pass counts them (counting sort: Seward 1954), the level in which the last kept
one lies is read off, and only the ties inside that level are left to chance.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

__all__ = ["keep_highest"]


def keep_highest(keys: Tensor, count: int, levels: int, rng: torch.Generator) -> Tensor:
    """Exactly `count` positions of the highest keys; those that tie for the last places are drawn at random.

    Args:
        keys: (N,) integers in [0, levels).
        count: 0 to N.
        levels: bins of the histogram.
        rng: source of all randomness.

    Returns:
        (N,) bool.
    """
    up_to = torch.bincount(keys, minlength=levels).cumsum(0)
    boundary = int(torch.searchsorted(up_to, len(keys) - count, right=True))
    if boundary == levels:  # count is 0
        return torch.zeros(keys.shape, dtype=torch.bool)
    # NumPy compares small integers with a number, and finds positions, several times faster than torch.
    array = keys.numpy()
    kept, ties = array > boundary, np.flatnonzero(array == boundary)
    missing = count - (len(keys) - int(up_to[boundary]))
    kept[ties[torch.randperm(len(ties), generator=rng)[:missing].numpy()]] = True
    return torch.from_numpy(kept)
