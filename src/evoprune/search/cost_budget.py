"""How many weights each layer keeps of an exact budget, where a weight of one layer costs more than of another."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["share_costs"]


def share_costs(log_share: Tensor, base: Tensor, capacity: Tensor, unit: Tensor, budget: int) -> Tensor:
    """Weights for each layer: in proportion to base * exp(log_share), between 1 and capacity, worth the budget.

    Args:
        log_share: (P, L) float.
        base: (L,) weights of each layer that log-share 0 stands for.
        capacity: (L,) weights there are.
        unit: (L,) int64, what a weight of each layer costs, above zero.
        budget: what all may cost; enough for one weight a layer.

    Returns:
        (P, L) int64. No row costs more than the budget; what is left of it does not pay for a weight of any layer that
        still has one.
    """
    most, price = capacity.double(), unit.double()
    want = base.double().log() + log_share.double()
    # At `low` every layer gets one weight, at `high` all there are.
    low, high = -want.amax(1, keepdim=True), (most.log() - want).amax(1, keepdim=True)
    for _ in range(64):
        middle = (low + high) / 2
        given = torch.minimum(torch.exp(want + middle), most).clamp_(min=1).floor_()
        fits = ((given * price).sum(1) <= budget)[:, None]
        low, high = torch.where(fits, middle, low), torch.where(fits, high, middle)
    exact = torch.minimum(torch.exp(want + low), most).clamp(min=1)
    counts, room, prices = exact.floor().long().tolist(), capacity.tolist(), unit.tolist()
    dearest_first = unit.argsort(descending=True, stable=True).tolist()
    # What flooring left over buys one more where the remainder is largest, then whatever fits, the dearest first.
    for row, remainder in zip(counts, exact - exact.floor(), strict=True):
        rest = budget - sum(count * price for count, price in zip(row, prices, strict=True))
        by_remainder = [(layer, 1) for layer in remainder.argsort(descending=True, stable=True).tolist()]
        for layer, limit in by_remainder + [(layer, rest) for layer in dearest_first]:
            more = min(limit, rest // prices[layer], room[layer] - row[layer])
            row[layer] += more
            rest -= more * prices[layer]
    return torch.tensor(counts)
