"""Our CMA-ES against the package cmaes, step by step."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from evoprune.core import EvopruneError
from evoprune.search import CMAES, Population, Shares

cmaes = pytest.importorskip("cmaes")


@pytest.mark.parametrize(("length", "size"), [(1, 4), (2, 6), (5, 8), (5, 40), (12, 13)])
def test_learns_what_the_package_learns_from_the_same_candidates(length: int, size: int) -> None:
    ours = CMAES(Shares(length), size, sigma=0.7)
    theirs = cmaes.CMA(np.zeros(length), 0.7, population_size=size)
    scales = torch.logspace(0, 1, length, dtype=torch.float64)
    population: Population | None = None
    for step in range(40):
        genomes, _ = ours.ask(population, torch.Generator().manual_seed(step))
        fitness = -((genomes.double() - 1.5) * scales).square().sum(1)
        population = ours.tell(population, Population(genomes, fitness[:, None]))
        theirs.tell([(x, -y) for x, y in zip(genomes.double().numpy(), fitness.tolist(), strict=True)])
        state = population.state
        np.testing.assert_allclose(state["mean"].numpy(), theirs._mean, rtol=1e-5, atol=1e-9)
        np.testing.assert_allclose(state["sigma"].numpy(), theirs._sigma, rtol=1e-5)
        np.testing.assert_allclose(state["covariance"].numpy(), theirs._C, rtol=1e-4, atol=1e-9)


def test_the_first_of_all_is_the_start() -> None:
    first = CMAES(Shares(3), 4).ask(None, torch.Generator().manual_seed(0))[0]
    assert (first.abs().sum(1) == 0).tolist() == [True, False, False, False]


def test_draws_from_the_distribution_it_has_learned() -> None:
    algorithm = CMAES(Shares(2), 6000, sigma=0.5)
    covariance = torch.tensor([[2.0, 0.9], [0.9, 1.0]], dtype=torch.float64)
    first = algorithm.ask(None, torch.Generator().manual_seed(0))[0]
    state = algorithm.tell(None, Population(first, torch.zeros(6000, 1, dtype=torch.float64))).state
    mean = torch.tensor([3.0, -1.0], dtype=torch.float64)
    known = {**state, "mean": mean, "covariance": covariance, "sigma": torch.tensor([0.1], dtype=torch.float64)}
    drawn = algorithm.ask(Population(first, torch.zeros(6000, 1), {}, known), torch.Generator().manual_seed(1))[0]
    assert torch.allclose(drawn.double().mean(0), mean, atol=0.01)
    assert torch.allclose(drawn.double().T.cov() / 0.01, covariance, atol=0.1)


def test_refuses_a_population_of_one_and_no_step() -> None:
    with pytest.raises(EvopruneError, match="population of 2 at least, not 1"):
        CMAES(Shares(3), 1)
    with pytest.raises(EvopruneError, match="sigma must be above 0, not 0"):
        CMAES(Shares(3), 4, sigma=0.0)
