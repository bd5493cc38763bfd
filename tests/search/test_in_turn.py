"""One algorithm after the other, whose genomes are of different kinds."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from evoprune.search import (
    Algorithm,
    BoundarySwaps,
    EvoPress,
    InTurn,
    Population,
    Shares,
    best_of,
    make_algorithm,
    share_budget,
)

SIZES, KEEP, TURN = [30, 12], 14, 4
RANKS = torch.cat([torch.randperm(size, generator=torch.Generator().manual_seed(0)) for size in SIZES])
VALUES = torch.rand(sum(SIZES), generator=torch.Generator().manual_seed(1)).double()


def bits(genomes: Tensor) -> Tensor:
    """(P, 2) shares or (P, 42) bits -> bits."""
    if genomes.dtype == torch.bool:
        return genomes
    counts = share_budget(genomes, torch.tensor(SIZES), torch.tensor(SIZES), KEEP)
    return counts.repeat_interleave(torch.tensor(SIZES), dim=1) > RANKS


def in_turn(name: str) -> InTurn:
    def second(genome: Tensor) -> Algorithm:
        return make_algorithm(name, BoundarySwaps(SIZES, RANKS, bits(genome[None])[0], reach=1.0), 6)

    return InTurn(make_algorithm(name, Shares(2), 6), second, TURN)


def step(algorithm: Algorithm, population: Population | None, number: int) -> Population:
    genomes, traits = algorithm.ask(population, torch.Generator().manual_seed(number))
    fitness = (bits(genomes).double() @ VALUES)[:, None]
    return algorithm.tell(population, Population(genomes, fitness, traits))


@pytest.fixture(params=["ga", "steady", "evopress", "random"])
def make(request: pytest.FixtureRequest) -> Callable[[], InTurn]:
    return lambda: in_turn(request.param)


def test_neither_is_screened_in_its_first_population(make: Callable[[], InTurn]) -> None:
    algorithm, population, screened = make(), None, []
    for number in range(2 * TURN):
        screened.append(algorithm.screens(population))
        population = step(algorithm, population, number)
    assert screened == [number not in (0, TURN) for number in range(2 * TURN)]


def test_it_is_screened_as_its_algorithms_are() -> None:
    assert in_turn("evopress").screening == EvoPress(Shares(2), 6).screening != ()


def test_the_second_goes_on_from_the_best_of_the_first(make: Callable[[], InTurn]) -> None:
    population, best, counts = None, [], []
    for number in range(12):
        population = step(make(), population, number)
        assert population.genomes.dtype == (torch.float32 if number < TURN else torch.bool)
        genomes = bits(population.genomes)
        best.append(float(population.fitness[best_of(population), 0]))
        counts.append([int(part.sum()) for part in genomes[best_of(population)].split(SIZES)])
        assert genomes.sum(1).tolist() == [KEEP] * len(genomes)
    assert best == sorted(best)
    assert best[-1] > best[TURN - 1]
    assert all(count == counts[TURN - 1] for count in counts[TURN:])


def test_its_place_is_found_again_from_the_population_alone(make: Callable[[], InTurn]) -> None:
    whole, again = make(), None
    population = None
    for number in range(9):
        population = step(whole, population, number)
        if again is not None:
            copies = (again.genomes.clone(), again.fitness.clone(), dict(again.traits), dict(again.state))
            again = Population(*copies)
        again = step(make(), again, number)
        assert torch.equal(again.genomes, population.genomes)
        assert torch.equal(again.fitness, population.fitness)
        assert int(again.state["told"]) == number + 1


def test_no_candidate_is_stopped_early_where_the_second_begins() -> None:
    algorithm, population = in_turn("ga"), None
    for number in range(TURN + 2):
        floor = algorithm.floor(population)
        assert (floor == -float("inf")) == (number in (0, TURN))
        population = step(algorithm, population, number)


def test_random_search_does_not_climb_from_what_it_found() -> None:
    population, distances = None, []
    start = None
    for number in range(TURN + 30):
        algorithm = in_turn("random")
        if number >= TURN:
            assert population is not None
            start = bits(population.state["start"][None])[0] if start is None else start
            genomes, _ = algorithm.ask(population, torch.Generator().manual_seed(number))
            distances.append(float((genomes ^ start).sum(1).double().mean()))
        population = step(algorithm, population, number)
    assert max(distances[-5:]) <= 1.5 * max(distances[:5])
