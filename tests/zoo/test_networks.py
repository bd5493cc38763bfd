"""Shipped networks: made from a run by tools/ship.py, loaded by name, scored by `evoprune eval NAME`."""

import json
import runpy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from evoprune import zoo
from evoprune.core import EvopruneError, prunable_layers
from evoprune.surgery.bitmask import save_bitmask
from evoprune.zoo import networks
from tests.conftest import Command

ship = runpy.run_path(str(Path(__file__).parents[2] / "tools" / "ship.py"))["main"]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that stands for evoprune/zoo, where `small` can be shipped."""
    monkeypatch.setattr(networks, "FOLDER", tmp_path / "networks")
    monkeypatch.setitem(networks.NETWORKS, "small", "lenet5")
    return tmp_path


def test_a_run_is_shipped_and_scored_by_name(evoprune: Command, digits: Path, place: Path) -> None:
    run = place / "run"
    done = evoprune("prune", "lenet5", "--data", digits, "--sparsity", 0.9, "--guidance", "magnitude",
                    "--space", "allocation", "--generations", 1, "--finetune-epochs", 0, "--final-epochs", 1,
                    "--quiet", "--out", run)  # fmt: skip
    assert done.code == 0, done.err
    named = ["--data", str(digits), "--called", "digits, once JPEG", "--zoo", str(place)]
    ship(["network", str(run), "small", "lenet5", *named])
    file = place / "networks" / "small.safetensors"
    assert file.stat().st_size < (run / "model.safetensors").stat().st_size / 8

    model, masks, _ = zoo.load_network("small")
    assert not any(module.training for module in model.modules())
    expected, kept = load_file(run / "model.safetensors"), load_file(run / "masks.safetensors")
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-3, atol=1e-6)
    assert all(torch.equal(masks[name], mask) for name, mask in kept.items())

    found: dict[str, Any] = json.loads(evoprune("eval", "small", "--data", digits, "--json").out)
    recorded = json.loads((run / "result.json").read_text())["pruned"]
    assert found["sparsity"] == found["recorded"]["sparsity"] == recorded["sparsity"]
    assert found["nonzero_weights"] == found["recorded"]["nonzero_weights"] == recorded["nonzero_weights"]
    for score in ("val_score", "test_score"):
        assert found[score] == pytest.approx(found["recorded"][score], abs=1e-4)
    shown = evoprune("eval", "small", "--data", digits).out
    assert "measured now, on digits" in shown
    assert "recorded, on digits, once JPEG" in shown


def test_trained_weights_are_shipped_in_half_precision(digits: Path, tmp_path: Path) -> None:
    trained = zoo.default_checkpoint("lenet5")
    ship(["weights", "lenet5", str(trained), "--data", str(digits), "--zoo", str(tmp_path)])
    index = tmp_path / "checkpoints" / "lenet5-digits.safetensors.index.json"
    model = zoo.load_model("lenet5")
    metadata = zoo.load_checkpoint(model, index)
    assert (metadata["precision"], metadata["data"]) == ("float16", "mnist")
    for one, other in zip(model.parameters(), zoo.load_trained("lenet5").parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6)


def test_weights_that_are_not_shipped_cannot_be_loaded() -> None:
    with pytest.raises(EvopruneError, match="'lenet' has no shipped weights; those that have: lenet5, lenet5-caffe"):
        zoo.load_trained("lenet")


def test_the_data_of_its_model_is_what_a_network_is_scored_on(
    evoprune: Command, digits: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = zoo.load_trained("lenet5")
    masks = {layer.name: torch.ones(layer.shape, dtype=torch.bool) for layer in prunable_layers(model)}
    recorded = dict.fromkeys(("sparsity", "nonzero_weights", "val_score", "test_score"), "0")
    save_bitmask(model, masks, place / "networks" / "small.safetensors", recorded)
    monkeypatch.setitem(zoo.BUILT_IN, "lenet5", replace(zoo.BUILT_IN["lenet5"], data=str(digits)))
    ran = evoprune("eval", "small", "--json")
    assert ran.code == 0, ran.err
    assert json.loads(ran.out)["test_score"] > 0.9


def test_names_that_are_nothing(evoprune: Command, place: Path) -> None:
    with pytest.raises(EvopruneError, match="did you mean small"):
        zoo.load_network("smal")
    assert evoprune("eval", "smal").failed("no run folder", "no shipped network", "small")
    assert evoprune("eval", place, "--data", "mnist").failed("--data is for shipped networks")


@pytest.mark.parametrize("name", networks.NETWORKS)
def test_what_is_shipped_fits_its_model(name: str) -> None:
    model, masks, metadata = zoo.load_network(name)
    weights = dict(model.named_parameters())
    assert json.loads(metadata["nonzero_weights"]) == sum(int(mask.sum()) for mask in masks.values())
    assert all(not weights[f"{layer}.weight"][~mask].any() for layer, mask in masks.items())
    assert metadata["model"] == networks.NETWORKS[name]
