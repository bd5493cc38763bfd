"""The highest keys of every layer of many genomes at once, in linear time.

Keys are small integers, so one pass counts them (counting sort: Seward 1954), and the histogram says in which bin a
layer's cut lies. Bins of small layers are wide, so that the histogram is never longer than what it counts; only the
keys inside the bin of the cut are sorted.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["keep_highest"]

KEYS_A_BIN = 8


def keep_highest(keys: Tensor, sizes: Sequence[int], counts: Tensor, levels: int, rng: torch.Generator) -> Tensor:
    """Exactly `counts` positions of the highest keys; those that tie for the last places are drawn at random.

    Args:
        keys: (R, N) uint8 or int16 in [0, levels).
        sizes: of L layers; N is their sum.
        counts: (R, L) int64, how many stay of each layer of each row.
        levels: at most 2**15.
        rng: source of all randomness.

    Returns:
        (R, N) bool.
    """
    # NumPy compares small integers, and finds positions, several times faster than torch.
    array, wanted = keys.numpy(), counts.numpy()
    shift = max(0, (levels * KEYS_A_BIN * len(sizes) // array.shape[1]).bit_length() - 1)
    bins, width = array >> shift if shift else array, ((levels - 1) >> shift) + 1
    layers = [slice(end - size, end) for size, end in zip(sizes, accumulate(sizes), strict=True)]
    counted = torch.bincount(torch.from_numpy(_cells(bins, layers, width)).view(-1), minlength=wanted.size * width)
    histogram = counted.view(-1, width).numpy()
    up_to, gone, number = histogram.cumsum(1), (np.array(sizes) - wanted).ravel(), np.arange(wanted.size)
    cut = (up_to > np.minimum(gone, up_to[:, -1] - 1)[:, None]).argmax(1)

    kept, tied = np.empty(array.shape, bool), np.empty(array.shape, bool)
    limits = cut.astype(array.dtype).reshape(wanted.shape).T[:, :, None]
    for layer, limit in zip(layers, limits, strict=True):
        np.greater(bins[:, layer], limit, out=kept[:, layer])
        np.equal(bins[:, layer], limit, out=tied[:, layer])
    ties, lengths = np.flatnonzero(tied), histogram[number, cut]
    group = np.repeat(number, lengths)
    chance = torch.rand(len(ties), dtype=torch.float64, generator=rng).numpy()
    order = np.argsort(group * levels - array.ravel()[ties] + chance)  # layer after layer, its highest key first
    end = lengths.cumsum() - lengths + up_to[number, cut] - gone
    kept.ravel()[ties[order[np.arange(len(ties)) < end[group]]]] = True
    return torch.from_numpy(kept)


def _cells(bins: NDArray[Any], layers: Sequence[slice], width: int) -> NDArray[Any]:
    """(R, N) bins in [0, width) -> the same, `width` more for each layer of each row before."""
    number = len(bins) * len(layers)
    if number == 1:
        return bins
    first = np.arange(0, number * width, width, dtype=np.int16 if number * width <= 1 << 15 else np.int32)
    cells = np.empty(bins.shape, first.dtype)
    for layer, column in zip(layers, first.reshape(len(bins), -1).T[:, :, None], strict=True):
        np.add(bins[:, layer], column, out=cells[:, layer])
    return cells
