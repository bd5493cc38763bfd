"""Algorithms by name."""

from __future__ import annotations

import pytest
import torch

from evoprune.core import EvopruneError
from evoprune.search import ALGORITHMS, CMAES, BudgetedBits, EvoPress, Shares, make_algorithm

BITS = BudgetedBits((4, 4), 4, torch.ones(8, dtype=torch.bool))


def test_the_names_are_those_of_the_command_line() -> None:
    assert list(ALGORITHMS) == ["ga", "steady", "evopress", "cmaes", "pbil", "nsga2", "random"]


def test_options_reach_the_algorithm() -> None:
    assert make_algorithm("cmaes", Shares(7), 9, sigma=0.2) == CMAES(Shares(7), 9, 0.2)
    assert make_algorithm("evopress", BITS, 16, shares=(0.1,), pace=8) == EvoPress(BITS, 16, (0.1,), 8)


def test_an_entry_says_what_it_evolves_and_which_rates_it_takes() -> None:
    assert ALGORITHMS["ga"].evolves([BudgetedBits, Shares])
    assert not ALGORITHMS["cmaes"].evolves([BudgetedBits])
    assert ALGORITHMS["ga"].rates == ("crossover_rate",)
    with pytest.raises(EvopruneError, match="rate must be above 0 and at most 1, not 0"):
        make_algorithm("pbil", BITS, 6, rate=0.0)
