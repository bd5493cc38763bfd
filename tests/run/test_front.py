"""A run that keeps its front: every point loads, and the floor picks one of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import evoprune
from evoprune import EvopruneError
from evoprune.core import prunable_layers, sparsity_of
from evoprune.run.result import non_dominated
from evoprune.run.schedule import Outcome


def data() -> tuple[Tensor, Tensor]:
    inputs = torch.randn(300, 12, generator=torch.Generator().manual_seed(0))
    return inputs, (inputs[:, 0] > 0).long() + (inputs[:, 1] > 0.5).long()


def trained() -> nn.Module:
    torch.manual_seed(0)
    model, (inputs, targets) = nn.Sequential(nn.Linear(12, 40), nn.ReLU(), nn.Linear(40, 3)), data()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(150):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
    return model


def pruned(**options: object) -> evoprune.Result:
    settings = {
        "population": 3,
        "generations": 1,
        "finetune_epochs": 1,
        "final_epochs": 3,
        "threads": 1,
        "batch_size": 15,
        "learning_rate": 0.01,
    } | options
    return evoprune.prune(trained(), evoprune.accuracy(data()), train=data(), **({"front": True} | settings))


def test_every_point_is_a_model_with_its_sparsity_and_score(tmp_path: Path) -> None:
    result = pruned(max_drop=15, out=tmp_path / "run")
    layers, score = prunable_layers(result.model), evoprune.accuracy(data())
    assert len(result.front) > 2
    sparsities = [point["sparsity"] for point in result.front]
    scores = [point["score"] for point in result.front]
    assert sparsities == sorted(sparsities)
    assert scores == sorted(scores, reverse=True)
    for index, point in enumerate(result.front):
        model, masks = result.point(index)
        assert sparsity_of(masks, layers) == pytest.approx(point["sparsity"])
        assert score(model) == pytest.approx(point["score"])
        on_disk = load_file(tmp_path / "run" / "front" / f"{index:03}" / "model.safetensors")
        assert all(torch.equal(on_disk[name], tensor) for name, tensor in model.state_dict().items())
        assert load_file(tmp_path / "run" / "front" / f"{index:03}" / "masks.safetensors").keys() == masks.keys()
    recorded = json.loads((tmp_path / "run" / "result.json").read_text())["front"]
    assert [point["folder"] for point in recorded] == [f"front/{index:03}" for index in range(len(result.front))]
    assert (tmp_path / "run" / "figures" / "front.png").exists()


def test_the_floor_picks_the_sparsest_point_above_it_and_the_run_looks_beyond() -> None:
    result = pruned(max_drop=15)
    floor = result.summary["floor"]
    above = [point for point in result.front if point["score"] >= floor]
    assert result.sparsity == pytest.approx(max(point["sparsity"] for point in above))
    assert result.score >= floor
    assert result.front[-1]["sparsity"] > result.sparsity


def test_a_front_up_to_a_sparsity_ends_there() -> None:
    result = pruned(sparsity=0.8)
    assert result.sparsity == pytest.approx(0.8, abs=0.01)
    assert result.front[-1]["sparsity"] == pytest.approx(0.8, abs=0.01)


def test_a_run_without_a_front_says_how_to_get_one() -> None:
    with pytest.raises(EvopruneError, match="--front"):
        pruned(sparsity=0.5, front=False).point(0)
    with pytest.raises(EvopruneError, match="original"):
        pruned(preset="original")


def test_without_the_folders_of_a_front_the_run_is_of_use_all_the_same(tmp_path: Path) -> None:
    result = pruned(sparsity=0.5, out=tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "front")
    again = evoprune.resume(tmp_path / "run", trained(), evoprune.accuracy(data()), train=data())
    assert again.front == result.front
    with pytest.raises(EvopruneError, match="kept no models of its front"):
        again.point(0)


def test_what_another_equals_in_score_and_beats_in_sparsity_is_not_of_the_front() -> None:
    points = [Outcome(s, s, v, True, True) for s, v in ((0.5, 0.9), (0.6, 0.9), (0.6, 0.8), (0.7, 0.7), (0.4, 0.95))]
    found = non_dominated(points, lambda point: point.val_score)
    assert [(point.sparsity, point.val_score) for point in found] == [(0.4, 0.95), (0.6, 0.9), (0.7, 0.7)]


def test_a_point_is_a_copy() -> None:
    result = pruned(max_drop=15)
    before = {name: tensor.clone() for name, tensor in result.model.state_dict().items()}
    assert all(result.point(index)[0] is not result.model for index in range(len(result.front)))
    assert all(torch.equal(tensor, before[name]) for name, tensor in result.model.state_dict().items())
