"""What every algorithm promises with every kind of genes, and that each finds good genomes where the best are known."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

import pytest
import torch
from torch import Tensor

from evoprune.search import (
    ALGORITHMS,
    CMAES,
    NSGA2,
    PBIL,
    Algorithm,
    BoundarySwaps,
    BudgetedBits,
    EvoPress,
    GenerationalGA,
    Genes,
    OriginalGA,
    Population,
    RandomSearch,
    Shares,
    best_of,
    lexicographic_order,
    make_algorithm,
)
from evoprune.search.selection import tournament

from .conftest import even_ranks, rng

SIZES = (30, 7, 1, 20)
COUNT = sum(SIZES)
SIZE = 6
"""P of every algorithm here, but EvoPress keeps one parent."""


def budgeted(sizes: tuple[int, ...] = SIZES, keep: int | None = None, **options: object) -> BudgetedBits:
    keep = max(len(sizes), sum(sizes) // 3) if keep is None else keep
    return BudgetedBits(sizes, keep, torch.ones(sum(sizes), dtype=torch.bool), **options)  # type: ignore[arg-type]


def swaps(sizes: tuple[int, ...]) -> BoundarySwaps:
    ranks = torch.cat([torch.randperm(size, generator=rng(99)) for size in sizes])
    start = torch.cat([part < -(-len(part) // 3) for part in ranks.split(sizes)])
    return BoundarySwaps(sizes, ranks, start, reach=1.0)


GENES: dict[str, Callable[[tuple[int, ...]], Genes]] = {
    "BudgetedBits": budgeted,
    "BudgetedBits, guided": lambda sizes: budgeted(sizes, priority=even_ranks(sizes, 99)),
    "BoundarySwaps": swaps,
    "Shares": lambda sizes: Shares(len(sizes)),
    "Shares, free total": lambda sizes: Shares(len(sizes), free_total=True),
}
FITTING = [
    (name, kind)
    for name, entry in ALGORITHMS.items()
    for kind, genes in GENES.items()
    if isinstance(genes(SIZES), entry.genes)
    and (kind != "BudgetedBits, guided" or name in ("ga", "pbil"))  # a priority is the genes' own affair
]
ORIGINAL = ("original", "free bits")
"""The preset's own algorithm, which makes its genomes itself."""


@dataclass(frozen=True)
class Case:
    """An algorithm with genes; calling it makes one."""

    name: str
    kind: str

    def __call__(self, size: int = SIZE, sizes: tuple[int, ...] = SIZES) -> Algorithm:
        if self.name == "original":
            return OriginalGA(sum(sizes), size)
        return make_algorithm(self.name, GENES[self.kind](sizes), size)

    def length(self, sizes: tuple[int, ...] = SIZES) -> int:
        return sum(sizes) if self.name == "original" else GENES[self.kind](sizes).length

    @property
    def survivors(self) -> int:
        return 1 if self.name == "evopress" else SIZE


@pytest.fixture(params=[*FITTING, ORIGINAL], ids="-".join)
def case(request: pytest.FixtureRequest) -> Case:
    if request.param[0] == "nsga2":
        pytest.importorskip("pymoo")
    return Case(*request.param)


def likeness(genomes: Tensor) -> Tensor:
    """(P, 2) fitness: like a fixed target, ties broken by another one."""
    if genomes.dtype == torch.bool:
        targets = torch.rand(2, genomes.shape[1], generator=rng(1)) < 0.4
        return torch.stack([(genomes == target).double().mean(1) for target in targets], dim=1)
    points = torch.randn(2, genomes.shape[1], generator=rng(1))
    return torch.stack([-(genomes - point).double().square().mean(1) for point in points], dim=1)


def scored(genomes: Tensor, traits: object) -> Population:
    return Population(genomes, likeness(genomes), traits)  # type: ignore[arg-type]


Fitness = Callable[[Tensor], Tensor]


