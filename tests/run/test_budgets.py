"""Runs under an exact budget in another quantity than weights."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import evoprune
from evoprune import EvopruneError
from evoprune.core import Layer
from evoprune.evaluation import Costs
from evoprune.report import summary_lines
from evoprune.run import make_settings
from evoprune.run.schedule import Outcome, next_stage

QUICK = {"population": 4, "generations": 2, "finetune_epochs": 1, "final_epochs": 1, "threads": 1}


def data() -> tuple[Tensor, Tensor]:
    inputs = torch.randn(120, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    return inputs, (inputs.mean((1, 2, 3)) > 0).long()


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 9), nn.ReLU(), nn.Linear(9, 2)
    )


def pruned(**options: Any) -> evoprune.Result:
    chosen = {"space": "allocation", "train": data()} | QUICK | options
    return evoprune.prune(net(), evoprune.accuracy(data()), **chosen)


UNITS = {"parameters": (1, 1, 1), "flops": (36, 1, 1), "bytes": (5, 5, 5)}
DENSE = {"parameters": 36 + 4 + 8 + 1305 + 20, "flops": 36 * 36 + 1296 + 18, "bytes": 4 * 1373 + 4 * 8 + 8}
REST = {"parameters": 4 + 8 + 9 + 2, "flops": 0, "bytes": 4 * 23 + 4 * 8 + 8 + 4 * (5 + 10 + 3)}


@pytest.mark.parametrize("guidance", ["none", "gradient"])
@pytest.mark.parametrize("kind", list(UNITS))
def test_the_share_that_goes_is_met_to_the_last_weight(kind: str, guidance: str, tmp_path: Path) -> None:
    result = pruned(budget=kind, sparsity=0.7, guidance=guidance, out=tmp_path)
    kept = [int(mask.sum()) for mask in result.masks.values()]
    cost = REST[kind] + sum(unit * count for unit, count in zip(UNITS[kind], kept, strict=True))
    found = result.summary["budget"]
    assert found == {"kind": kind, "dense": DENSE[kind], "pruned": cost, "share_left": cost / DENSE[kind]}
    assert 0 <= 0.3 * DENSE[kind] - cost < UNITS[kind][-1]
    assert result.sparsity == pytest.approx(1 - sum(kept) / 1350)
    assert result.summary["status"] == "complete"
    assert any(line.startswith(kind) and f"{cost:,} of" in line for line in summary_lines(result.summary))
    assert f"Fewer {kind}" in (tmp_path / "report.html").read_text()


def test_a_mixture_keeps_to_it_too() -> None:
    found = pruned(budget="flops", sparsity=0.7, space="mixture").summary["budget"]
    assert found["pruned"] == int(0.3 * DENSE["flops"])


def test_weights_are_the_usual_budget() -> None:
    usual, said = pruned(sparsity=0.8), pruned(sparsity=0.8, budget="weights")
    assert all(torch.equal(mask, said.masks[name]) for name, mask in usual.masks.items())
    assert said.summary["budget"]["share_left"] == pytest.approx(0.2, abs=1 / 1350)
    assert not any(line.startswith("weights") for line in summary_lines(said.summary))


def test_some_layers_alone() -> None:
    result = pruned(budget="flops", sparsity=0.4, layers=["4"])
    assert result.summary["budget"]["dense"] == DENSE["flops"]
    assert 0.6 * DENSE["flops"] - 1 < result.summary["budget"]["pruned"] <= 0.6 * DENSE["flops"]
    assert int(result.masks["4"].sum()) == result.summary["budget"]["pruned"] - 36 * 36 - 18


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"space": "weights", "sparsity": 0.5}, "--space allocation"),
        ({"max_drop": 1.0}, "--sparsity"),
        ({"preset": "original", "space": "allocation"}, "--preset default"),
        ({"sparsity": 0.5, "algorithm": "nsga2"}, "nsga2"),
        ({"sparsity": 0.995}, "at most 0.98"),
    ],
)
def test_what_does_not_go_together_is_one_line(options: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(EvopruneError, match=words) as error:
        pruned(budget="parameters", out=tmp_path / "run", **options)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("sparsity", [0.05, 0.15, 0.19])
def test_the_ladder_thins_what_is_not_constant(sparsity: float) -> None:
    """Where four fifths are constant, no step takes more than the ladder's usual share of the rest."""
    layers, costs = [Layer("a", "Linear", (20, 10))], Costs("parameters", (1,), 800, 1000)
    chosen = make_settings(model="m", space="allocation", budget="parameters", sparsity=sparsity)
    history: list[Outcome] = []
    while (stage := next_stage(chosen, layers, history, False, False, costs)) is not None:
        history.append(Outcome(stage.target, stage.target, 1.0, True, False))
        assert "fewer parameters" in stage.name
    left = [200.0, *(200 - 1000 * outcome.target for outcome in history)]
    assert history[-1].target == pytest.approx(sparsity)
    assert all(after >= 0.34 * before for before, after in pairwise(left))
