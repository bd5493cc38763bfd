"""Exchanges near a boundary: every layer keeps its number, and nothing far from the boundary moves."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from evoprune.core import EvopruneError
from evoprune.search import BoundarySwaps, Population

from .conftest import rng

FAST = settings(max_examples=60)


def genes(sizes: list[int], counts: list[int], seed: int = 0, **options: float) -> BoundarySwaps:
    ranks = [torch.randperm(size, generator=rng(seed)) for size in sizes]
    start = torch.cat([part < count for part, count in zip(ranks, counts, strict=True)])
    return BoundarySwaps(sizes, torch.cat(ranks), start, **options)


@st.composite
def cases(draw: st.DrawFn) -> tuple[BoundarySwaps, list[int], int]:
    sizes = draw(st.lists(st.integers(1, 60), min_size=1, max_size=4))
    counts = [draw(st.integers(1, size)) for size in sizes]
    seed, reach = draw(st.integers(0, 10_000)), draw(st.sampled_from([0.01, 0.2, 1.0]))
    return genes(sizes, counts, seed, reach=reach, swap_rate=draw(st.sampled_from([0.05, 1.0]))), counts, seed


def kept(genomes: Tensor, sizes: list[int]) -> list[list[int]]:
    return [[int(part.sum()) for part in genome.split(sizes)] for genome in genomes]


@given(cases())
@FAST
def test_every_layer_keeps_its_number_and_only_the_boundary_moves(case: tuple[BoundarySwaps, list[int], int]) -> None:
    operator, counts, seed = case
    sizes = list(operator.sizes)
    genomes, traits = operator.first(5, rng(seed))
    assert torch.equal(genomes[0], operator.start)
    for generation in range(3):
        population = Population(genomes, torch.zeros(5, 1), traits)
        parents = torch.randint(5, (2, 5), generator=rng(seed + generation))
        genomes, traits = operator.breed(population, parents[0], parents[1], rng(seed + generation))
        switched, _ = operator.switch(population, parents[0], rng(seed))
        for found in (genomes, switched):
            assert kept(found, sizes) == [counts] * 5
            parts = zip(
                found.split(sizes, 1), operator.start.split(sizes), operator.ranks.split(sizes), counts, strict=True
            )
            for part, start, ranks, count in parts:
                moved = ranks[(part != start).any(0)]
                reach = min(math.ceil(operator.reach * count), len(ranks) - count)
                assert bool(((moved >= count - reach) & (moved < count + reach)).all())


@given(st.integers(0, 10_000))
@FAST
def test_a_child_has_what_its_parents_agree_on(seed: int) -> None:
    operator = genes([40, 20], [15, 12], seed, reach=1.0, swap_rate=0.5)
    genomes, traits = operator.first(2, rng(seed))
    quiet = Population(genomes, torch.zeros(2, 1), traits)
    child = genomes[:1].clone()
    operator._cross(child[0], genomes[1], rng(seed))
    agreed = genomes[0] == genomes[1]
    assert torch.equal(child[0][agreed], quiet.genomes[0][agreed])
    assert kept(child, [40, 20]) == [[15, 12]]


def test_mutations_exchange_about_as_many_as_their_rate_says() -> None:
    operator = genes([2000], [1000], reach=0.5, swap_rate=0.1)
    genomes, _ = operator.first(40, rng())
    swapped = (genomes[1:] & ~operator.start).sum(1).double()
    assert 45 < float(swapped.mean()) < 55  # a tenth of 500


def test_a_child_takes_half_of_the_exchanges_that_lead_to_its_father() -> None:
    operator = genes([2000], [1000], reach=1.0, swap_rate=0.5)
    (mother, father), _ = operator.first(2, rng())
    child, apart = mother.clone(), mother != father
    operator._cross(child, father, rng(1))
    assert 0.4 < float((child == father)[apart].double().mean()) < 0.6


@pytest.mark.parametrize("options", [{"reach": 0.0}, {"reach": 1.5}, {"swap_rate": 0.0}])
def test_rates_are_shares(options: dict[str, float]) -> None:
    with pytest.raises(EvopruneError, match="above 0"):
        genes([4], [2], **options)


def test_a_bred_child_has_half_of_what_sets_its_parents_apart() -> None:
    operator = genes([2000], [1000], reach=1.0, swap_rate=0.5)
    genomes, _ = operator.first(2, rng())
    quiet = Population(genomes, torch.zeros(2, 1), {"swap_rate": torch.full((2,), 1e-4)})
    (child,), _ = operator.breed(quiet, torch.tensor([0]), torch.tensor([1]), rng(1))
    apart = genomes[0] != genomes[1]
    assert 0.4 < float((child == genomes[1])[apart].double().mean()) < 0.6
