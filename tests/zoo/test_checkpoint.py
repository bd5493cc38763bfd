"""Checkpoints: every accepted form, every refusal, and nothing half written."""

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from evoprune.core import EvopruneError
from evoprune.zoo import load_checkpoint, save_checkpoint
from evoprune.zoo.parts import save_parts


def make(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3))


def equal(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().items(), other.state_dict().items(), strict=True)
    return all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


def prefixed(state: dict[str, Any]) -> dict[str, Any]:
    return {f"module.{name}": tensor for name, tensor in state.items()}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        prefixed,
        lambda state: {"net": prefixed(state), "acc": 94.1, "epoch": 3},
        lambda state: {"state_dict": state, "optimizer": {"lr": 0.1}},
        lambda state: {"model": {"state_dict": state}},
    ],
)
def test_pytorch_files(wrap: Any, tmp_path: Path) -> None:
    source, model = make(1), make(2)
    torch.save(wrap(source.state_dict()), tmp_path / "w.pth")
    assert load_checkpoint(model, tmp_path / "w.pth") == {}
    assert equal(model, source)


def test_legacy_pytorch_files(tmp_path: Path) -> None:
    source, model = make(1), make(2)
    torch.save(source.state_dict(), tmp_path / "w.pt", _use_new_zipfile_serialization=False)
    load_checkpoint(model, tmp_path / "w.pt")
    assert equal(model, source)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_weights_of_another_precision_are_converted(dtype: torch.dtype, tmp_path: Path) -> None:
    source, model = make(1), make(2)
    torch.save({name: tensor.to(dtype) for name, tensor in source.state_dict().items()}, tmp_path / "w.pt")
    load_checkpoint(model, tmp_path / "w.pt")
    assert equal(model, source.to(dtype).float())
    assert model[0].weight.dtype == torch.float32


def test_there_and_back(tmp_path: Path) -> None:
    source, model = make(1), make(2)
    path = tmp_path / "new" / "w.safetensors"
    save_checkpoint(source, path, {"data": "mnist", "seed": "3", "a": "b"})
    assert load_checkpoint(model, path) == {"data": "mnist", "seed": "3", "a": "b"}
    assert equal(model, source)
    first = path.read_bytes()
    save_checkpoint(model, path, {"seed": "3", "a": "b", "data": "mnist"})
    assert path.read_bytes() == first
    assert os.listdir(path.parent) == ["w.safetensors"]
    renamed = path.rename(tmp_path / "w.bin")  # known by its content
    load_checkpoint(make(4), renamed)


def test_wrapped_models(tmp_path: Path) -> None:
    source, model = nn.DataParallel(make(1)), nn.DataParallel(make(2))
    save_checkpoint(source, tmp_path / "w.safetensors")
    assert "0.weight" in load_file(tmp_path / "w.safetensors")
    load_checkpoint(model, tmp_path / "w.safetensors")
    assert equal(model, source)


def test_shared_and_strided_tensors(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last))
    model[1].weight = model[0].weight
    model[0].bias = nn.Parameter(torch.arange(8.0)[::2])
    expected = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    save_checkpoint(model, tmp_path / "w.safetensors")
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    load_checkpoint(model, tmp_path / "w.safetensors")
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())
    assert model[1].weight is model[0].weight


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("evil",)


def drop(name: str) -> dict[str, Any]:
    return {key: tensor for key, tensor in make(1).state_dict().items() if key != name}


def truncate(path: Path) -> None:
    torch.save(make(1).state_dict(), path)
    path.write_bytes(path.read_bytes()[:900])


