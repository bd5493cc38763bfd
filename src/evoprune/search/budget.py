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
    most = capacity.double()
    want = base.double().log() + log_share.double()
    # At `low` every layer gets one weight, at `high` all there are.
    low, high = -want.amax(1, keepdim=True), (most.log() - want).amax(1, keepdim=True)
    for _ in range(64):
        middle = (low + high) / 2
        given = torch.minimum(torch.exp(want + middle), most).clamp_(min=1).floor_().sum(1)
        fits = (given <= totals)[:, None]
        low, high = torch.where(fits, middle, low), torch.where(fits, high, middle)
        if bool((given == totals).all()):  # a larger `low` of equal sum would give every layer the same
            break
    exact = torch.minimum(torch.exp(want + low), most).clamp(min=1)
    counts, room = exact.floor().long().tolist(), capacity.tolist()
    # What flooring left over goes to the largest remainders, then wherever there is room.
    for row, remainder, wanted in zip(counts, exact - exact.floor(), totals.tolist(), strict=True):
        rest = wanted - sum(row)
        if rest == 0:
            continue
        for layer in remainder.argsort(descending=True, stable=True).repeat(2).tolist():
            more = min(rest, room[layer] - row[layer], 1 + rest // len(row))
            row[layer] += more
            rest -= more
    return torch.tensor(counts)
