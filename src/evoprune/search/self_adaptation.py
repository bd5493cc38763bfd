"""Step sizes that evolve with what they steer.

Self-adaptation: Schwefel, "Numerical Optimization of Computer Models", 1981. A child inherits its mother's
step, multiplied by a log-normal factor, and is then mutated with it: steps that make good children survive.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["adapted", "trades"]


def adapted(step: Tensor, learning: float, low: float, high: float, rng: torch.Generator) -> Tensor:
    """(C,) inherited steps -> (C,) steps of the children, between `low` and `high`."""
    return (step * torch.exp(learning * torch.randn(step.shape, generator=rng))).clamp(low, high)


def trades(step: Tensor, layers: int, rng: torch.Generator) -> Tensor:
    """(C, L) changes of log-shares: one to three times, a layer gives to another.

    Level switches as in EvoPress (Sieberling et al. 2024), which draws their number as the smaller of two
    uniform draws from 1 to 3.

    Args:
        step: (C,) standard deviation of one trade.
        layers: L.
        rng: source of all randomness.
    """
    changes = torch.zeros(len(step), layers)
    number = torch.randint(1, 4, (len(step), 2), generator=rng).amin(1)
    for trade in range(3):
        giver = torch.randint(layers, (len(step), 1), generator=rng)
        taker = (giver + torch.randint(1, max(layers, 2), giver.shape, generator=rng)) % layers
        amount = step * torch.randn(step.shape, generator=rng).abs() * (number > trade)
        changes.scatter_add_(1, taker, amount[:, None]).scatter_add_(1, giver, -amount[:, None])
    return changes
