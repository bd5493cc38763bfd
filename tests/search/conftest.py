"""What the tests of the searches share."""

from __future__ import annotations

import torch
from torch import Tensor


def rng(seed: int = 0) -> torch.Generator:
    """A random stream."""
    return torch.Generator().manual_seed(seed)


def even_ranks(sizes: tuple[int, ...], seed: int) -> Tensor:
    """(G,) evenly spread in [0, 1) in each layer, in random order."""
    return torch.cat([torch.randperm(size, generator=rng(seed)) / size for size in sizes])
