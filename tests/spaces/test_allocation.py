"""Budgets of layers: exact totals, nested masks, one gene a layer."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evoprune.core import Layer
from evoprune.spaces import AllocationSpace

LAYERS = [Layer("conv", "Conv2d", (4, 2, 3, 3)), Layer("one", "Linear", (1, 1)), Layer("fc", "Linear", (5, 7))]
WEIGHTS = 108
PRIORITY = torch.rand(WEIGHTS, generator=torch.Generator().manual_seed(0))
BASE = torch.tensor([36, 1, 35])

genes = st.floats(-5, 5, width=32)


@given(st.lists(st.lists(genes, min_size=3, max_size=3), min_size=1, max_size=4), st.integers(3, WEIGHTS))
@settings(max_examples=50)
def test_every_genome_keeps_exactly_the_budget_and_something_of_every_layer(rows: list[list[float]], keep: int) -> None:
    space, genomes = AllocationSpace(LAYERS, PRIORITY, BASE, keep), torch.tensor(rows)
    plans = space.plans(genomes)
    kept = torch.stack([plan.flatten(1).sum(1) for plan in plans.values()], dim=1)
    assert kept.sum(1).tolist() == [keep] * len(rows)
    assert (kept >= 1).all()
    assert torch.equal(kept, space.counts(genomes))
    torch.testing.assert_close(space.sparsity(genomes), torch.full((len(rows),), 1 - keep / WEIGHTS).double())


def test_a_layer_keeps_its_highest_priorities_so_masks_are_nested() -> None:
    space = AllocationSpace(LAYERS, PRIORITY, BASE, 40)
    plans = space.plans(torch.tensor([[0.0, 0.0, 0.0], [2.0, 0.0, 0.0], [-2.0, 0.0, 0.0]]))
    of_conv = PRIORITY[:72]
    for plan in plans["conv"]:
        kept = plan.flatten()
        assert of_conv[kept].min() > of_conv[~kept].max()
    few, some, many = (plans["conv"][row] for row in (2, 0, 1))
    assert few.sum() < some.sum() < many.sum()
    assert not (few & ~some).any()
    assert not (some & ~many).any()


def test_zeros_stand_for_the_shares_of_the_start() -> None:
    space = AllocationSpace(LAYERS, PRIORITY, BASE, int(BASE.sum()))
    assert space.counts(torch.zeros(1, 3)).tolist() == [BASE.tolist()]


@pytest.mark.parametrize(("total", "kept"), [(0.0, 72), (-0.5, 44), (-9.0, 20), (9.0, 108)])
def test_a_free_total_is_a_gene_between_the_budget_and_all(total: float, kept: int) -> None:
    space = AllocationSpace(LAYERS, PRIORITY, BASE, 20, free_total=True)
    assert space.length == 4
    assert space.counts(torch.tensor([[0.0, 0.0, 0.0, total]])).sum() == kept