def step(algorithm: Algorithm, population: Population | None, seed: int, fitness: Fitness = likeness) -> Population:
    """Ask, screen, evaluate, tell, as a caller does it: with a trait of its own."""
    genomes, traits = algorithm.ask(population, rng(seed))
    candidates = Population(genomes, fitness(genomes), {**traits, "score": fitness(genomes)[:, 0]})
    if population is not None:
        for _, kept in algorithm.screening:
            candidates = candidates.take(lexicographic_order(candidates.fitness)[:kept])
    return algorithm.tell(population, candidates)


def evolve(algorithm: Algorithm, generations: int, fitness: Fitness = likeness, seed: int = 0) -> list[Population]:
    population: Population | None = None
    history = []
    for generation in range(generations + 1):
        for number in range(1 if population is None else algorithm.asks_per_generation):
            population = step(algorithm, population, 100_000 * seed + 1000 * generation + number, fitness)
        assert population is not None
        history.append(population)
    return history


def copied(population: Population) -> Population:
    return Population(
        population.genomes.clone(),
        population.fitness.clone(),
        {name: values.clone() for name, values in population.traits.items()},
        {name: values.clone() for name, values in population.state.items()},
    )


def same(a: Population, b: Population) -> bool:
    pairs = [(a.traits, b.traits), (a.state, b.state)]
    return (
        torch.equal(a.genomes, b.genomes)
        and torch.equal(a.fitness, b.fitness)
        and all(x.keys() == y.keys() and all(torch.equal(x[name], y[name]) for name in x) for x, y in pairs)
    )


def test_every_algorithm_and_all_genes_are_tried() -> None:
    assert {name for name, _ in FITTING} == set(ALGORITHMS)
    assert {kind for _, kind in FITTING} == set(GENES)


def test_asks_for_genomes_with_a_row_of_every_trait(case: Case) -> None:
    algorithm = case()
    population = None
    for number in range(3):
        genomes, traits = algorithm.ask(population, rng(number))
        assert genomes.dtype == (torch.float32 if case.kind.startswith("Shares") else torch.bool)
        assert genomes.shape[1] == case.length()
        assert genomes.is_contiguous()
        assert all(len(values) == len(genomes) for values in traits.values())
        population = algorithm.tell(population, scored(genomes, traits))
        assert len(population) == case.survivors
        assert population.traits.keys() == traits.keys()


def test_a_step_is_pure(case: Case) -> None:
    algorithm = case()
    population: Population | None = None
    for number in range(4):
        before = None if population is None else copied(population)
        torch.manual_seed(number)  # the global state plays no part
        genomes, traits = algorithm.ask(population, rng(number))
        torch.manual_seed(number + 100)
        again, traits_again = algorithm.ask(population, rng(number))
        assert torch.equal(genomes, again)
        assert all(torch.equal(values, traits_again[name]) for name, values in traits.items())
        candidates = scored(genomes, traits)
        kept = copied(candidates)
        following = algorithm.tell(population, candidates)
        assert same(following, algorithm.tell(population, candidates))
        assert same(candidates, kept)
        if population is not None:
            assert before is not None
            assert same(population, before)
        population = following


def test_another_seed_asks_something_else(case: Case) -> None:
    algorithm = case()
    assert not torch.equal(algorithm.ask(None, rng(0))[0], algorithm.ask(None, rng(1))[0])
    population = evolve(algorithm, 1)[-1]
    assert not torch.equal(algorithm.ask(population, rng(0))[0], algorithm.ask(population, rng(1))[0])


def test_the_global_random_state_is_left_alone(case: Case) -> None:
    np = pytest.importorskip("numpy")
    before, before_numpy = torch.get_rng_state(), np.random.get_state()[1].copy()
    evolve(case(), 2)
    assert torch.equal(before, torch.get_rng_state())
    assert (before_numpy == np.random.get_state()[1]).all()


def test_goes_on_the_same_from_a_population_rebuilt_of_its_tensors(case: Case) -> None:
    unbroken = evolve(case(), 4)
    resumed: Population | None = None
    for generation in range(5):
        # A new algorithm and a copy for every generation: nothing may be remembered elsewhere.
        algorithm = case()
        for number in range(1 if resumed is None else algorithm.asks_per_generation):
            resumed = copied(step(algorithm, resumed, 1000 * generation + number))
        assert resumed is not None
        assert same(resumed, unbroken[generation])


