"""The original algorithm beside a plain reading of SEED.md: a heap, two children at a time, two worst dropped."""

from __future__ import annotations

import heapq

import pytest
import torch
from torch import Tensor

from evoprune.search import OriginalGA, Population


class HeapModel:
    """The reference system's population on a heap: the worst on top, the youngest of equals."""

    def __init__(self, genomes: list[list[bool]], fitness: list[float]) -> None:
        self.born = len(genomes)
        self.heap = list(zip(fitness, range(0, -self.born, -1), genomes, strict=True))
        heapq.heapify(self.heap)

    def replace(self, children: list[list[bool]], fitness: list[float]) -> None:
        for value, child in zip(fitness, children, strict=True):
            heapq.heappush(self.heap, (value, -self.born, child))
            self.born += 1
        for _ in children:
            heapq.heappop(self.heap)

    def rows(self) -> list[tuple[float, list[bool]]]:
        return sorted((value, genome) for value, _, genome in self.heap)


def plain_value_of(genomes: Tensor) -> Tensor:
    weights = torch.linspace(-1, 2, genomes.shape[1], dtype=torch.float64)
    return genomes.double() @ (weights + 0.1 * weights.sin())


@pytest.mark.parametrize("levels", [0, 2])
@pytest.mark.parametrize("seed", range(3))
def test_replacement_is_the_heaps(seed: int, levels: int) -> None:
    def value_of(genomes: Tensor) -> Tensor:
        return plain_value_of(genomes).div(levels).floor() if levels else plain_value_of(genomes)

    algorithm = OriginalGA(40, 6, mutation_rate=0.1)
    rng = torch.Generator().manual_seed(seed)
    genomes, _ = algorithm.ask(None, rng)
    population = algorithm.tell(None, Population(genomes, value_of(genomes)[:, None]))
    model = HeapModel(genomes.tolist(), value_of(genomes).tolist())
    for _ in range(5 * algorithm.asks_per_generation):
        children, _ = algorithm.ask(population, rng)
        fitness = value_of(children)
        population = algorithm.tell(population, Population(children, fitness[:, None]))
        model.replace(children.tolist(), fitness.tolist())
        rows = sorted(zip(population.fitness[:, 0].tolist(), population.genomes.tolist(), strict=True))
        assert [value for value, _ in rows] == [value for value, _ in model.rows()]
        assert rows == model.rows()


def test_a_generation_makes_as_many_pairs_as_genomes() -> None:
    assert OriginalGA(10, 7).asks_per_generation == 7


def test_both_children_may_stay() -> None:
    ones = torch.ones(3, 4, dtype=torch.bool)
    population = Population(ones, torch.tensor([[1.0], [2.0], [3.0]]))
    children = Population(~ones[:2], torch.tensor([[4.0], [5.0]]))
    assert sorted(OriginalGA(4, 3).tell(population, children).fitness[:, 0].tolist()) == [3.0, 4.0, 5.0]


def test_a_warm_start_is_the_first_population() -> None:
    start = torch.rand(10, 8, generator=torch.Generator().manual_seed(0)) < 0.5
    genomes, _ = OriginalGA(8, 10, start=start).ask(None, torch.Generator())
    assert torch.equal(genomes, start)
