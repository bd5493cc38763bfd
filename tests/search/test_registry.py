"""Algorithms by name, and the errors for what does not fit."""

from __future__ import annotations

import pytest
import torch

from evoprune.core import EvopruneError
from evoprune.search import ALGORITHMS, CMAES, BudgetedBits, EvoPress, Shares, make_algorithm

BITS = BudgetedBits((4, 4), 4, torch.ones(8, dtype=torch.bool))


def test_the_names_are_those_of_the_command_line() -> None:
    assert list(ALGORITHMS) == ["ga", "steady", "evopress", "cmaes", "pbil", "nsga2", "random"]


def test_options_reach_the_algorithm() -> None:
    assert make_algorithm("cmaes", Shares(7, free_total=True), 9, sigma=0.2) == CMAES(8, 9, 0.2)
    assert make_algorithm("evopress", BITS, 16, shares=(0.1,), pace=8) == EvoPress(BITS, 16, (0.1,), 8)


@pytest.mark.parametrize(
    ("name", "genes", "rates", "message"),
    [
        ("annealing", BITS, {}, "unknown algorithm 'annealing'; there are ga, steady"),
        ("cmaes", BITS, {}, "cmaes needs real-valued genes: use the space allocation; it cannot evolve BudgetedBits"),
        ("pbil", Shares(3), {}, "pbil needs bits: use the space weights; it cannot evolve Shares"),
        ("ga", BITS, {"sigma": 1.0}, "ga has no option 'sigma'; its options: crossover_rate"),
        ("random", BITS, {"rate": 1.0}, "random has no option 'rate'; its options: none"),
        ("pbil", BITS, {"rate": 0.0}, "rate must be above 0 and at most 1, not 0"),
    ],
)
def test_what_does_not_fit_is_named(name: str, genes: object, rates: dict[str, float], message: str) -> None:
    with pytest.raises(EvopruneError, match=message):
        make_algorithm(name, genes, 6, **rates)  # type: ignore[arg-type]
