"""How many weights each layer keeps of an exact total, from real-valued shares."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["share_budget"]

_Floats = NDArray[np.float64]


def share_budget(log_share: Tensor, base: Tensor, capacity: Tensor, total: int | Tensor) -> Tensor:
    """Weights for each layer: in proportion to base * exp(log_share), between 1 and capacity, `total` in all.

    Proportions are rounded as parliaments' seats are (D'Hondt), so that a layer whose share rises never gets less
    and no other gets more.

    Args:
        log_share: (P, L) float.
        base: (L,) weights of each layer that log-share 0 stands for.
        capacity: (L,) weights there are.
        total: L <= total <= sum of capacity; one for all rows, or (P,) of them.

    Returns:
        (P, L) int64; every row sums to its total exactly.
    """
    # NumPy: these arrays are tiny, and a call of torch costs several times as much.
    most, totals = capacity.double().numpy(), np.broadcast_to(np.asarray(total), len(log_share))
    want = np.log(base.double().numpy()) + log_share.double().numpy()
    exact = _proportions(want, most, totals)
    counts, rows = np.floor(exact), np.arange(len(want))
    while (rest := totals - counts.sum(1)).any():  # fewer than L in every row; the next goes where it is best deserved
        deserved = np.where(counts < most, want - np.log(counts + 1), -np.inf)
        counts[rows, deserved.argmax(1)] += rest > 0
    return torch.from_numpy(counts.astype(np.int64))


def _proportions(want: _Floats, most: _Floats, totals: NDArray[np.int64]) -> _Floats:
    """(P, L) real numbers from 1 to `most`, in proportion to exp(want) where neither binds; rows sum to `totals`."""
    rows, room = np.arange(len(want)), np.log(most)

    def filled(number: NDArray[np.int64]) -> _Floats:
        level = levels[rows, number][:, None]
        given: _Floats = np.exp(np.minimum(want + level, room)).clip(1, most)
        return given

    # As the level rises, layers leave 1 and reach `most`, one after the other.
    levels = np.sort(np.concatenate([-want, room - want], 1), 1)
    low, high = np.zeros(len(want), np.int64), np.full(len(want), levels.shape[1] - 1)
    while (low < high).any():  # low: the last of these levels that does not give too much
        middle = (low + high + 1) // 2
        fits = filled(middle).sum(1) <= totals
        low, high = np.where(fits, middle, low), np.where(fits, high, middle - 1)
    # From there to the next, all that lie in between grow in proportion.
    given, following = filled(low), filled(np.minimum(low + 1, levels.shape[1] - 1))
    part = (totals - given.sum(1)) / np.maximum((following - given).sum(1), 1e-9)
    proportions: _Floats = given + (following - given) * part.clip(0, 1)[:, None]
    return proportions
