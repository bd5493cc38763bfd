"""Budgets in which weights have prices: never above, and nothing left that would buy one more."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from evoprune.search import share_budget, share_costs

FAST = settings(max_examples=60)
Case = tuple[Tensor, Tensor, Tensor, Tensor, int]


@st.composite
def budgets(draw: st.DrawFn) -> Case:
    layers, rows = draw(st.integers(1, 6)), draw(st.integers(1, 3))
    capacity = draw(st.lists(st.integers(1, 10_000), min_size=layers, max_size=layers))
    base = [draw(st.integers(1, size)) for size in capacity]
    unit = draw(st.lists(st.one_of(st.integers(1, 9), st.integers(1, 10**6)), min_size=layers, max_size=layers))
    shares = st.one_of(st.floats(-3, 3), st.floats(-300, 300), st.sampled_from([0.0, 1.0, -80.0, 80.0]))
    log_share = draw(st.lists(st.lists(shares, min_size=layers, max_size=layers), min_size=rows, max_size=rows))
    all_cost = sum(price * size for price, size in zip(unit, capacity, strict=True))
    budget = draw(st.integers(sum(unit), all_cost + 10))
    return torch.tensor(log_share), torch.tensor(base), torch.tensor(capacity), torch.tensor(unit), budget


@given(budgets())
@FAST
def test_it_is_spent_as_far_as_whole_weights_allow(case: Case) -> None:
    _, _, capacity, unit, budget = case
    counts = share_costs(*case)
    assert counts.dtype == torch.int64
    assert counts.shape == case[0].shape
    assert bool(((counts >= 1) & (counts <= capacity)).all())
    for row in counts:
        rest = budget - int((row * unit).sum())
        room = row < capacity
        assert rest >= 0
        assert not room.any() or rest < int(unit[room].min())


@given(budgets())
@FAST
def test_where_every_weight_costs_the_same_it_is_a_budget_of_weights(case: Case) -> None:
    log_share, base, capacity, _, _ = case
    total = max(len(base), int(capacity.sum()) // 2)
    counts = share_costs(log_share, base, capacity, torch.full_like(base, 7), 7 * total)
    assert counts.sum(1).tolist() == [total] * len(log_share)
    assert int((counts - share_budget(log_share, base, capacity, total)).abs().max()) <= len(base)


def test_shares_are_in_proportion_where_nothing_binds() -> None:
    capacity, unit = torch.tensor([1000, 1000]), torch.tensor([10, 1])
    counts = share_costs(torch.tensor([[0.0, 0.0]]), torch.tensor([100, 100]), capacity, unit, 4403)
    assert counts.tolist() == [[400, 403]]


def test_what_is_left_over_goes_to_the_largest_remainder_that_it_can_pay() -> None:
    """Just below the share at which the first layer would get a fifth weight, the others have 4.2 and 4.8."""
    base, size, price = torch.tensor([50, 42, 48]), torch.tensor([100] * 3), torch.tensor([5, 2, 2])
    assert share_costs(torch.zeros(1, 3), base, size, price, 39).tolist() == [[4, 4, 5]]
