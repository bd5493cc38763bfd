"""A genome of shares or of bits, told apart by its kind."""

from __future__ import annotations

import torch

from evoprune.core import Layer
from evoprune.spaces import AllocationSpace, MixtureSpace, WeightSpace

LAYERS = [Layer("conv", "Conv2d", (4, 2, 3, 3)), Layer("fc", "Linear", (5, 7))]
PRIORITY = torch.rand(107, generator=torch.Generator().manual_seed(0))


def test_each_kind_is_read_by_its_own_space() -> None:
    weights = WeightSpace(LAYERS)
    allocation = AllocationSpace(LAYERS, PRIORITY, torch.tensor([72, 35]), 40)
    space = MixtureSpace(allocation, weights)
    shares = torch.tensor([[0.0, 0.0], [1.0, -1.0]])
    bits = torch.stack([space.bits(genome) for genome in shares])
    assert space.length == bits.shape[1] == 107
    for name in ("conv", "fc"):
        assert torch.equal(space.plans(shares)[name], allocation.plans(shares)[name])
        assert torch.equal(space.plans(bits)[name], space.plans(shares)[name])
    assert torch.equal(space.bits(bits[0]), bits[0])
    torch.testing.assert_close(space.sparsity(bits), space.sparsity(shares))
