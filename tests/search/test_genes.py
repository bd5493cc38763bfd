"""Operators of each kind of genes: what a child may look like, given its parents."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from evoprune.core import EvopruneError
from evoprune.search import BoundarySwaps, BudgetedBits, Genes, Population, Shares, blocks, share_budget
from evoprune.search.self_adaptation import adapted, trades

from .conftest import even_ranks, rng

FAST = settings(max_examples=30)
SIZES = (30, 7, 1, 20)
COUNT = sum(SIZES)


def population(genes: Genes, size: int, seed: int) -> Population:
    genomes, traits = genes.first(size, rng(seed))
    return Population(genomes, torch.zeros(size, 1), traits)


def parents(size: int, children: int, seed: int) -> tuple[Tensor, Tensor]:
    drawn = torch.randint(size, (2, children), generator=rng(seed))
    return drawn[0], drawn[1]


def dense(keep: int, sizes: tuple[int, ...] = SIZES, **options: object) -> BudgetedBits:
    return BudgetedBits(sizes, keep, torch.ones(sum(sizes), dtype=torch.bool), **options)  # type: ignore[arg-type]


# -- bits under a budget -----------------------------------------------------------------------------------


@given(st.integers(4, COUNT), st.integers(0, 10_000), st.booleans())
@FAST
def test_a_repair_only_takes_surplus_bits_and_only_adds_missing_ones(keep: int, seed: int, guided: bool) -> None:
    genes = dense(keep, mutation_rate=0.0, priority=even_ranks(SIZES, seed) if guided else None)
    given_ = population(genes, 4, seed)
    mothers, fathers = parents(4, 6, seed)
    children, _ = genes.breed(given_, mothers, fathers, rng(seed))
    assert set(children.sum(1).tolist()) == {keep}
    for child, a, b in zip(children, given_.genomes[mothers], given_.genomes[fathers], strict=True):
        for part, mother, father in zip(*(genome.split(SIZES) for genome in (child, a, b)), strict=True):
            count = int(part.sum())
            assert count >= 1
            if count <= int((mother & father).sum()):
                assert not bool((part & ~(mother | father)).any())
            if count >= int((mother | father).sum()):
                assert bool((part | ~(mother & father)).all())


@given(st.integers(4, COUNT), st.integers(0, 10_000))
@FAST
def test_a_guided_repair_is_that_of_a_full_sort(keep: int, seed: int) -> None:
    """The slow reference: bits first, then priority, the highest of each layer stay."""
    priority = even_ranks(SIZES, seed)
    genes = dense(keep, mutation_rate=0.0, priority=priority)
    # Random parents, so that bits and priorities disagree.
    first = population(dense(keep, mutation_rate=0.0), 3, seed)
    children, _ = genes.breed(first, torch.arange(3), torch.arange(3), rng(seed))
    for child, mother in zip(children, first.genomes, strict=True):
        parts = zip(child.split(SIZES), (mother + priority).split(SIZES), strict=True)
        for part, key in parts:
            assert set(part.nonzero()[:, 0].tolist()) == set(key.topk(int(part.sum())).indices.tolist())


def test_with_a_priority_the_first_population_keeps_the_first_in_line() -> None:
    priority = even_ranks(SIZES, 5)
    genomes, traits = dense(20, priority=priority, mutation_rate=0.0).first(6, rng())
    for genome in genomes:
        for part, rank in zip(genome.split(SIZES), priority.split(SIZES), strict=True):
            assert set(part.nonzero()[:, 0].tolist()) == set(rank.topk(int(part.sum())).indices.tolist())
    assert len({tuple(len(p.nonzero()) for p in genome.split(SIZES)) for genome in genomes}) > 1
    assert bool((traits["log_share"][0] == 0).all())


@pytest.mark.parametrize("start_ones", [6, 2])
def test_without_a_priority_every_subset_is_as_likely(start_ones: int) -> None:
    """Three of six: taken from a dense layer, or one added to two."""
    start = torch.arange(6) < start_ones
    genomes, _ = BudgetedBits((6,), 3, start, mutation_rate=0.0).first(2000, rng(1))
    drawn = Counter(tuple(genome.nonzero()[:, 0].tolist()) for genome in genomes)
    assert len(drawn) == (20 if start_ones == 6 else 4)
    assert min(drawn.values()) > 0.6 * 2000 / len(drawn)


def test_a_mutation_draws_the_place_of_bits_anew() -> None:
    """At rate r a one of a half-full layer moves with probability near r / 2."""
    genes = BudgetedBits((2000,), 1000, torch.arange(2000) < 1000, mutation_rate=0.1)
    genomes, _ = genes.first(20, rng())
    moved = (genomes & ~genes.start).sum(1).double() / 1000
    assert 0.04 < float(moved.mean()) < 0.06


def test_bits_come_back() -> None:
    start = torch.arange(COUNT) % 2 == 0
    genomes, _ = BudgetedBits(SIZES, 20, start, mutation_rate=0.2).first(8, rng())
    assert bool((genomes & ~start).any())


def test_large_layers_with_a_priority_differ_from_a_full_sort_at_the_boundary_only() -> None:
    sizes, keep = (70_000, 40_000), 11_000
    priority = even_ranks(sizes, 3)
    genomes, traits = dense(keep, sizes, priority=priority, mutation_rate=0.0).first(2, rng())
    counts = share_budget(traits["log_share"], torch.tensor(sizes), torch.tensor(sizes), keep)
    for genome, count in zip(genomes, counts, strict=True):
        assert int(genome.sum()) == keep
        for part, rank, kept in zip(genome.split(sizes), priority.split(sizes), count.tolist(), strict=True):
            assert int(part.sum()) == kept
            sure = torch.zeros_like(part)
            sure[rank.topk(kept - 10).indices] = True
            assert bool(part[sure].all())


@given(st.integers(4, COUNT - 1), st.integers(0, 1000))
@FAST
def test_a_sample_keeps_the_budget_and_follows_the_chances(keep: int, seed: int) -> None:
    genes = dense(keep, budget_step=0.0)
    assert float(genes.chances().sum()) == pytest.approx(keep)
    chances = torch.rand(COUNT, generator=rng(seed)).clamp(1e-4, 1 - 1e-4)
    genomes, traits = genes.sample(chances, 5, rng(seed))
    assert set(genomes.sum(1).tolist()) == {keep}
    assert traits.keys() == genes.first(2, rng())[1].keys()


def test_a_sample_takes_likely_bits_more_often() -> None:
    sizes = (100, 100)
    chances = torch.cat([torch.full((50,), c) for c in (0.6, 0.2, 0.15, 0.05)])
    genomes, _ = dense(50, sizes, budget_step=0.0).sample(chances, 400, rng())
    shares = genomes.double().mean(0).view(4, 50).mean(1)
    assert torch.allclose(shares, torch.tensor([0.6, 0.2, 0.15, 0.05]).double(), atol=0.03)


# -- shares ------------------------------------------------------------------------------------------------


@given(st.integers(1, 30), st.integers(0, 10_000), st.booleans())
@FAST
def test_without_mutation_uniform_crossover_takes_each_share_of_a_parent(layers: int, seed: int, free: bool) -> None:
    given_ = population(Shares(layers, free_total=free), 4, seed)
    traits = {"step": torch.zeros(4)}
    mothers, fathers = parents(4, 6, seed)
    genes = Shares(layers, step=0.0, free_total=free)
    children, _ = genes.breed(Population(given_.genomes, given_.fitness, traits), mothers, fathers, rng(seed))
    a, b = given_.genomes[mothers], given_.genomes[fathers]
    assert bool((torch.isclose(children, a) | torch.isclose(children, b)).all())


def test_the_first_genome_is_the_start_and_free_totals_are_spread() -> None:
    genomes, _ = Shares(5, free_total=True, lowest=0.01).first(200, rng())
    assert genomes.shape == (200, 6)
    assert genomes.dtype == torch.float32
    assert bool((genomes[0] == 0).all())
    density = genomes[:, -1].exp()
    assert bool(((density >= 0.0099) & (density <= 1)).all())
    assert 0.4 < float((density < 0.1).double().mean()) < 0.6


@given(st.integers(0, 1000))
@FAST
def test_a_free_total_stays_within_its_bounds(seed: int) -> None:
    genes = Shares(3, step=4.0, free_total=True, lowest=0.1)
    given_ = population(genes, 6, seed)
    for children, _ in (
        genes.breed(given_, *parents(6, 20, seed), rng(seed)),
        genes.switch(given_, torch.arange(6), rng(seed)),
    ):
        assert bool((children[:, -1] <= 0).all())
        assert bool((children[:, -1] >= math.log(0.1) - 1e-6).all())


# -- steps -------------------------------------------------------------------------------------------------


@given(st.integers(1, 12), st.integers(0, 1000))
@FAST
def test_in_a_trade_one_to_three_pairs_of_layers_give_and_take(layers: int, seed: int) -> None:
    changes = trades(torch.ones(30), layers, rng(seed))
    assert changes.shape == (30, layers)
    assert float(changes.sum(1).abs().max()) < 1e-4
    changed = (changes != 0).sum(1)
    assert int(changed.max()) <= min(6, layers)
    assert int(changed.min()) >= (2 if layers > 1 else 0)


def test_fewer_trades_are_likelier() -> None:
    changed = (trades(torch.ones(9000), 1000, rng()) != 0).sum(1)
    shares = [float((changed == 2 * pairs).double().mean()) for pairs in (1, 2, 3)]
    assert shares == pytest.approx([5 / 9, 3 / 9, 1 / 9], abs=0.02)


def test_steps_wander_within_their_bounds() -> None:
    steps = adapted(torch.full((4000,), 0.1), 0.5, 0.05, 0.3, rng())
    assert float(steps.min()) == pytest.approx(0.05)
    assert float(steps.max()) == pytest.approx(0.3)
    assert float(steps.log().median()) == pytest.approx(math.log(0.1), abs=0.05)


def test_a_budget_of_its_own_for_every_row() -> None:
    totals = torch.tensor([3, 57, 1110])
    capacity = torch.tensor([10, 100, 1000])
    log_share = torch.randn(3, 3, generator=rng())
    counts = share_budget(log_share, capacity, capacity, totals)
    assert counts.sum(1).tolist() == totals.tolist()
    for row, total in enumerate(totals.tolist()):
        assert torch.equal(counts[row : row + 1], share_budget(log_share[row : row + 1], capacity, capacity, total))


@pytest.mark.parametrize(
    "genes", [dense(200, (400,), mutation_rate=0.0), Shares(400, step=0.0)], ids=["bits", "shares"]
)
def test_a_child_has_half_of_its_genes_from_each_parent(genes: Genes) -> None:
    parents_ = population(genes if isinstance(genes, BudgetedBits) else Shares(400), 2, 0)
    step = {} if isinstance(genes, BudgetedBits) else {"step": torch.zeros(2)}
    given_ = Population(parents_.genomes, parents_.fitness, {**parents_.traits, **step})
    child = genes.breed(given_, torch.tensor([0]), torch.tensor([1]), rng(1))[0][0]
    apart = given_.genomes[0] != given_.genomes[1]
    assert 0.4 < float((child == given_.genomes[0])[apart].double().mean()) < 0.6


# -- what is refused ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [3, COUNT + 1])
def test_an_impossible_budget_is_refused(keep: int) -> None:
    with pytest.raises(EvopruneError, match=r"keep must be between one weight a layer \(4\) and all of them \(58\)"):
        dense(keep)


@pytest.mark.parametrize("rate", [-0.1, 1.0])
def test_a_mutation_rate_outside_is_refused(rate: float) -> None:
    with pytest.raises(EvopruneError, match="mutation_rate must be at least 0 and below 1"):
        dense(20, mutation_rate=rate)


def test_wrong_shares_are_refused() -> None:
    with pytest.raises(EvopruneError, match="lowest must be between 0 and 1, not 0"):
        Shares(3, lowest=0.0)


def test_genomes_made_in_several_blocks_are_those_of_a_full_sort(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 38 genes of one row, and of 20 of two, of which the last has one."""
    monkeypatch.setattr(blocks, "BLOCK", 40)
    priority, sizes = even_ranks(SIZES, 5), torch.tensor(SIZES)
    genes = dense(20, priority=priority, mutation_rate=0.0)
    first, traits = genes.first(5, rng())
    given_ = Population(first, torch.zeros(5, 1), traits)
    bred, later = genes.breed(given_, torch.arange(5), torch.arange(5), rng(1))
    for genomes, keys, found in ((first, priority.expand(5, -1), traits), (bred, first + priority, later)):
        counts = share_budget(found["log_share"], sizes, sizes, 20).tolist()
        for genome, key, count in zip(genomes, keys, counts, strict=True):
            for part, own, kept in zip(genome.split(SIZES), key.split(SIZES), count, strict=True):
                assert set(part.nonzero()[:, 0].tolist()) == set(own.topk(kept).indices.tolist())
    drawn, traits = genes.sample(torch.full((COUNT,), 0.3), 5, rng(2))
    counts = share_budget(traits["log_share"], sizes, sizes, 20).tolist()
    assert [[int(part.sum()) for part in genome.split(SIZES)] for genome in drawn] == counts


