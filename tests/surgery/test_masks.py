"""Masks on a model and on disk."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from evoprune.core import EvopruneError, prunable_layers
from evoprune.storage import save_tensors
from evoprune.surgery import apply_masks, load_masks, set_weights


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))


def masks() -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(1)
    return {"0": torch.rand(5, 6, generator=rng) < 0.5, "2": torch.rand(3, 5, generator=rng) < 0.3}


def test_pruned_weights_are_plus_zero_and_the_others_untouched() -> None:
    net, found = model(), masks()
    dense = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    with torch.no_grad():
        net[0].weight[~found["0"]] = -1.0
        net[2].weight[0, 0] = float("nan")
        net[2].weight[0, 1] = -float("inf")
    found["2"][0, :2] = False
    apply_masks(net, found)
    for name, mask in found.items():
        weight = net.get_parameter(f"{name}.weight")
        assert bool((weight[~mask] == 0).all())
        assert not bool(torch.signbit(weight[~mask]).any())
        assert torch.equal(weight[mask], dense[f"{name}.weight"][mask])
        assert torch.equal(net.get_parameter(f"{name}.bias"), dense[f"{name}.bias"])


def test_weights_are_set_in_place() -> None:
    net = model()
    parameter, other = net[0].weight, net[2].weight.detach().clone()
    set_weights(net, {"0": torch.full((5, 6), 2.0)})
    assert net[0].weight is parameter
    assert bool((parameter == 2).all())
    assert torch.equal(net[2].weight, other)


def test_masks_come_back_from_disk(tmp_path: Path) -> None:
    save_tensors(masks(), tmp_path / "masks.safetensors")
    found = load_masks(tmp_path / "masks.safetensors", prunable_layers(model()))
    assert found.keys() == {"0", "2"}
    assert all(mask.dtype == torch.bool and torch.equal(mask, masks()[name]) for name, mask in found.items())
    assert all(tensor.dtype == torch.bool for tensor in load_file(tmp_path / "masks.safetensors").values())


def test_masks_of_another_models_shape_or_name_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "masks.safetensors"
    save_file({"0": torch.ones(4, 6, dtype=torch.bool)}, path)
    with pytest.raises(EvopruneError, match=r"mask '0' has shape \(4, 6\).*\(5, 6\)"):
        load_masks(path, prunable_layers(model()))
    save_file({"classifier": torch.ones(5, 6, dtype=torch.bool)}, path)
    with pytest.raises(EvopruneError, match=r"'classifier'.*no such name"):
        load_masks(path, prunable_layers(model()))


@pytest.mark.parametrize("content", [None, b"", b"no masks"])
def test_an_unreadable_mask_file_is_one_line(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "masks.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(EvopruneError, match="put the masks back") as error:
        load_masks(path, prunable_layers(model()))
    assert "\n" not in str(error.value)