def test_what_is_remembered_is_plain(case: Case) -> None:
    population = evolve(case(), 2)[-1]
    for values in (population.genomes, population.fitness, *population.traits.values()):
        assert len(values) == case.survivors
    for values in (*population.traits.values(), *population.state.values()):
        assert values.is_contiguous()
        assert not values.requires_grad


def test_the_population_keeps_its_size_and_its_best_never_gets_worse(case: Case) -> None:
    best = []
    for population in evolve(case(), 9):
        assert len(population) == case.survivors
        best.append(tuple(population.fitness[best_of(population)].tolist()))
    assert best == sorted(best)
    assert best[-1] > best[0] or case.name == "random"  # which may be lucky at once


@pytest.mark.parametrize("sizes", [(1,), (2,), (1, 1, 1)])
def test_a_population_of_two_and_the_smallest_genomes_work(case: Case, sizes: tuple[int, ...]) -> None:
    final = evolve(case(size=2, sizes=sizes), 5)[-1]
    assert final.genomes.shape == (min(2, case.survivors), case.length(sizes))
    assert bool(final.genomes.float().isfinite().all())


def test_no_candidate_below_the_floor_survives(case: Case) -> None:
    algorithm = case()
    assert algorithm.floor(None) == -math.inf
    population: Population | None = None
    bounded = 0
    for number in range(20):
        genomes, traits = algorithm.ask(population, rng(number))
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
    assert bounded > 0 or algorithm.floor(population) == -math.inf


def test_equal_fitness_keeps_the_older(case: Case) -> None:
    algorithm = case()
    genomes, traits = algorithm.ask(None, rng())
    flat = torch.zeros(SIZE, 1, dtype=torch.float64)
    first = algorithm.tell(None, Population(genomes, flat, traits))
    genomes, traits = algorithm.ask(first, rng(1))
    following = algorithm.tell(first, Population(genomes, flat[: len(genomes)], traits))
    assert torch.equal(following.genomes, first.genomes)


@pytest.mark.parametrize("name", [name for name, kind in FITTING if kind == "BudgetedBits"])
@pytest.mark.parametrize("keep", [len(SIZES), 5, 20, COUNT - 1, COUNT])
def test_every_genome_under_a_budget_keeps_it_and_empties_no_layer(name: str, keep: int) -> None:
    if name == "nsga2":
        pytest.importorskip("pymoo")
    algorithm = make_algorithm(name, budgeted(keep=keep, budget_step=3.0), SIZE)
    for population in evolve(algorithm, 3):
        assert set(population.genomes.sum(1).tolist()) == {keep}
        for part in population.genomes.split(SIZES, dim=1):
            assert bool((part.sum(1) >= 1).all())


def test_random_search_asks_for_the_start_once() -> None:
    algorithm = RandomSearch(Shares(4), 5)
    first, _ = algorithm.ask(None, rng())
    assert bool((first[0] == 0).all())
    later, traits = algorithm.ask(scored(first, {}), rng(1))
    assert later.shape == (5, 4)
    assert traits["step"].shape == (5,)
    assert bool((later != 0).all())


def test_evopress_screens_to_fewer_on_more_samples() -> None:
    algorithm = EvoPress(Shares(4), 64)
    assert algorithm.screening == ((0.05, 16), (0.25, 4))
    assert EvoPress(Shares(4), 3).screening == ((0.05, 1), (0.25, 1))
    assert EvoPress(Shares(4), 64, shares=()).screening == ()
    assert GenerationalGA(Shares(4)).screening == ()


def test_evopress_changes_few_layers_of_one_parent() -> None:
    algorithm = EvoPress(Shares(40), 30)
    parent = evolve(algorithm, 1)[-1]
    children, _ = algorithm.ask(parent, rng(5))
    changed = (children != parent.genomes).sum(1)
    assert bool(((changed >= 2) & (changed <= 6)).all())
    assert int(changed.min()) == 2


