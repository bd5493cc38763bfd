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

from .conftest import rng

FAST = settings(max_examples=60)


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
        row[hits(4000, torch.tensor([rate]), generator)] = 1
    assert abs(float(hit.mean()) - rate) < 0.004
    counts = hit.sum(1)  # independent hits: the number of them varies as a binomial does
    assert float(counts.std()) < 1.5 * (4000 * rate * (1 - rate)) ** 0.5 + 1e-9


def test_no_positions_of_nothing() -> None:
    assert hits(0, torch.tensor([0.5]), rng()).tolist() == []


def test_the_last_of_two_writes_wins() -> None:
    values = torch.zeros(4, dtype=torch.int16)
    put(values, torch.tensor([2, 0, 2]), torch.tensor([5, 6, 7], dtype=torch.int16))
    assert values.tolist() == [6, 0, 7, 0]


@st.composite
def keys_and_counts(draw: st.DrawFn) -> tuple[Tensor, list[int], Tensor, int]:
    levels, dtype = draw(
        st.sampled_from([(1, torch.uint8), (2, torch.int16), (256, torch.uint8), (LEVELS, torch.int16)])
    )
    sizes, rows = draw(st.lists(st.integers(1, 80), min_size=1, max_size=4)), draw(st.integers(1, 3))
    highest = draw(st.sampled_from([levels, min(levels, 5)]))  # many ties, or few
    keys = torch.randint(highest, (rows, sum(sizes)), generator=rng(draw(st.integers(0, 1000))))
    counts = [[draw(st.integers(0, size)) for size in sizes] for _ in range(rows)]
    return keys.to(dtype), sizes, torch.tensor(counts), levels


@given(keys_and_counts(), st.integers(0, 100))
@FAST
def test_keeps_the_keys_that_sorting_would(case: tuple[Tensor, list[int], Tensor, int], seed: int) -> None:
    keys, sizes, counts, levels = case
    before = keys.clone()
    kept = keep_highest(keys, sizes, counts, levels, rng(seed))
    assert kept.dtype == torch.bool
    for row, kept_row, counts_row in zip(keys, kept, counts.tolist(), strict=True):
        for part, stays, count in zip(row.split(sizes), kept_row.split(sizes), counts_row, strict=True):
            assert sorted(part[stays].tolist()) == part.sort().values[len(part) - count :].tolist()
    assert torch.equal(keys, before)


@pytest.mark.parametrize(("rows", "size"), [(1, 2_000_000), (3, 100_000), (400, 500)])
def test_large_and_many_rows_keep_what_sorting_would(rows: int, size: int) -> None:
    keys = random_levels(rows * size, rng()).view(rows, size)
    counts = torch.randint(size, (rows, 1), generator=rng())
    kept = keep_highest(keys, [size], counts, LEVELS, rng())
    assert torch.equal(kept.sum(1, keepdim=True), counts)
    highest_gone = torch.where(kept, -1, keys).amax(1)
    assert bool((torch.where(kept, keys, LEVELS - 1).amin(1) >= highest_gone).all())


def test_ties_are_drawn_evenly() -> None:
    keys = torch.tensor([[3, 1, 1, 2, 1, 1, 0]], dtype=torch.uint8).expand(3000, -1).contiguous()
    kept = keep_highest(keys, [7], torch.full((3000, 1), 4), 4, rng())
    drawn = Counter(tuple(row.nonzero()[:, 0].tolist()) for row in kept)
    assert set(drawn) == {(0, *sorted((3, a, b))) for a, b in [(1, 2), (1, 4), (1, 5), (2, 4), (2, 5), (4, 5)]}
    assert min(drawn.values()) > 400