BAD = {
    "lacks 3.bias of": lambda path: torch.save(drop("3.bias"), path),
    "lacks 0.weight, 0.bias, 1.weight and 6 more": lambda path: torch.save({"a": torch.zeros(1)}, path),
    "holds extra, which": lambda path: torch.save(make(1).state_dict() | {"extra": torch.zeros(1)}, path),
    r"3.weight has shape \(3, 9\) but the model wants \(3, 8\)": lambda path: torch.save(
        make(1).state_dict() | {"3.weight": torch.zeros(3, 9)}, path
    ),
    "1.running_var holds NaN": lambda path: torch.save(
        make(1).state_dict() | {"1.running_var": torch.tensor([1, torch.nan])}, path
    ),
    "0.bias holds NaN or inf": lambda path: torch.save(
        make(1).state_dict() | {"0.bias": torch.tensor([-torch.inf, 0])}, path
    ),
    "0.bias holds .* too large for the model's float32": lambda path: torch.save(
        make(1).state_dict() | {"0.bias": torch.tensor([1e300, 0], dtype=torch.float64)}, path
    ),
    "0.bias is complex64 but the model wants float32": lambda path: torch.save(
        make(1).state_dict() | {"0.bias": torch.tensor([1j, 0])}, path
    ),
    "3.weight is int8 but the model wants float32; save": lambda path: torch.save(
        make(1).state_dict() | {"3.weight": torch.ones(3, 8, dtype=torch.int8)}, path
    ),
    "holds more than tensors": lambda path: torch.save({"net": make(1).state_dict(), "x": Evil()}, path),
    "holds more than tensors and is not unpickled": lambda path: path.write_bytes(pickle.dumps(Evil())),
    "holds more than tensors .*state_dict": lambda path: torch.save(make(1), path),
    "holds no state dict": lambda path: torch.save({"epoch": 3, "weights": {}}, path),
    "holds no state dict .names": lambda path: torch.save(torch.zeros(3), path),
    "neither a safetensors file nor": lambda path: path.write_text("hello, this is text"),
    "neither a safetensors file": lambda path: path.write_bytes(b""),
    "cannot be read .*complete": truncate,
}


@pytest.mark.parametrize("message", BAD)
def test_bad_checkpoints_leave_the_model_alone(message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    BAD[message](tmp_path / "w.pth")
    model = make(2)
    with pytest.raises(EvopruneError, match=message) as caught:
        load_checkpoint(model, "w.pth")
    assert "\n" not in str(caught.value)
    assert "w.pth" in str(caught.value)
    assert equal(model, make(2))
    assert not (tmp_path / "evil").exists()


def test_bad_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    with pytest.raises(EvopruneError, match="is not a file"):
        load_checkpoint(make(), path)
    save_file(make(1).state_dict(), path)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(EvopruneError, match="not a readable safetensors file"):
        load_checkpoint(make(), path)
    path.write_text("{}")
    with pytest.raises(EvopruneError, match="not a readable safetensors file"):
        load_checkpoint(make(), path)


def test_parts_with_an_index(tmp_path: Path) -> None:
    source, model, index = make(1), make(2), tmp_path / "w.safetensors.index.json"
    files = save_parts(source.state_dict(), index, part_bytes=100, metadata={"data": "mnist"})
    assert files[0].name == f"w-00001-of-{len(files):05}.safetensors"
    assert len(files) > 1
    assert all(sum(t.nbytes for t in load_file(file).values()) <= 100 or len(load_file(file)) == 1 for file in files)
    assert load_checkpoint(model, index)["data"] == "mnist"
    assert equal(model, source)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda _, files: files[1].unlink(), "put all parts into one folder"),
        (lambda index, _: index.write_text("{}"), "no index"),
        (lambda index, _: index.write_text("[1]"), "no index"),
        (lambda index, _: index.write_text(index.read_text()[:50]), "no index"),
        (lambda index, _: index.write_text(index.read_text().replace("w-00001", "../w-00001")), "no index"),
        (lambda _, files: save_file({"other": torch.zeros(1)}, files[0]), "lack"),
        (lambda _, files: files[0].write_bytes(b"nothing"), "not a readable"),
    ],
)
def test_damaged_parts(damage: Any, said: str, tmp_path: Path) -> None:
    index, model = tmp_path / "w.safetensors.index.json", make(2)
    damage(index, save_parts(make(1).state_dict(), index, part_bytes=100))
    with pytest.raises(EvopruneError, match=said):
        load_checkpoint(model, index)
    assert equal(model, make(2))


def test_buffers_may_be_infinite_as_attention_masks_are(tmp_path: Path) -> None:
    model = make(1)
    model.register_buffer("mask", torch.full((2, 2), -torch.inf).triu(1))
    save_checkpoint(model, tmp_path / "w.safetensors")
    load_checkpoint(model, tmp_path / "w.safetensors")
    assert bool(model.get_buffer("mask").isinf().any())


def test_a_part_called_module_keeps_its_name(tmp_path: Path) -> None:
    models = [nn.ModuleDict({"module": nn.ModuleDict({"fc": nn.Linear(2, 3)}), "fc": nn.Linear(4, 5)}) for _ in "ab"]
    save_checkpoint(models[0], tmp_path / "w.safetensors")
    load_checkpoint(models[1], tmp_path / "w.safetensors")
    first, second = (model.state_dict() for model in models)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
