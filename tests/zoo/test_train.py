"""Training: it learns, it is deterministic, and an interrupted training ends with the same bits."""

import itertools
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from evoprune.core import EvopruneError
from evoprune.storage import read_tensors, save_tensors
from evoprune.training import Recipe
from evoprune.zoo import Data, Split, load_checkpoint, measured_accuracy, train

RECIPE = Recipe(epochs=4, batch_size=10, learning_rate=0.02, shift=1, flip=False)


def make() -> nn.Sequential:
    """Dropout draws from the global generator, batch normalization has buffers: both must be resumed."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Dropout(0.1), nn.Linear(64, 2))


class Stop(Exception):
    pass


def stop_after(epoch: int):
    def on_epoch(done: dict[str, float]) -> None:
        if done["epoch"] == epoch:
            raise Stop

    return on_epoch


def test_it_learns_and_saves_the_last_epoch(tiny: Data, tmp_path: Path) -> None:
    epochs: list[dict[str, float]] = []
    out = tmp_path / "net.safetensors"
    model = make()
    result = train(model, tiny, RECIPE, 0, out, on_epoch=epochs.append, metadata={"model": "net"})
    assert result["test_accuracy"] == measured_accuracy(model, tiny.test) > 0.9
    assert result["history"] == epochs
    assert [epoch["epoch"] for epoch in epochs] == [1, 2, 3, 4]
    assert epochs[-1]["train_loss"] < epochs[0]["train_loss"] / 2
    assert result["val_accuracy"] == epochs[-1]["val_accuracy"] == measured_accuracy(model, tiny.val)
    loaded = make()
    metadata = load_checkpoint(loaded, out)
    assert metadata["model"] == "net"
    assert float(metadata["test_accuracy"]) == pytest.approx(result["test_accuracy"], abs=1e-5)
    assert all(
        torch.equal(a, b) for a, b in zip(loaded.state_dict().values(), model.state_dict().values(), strict=True)
    )
    assert [file.name for file in tmp_path.iterdir()] == ["net.safetensors"]


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_an_interrupted_training_ends_with_the_same_bits(optimizer: str, tiny: Data, tmp_path: Path) -> None:
    recipe = replace(RECIPE, optimizer=optimizer, flip=True, label_smoothing=0.1)
    whole, broken = tmp_path / "whole.safetensors", tmp_path / "broken.safetensors"
    unbroken = train(make(), tiny, recipe, 3, whole)
    for epoch in (1, 3):
        torch.rand(7)  # the global random state is another one each time
        with pytest.raises(Stop):
            train(make(), tiny, recipe, 3, broken, on_epoch=stop_after(epoch))
        assert not broken.exists()
    seen: list[dict[str, float]] = []
    resumed = train(make(), tiny, recipe, 3, broken, on_epoch=seen.append)
    assert [epoch["epoch"] for epoch in seen] == [4]
    tensors, expected = load_file(broken), load_file(whole)
    assert tensors.keys() == expected.keys()
    assert all(torch.equal(tensors[name], expected[name]) for name in expected)
    assert [epoch["train_loss"] for epoch in resumed["history"]] == [e["train_loss"] for e in unbroken["history"]]
    other = train(make(), tiny, recipe, 4, tmp_path / "other.safetensors")
    assert other["train_loss"] != unbroken["train_loss"]


def test_an_unfinished_training_of_other_settings_is_not_lost(tiny: Data, tmp_path: Path) -> None:
    out = tmp_path / "net.safetensors"
    with pytest.raises(Stop):
        train(make(), tiny, RECIPE, 0, out, on_epoch=stop_after(2))
    part = Path(f"{out}.part")
    before = part.read_bytes()
    with pytest.raises(EvopruneError, match=r"other settings \(recipe, seed\); delete it"):
        train(make(), tiny, replace(RECIPE, epochs=9), 1, out)
    with pytest.raises(EvopruneError, match=r"other settings \(data\)"):
        train(make(), replace(tiny, train=tiny.val), RECIPE, 0, out)
    assert part.read_bytes() == before
    part.write_bytes(before[:-50])
    with pytest.raises(EvopruneError, match=r"net.safetensors.part is damaged; delete it"):
        train(make(), tiny, RECIPE, 0, out)
    assert train(make(), tiny, replace(RECIPE, epochs=1), 1, out, restart=True)["epochs"] == 1
    assert not part.exists()


@pytest.mark.parametrize("lost", ["model", "optimizer"])
def test_an_unfinished_training_that_lost_a_tensor_is_not_continued(tiny: Data, tmp_path: Path, lost: str) -> None:
    out, part = tmp_path / "net.safetensors", tmp_path / "net.safetensors.part"
    with pytest.raises(Stop):
        train(make(), tiny, RECIPE, 0, out, on_epoch=stop_after(1))
    tensors, metadata = read_tensors(part)
    save_tensors({name: tensor for name, tensor in tensors.items() if not name.startswith(lost)}, part, metadata)
    with pytest.raises(EvopruneError, match=r"lacks tensors.*delete it"):
        train(make(), tiny, RECIPE, 0, out)


def test_the_random_state_and_the_mode_are_left_as_found(tiny: Data, tmp_path: Path) -> None:
    model = make().eval()
    random = torch.get_rng_state()
    train(model, tiny, replace(RECIPE, epochs=1), 0, tmp_path / "net.safetensors")
    assert torch.equal(torch.get_rng_state(), random)
    assert not model.training


def test_a_diverging_training_says_so(tiny: Data, tmp_path: Path) -> None:
    inputs = tiny.train.inputs.clone()
    inputs[0] = torch.inf
    data = replace(tiny, train=Split(inputs, tiny.train.targets))
    with pytest.raises(EvopruneError, match=r"training loss is nan in epoch 1; try a lower learning rate than 0\.02"):
        train(make(), data, RECIPE, 0, tmp_path / "net.safetensors")


def test_a_model_of_another_shape_is_refused(tiny: Data, tmp_path: Path) -> None:
    with pytest.raises(EvopruneError, match=r"cannot take images \(C, H, W\) = \(1, 6, 6\)"):
        train(nn.Linear(5, 2), tiny, RECIPE, 0, tmp_path / "net.safetensors")


def test_seconds_are_of_all_epochs_and_the_model_keeps_its_layout(
    tiny: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = itertools.count()
    monkeypatch.setattr("evoprune.zoo.trainer.time.perf_counter", lambda: next(ticks))
    out, model = tmp_path / "net.safetensors", make()
    with pytest.raises(Stop):
        train(model, tiny, RECIPE, 0, out, on_epoch=stop_after(2))
    model = make()
    history = train(model, tiny, RECIPE, 0, out)["history"]
    assert [epoch["seconds"] for epoch in history] == [1, 2, 3, 4]
    assert model[0].weight.is_contiguous()


def test_a_model_whose_state_no_file_can_hold_is_refused_before_it_trains(tiny: Data, tmp_path: Path) -> None:
    class Extra(nn.Sequential):
        def get_extra_state(self) -> dict[str, int]:
            return {"version": 1}

    with pytest.raises(EvopruneError, match="_extra_state, a dict"):
        train(Extra(*make()), tiny, RECIPE, 0, tmp_path / "net.safetensors")
    model = make()
    model.register_buffer("phases", torch.zeros(2, dtype=torch.complex128))
    with pytest.raises(EvopruneError, match=r"phases, a torch.complex128 tensor"):
        train(model, tiny, RECIPE, 0, tmp_path / "net.safetensors")
