"""Operators against what they promise for any input."""

from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from evoprune.search import OriginalGA, Population, share_budget

from .conftest import rng

FAST = settings(max_examples=60)


@st.composite
def budgets(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor, int]:
    layers, rows = draw(st.integers(1, 6)), draw(st.integers(1, 3))
    capacity = draw(st.lists(st.integers(1, 10_000), min_size=layers, max_size=layers))
    base = [draw(st.integers(1, size)) for size in capacity]
    shares = st.one_of(st.floats(-3, 3), st.floats(-300, 300), st.sampled_from([0.0, 1.0, -80.0, 80.0]))
    log_share = draw(st.lists(st.lists(shares, min_size=layers, max_size=layers), min_size=rows, max_size=rows))
    total = draw(st.integers(layers, sum(capacity)))
    return torch.tensor(log_share), torch.tensor(base), torch.tensor(capacity), total


@given(budgets())
@FAST
def test_shares_sum_to_the_total_between_one_and_capacity(case: tuple[Tensor, Tensor, Tensor, int]) -> None:
    log_share, _, capacity, total = case
    counts = share_budget(*case)
    assert counts.dtype == torch.int64
    assert counts.shape == log_share.shape
    assert counts.sum(1).tolist() == [total] * len(log_share)
    assert bool((counts >= 1).all())
    assert bool((counts <= capacity).all())


@given(budgets(), st.integers(0, 5), st.floats(0.001, 10))
@FAST
def test_a_larger_share_never_gets_less(case: tuple[Tensor, Tensor, Tensor, int], layer: int, more: float) -> None:
    log_share, base, capacity, total = case
    assume(layer < len(base))
    raised = log_share.clone()
    raised[:, layer] += more
    before, after = share_budget(*case), share_budget(raised, base, capacity, total)
    assert bool((after[:, layer] >= before[:, layer]).all())
    others = torch.arange(len(base)) != layer
    assert bool((after[:, others] <= before[:, others]).all())


@given(budgets(), st.floats(-5, 5))
@FAST
def test_only_differences_of_shares_matter(case: tuple[Tensor, Tensor, Tensor, int], shift: float) -> None:
    log_share, base, capacity, total = case
    moved = share_budget(log_share.double() + shift, base, capacity, total)
    assert int((moved - share_budget(log_share.double(), base, capacity, total)).abs().max()) <= 1


def test_shares_are_in_proportion_where_nothing_binds() -> None:
    log_share = torch.tensor([[0.0, 0.0], [0.0, 1.0986123]])
    counts = share_budget(log_share, torch.tensor([100, 100]), torch.tensor([1000, 1000]), 400)
    assert counts[0].tolist() == [200, 200]
    assert abs(int(counts[1, 1]) - 300) <= 1


@pytest.mark.parametrize("total", [3, 1110])
def test_the_tightest_and_the_loosest_budget(total: int) -> None:
    capacity = torch.tensor([10, 100, 1000])
    counts = share_budget(torch.tensor([[5.0, -5.0, 0.0]]), torch.tensor([1, 1, 1]), capacity, total)
    assert counts[0].tolist() == ([1, 1, 1] if total == 3 else capacity.tolist())


def population(parents: int, genes: int, seed: int) -> Population:
    genomes = torch.rand(parents, genes, generator=rng(seed)) < 0.7
    return Population(genomes, torch.rand(parents, 1, generator=rng(seed), dtype=torch.float64))


@given(st.integers(2, 6), st.integers(1, 40), st.integers(0, 10_000))
@FAST
def test_single_point_children_are_two_halves_of_two_parents(parents: int, genes: int, seed: int) -> None:
    given_ = population(parents, genes, seed)
    children, traits = OriginalGA(genes, parents, mutation_rate=0.0).ask(given_, rng(seed))
    assert traits == {}
    assert children.shape == (2, genes)
    rows = given_.genomes.tolist()
    possible = {
        (tuple(a[:point] + b[point:]), tuple(b[:point] + a[point:]))
        for a in rows
        for b in rows
        for point in (range(1, genes) if genes > 1 else [1])
    }
    assert (tuple(children[0].tolist()), tuple(children[1].tolist())) in possible


@given(st.integers(2, 6), st.integers(1, 60), st.integers(0, 10_000), st.floats(0, 1))
@FAST
def test_the_original_mutation_never_sets_a_bit(parents: int, genes: int, seed: int, rate: float) -> None:
    given_ = population(parents, genes, seed)
    children, _ = OriginalGA(genes, parents, mutation_rate=rate).ask(given_, rng(seed))
    crossed, _ = OriginalGA(genes, parents, mutation_rate=0.0).ask(given_, rng(seed))
    assert bool((children <= crossed).all())
    assert bool((children <= given_.genomes.any(0)).all())


def test_the_original_rates_are_rates() -> None:
    genes = 20_000
    first, _ = OriginalGA(genes, 10, initial_sparsity=0.1).ask(None, rng(0))
    assert abs(float(first.double().mean()) - 0.9) < 0.005
    ones = Population(torch.ones(2, genes, dtype=torch.bool), torch.zeros(2, 1))
    children, _ = OriginalGA(genes, 2, mutation_rate=0.05).ask(ones, rng(0))
    assert abs(float(children.double().mean()) - 0.95) < 0.005


def test_without_crossover_children_are_copies() -> None:
    given_ = population(5, 30, 0)
    rows = given_.genomes.tolist()
    for seed in range(20):
        children, _ = OriginalGA(30, 5, crossover_rate=0.0, mutation_rate=0.0).ask(given_, rng(seed))
        assert all(child in rows for child in children.tolist())


def test_parents_are_drawn_with_replacement_from_all() -> None:
    given_ = Population(torch.eye(4, dtype=torch.bool), torch.zeros(4, 1))
    algorithm = OriginalGA(4, 4, crossover_rate=0.0, mutation_rate=0.0)
    pairs = [algorithm.ask(given_, rng(seed))[0].int().argmax(1).tolist() for seed in range(200)]
    assert {parent for pair in pairs for parent in pair} == {0, 1, 2, 3}
    assert any(a == b for a, b in pairs)
