"""pruning.py: the reference system's command lines, on a few real digits."""

import json
import runpy
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from evoprune.core import EvopruneError
from evoprune.spaces import unpack_bits
from evoprune.zoo import default_checkpoint, load_data, load_model

SCRIPT = Path(__file__).parents[1] / "pruning.py"
LAYERS = ["feature.0", "feature.3", "classifier.1", "classifier.3", "classifier.5"]


@pytest.fixture(autouse=True)
def in_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("evoprune.api.write_report", lambda _: None)  # tested elsewhere, and slow


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, digits: Path, photos: Path):
    def run(*arguments: str) -> int:
        given = digits if "--lenet" in arguments else photos
        data = [] if "--finetune" in arguments or "--data" in arguments else ["--data", str(given)]
        monkeypatch.setattr(sys, "argv", ["pruning.py", *arguments, *data])
        try:
            runpy.run_path(str(SCRIPT), run_name="__main__")
        except SystemExit as stop:
            return int(stop.code or 0)
        return 0

    return run


def test_one_layer_saved_as_the_reference_saves_it(script, capsys: pytest.CaptureFixture[str]) -> None:
    assert script("--lenet", "--layer", "module.classifier.3", "--save_results") == 0
    run = Path("runs/pruning-lenet-classifier.3")
    config = json.loads((run / "config.json").read_text())
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
    assert after.keys() == load_file(run / "model.safetensors").keys()

    # The same again does not replace it unasked; another layer has its own folder.
    assert script("--lenet", "--layer", "classifier.3") == 2
    err = capsys.readouterr().err
    assert f"{run} holds a finished run; start over with --overwrite" in err
    assert "--out" not in err
    assert script("--lenet", "--layer", "module.feature.0") == 0
    assert Path("runs/pruning-lenet-feature.0/result.json").exists()

    # The reference's other command line goes on from a run.
    assert script("--finetune") == 2
    assert "first prune with --resnet or --lenet; or give --layer, there are runs of classifier.3, feature.0" in (
        capsys.readouterr().err
    )
    assert script("--finetune", "--layer", "module.classifier.3") == 0
    tuned = load_file(run / "model.safetensors")
    assert not torch.equal(tuned["classifier.3.weight"], after["classifier.3.weight"])
    assert not tuned["classifier.3.weight"][~mask].any()
    assert json.loads((run / "result.json").read_text())["finetune"]["epochs"] == 3 + 20
    assert str(run / "report.html") in capsys.readouterr().out


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
        (("--resnet", "--finetune"), "not a run folder: first prune with --resnet"),
        (("--finetune", "--checkpoint", "w.safetensors"), "leave out --checkpoint"),
        (("--finetune",), "runs/pruning-resnet is not a run folder: first prune with --resnet or --lenet"),
        (("--finetune", "--lenet"), "runs/pruning-lenet is not a run folder: first prune with --lenet"),
        (
            ("--finetune", "--layer", "module.feature.0"),
            "first prune with --resnet or --lenet --layer module.feature.0",
        ),
        (("--finetune", "--save_results", "--data", "mnist"), "leave out --save_results and --data"),
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


def separating(photos: Path) -> nn.Module:
    """ResNet-18 with random weights, and a last layer that tells dark from bright images."""
    model, data = load_model("resnet18").eval(), load_data(str(photos))
    features: list[Tensor] = []
    handle = model.linear.register_forward_pre_hook(lambda _, given: features.append(given[0]))
    with torch.no_grad():
        model(data.train.inputs)
        dark, bright = (features[0][data.train.targets == label].mean(0) for label in (0, 1))
        direction = (bright - dark) / (bright - dark).norm() ** 2
        model.linear.weight.zero_()
        model.linear.bias.fill_(-100.0)
        model.linear.weight[:2] = torch.stack([-direction, direction])
        model.linear.bias[:2] = torch.stack([0.5 * direction @ (dark + bright), -0.5 * direction @ (dark + bright)])
    handle.remove()
    return model


def test_resnet18(script, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = separating(photos)
    save_file({f"module.{name}": value for name, value in model.state_dict().items()}, "dense.safetensors")
    arguments = ("--resnet", "--layer", "module.linear", "--checkpoint", "dense.safetensors")
    assert script(*arguments, "--save_results") == 0, capsys.readouterr().err
    run = Path("runs/pruning-resnet-linear")
    config = json.loads((run / "config.json").read_text())
    assert (config["preset"], config["generations"], config["floor"]) == ("original", 20, 0.88)
    assert (config["optimizer"], config["learning_rate"], config["finetune_epochs"]) == ("sgd", 1e-5, 5)
    mask = load_file("solutions/ResNet/best_solution_linear.safetensors")["linear"]
    assert not mask.all()
    assert Path("populations/ResNet/population_10_linear.safetensors").exists()
    before, after = (
        load_file(f"sparse_models/ResNet/{name}.safetensors") for name in ("sparse_weights", "sparse_weights_retrained")
    )
    assert torch.equal(before["linear.weight"], model.linear.weight.detach() * mask)
    assert not after["linear.weight"][~mask].any()
    assert "saved: populations/ResNet, solutions/ResNet, sparse_models/ResNet" in capsys.readouterr().out

    # Fine-tuning goes on with ResNet-18 as in the reference, whatever there is of LeNet-5.
    Path("runs/pruning-lenet").mkdir()
    Path("runs/pruning-lenet/config.json").write_text("{}")
    assert script("--finetune") == 2
    assert "runs/pruning-resnet is not a run folder: first prune with --resnet" in capsys.readouterr().err
    assert script("--finetune", "--layer", "linear") == 0
    assert json.loads((run / "result.json").read_text())["finetune"]["epochs"] == 5 + 20
    assert not load_file(run / "model.safetensors")["linear.weight"][~mask].any()


def test_norm_layers_are_pruned_as_in_the_reference_where_asked(script, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def remember(settings, *_) -> None:
        asked.append((settings.layers, settings.include_norm))
        raise EvopruneError("enough")

    monkeypatch.setattr("evoprune.api.prune_named", remember)
    assert script("--resnet", "--layer", "module.bn1", "--include-norm") == 2
    assert script("--resnet") == 2
    assert asked == [(["module.bn1"], True), (None, False)]


def test_an_unfinished_run_can_go_on(script, capsys: pytest.CaptureFixture[str]) -> None:
    run = Path("runs/pruning-lenet")
    run.mkdir(parents=True)
    (run / "config.json").write_text("{}")
    assert script("--lenet") == 2
    assert f"{run} holds an unfinished run; `evoprune resume {run}` goes on" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("begun", "options", "words"),
    [
        (False, (), "the same command starts again"),
        (True, (), "`evoprune resume runs/pruning-lenet` goes on where it stopped\n"),
        (True, ("--save_results",), "what --save_results writes comes of an unbroken run alone"),
    ],
)
def test_an_interruption_promises_only_what_there_is(
    begun: bool,
    options: tuple[str, ...],
    words: str,
    script,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def stop(_, run: Path, *__) -> None:
        if begun:
            run.mkdir(parents=True)
            (run / "config.json").write_text("{}")
        raise KeyboardInterrupt

    monkeypatch.setattr("evoprune.api.prune_named", stop)
    assert script("--lenet", *options) == 130
    assert words in capsys.readouterr().err
