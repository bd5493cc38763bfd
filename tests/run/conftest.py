"""A small net and its data."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def data() -> tuple[Tensor, Tensor]:
    """(200, 8) inputs and their classes, by the sign of the first number."""
    inputs = torch.randn(200, 8, generator=torch.Generator().manual_seed(0))
    return inputs, (inputs[:, 0] > 0).long()


def net() -> nn.Module:
    """Two layers, 160 and 40 weights, always the same ones."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 20), nn.ReLU(), nn.Linear(20, 2))
