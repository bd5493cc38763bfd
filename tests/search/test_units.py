"""Evolving the masks of a layer's units: exact bookkeeping, and how close to the best it comes."""

from __future__ import annotations

from itertools import combinations, pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from evoprune.search import evolve_units, nested_ranks

from .conftest import rng

Case = tuple[Tensor, Tensor, Tensor]


def output_error(weight: Tensor, moment: Tensor, kept: Tensor) -> Tensor:
    """(U,) mean squared distance between each unit's masked and full output, written out."""
    gone = weight * ~kept
    return ((gone @ moment) * gone).sum(1)


def layer(units: int, inputs: int, seed: int, correlated: float = 1.0) -> Case:
    """Weights, second moment of correlated inputs, and the samples behind it."""
    weight = torch.randn(units, inputs, generator=rng(seed))
    mixing = torch.eye(inputs) + correlated * torch.randn(inputs, inputs, generator=rng(seed + 1)) / inputs**0.5
    samples = torch.randn(400, inputs, generator=rng(seed + 2)) @ mixing
    return weight, samples.T @ samples / len(samples), samples


def some(units: int, inputs: int, kept: int, seed: int, within: Tensor | None = None) -> Tensor:
    key = torch.rand(units * inputs, generator=rng(seed))
    if within is not None:
        key[~within.flatten()] = -1
    return torch.zeros(units * inputs, dtype=torch.bool).scatter(0, key.topk(kept).indices, True).view(units, inputs)


def test_the_error_is_the_distance_between_the_layers_outputs() -> None:
    weight, moment, samples = layer(5, 8, 0)
    kept = some(5, 8, 20, 1)
    outputs = samples @ weight.T - samples @ (weight * kept).T
    torch.testing.assert_close(output_error(weight, moment, kept), outputs.square().mean(0), rtol=1e-4, atol=1e-5)


@given(
    st.integers(1, 6),
    st.integers(1, 9),
    st.integers(0, 10_000),
    st.integers(0, 40),
    st.floats(0, 1),
    st.floats(0, 1),
    st.integers(1, 4),
)
@settings(max_examples=60)
def test_bits_are_counted_exactly_stay_allowed_and_the_error_never_rises(
    units: int, inputs: int, seed: int, generations: int, allow: float, keep: float, most: int
) -> None:
    weight, moment, _ = layer(units, inputs, seed)
    allowed = torch.rand(units, inputs, generator=rng(seed + 3)) < allow
    count = int(keep * int(allowed.sum()))
    kept = some(units, inputs, count, seed + 4, allowed)
    given_ = [part.clone() for part in (weight, moment, kept, allowed)]
    evolved = evolve_units(weight, moment, kept, allowed, generations, rng(seed), 4, most)
    assert all(torch.equal(a, b) for a, b in zip(given_, (weight, moment, kept, allowed), strict=True))
    assert evolved.dtype == torch.bool
    assert int(evolved.sum()) == count
    assert bool((evolved <= allowed).all())
    before, after = (float(output_error(weight, moment, mask).sum()) for mask in (kept, evolved))
    assert after <= before * (1 + 1e-4) + 1e-5


@pytest.mark.parametrize("most", [1, 3])
def test_every_generation_alone_lowers_the_error_by_what_a_recount_says(most: int) -> None:
    """The run is a chain of single generations: the kept partial sums never drift from a recount.

    With the same stream of random numbers, g + 1 generations make the moves of g generations and one more, so
    the masks after 0, 1, 2, ... generations are a path; each step on it must lower the recounted error.
    """
    weight, moment, _ = layer(6, 24, 7)
    weight, moment = weight.double(), moment.double()
    kept, allowed = some(6, 24, 60, 8), torch.ones(6, 24, dtype=torch.bool)
    path = [evolve_units(weight, moment, kept, allowed, steps, rng(9), 8, most) for steps in range(60)]
    errors = [output_error(weight, moment, mask) for mask in path]
    moved = 0
    for step, (mask, following) in enumerate(pairwise(path)):
        changed = (mask != following).sum(1)
        moved += int(changed.sum())
        if step % 2 == 0:  # swaps inside a unit: every unit improves or stays
            assert set(changed.tolist()) <= set(range(0, 2 * most + 1, 2))
            assert bool((errors[step + 1][changed > 0] < errors[step][changed > 0]).all())
        else:  # transfers between units: the sum improves
            assert set(changed.tolist()) <= {0, 1, most}
            assert int(following.sum()) == int(mask.sum())
        assert float(errors[step + 1].sum()) <= float(errors[step].sum())
        if not torch.equal(mask, following):
            assert float(errors[step + 1].sum()) < float(errors[step].sum())
    assert moved > 40


def test_finds_the_optimum_of_small_cases() -> None:
    """Against all masks of that many bits; restarts stand for luck, as a local search needs them."""
    for seed in range(4):
        weight, moment, _ = layer(2, 5, seed)
        allowed = torch.ones(2, 5, dtype=torch.bool)
        errors = []
        for bits in combinations(range(10), 4):
            mask = torch.zeros(10, dtype=torch.bool)
            mask[list(bits)] = True
            errors.append(float(output_error(weight, moment, mask.view(2, 5)).sum()))
        found = min(
            float(
                output_error(
                    weight, moment, evolve_units(weight, moment, some(2, 5, 4, start), allowed, 100, rng(start))
                ).sum()
            )
            for start in range(8)
        )
        assert found == pytest.approx(min(errors), rel=1e-4)


