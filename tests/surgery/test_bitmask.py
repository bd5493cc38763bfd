"""Pruned models in one small file: there and back, and damage."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn

from evoprune.core import EvopruneError, Masks, prunable_layers
from evoprune.storage import save_tensors
from evoprune.surgery import apply_masks
from evoprune.surgery.bitmask import read_bitmask, save_bitmask


def make(seed: int, keep: float = 0.3) -> tuple[nn.Sequential, Masks]:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(27, 5))
    masks = {layer.name: torch.rand(layer.shape) < keep for layer in prunable_layers(model)}
    apply_masks(model, masks)
    return model, masks


@given(st.integers(0, 1000), st.sampled_from([0.0, 0.1, 0.5, 1.0]))
def test_there_and_back(tmp_path_factory: pytest.TempPathFactory, seed: int, keep: float) -> None:
    model, masks = make(seed, keep)
    path = tmp_path_factory.mktemp("bitmask") / "m.safetensors"
    save_bitmask(model, masks, path, {"data": "mnist"})
    tensors, found, metadata = read_bitmask(path)
    assert metadata == {"data": "mnist"}
    assert found.keys() == masks.keys()
    assert all(torch.equal(found[name], mask) for name, mask in masks.items())
    state = model.state_dict()
    assert tensors.keys() == state.keys()
    for name, tensor in state.items():
        expected = tensor.half() if tensor.dim() >= 2 else tensor
        assert torch.equal(tensors[name], expected)


def test_it_is_as_small_as_it_says(tmp_path: Path) -> None:
    model, masks = make(0)
    save_bitmask(model, masks, tmp_path / "m.safetensors")
    held = load_file(tmp_path / "m.safetensors")
    assert held["3.weight.bits"].nbytes == (27 * 5 + 7) // 8
    assert held["3.weight.values"].nbytes == 2 * int(masks["3"].sum())
    assert "3.weight" not in held


def test_a_layer_without_a_mask_is_kept_whole(tmp_path: Path) -> None:
    model, masks = make(0)
    del masks["0"]
    save_bitmask(model, masks, tmp_path / "m.safetensors")
    tensors, found, _ = read_bitmask(tmp_path / "m.safetensors")
    assert found.keys() == {"3"}
    assert torch.equal(tensors["0.weight"], model[0].weight.half())


def test_other_files_are_refused(tmp_path: Path) -> None:
    model, masks = make(0)
    path = tmp_path / "m.safetensors"
    save_tensors(model.state_dict(), path)
    with pytest.raises(EvopruneError, match="no bitmask file"):
        read_bitmask(path)
    save_bitmask(model, masks, path)
    held = load_file(path)
    shapes = {"bitmask-shapes": '{"3.weight": [5, 27]}'}
    for name in ("3.weight.values", "3.weight.bits"):
        save_tensors(held | {name: held[name][:-1]}, path, shapes)
        with pytest.raises(EvopruneError, match="no bitmask file"):
            read_bitmask(path)


def test_scales_of_norms_keep_their_range(tmp_path: Path) -> None:
    model = nn.BatchNorm2d(3)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([1e5, 0.0, 1e-9]))
    save_bitmask(nn.Sequential(model), {"0": model.weight != 0}, tmp_path / "m.safetensors")
    tensors, _, _ = read_bitmask(tmp_path / "m.safetensors")
    assert torch.equal(tensors["0.weight"], model.weight.detach())


def test_a_model_that_is_one_layer(tmp_path: Path) -> None:
    model, mask = nn.Linear(20, 30), torch.arange(600).view(30, 20) % 7 == 0
    save_bitmask(model, {"": mask}, tmp_path / "m.safetensors")
    assert "weight" not in load_file(tmp_path / "m.safetensors")
    tensors, masks, _ = read_bitmask(tmp_path / "m.safetensors")
    assert masks.keys() == {""}
    assert torch.equal(masks[""], mask)
    assert torch.equal(tensors["weight"], (model.weight.detach() * mask).half())