def test_a_sample_shares_the_budget_as_the_chances_add_up() -> None:
    genes = dense(110, (300, 30), budget_step=0.0)
    genomes, _ = genes.sample(genes.chances(), 4, rng())
    assert [[int(part.sum()) for part in genome.split((300, 30))] for genome in genomes] == [[100, 10]] * 4


def test_a_child_has_half_of_its_layers_shares_from_each_parent() -> None:
    genes = dense(500, (10,) * 200, budget_step=0.0)
    genomes, traits = genes.first(2, rng())
    shares = {"log_share": torch.stack([torch.zeros(200), torch.ones(200)])}
    given_ = Population(genomes, torch.zeros(2, 1), {**traits, **shares})
    child = genes.breed(given_, torch.tensor([0]), torch.tensor([1]), rng(1))[1]["log_share"][0]
    assert set(child.tolist()) == {0.0, 1.0}
    assert 0.35 < float(child.mean()) < 0.65


@pytest.mark.parametrize(
    ("genes", "name"),
    [(dense(20), "budget_step"), (dense(20), "mutation_rate"), (Shares(4), "step"),
     (BoundarySwaps((30,), torch.arange(30), torch.arange(30) < 10), "swap_rate")],
)  # fmt: skip
def test_a_child_inherits_its_mothers_step_a_little_changed(genes: Genes, name: str) -> None:
    plain = population(genes, 2, 0)
    given_ = Population(plain.genomes, plain.fitness, {**plain.traits, name: torch.tensor([0.05, 0.1])})
    mothers = torch.arange(2).repeat_interleave(200)
    found = genes.breed(given_, mothers, 1 - mothers, rng(1))[1][name].view(2, 200)
    assert found.log().median(1).values.tolist() == pytest.approx([math.log(0.05), math.log(0.1)], abs=0.2)
    assert len(found.unique()) > 300
