"""Fronts and crowding against their definitions."""

from __future__ import annotations

import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from evoprune.core import EvopruneError
from evoprune.run import make_settings
from evoprune.search import NSGA2, Population, Shares
from evoprune.search.pareto import pareto_order

FAST = settings(max_examples=60)


@st.composite
def fitnesses(draw: st.DrawFn) -> Tensor:
    columns, rows = draw(st.integers(1, 3)), draw(st.integers(1, 12))
    value = st.integers(0, 5).map(float)
    table = st.lists(st.lists(value, min_size=columns, max_size=columns), min_size=rows, max_size=rows)
    return torch.tensor(draw(table), dtype=torch.float64)


def non_dominated(fitness: Tensor) -> Tensor:
    """(P, K) -> (P,) bool, True where no other row is at least as good in all columns and better in one."""
    as_good = (fitness[None] >= fitness[:, None]).all(2)
    better = (fitness[None] > fitness[:, None]).any(2)
    return ~(as_good & better).any(1)


@given(fitnesses())
@FAST
def test_the_order_goes_front_after_front(fitness: Tensor) -> None:
    pytest.importorskip("pymoo")
    left, order = list(range(len(fitness))), pareto_order(fitness).tolist()
    while left:
        front = {left[i] for i, best in enumerate(non_dominated(fitness[left]).tolist()) if best}
        assert set(order[: len(front)]) == front
        order, left = order[len(front) :], [row for row in left if row not in front]
    assert order == []


def test_the_loneliest_of_a_front_comes_first_and_equals_stay_in_order() -> None:
    pytest.importorskip("pymoo")
    first = torch.tensor([0.0, 0.1, 0.2, 0.7, 1.0])
    assert pareto_order(torch.stack([first, 1 - first], dim=1)).tolist() == [0, 4, 3, 2, 1]
    assert pareto_order(torch.zeros(4, 2)).tolist() == [0, 1, 2, 3]


def test_infinite_fitness_is_the_worst() -> None:
    pytest.importorskip("pymoo")
    fitness = torch.tensor([[-float("inf"), 0.5], [0.1, 0.4], [0.2, 0.3], [float("nan"), 0.2]])
    order = pareto_order(fitness).tolist()
    assert set(order[:3]) == {0, 1, 2}
    assert order[3] == 3


def test_without_pymoo_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "pymoo"] + ["pymoo"]:
        monkeypatch.setitem(sys.modules, name, None)
    algorithm = NSGA2(Shares(3), 4)
    genomes, traits = algorithm.ask(None, torch.Generator())
    with pytest.raises(EvopruneError, match=r"nsga2 needs pymoo: pip install -e '\.\[search\]'"):
        algorithm.tell(None, Population(genomes, torch.zeros(4, 2), traits))
    with pytest.raises(EvopruneError, match="nsga2 needs pymoo"):  # said before a run begins
        make_settings(model="m", space="allocation", algorithm="nsga2")


def test_an_infinite_fitness_leaves_distances_between_finite_ones() -> None:
    pytest.importorskip("pymoo")
    scores, sparsity = [-float("inf"), -1.0, -1.01, -3.0, -5.0], [0.9, 0.5, 0.6, 0.7, 0.8]
    assert pareto_order(torch.tensor([scores, sparsity]).T).tolist() == [0, 1, 4, 3, 2]
