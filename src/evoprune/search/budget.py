"""How many weights each layer keeps of an exact total, from real-valued shares."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["share_budget"]


def share_budget(log_share: Tensor, base: Tensor, capacity: Tensor, total: int | Tensor) -> Tensor:
    """Weights for each layer: in proportion to base * exp(log_share), between 1 and capacity, `total` in all.

    Args:
        log_share: (P, L) float.
        base: (L,) weights of each layer that log-share 0 stands for.
        capacity: (L,) weights there are.
        total: L <= total <= sum of capacity; one for all rows, or (P,) of them.

    Returns:
        (P, L) int64; every row sums to its total exactly.
    """
    totals = torch.as_tensor(total).expand(len(log_share))
    want = base.double().log() + log_share.double()
    # At `low` every layer gets one weight, at `high` all there are.
    low, high = -want.amax(1, keepdim=True), (capacity.double().log() - want).amax(1, keepdim=True)
    for _ in range(64):
        middle = (low + high) / 2
        fits = _clip(torch.exp(want + middle), capacity).floor().sum(1, keepdim=True) <= totals[:, None]
        low, high = torch.where(fits, middle, low), torch.where(fits, high, middle)
    exact = _clip(torch.exp(want + low), capacity)
    counts, room = exact.floor().long().tolist(), capacity.tolist()
    # What flooring left over goes to the largest remainders, then wherever there is room.
    for row, remainder, wanted in zip(counts, exact - exact.floor(), totals.tolist(), strict=True):
        rest = wanted - sum(row)
        for layer in remainder.argsort(descending=True, stable=True).repeat(2).tolist():
            if rest == 0:
                break
            more = min(rest, room[layer] - row[layer], 1 + rest // len(row))
            row[layer] += more
            rest -= more
    return torch.tensor(counts)


def _clip(counts: Tensor, capacity: Tensor) -> Tensor:
    return torch.minimum(counts, capacity.double()).clamp(min=1)
