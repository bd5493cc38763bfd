"""Random bits, bytes and positions for millions of genes at a cost below a nanosecond each.

A generator call costs the same for one bit as for 64, so words are drawn and cut into the pieces needed. Rare
events are not asked of every gene either: their positions are drawn (Poisson splitting).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

__all__ = ["LEVELS", "coin_flips", "hits", "put", "random_bytes", "random_levels"]

LEVELS = 1 << 15
"""Values that `random_levels` draws from: what fits an int16."""


def coin_flips(count: int, rng: torch.Generator) -> Tensor:
    """(count,) bool, fair and independent."""
    bits = np.unpackbits(_words(count, 64, rng).numpy().view(np.uint8), count=count)
    return torch.from_numpy(bits).view(torch.bool)


def random_bytes(count: int, rng: torch.Generator) -> Tensor:
    """(count,) uint8, uniform."""
    return _words(count, 8, rng).view(torch.uint8)[:count]


def random_levels(count: int, rng: torch.Generator) -> Tensor:
    """(count,) int16, uniform in [0, LEVELS)."""
    return _words(count, 4, rng).view(torch.int16)[:count].bitwise_and_(LEVELS - 1)


def hits(count: int, rates: Tensor, rng: torch.Generator) -> Tensor:
    """Positions in a (R, count) matrix, flattened, each of row r hit with probability `rates[r]`; some come twice.

    All are independent: the number of draws in a row is Poisson with mean -count * log(1 - rate); then the draws that
    meet one position are Poisson too, independent of all others, and none meets it with probability 1 - rate exactly.

    Args:
        count: positions in a row.
        rates: (R,) float, at least 0 and below 1.
        rng: source of all randomness.
    """
    draws = torch.poisson(torch.log1p(-rates.double()) * -count, generator=rng).long()
    first = torch.from_numpy(np.repeat(count * np.arange(len(rates)), draws.numpy()))
    return first.add_(torch.randint(max(count, 1), first.shape, generator=rng))


def put(values: Tensor, positions: Tensor, new: Tensor) -> None:
    """Write `new` (I,) at `positions` (I,) of `values`, in place; of a position that comes twice the last wins.

    Done by NumPy, which writes in order: torch writes with all its threads at once, in no order at all.
    """
    values.numpy()[positions.numpy()] = new.numpy()


def _words(count: int, in_a_word: int, rng: torch.Generator) -> Tensor:
    words = torch.empty(-(-count // in_a_word), dtype=torch.int64)
    return words.random_(-(1 << 63), None, generator=rng)