def test_steady_state_replaces_two_at_a_time() -> None:
    algorithm = make_algorithm("steady", Shares(4), 7)
    assert algorithm.asks_per_generation == 4
    population = evolve(algorithm, 0)[-1]
    assert len(algorithm.ask(population, rng(3))[0]) == 2


# -- problems with a known answer --------------------------------------------------------------------------


@dataclass(frozen=True)
class Problem:
    """Fitness with a known best value."""

    genes: Genes
    fitness: Fitness
    best: float


def last_layer_counts() -> Problem:
    """Ones are worth something in the last layer only; the budget starts evenly spread."""
    sizes, keep = (40, 40, 40), 30
    values = torch.cat([torch.zeros(80), torch.rand(40, generator=rng(3)) + 0.5]).double()
    best = float(values.topk(keep - 2).values.sum())  # two go to the layers that may not be empty
    genes = budgeted(sizes, keep, mutation_rate=0.02)
    return Problem(genes, lambda genomes: (genomes.double() @ values)[:, None], best)


def hidden_point() -> Problem:
    """Distance to a point, along stretched axes."""
    point, stretch = torch.randn(10, generator=rng(3)), torch.linspace(1, 3, 10)
    return Problem(Shares(10), lambda genomes: -((genomes - point) * stretch).double().norm(dim=1)[:, None], 0.0)


PROBLEMS = {"BudgetedBits": last_layer_counts, "Shares": hidden_point}
SEARCHERS = [(n, k) for n, k in FITTING if k in PROBLEMS and n != "random"]


@pytest.mark.parametrize(("name", "kind"), SEARCHERS)
def test_finds_much_more_than_random_search_with_as_many_candidates(name: str, kind: str) -> None:
    if name == "nsga2":
        pytest.importorskip("pymoo")
    random, best = found("random", kind), PROBLEMS[kind]().best
    assert found(name, kind) - random > 0.5 * (best - random)


@cache
def found(name: str, kind: str) -> float:
    problem = PROBLEMS[kind]()
    return float(evolve(make_algorithm(name, problem.genes, 12), 40, problem.fitness)[-1].fitness.max())


def test_the_ga_learns_values_and_budgets() -> None:
    assert found("ga", "BudgetedBits") > 0.85 * last_layer_counts().best


def test_the_original_ga_learns_which_bits_to_clear_better_than_random_search() -> None:
    """Half of the bits are needed; the others may go."""
    needed = torch.arange(60) < 30
    algorithm = OriginalGA(60, 10, mutation_rate=0.05)

    def fitness(genomes: Tensor) -> Tensor:
        score = genomes[:, needed].double().mean(1)
        return (0.5 * (1 - genomes.double().mean(1)) + score)[:, None]

    found = float(evolve(algorithm, 40, fitness)[-1].fitness.max())
    density = torch.linspace(0, 1, 41 * 20)[:, None]
    random = float(fitness(torch.rand(41 * 20, 60, generator=rng(4)) < density).max())
    assert random < 1.15 < found <= 1.25


def test_cmaes_reaches_the_optimum_of_a_rotated_valley() -> None:
    """Needs the covariance: the axes are turned and a hundred times longer one way than the other."""
    turn = torch.linalg.qr(torch.randn(6, 6, generator=rng(2), dtype=torch.float64)).Q
    scales = torch.logspace(0, 2, 6, dtype=torch.float64)
    point = torch.randn(6, generator=rng(3), dtype=torch.float64)

    def fitness(genomes: Tensor) -> Tensor:
        return -((genomes.double() - point) @ turn * scales).square().sum(1)[:, None]

    assert float(evolve(CMAES(Shares(6), 12), 150, fitness)[-1].fitness.max()) > -1e-6


def test_pbil_moves_its_chances_toward_what_is_good() -> None:
    problem = last_layer_counts()
    assert isinstance(problem.genes, BudgetedBits)
    history = evolve(PBIL(problem.genes, 24), 60, problem.fitness)
    assert bool((history[0].state["chances"] > 0).all())
    best = history[-1].genomes[best_of(history[-1])]
    chances = history[-1].state["chances"]
    assert float(chances[best].mean()) > 0.8
    assert float(chances[~best].mean()) < 0.2


