"""How a stage's search is put together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import evoprune
from evoprune import EvopruneError
from evoprune.core import Layer, Masks, Scores, weight_of
from evoprune.guidance.learned import CANDIDATES
from evoprune.run import searching
from evoprune.run.objective import mixed_fitness

QUICK = {"population": 4, "generations": 2, "finetune_epochs": 1, "final_epochs": 1, "threads": 1}


def data() -> tuple[Tensor, Tensor]:
    inputs = torch.randn(200, 8, generator=torch.Generator().manual_seed(0))
    return inputs, (inputs[:, 0] > 0).long()


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 20), nn.ReLU(), nn.Linear(20, 2))


def pruned(**options: Any) -> evoprune.Result:
    return evoprune.prune(net(), evoprune.accuracy(data()), train=data(), **(QUICK | options))


@pytest.mark.parametrize("guidance", ["none", "gradient"])
def test_guidance_looks_at_the_model_without_its_pruned_weights(monkeypatch: pytest.MonkeyPatch, guidance: str) -> None:
    seen = []
    advise = searching.advise

    def watched(kind: str, model: nn.Module, layers: list[Layer], masks: Masks, *rest: Any) -> Any:
        seen.append(sum(int((~masks[layer.name]).sum()) for layer in layers))
        assert all(not weight_of(model, layer.name)[~masks[layer.name]].any() for layer in layers)
        return advise(kind, model, layers, masks, *rest)

    monkeypatch.setattr(searching, "advise", watched)
    pruned(passes=[0.4, 0.7], guidance=guidance, space="weights")
    assert seen == [0, 80]


def test_a_listener_hears_of_every_layer_that_is_ordered() -> None:
    events: list[dict[str, Any]] = []
    pruned(passes=[0.4], listener=events.append)
    before = [event for event in events if event["event"] in ("ordered", "generation")]
    assert before[:2] == [{"event": "ordered", "layers": done, "of": 2} for done in (1, 2)]


@pytest.mark.parametrize("algorithm", ["ga", "steady", "evopress", "cmaes", "random"])
def test_every_algorithm_meets_the_sparsity_in_the_allocation_space(algorithm: str) -> None:
    result = pruned(sparsity=0.8, space="allocation", algorithm=algorithm)
    assert result.sparsity == pytest.approx(0.8, abs=0.005)
    assert result.summary["algorithm"] == algorithm


@pytest.mark.parametrize("algorithm", ["ga", "steady", "random"])
def test_a_mixture_spends_the_second_part_of_a_stage_on_bits(algorithm: str) -> None:
    """What it ends with is no level of the order any more, and the sparsity is exact in both parts."""
    events: list[dict[str, Any]] = []
    options: dict[str, Any] = {"passes": [0.6], "space": "mixture", "algorithm": algorithm, "guidance": "magnitude"}
    options |= {"population": 6, "generations": 6, "threads": 1, "listener": events.append}
    result = evoprune.prune(net(), evoprune.accuracy(data()), **options)
    assert result.sparsity == pytest.approx(0.6, abs=0.003)
    shares = [s for e in events if e["event"] == "generation" for s in e["candidates"]["sparsity"]]
    assert len(set(shares)) == 1
    kept = {name: weight_of(net(), name)[mask].abs().min() for name, mask in result.masks.items()}
    gone = {name: weight_of(net(), name)[~mask].abs().max() for name, mask in result.masks.items()}
    assert any(gone[name] > kept[name] for name in kept)


def test_screening_scores_most_candidates_on_few_samples() -> None:
    full = pruned(sparsity=0.6, space="allocation", algorithm="random", population=16)
    screened = pruned(sparsity=0.6, space="allocation", algorithm="evopress", population=16)
    assert screened.summary["search"]["evaluations"] == full.summary["search"]["evaluations"]
    assert screened.summary["search"]["full_evaluations"] < 0.8 * full.summary["search"]["full_evaluations"]


def test_what_guidance_scored_is_counted() -> None:
    plain, learned = (pruned(sparsity=0.6, guidance=guidance) for guidance in ("magnitude", "learned"))
    stages = sum(1 for _ in learned.front)
    more = learned.summary["search"]["evaluations"] - plain.summary["search"]["evaluations"]
    assert more == 2 * CANDIDATES * stages
    full = learned.summary["search"]["full_evaluations"] - plain.summary["search"]["full_evaluations"]
    assert full > 0.5 * more


def test_nsga2_ends_a_stage_at_its_target() -> None:
    result = pruned(sparsity=0.7, space="allocation", algorithm="nsga2", population=8)
    assert result.sparsity == pytest.approx(0.7, abs=0.01)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"algorithm": "nsga2"}, "space allocation"),
        ({"algorithm": "cmaes"}, "space allocation"),
        ({"algorithm": "pbil", "space": "allocation"}, "space weights"),
        ({"algorithm": "pbil", "space": "mixture"}, "space weights"),
        ({"algorithm": "cmaes", "space": "mixture"}, "space allocation"),
        ({"algorithm": "nsga2", "space": "mixture"}, "space allocation"),
    ],
)
def test_what_does_not_go_together_is_said(options: dict[str, str], words: str, tmp_path: Path) -> None:
    with pytest.raises(EvopruneError, match=words):
        pruned(sparsity=0.5, out=tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def test_under_a_floor_below_zero_nothing_seems_better_than_above_it() -> None:
    """Scores far below zero outweigh any sparsity."""
    scores = Scores(torch.tensor([-20.0, -50.0]), None, torch.ones(2, dtype=torch.bool), 2)
    above, below = mixed_fitness(scores, torch.tensor([0.1, 0.9]), 0.8, -30.0)[:, 0].tolist()
    assert above == pytest.approx(0.8 * 0.1 - 0.2 * 20)
    assert below < above
    assert mixed_fitness(scores, torch.tensor([0.1, 0.9]), 0.8, 0.5).tolist() == [[0.0], [0.0]]
