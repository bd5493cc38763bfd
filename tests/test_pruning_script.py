"""pruning.py: the reference system's command lines, on a few real digits."""

import json
import runpy
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from evoprune.spaces import unpack_bits
from evoprune.zoo import default_checkpoint

SCRIPT = Path(__file__).parents[1] / "pruning.py"
LAYERS = ["feature.0", "feature.3", "classifier.1", "classifier.3", "classifier.5"]


@pytest.fixture(autouse=True)
def in_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("evoprune.api.write_report", lambda _: None)  # tested elsewhere, and slow


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, digits: Path):
    def run(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["pruning.py", *arguments, "--data", str(digits)])
        try:
            runpy.run_path(str(SCRIPT), run_name="__main__")
        except SystemExit as stop:
            return int(stop.code or 0)
        return 0

    return run


def test_one_layer_saved_as_the_reference_saves_it(script, capsys: pytest.CaptureFixture[str]) -> None:
    assert script("--lenet", "--layer", "module.classifier.3", "--save_results") == 0
    config = json.loads(Path("runs/pruning-lenet/config.json").read_text())
    assert (config["preset"], config["generations"], config["mutation_rate"]) == ("original", 20, 0.05)
    assert "classifier.3" in capsys.readouterr().out

    mask = load_file("solutions/LeNet/best_solution_classifier.3.safetensors")["classifier.3"]
    assert not mask.all()
    population_file = "populations/LeNet/population_10_classifier.3.safetensors"
    with safe_open(population_file, "pt") as file:
        genomes = unpack_bits(file.get_tensor("packed"), int(file.metadata()["genes"]))
    assert genomes.shape == (10, mask.numel())
    assert any(torch.equal(genome, mask.flatten()) for genome in genomes)

    checkpoint = default_checkpoint("lenet5")
    assert checkpoint is not None
    dense = load_file(checkpoint)
    before = load_file("sparse_models/LeNet/sparse_weights.safetensors")
    after = load_file("sparse_models/LeNet/sparse_weights_retrained.safetensors")
    dense["classifier.3.weight"] *= mask
    assert all(torch.equal(before[name], value) for name, value in dense.items()), "pruned, not yet retrained"
    assert not torch.equal(before["classifier.3.weight"], after["classifier.3.weight"])
    assert not after["classifier.3.weight"][~mask].any()
    assert after.keys() == load_file("runs/pruning-lenet/model.safetensors").keys()

    # The reference's other command line goes on from this run; a new run does not replace it unasked.
    assert script("--lenet") == 2
    assert "--overwrite" in capsys.readouterr().err
    assert script("--finetune") == 0
    tuned = load_file("runs/pruning-lenet/model.safetensors")
    assert not torch.equal(tuned["classifier.3.weight"], after["classifier.3.weight"])
    assert not tuned["classifier.3.weight"][~mask].any()
    assert json.loads(Path("runs/pruning-lenet/result.json").read_text())["finetune"]["epochs"] == 3 + 20


def test_all_layers(script) -> None:
    assert script("--lenet", "--save_results") == 0
    config = json.loads(Path("runs/pruning-lenet/config.json").read_text())
    assert (config["population"], config["generations"], config["mutation_rate"]) == (10, 25, 0.1)
    assert "pruning.py --lenet --save_results" in config["command"]
    assert sorted(path.name for path in Path("solutions/LeNet").iterdir()) == sorted(
        f"best_solution_{name}.safetensors" for name in LAYERS
    )
    masks = load_file("runs/pruning-lenet/masks.safetensors")
    before = load_file("sparse_models/LeNet/sparse_weights.safetensors")
    after = load_file("sparse_models/LeNet/sparse_weights_retrained.safetensors")
    for name, mask in masks.items():
        for weights in (before, after):
            assert not weights[f"{name}.weight"][~mask].any()
    assert not torch.equal(before["classifier.1.weight"], after["classifier.1.weight"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--resnet",), "later release"),
        (("--resnet", "--layer", "module.layer4.0.conv2"), "later release"),
        (("--finetune",), "not a run folder"),
        (("--lenet", "--layer", "module.feature.1"), "feature.0"),
        (("--layer", "module.feature.0"), "--lenet"),
    ],
)
def test_what_it_cannot_do_is_one_clear_error(
    script, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], words: str
) -> None:
    assert script(*arguments) == 2
    err = capsys.readouterr().err
    assert words in err
    assert "Traceback" not in err
    assert not Path("runs").exists()
