"""Random bits and the selection of the highest keys, against what they promise and against slow references."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from evoprune.search.keep_highest import keep_highest
from evoprune.search.random_bits import LEVELS, coin_flips, hits, put, random_bytes, random_levels

FAST = settings(max_examples=60, deadline=None)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(st.integers(0, 300), st.integers(0, 1000))
@FAST
def test_as_many_as_asked_for_in_their_type(count: int, seed: int) -> None:
    for drawn, dtype, top in (
        (coin_flips(count, rng(seed)), torch.bool, 2),
        (random_bytes(count, rng(seed)), torch.uint8, 256),
        (random_levels(count, rng(seed)), torch.int16, LEVELS),
    ):
        assert drawn.dtype == dtype
        assert drawn.shape == (count,)
        assert all(0 <= value < top for value in drawn.int().tolist())


def test_every_value_comes_equally_often() -> None:
    assert abs(float(coin_flips(200_000, rng()).double().mean()) - 0.5) < 0.005
    assert abs(float(random_levels(200_000, rng()).double().mean()) / LEVELS - 0.5) < 0.005
    tally = torch.bincount(random_bytes(256_000, rng()), minlength=256)
    assert int(tally.min()) > 850
    assert int(tally.max()) < 1150


def test_neighbouring_flips_are_independent() -> None:
    flips = coin_flips(200_000, rng(1))
    for lag in (1, 2, 7, 8, 63, 64):
        assert abs(float((flips[lag:] == flips[:-lag]).double().mean()) - 0.5) < 0.005


@pytest.mark.parametrize("rate", [0.0, 1e-4, 0.03, 0.5, 0.9])
def test_each_position_is_hit_with_the_rate(rate: float) -> None:
    hit = torch.zeros(50, 4000)
    for row, generator in zip(hit, (rng(seed) for seed in range(50)), strict=True):
        row[hits(4000, rate, generator)] = 1
    assert abs(float(hit.mean()) - rate) < 0.004
    counts = hit.sum(1)  # independent hits: the number of them varies as a binomial does
    assert float(counts.std()) < 1.5 * (4000 * rate * (1 - rate)) ** 0.5 + 1e-9


def test_no_positions_of_nothing() -> None:
    assert hits(0, 0.5, rng()).tolist() == []


def test_the_last_of_two_writes_wins() -> None:
    values = torch.zeros(4, dtype=torch.int16)
    put(values, torch.tensor([2, 0, 2]), torch.tensor([5, 6, 7], dtype=torch.int16))
    assert values.tolist() == [6, 0, 7, 0]


@st.composite
def keys_and_count(draw: st.DrawFn) -> tuple[Tensor, int, int]:
    levels = draw(st.sampled_from([1, 2, 5, 256]))
    keys = draw(st.lists(st.integers(0, levels - 1), min_size=1, max_size=80))
    dtype = draw(st.sampled_from([torch.uint8, torch.int16]))
    return torch.tensor(keys).to(dtype), draw(st.integers(0, len(keys))), levels


@given(keys_and_count(), st.integers(0, 100))
@FAST
def test_keeps_the_keys_that_sorting_would(case: tuple[Tensor, int, int], seed: int) -> None:
    keys, count, levels = case
    before = keys.clone()
    kept = keep_highest(keys, count, levels, rng(seed))
    assert kept.dtype == torch.bool
    assert sorted(keys[kept].tolist()) == keys.sort().values[len(keys) - count :].tolist()
    assert torch.equal(keys, before)


def test_ties_are_drawn_evenly() -> None:
    keys = torch.tensor([3, 1, 1, 2, 1, 1, 0], dtype=torch.uint8)
    generator = rng()
    drawn = Counter(tuple(keep_highest(keys, 4, 4, generator).nonzero()[:, 0].tolist()) for _ in range(3000))
    assert set(drawn) == {(0, *sorted((3, a, b))) for a, b in [(1, 2), (1, 4), (1, 5), (2, 4), (2, 5), (4, 5)]}
    assert min(drawn.values()) > 400