def test_nsga2_spreads_over_the_trade_off_between_density_and_score() -> None:
    """The score rises with the density and is best when the shares are right."""
    pytest.importorskip("pymoo")
    point = torch.tensor([1.0, -1.0, 0.5])

    def fitness(genomes: Tensor) -> Tensor:
        density = genomes[:, -1].double().exp()
        off = (genomes[:, :-1] - point).double().square().sum(1)
        return torch.stack([density.sqrt() - 0.05 * off, 1 - density], dim=1)

    final = evolve(NSGA2(Shares(3, free_total=True), 24), 60, fitness)[-1]
    beaten = (final.fitness[None] > final.fitness[:, None]).all(2).any(1)
    assert not beaten.any()
    density = final.genomes[:, -1].exp().sort().values
    assert float(density[0]) < 0.02
    assert float(density[-1]) > 0.9
    assert float(density.diff().max()) < 0.25
    assert float((final.genomes[:, :-1] - point).square().sum(1).median()) < 0.5


def test_the_order_is_lexicographic_and_stable() -> None:
    rows = [(0.5, -1.0), (0.9, -3.0), (0.5, -0.5), (0.9, -3.0), (0.1, 9.0)]
    order = lexicographic_order(torch.tensor(rows, dtype=torch.float64)).tolist()
    assert order == [1, 3, 2, 0, 4]
    assert best_of(Population(torch.zeros(5, 1, dtype=torch.bool), torch.tensor(rows))) == 1


@pytest.mark.parametrize("rate", [0.0, 1.0])
@pytest.mark.parametrize("name", ["ga", "steady", "nsga2"])
def test_the_crossover_rate_is_the_share_of_children_with_two_parents(
    name: str, rate: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "nsga2":
        pytest.importorskip("pymoo")
    breed, crossed = Shares.breed, []

    def watched(genes: Shares, population: Population, mothers: Tensor, fathers: Tensor, rng: torch.Generator):
        crossed.append(bool((mothers != fathers).any()))
        return breed(genes, population, mothers, fathers, rng)

    monkeypatch.setattr(Shares, "breed", watched)
    evolve(make_algorithm(name, Shares(4), 12, crossover_rate=rate), 4)
    assert any(crossed) == (rate > 0)


def test_the_better_of_two_is_the_parent() -> None:
    won = tournament(torch.tensor([2, 0, 1]), (9000,), rng()).bincount().double() / 9000
    assert won.tolist() == pytest.approx([3 / 9, 1 / 9, 5 / 9], abs=0.02)


@pytest.mark.parametrize("later", [False, True])
def test_pbil_learns_from_the_better_half_alone(later: bool) -> None:
    """The two best genomes have the first bits, the others the last."""
    first = torch.arange(10) < 5
    genomes = torch.stack([~first, first, first, ~first])
    candidates = Population(genomes, torch.tensor([[0.0], [1.0], [1.0], [0.0]]), {})
    pbil = PBIL(budgeted((10,), 5), size=4, rate=0.5)
    before = replace(candidates, state={"chances": torch.full((10,), 0.5)}) if later else None
    chances = pbil.tell(before, candidates).state["chances"]
    expected = torch.where(first, 0.75, 0.25)
    torch.testing.assert_close(chances, expected)


def test_the_first_population_is_not_screened() -> None:
    algorithm = EvoPress(Shares(4), 8)
    assert not algorithm.screens(None)
    assert algorithm.screens(evolve(algorithm, 0)[-1])


def test_no_score_is_too_low_for_the_original() -> None:
    algorithm = OriginalGA(8, 4)
    assert algorithm.floor(evolve(algorithm, 1)[-1]) == -math.inf


def test_no_chance_becomes_certain() -> None:
    first = torch.arange(10) < 5
    candidates = Population(torch.stack([first, first]), torch.tensor([[1.0], [0.0]]), {})
    chances = PBIL(budgeted((10,), 5), size=2, rate=1.0).tell(None, candidates).state["chances"]
    torch.testing.assert_close(chances, torch.where(first, 1 - 1e-4, 1e-4))
