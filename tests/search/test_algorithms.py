"""What every algorithm promises, and that each finds good genomes on problems with a known answer."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from evoprune.search import Algorithm, BudgetGA, OriginalGA, Population, best_of, lexicographic_order

SIZES = (30, 7, 1, 20)
GENES = sum(SIZES)


def budget(size: int = 6, sizes: tuple[int, ...] = SIZES, keep: int | None = None, **options: object) -> Algorithm:
    keep = max(len(sizes), sum(sizes) // 3) if keep is None else keep
    return BudgetGA(sizes, keep, torch.ones(sum(sizes), dtype=torch.bool), size=size, **options)  # type: ignore[arg-type]


def original(size: int = 6, sizes: tuple[int, ...] = SIZES, **options: object) -> Algorithm:
    return OriginalGA(sum(sizes), size, **options)  # type: ignore[arg-type]


def guided(size: int = 6, sizes: tuple[int, ...] = SIZES) -> Algorithm:
    return budget(size, sizes, priority=torch.rand(sum(sizes), generator=rng(99)))


MAKERS = {"BudgetGA": budget, "BudgetGA, guided": guided, "OriginalGA": original}
Make = Callable[..., Algorithm]


@pytest.fixture(params=MAKERS.values(), ids=MAKERS.keys())
def make(request: pytest.FixtureRequest) -> Make:
    return request.param  # type: ignore[no-any-return]


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def likeness(genomes: Tensor) -> Tensor:
    """(P, 2) fitness: bits like a fixed target, ties broken by another one."""
    targets = torch.rand(2, genomes.shape[1], generator=rng(1)) < 0.4
    return torch.stack([(genomes == target).double().mean(1) for target in targets], dim=1)


def scored(genomes: Tensor, traits: object) -> Population:
    return Population(genomes, likeness(genomes), traits)  # type: ignore[arg-type]


def evolve(algorithm: Algorithm, generations: int, fitness: Callable[[Tensor], Tensor] = likeness) -> list[Population]:
    population, history = None, []
    for generation in range(generations + 1):
        for number in range(1 if population is None else algorithm.asks_per_generation):
            genomes, traits = algorithm.ask(population, rng(1000 * generation + number))
            population = algorithm.tell(population, Population(genomes, fitness(genomes), traits))
        assert population is not None
        history.append(population)
    return history


def copied(population: Population | None) -> Population | None:
    if population is None:
        return None
    traits = {name: values.clone() for name, values in population.traits.items()}
    return Population(population.genomes.clone(), population.fitness.clone(), traits)


def same(a: Population, b: Population) -> bool:
    return (
        torch.equal(a.genomes, b.genomes)
        and torch.equal(a.fitness, b.fitness)
        and a.traits.keys() == b.traits.keys()
        and all(torch.equal(a.traits[name], b.traits[name]) for name in a.traits)
    )


def test_asks_for_bool_genomes_with_a_row_of_every_trait(make: Make) -> None:
    algorithm = make()
    population = None
    for step in range(3):
        genomes, traits = algorithm.ask(population, rng(step))
        assert genomes.dtype == torch.bool
        assert genomes.shape[1] == GENES
        assert all(len(values) == len(genomes) for values in traits.values())
        population = algorithm.tell(population, scored(genomes, traits))
        assert len(population) == 6
        assert population.traits.keys() == traits.keys()


def test_a_step_is_pure(make: Make) -> None:
    algorithm = make()
    population: Population | None = None
    for step in range(4):
        before = copied(population)
        torch.manual_seed(step)  # the global state plays no part
        genomes, traits = algorithm.ask(population, rng(step))
        torch.manual_seed(step + 100)
        again, traits_again = algorithm.ask(population, rng(step))
        assert torch.equal(genomes, again)
        assert all(torch.equal(values, traits_again[name]) for name, values in traits.items())
        candidates = scored(genomes, traits)
        kept = copied(candidates)
        following = algorithm.tell(population, candidates)
        assert same(following, algorithm.tell(population, candidates))
        assert kept is not None
        assert same(candidates, kept)
        if population is not None and before is not None:
            assert same(population, before)
        population = following


def test_another_seed_asks_something_else(make: Make) -> None:
    algorithm = make()
    assert not torch.equal(algorithm.ask(None, rng(0))[0], algorithm.ask(None, rng(1))[0])


def test_the_global_random_state_is_left_alone(make: Make) -> None:
    before = torch.get_rng_state()
    evolve(make(), 2)
    assert torch.equal(before, torch.get_rng_state())


def test_the_population_keeps_its_size_and_its_best_never_gets_worse(make: Make) -> None:
    best = []
    for population in evolve(make(), 12):
        assert len(population) == 6
        best.append(tuple(population.fitness[best_of(population)].tolist()))
    assert best == sorted(best)
    assert best[-1] > best[0]


@pytest.mark.parametrize("sizes", [(1,), (2,), (1, 1, 1)])
def test_a_population_of_two_and_the_smallest_genomes_work(make: Make, sizes: tuple[int, ...]) -> None:
    final = evolve(make(size=2, sizes=sizes), 5)[-1]
    assert final.genomes.shape == (2, sum(sizes))


def test_no_candidate_below_the_floor_survives(make: Make) -> None:
    algorithm = make()
    assert algorithm.floor(None) == -float("inf")
    population: Population | None = None
    bounded = 0
    for step in range(30):
        genomes, traits = algorithm.ask(population, rng(step))
        floor = algorithm.floor(population)
        candidates = scored(genomes, traits)
        if population is not None:
            below = candidates.fitness[:, 0] < floor
            bounded += int(below.sum())
            # An evaluator that stops early gives an upper bound instead of the score: nothing may change.
            bound = candidates.fitness.clone()
            bound[below] = torch.tensor([floor - 1e-12, 1.0], dtype=torch.float64)
            stopped = algorithm.tell(population, Population(genomes, bound, traits))
            assert same(stopped, algorithm.tell(population, candidates))
        population = algorithm.tell(population, candidates)
    assert bounded > 0 or algorithm.floor(population) == -float("inf")


def test_every_genome_of_the_budget_ga_keeps_the_budget_and_empties_no_layer() -> None:
    for keep in (len(SIZES), 5, 20, GENES - 1, GENES):
        algorithm = budget(keep=keep, budget_step=3.0)
        for population in evolve(algorithm, 6):
            assert set(population.genomes.sum(1).tolist()) == {keep}
            for part in population.genomes.split(SIZES, dim=1):
                assert bool((part.sum(1) >= 1).all())


def test_the_budget_ga_with_a_priority_keeps_the_first_in_line() -> None:
    """Without mutation of bits every layer keeps its highest priorities, whatever the budgets are."""
    priority = torch.rand(GENES, generator=rng(5))
    algorithm = budget(priority=priority, mutation_rate=0.0)
    genomes, traits = algorithm.ask(None, rng())
    for genome in genomes:
        for part, rank in zip(genome.split(SIZES), priority.split(SIZES), strict=True):
            kept = int(part.sum())
            assert set(part.nonzero().flatten().tolist()) == set(rank.topk(kept).indices.tolist())
    assert len({tuple(len(p.nonzero()) for p in genome.split(SIZES)) for genome in genomes}) > 1
    assert bool((traits["log_share"][0] == 0).all())


def test_the_budget_ga_brings_bits_back() -> None:
    start = torch.arange(GENES) % 2 == 0
    algorithm = BudgetGA(SIZES, 20, start, size=8, mutation_rate=0.2)
    genomes = torch.cat([population.genomes for population in evolve(algorithm, 4)])
    assert bool((genomes & ~start).any())


def onemax(values: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda genomes: (genomes.double() @ values)[:, None]


def test_the_budget_ga_learns_values_and_budgets_better_than_random_search() -> None:
    """Ones are worth something in the last layer only; the budget starts evenly spread."""
    sizes, keep = (40, 40, 40), 30
    values = torch.cat([torch.zeros(80), torch.rand(40, generator=rng(3)) + 0.5]).double()
    fitness = onemax(values)
    algorithm = budget(12, sizes, keep, mutation_rate=0.02)
    found = float(evolve(algorithm, 60, fitness)[-1].fitness.max())
    draws = torch.rand(61 * 12, 120, generator=rng(4)).argsort(1)[:, :keep]
    random = float(fitness(torch.zeros(61 * 12, 120, dtype=torch.bool).scatter(1, draws, True)).max())
    best = float(values.topk(keep - 2).values.sum())  # two go to the layers that may not be empty
    assert found > 0.85 * best
    assert found - random > 0.5 * (best - random)


def test_the_original_ga_learns_which_bits_to_clear_better_than_random_search() -> None:
    """Half of the bits are needed; the others may go."""
    needed = torch.arange(60) < 30
    algorithm = original(10, (60,), mutation_rate=0.05)

    def fitness(genomes: Tensor) -> Tensor:
        score = genomes[:, needed].double().mean(1)
        return (0.5 * (1 - genomes.double().mean(1)) + score)[:, None]

    found = float(evolve(algorithm, 40, fitness)[-1].fitness.max())
    density = torch.linspace(0, 1, 41 * 20)[:, None]
    random = float(fitness(torch.rand(41 * 20, 60, generator=rng(4)) < density).max())
    assert random < 1.15 < found <= 1.25


def test_equal_fitness_keeps_the_older(make: Make) -> None:
    algorithm = make()
    genomes, traits = algorithm.ask(None, rng())
    flat = torch.zeros(6, 1, dtype=torch.float64)
    first = algorithm.tell(None, Population(genomes, flat, traits))
    genomes, traits = algorithm.ask(first, rng(1))
    following = algorithm.tell(first, Population(genomes, flat[: len(genomes)], traits))
    assert torch.equal(following.genomes, first.genomes)


def test_the_order_is_lexicographic_and_stable() -> None:
    rows = [(0.5, -1.0), (0.9, -3.0), (0.5, -0.5), (0.9, -3.0), (0.1, 9.0)]
    order = lexicographic_order(torch.tensor(rows, dtype=torch.float64)).tolist()
    assert order == [1, 3, 2, 0, 4]
    assert best_of(Population(torch.zeros(5, 1, dtype=torch.bool), torch.tensor(rows))) == 1