def test_independent_inputs_keep_the_largest_weights_as_they_should() -> None:
    """With uncorrelated inputs of equal power the best mask is known: the largest weights of all units."""
    weight = torch.randn(8, 40, generator=rng(0))
    kept = evolve_units(weight, torch.eye(40), some(8, 40, 64, 1), torch.ones(8, 40, dtype=torch.bool), 600, rng(2))
    assert kept.sum() == 64
    best = float(output_error(weight, torch.eye(40), weight.abs() >= weight.abs().flatten().topk(64).values[-1]).sum())
    assert float(output_error(weight, torch.eye(40), kept).sum()) <= 1.01 * best


def test_much_better_than_random_and_than_magnitude_where_inputs_are_correlated() -> None:
    weight, moment, _ = layer(16, 64, 3, correlated=2.0)
    start, allowed = some(16, 64, 256, 4), torch.ones(16, 64, dtype=torch.bool)
    evolved = evolve_units(weight, moment, start, allowed, 400, rng(5))
    magnitude = weight.abs() >= weight.abs().flatten().topk(256).values[-1]
    error, random, largest = (float(output_error(weight, moment, m).sum()) for m in (evolved, start, magnitude))
    assert error < 0.25 * random
    assert error < 0.8 * largest


def test_equal_seeds_give_equal_masks_and_no_generation_gives_the_start() -> None:
    weight, moment, _ = layer(4, 12, 1)
    kept, allowed = some(4, 12, 20, 2), torch.ones(4, 12, dtype=torch.bool)
    first, second = (evolve_units(weight, moment, kept, allowed, 30, rng(3)) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(evolve_units(weight, moment, kept, allowed, 0, rng(3)), kept)


def test_several_moves_at_once_come_as_far_in_fewer_generations() -> None:
    weight, moment, _ = layer(4, 400, 3)
    start, allowed = some(4, 400, 320, 4), torch.ones(4, 400, dtype=torch.bool)

    def error(most: int, generations: int) -> float:
        mask = evolve_units(weight, moment, start, allowed, generations, rng(5), most=most)
        return float(output_error(weight, moment, mask).sum())

    assert error(4, 60) < 0.8 * error(1, 60)
    assert error(4, 60) < 1.1 * error(1, 240)


@pytest.mark.parametrize("count", [0, 48])
def test_an_empty_and_a_full_mask_stay(count: int) -> None:
    weight, moment, _ = layer(4, 12, 1)
    kept = some(4, 12, count, 2)
    evolved = evolve_units(weight, moment, kept, torch.ones(4, 12, dtype=torch.bool), 20, rng(3))
    assert torch.equal(evolved, kept)


@given(st.integers(1, 5), st.integers(1, 8), st.integers(0, 1000), st.floats(0.01, 0.9), st.floats(0, 1))
@settings(max_examples=30)
def test_ranks_are_nested_masks_of_falling_size(
    units: int, inputs: int, seed: int, smallest: float, allow: float
) -> None:
    weight, moment, _ = layer(units, inputs, seed)
    allowed = torch.rand(units, inputs, generator=rng(seed)) < allow
    rank, steps = nested_ranks(weight, moment, allowed, smallest, rng(seed), levels=4, generations=10)
    assert rank.shape == weight.shape
    assert bool((rank[~allowed] == -1).all())
    assert bool((rank[allowed] >= 0).all())
    assert bool((rank[allowed] < 5).all())
    start, lost = int(allowed.sum()), 0.0
    whole = float(output_error(weight * allowed, moment, torch.zeros_like(allowed)).sum())
    for level in range(1, 6):
        expected = 0 if level == 5 else min(start, max(1, round(start * smallest ** (level / 4))))
        assert int((rank >= level).sum()) == expected
        gone = weight * (allowed & (rank < level))
        lost += steps[level - 1] * int((allowed & (rank >= level - 1) & (rank < level)).sum())
        assert lost * whole == pytest.approx(float((gone * (gone @ moment)).sum()), rel=1e-3, abs=1e-3 * whole)


def test_a_layer_without_outputs_loses_nothing() -> None:
    _, steps = nested_ranks(torch.zeros(3, 4), torch.eye(4), torch.ones(3, 4, dtype=torch.bool), 0.1, rng(0), levels=2)
    assert steps == [0, 0, 0]


def test_no_fraction_becomes_a_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, moment, _ = layer(3, 8, 0)
    monkeypatch.setattr(torch, "rand", lambda shape, **_: torch.full(shape, 1 - 2**-24))
    rank, *_ = nested_ranks(weight, moment, torch.ones(3, 8, dtype=torch.bool), 0.1, rng(0), generations=0)
    assert float(rank.max()) < 7
    assert int((rank >= 1).sum()) < 24


def test_ranks_order_weights_far_better_than_chance() -> None:
    weight, moment, _ = layer(8, 32, 2, correlated=2.0)
    rank, *_ = nested_ranks(weight, moment, torch.ones(8, 32, dtype=torch.bool), 0.1, rng(0))
    for kept in (128, 64, 30):
        mask = rank >= rank.flatten().topk(kept).values[-1]
        random = sum(float(output_error(weight, moment, some(8, 32, kept, s)).sum()) for s in range(5)) / 5
        assert float(output_error(weight, moment, mask).sum()) < 0.5 * random
