"""The command line, end to end on a few real digits."""

import errno
import inspect
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from pyarrow import parquet
from safetensors import safe_open
from safetensors.torch import load, load_file, save_file

from evoprune import api
from evoprune.cli import prune
from evoprune.core import EvopruneError
from evoprune.report.page import notes
from evoprune.report.read import read_run
from evoprune.run import later, make_settings, result
from evoprune.run.journal import Journal
from evoprune.surgery import FineTuner
from evoprune.tasks import named_task
from evoprune.training import TensorSource, train_epoch
from evoprune.zoo import load_data, load_model

Command = Callable[..., Any]
TINY = (
    "--sparsity", "0.5", "--population", "2", "--generations", "1", "--finetune-epochs", "0", "--final-epochs", "1",
    "--guidance", "magnitude",
)  # fmt: skip
LAYERS = ["feature.0", "feature.3", "classifier.1", "classifier.3", "classifier.5"]


@pytest.fixture(scope="module")
def finished(evoprune: Command, digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run; tests that change it work on a copy."""
    folder = tmp_path_factory.mktemp("runs") / "finished"
    ran = evoprune("prune", "lenet5", "--data", digits, "--out", folder, *TINY)
    assert ran.code == 0, ran.err
    (folder.parent / "stdout").write_text(ran.out)
    (folder.parent / "stderr").write_text(ran.err)
    return folder


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs do not draw their report, which takes longer than these runs themselves."""
    for module in ("api", "again"):
        monkeypatch.setattr(f"evoprune.{module}.write_report", lambda _: None)


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "copied"))


# -- a run -----------------------------------------------------------------------------------------------


def test_prune_writes_what_the_contract_names(finished: Path) -> None:
    result = json.loads((finished / "result.json").read_text())
    masks, weights = load_file(finished / "masks.safetensors"), load_file(finished / "model.safetensors")
    zeros = sum(int((~mask).sum()) for mask in masks.values())

    assert {path.name for path in finished.iterdir()} >= {"config.json", "journal.jsonl", "state", "report.html"}
    assert list((finished / "figures").glob("*.png"))
    assert sorted(masks) == sorted(LAYERS)
    assert all(not weights[f"{name}.weight"][~mask].any() for name, mask in masks.items())
    load_model("lenet5").load_state_dict(weights)
    assert [layer["name"] for layer in result["layers"]] == LAYERS
    assert result["pruned"]["sparsity"] == pytest.approx(0.5, abs=1e-4) == zeros / result["pruned"]["weights"]
    assert result["dense"].keys() >= {"val_score", "test_score", "weights", "file_bytes"}
    assert result["search"].keys() == {"generations", "evaluations", "full_evaluations", "seconds", "peak_memory_mb"}
    assert result["search"]["evaluations"] == 4
    assert result["finetune"]["epochs"] == 1
    events = [json.loads(line)["event"] for line in (finished / "journal.jsonl").read_text().splitlines()]
    assert events == ["run_start", "stage_start", "generation", "generation", "epoch", "stage_end"]


def test_results_go_to_stdout_and_progress_to_stderr(finished: Path) -> None:
    out, err = ((finished.parent / name).read_text() for name in ("stdout", "stderr"))
    assert all(name in out for name in LAYERS)
    assert f"report: {finished / 'report.html'}" in out
    assert "generation" not in out
    assert "generation 1/1" in err
    assert "fine-tuning epoch 1/1" in err
    assert "classifier.1" not in err


@pytest.mark.usefixtures("undrawn")
def test_a_second_run_into_a_folder_is_refused(evoprune: Command, digits: Path, copied: Path) -> None:
    before = (copied / "result.json").read_bytes()
    again = evoprune("prune", "lenet5", "--data", digits, "--out", copied, *TINY)
    assert again.failed(str(copied), "--overwrite", "resume")
    assert (copied / "result.json").read_bytes() == before
    assert evoprune("prune", "lenet5", "--data", digits, "--out", copied, "--overwrite", "--quiet", *TINY).code == 0


@pytest.mark.usefixtures("undrawn")
def test_same_seed_same_bits_and_only_the_layers_asked_for(evoprune: Command, digits: Path, tmp_path: Path) -> None:
    arguments = ("--layer", "module.classifier.3", "--layer", "feature.3", "--seed", "7", "--quiet", "--json")
    first, second = (
        evoprune("prune", "lenet5", "--data", digits, "--out", tmp_path / name, *arguments, *TINY)
        for name in ("one", "two")
    )
    assert first.code == second.code == 0, first.err
    assert first.err == ""
    assert json.loads(first.out)["search"]["evaluations"] == json.loads(second.out)["search"]["evaluations"] > 0
    assert sorted(load_file(tmp_path / "one/masks.safetensors")) == ["classifier.3", "feature.3"]
    for name in ("masks.safetensors", "model.safetensors"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


@pytest.mark.usefixtures("undrawn")
def test_guidance_gradient_prunes_while_training(evoprune: Command, digits: Path, tmp_path: Path) -> None:
    """By default, without --space: training tightens the masks, and the way to the goal is gradual."""
    out = tmp_path / "run"
    ran = evoprune(
        "prune", "lenet5", "--data", digits, "--guidance", "gradient", "--sparsity", 0.9,
        "--finetune-epochs", 1, "--final-epochs", 1, "--out", out,
    )  # fmt: skip
    assert ran.code == 0, ran.err
    events = [json.loads(line) for line in (out / "journal.jsonl").read_text().splitlines()]
    targets = [event["target"] for event in events if event["event"] == "stage_start"]
    assert targets == pytest.approx([0.9 * (1 - (1 - stage / 8) ** 3) for stage in range(1, 9)])
    assert json.loads((out / "result.json").read_text())["space"] == "training"


@pytest.mark.usefixtures("undrawn")
def test_resnet18_is_pruned_with_its_own_defaults(evoprune: Command, photos: Path, tmp_path: Path) -> None:
    """Killed before its final epochs and resumed, it ends with the same bits; fine-tuned later, masks are kept."""
    command = ("prune", "resnet18", "--data", photos, "--layer", "linear", "--sparsity", 0.5, "--final-epochs", 2,
               "--population", 2, "--generations", 1, "--recalibrate", "--first-size", 6, "--quiet")  # fmt: skip
    ran = evoprune(*command, "--out", tmp_path / "run")
    assert ran.code == 0, ran.err
    config = json.loads((tmp_path / "run/config.json").read_text())
    assert (config["optimizer"], config["shift"], config["flip"], config["train_precision"]) == (
        "sgd", 4, True, "bfloat16",
    )  # fmt: skip
    assert (config["finetune_epochs"], config["final_epochs"], config["recalibrate"]) == (1, 2, True)
    mask = load_file(tmp_path / "run/masks.safetensors")["linear"]
    assert int(mask.sum()) == mask.numel() // 2
    before = load_file(tmp_path / "run/model.safetensors")

    append, epochs = Journal.append, []

    def killed(journal: Journal, event: dict[str, Any]) -> None:
        epochs.append(event["event"] == "epoch")
        if sum(epochs) == 2:
            raise KeyboardInterrupt
        append(journal, event)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Journal, "append", killed)
        assert evoprune(*command, "--out", tmp_path / "broken").code == 130
    assert evoprune("resume", tmp_path / "broken", "--quiet").code == 0
    resumed = load_file(tmp_path / "broken/model.safetensors")
    assert all(torch.equal(value, resumed[name]) for name, value in before.items())

    assert evoprune("finetune", tmp_path / "run", "--epochs", 1, "--quiet").code == 0
    after = load_file(tmp_path / "run/model.safetensors")
    assert not torch.equal(after["linear.weight"], before["linear.weight"])
    assert not after["linear.weight"][~mask].any()


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--recalibrate",), "no batch norm"),
        (("--train-precision", "float16"), "--train-precision"),
        (("--shift", "-1"), "--shift"),
        (("--cutout", "-1"), "--cutout"),
        (
            ("--first-size", "16", "--final-epochs", "2"),
            "--first-size 16: the model does not take images of 16 pixels a side",
        ),
    ],
)
def test_options_of_training_that_cannot_be(
    evoprune: Command, digits: Path, tmp_path: Path, options: tuple[str, ...], words: str
) -> None:
    ran = evoprune("prune", "lenet5", "--data", digits, "--quiet", "--out", tmp_path / "run", *TINY, *options)
    assert ran.failed(words)
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("undrawn")
def test_json_prints_result_json_only(evoprune: Command, digits: Path, tmp_path: Path) -> None:
    ran = evoprune("prune", "lenet5", "--data", digits, "--out", tmp_path / "run", "--json", *TINY)
    assert json.loads(ran.out) == json.loads((tmp_path / "run/result.json").read_text())


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("crash_at", range(1, 6))
def test_a_full_disk_loses_nothing(
    evoprune: Command, digits: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, crash_at: int
) -> None:
    real, append, calls = os.fsync, Journal.append, []
    folder = tmp_path / "run"

    def full(journal: Journal, event: dict[str, Any]) -> None:
        calls.append(event)
        if len(calls) > crash_at:
            monkeypatch.setattr(os, "fsync", no_space)
        append(journal, event)

    def no_space(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Journal, "append", full)
    stopped = evoprune("prune", "lenet5", "--data", digits, "--out", folder, "--quiet", *TINY)
    assert stopped.failed("No space left on device")
    monkeypatch.setattr(os, "fsync", real)
    monkeypatch.setattr(Journal, "append", append)
    resumed = evoprune("resume", folder, "--json")
    assert resumed.code == 0, resumed.err
    for name in ("masks.safetensors", "model.safetensors"):
        assert (folder / name).read_bytes() == (finished / name).read_bytes(), name


@pytest.mark.usefixtures("undrawn")
def test_the_original_preset_prunes_layer_after_layer(evoprune: Command, digits: Path, tmp_path: Path) -> None:
    ran = evoprune(
        "prune", "lenet5", "--data", digits, "--preset", "original", "--out", tmp_path / "run", "--population", 2,
        "--generations", 1, "--finetune-epochs", 0, "--final-epochs", 1, "--passes", "0.6,1.0", "--json",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    events = [json.loads(line) for line in (tmp_path / "run/journal.jsonl").read_text().splitlines()]
    names = [event["name"] for event in events if event["event"] == "stage_start"]
    assert names == [*LAYERS, "fine-tuning"] * 2
    assert json.loads(ran.out)["preset"] == "original"


# -- the other commands ----------------------------------------------------------------------------------


@pytest.mark.usefixtures("undrawn")
def test_finetune_keeps_the_masks(evoprune: Command, copied: Path) -> None:
    before = load_file(copied / "model.safetensors")
    ran = evoprune("finetune", copied, "--epochs", 2, "--json")
    assert ran.code == 0, ran.err
    after, masks = load_file(copied / "model.safetensors"), load_file(copied / "masks.safetensors")
    assert json.loads(ran.out)["finetune"]["epochs"] == 3
    assert not torch.equal(before["classifier.1.weight"], after["classifier.1.weight"])
    assert all(not after[f"{name}.weight"][~mask].any() for name, mask in masks.items())
    events = [json.loads(line) for line in (copied / "journal.jsonl").read_text().splitlines()]
    assert [event["event"] for event in events[-4:]] == ["stage_start", "epoch", "epoch", "stage_end"]
    assert events[-4]["name"] in evoprune("finetune", copied, "--epochs", 1).err
    assert "evoprune finetune" in events[-4]["command"]
    stages = read_run(copied).stages
    assert [len(stage.epochs) for stage in stages] == [1, 2, 1]
    assert [" finetune " in command for command in read_run(copied).commands] == [False, True, True]
    assert "again after each later fine-tuning" in " ".join(notes(read_run(copied)))


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    "where", [(FineTuner, "epoch"), (later, "side"), (later, "save_tensors"), (result, "write_json"), "stage_end"]
)
def test_a_finetune_that_is_interrupted_changes_nothing(
    evoprune: Command, copied: Path, monkeypatch: pytest.MonkeyPatch, where: tuple[Any, str] | str
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    append = Journal.append

    def until_the_end(journal: Journal, event: dict[str, Any]) -> None:
        append(journal, event) if event["event"] != where else interrupted()

    before = {path: path.read_bytes() for path in copied.rglob("*") if path.is_file()}
    if isinstance(where, str):
        monkeypatch.setattr(Journal, "append", until_the_end)
    else:
        monkeypatch.setattr(*where, interrupted)
    ran = evoprune("finetune", copied, "--epochs", 1)
    assert ran.code == 130
    assert "nothing was changed" in ran.err
    assert {path: path.read_bytes() for path in copied.rglob("*") if path.is_file()} == before


def test_a_finetune_that_is_interrupted_while_drawing_says_that_it_is_done(
    evoprune: Command, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(_: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(api, "write_report", interrupted)
    ran = evoprune("finetune", copied, "--epochs", 1)
    assert ran.code == 130
    assert "the model is fine-tuned; `evoprune report" in ran.err
    assert json.loads((copied / "result.json").read_text())["finetune"]["epochs"] == 2


@pytest.mark.usefixtures("undrawn")
def test_each_finetune_keeps_the_model_from_before(evoprune: Command, copied: Path) -> None:
    models = [(copied / "model.safetensors").read_bytes()]
    for _ in range(2):
        assert evoprune("finetune", copied, "--epochs", 1, "--quiet").code == 0
        models.append((copied / "model.safetensors").read_bytes())
    backups = [copied / f"model.before-finetune{end}.safetensors" for end in ("", "-2")]
    assert [load_file(backup).keys() for backup in backups] == [load_file(copied / "model.safetensors").keys()] * 2
    for backup, model in zip(backups, models, strict=False):
        kept, then = load_file(backup), load(model)
        assert all(torch.equal(kept[name], then[name]) for name in then)


@pytest.mark.usefixtures("undrawn")
def test_a_run_that_was_made_on_a_gpu_is_used_without_one(
    evoprune: Command, copied: Path, caplog: pytest.LogCaptureFixture
) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps(config | {"device": "cuda"}))
    for command in (["eval", copied], ["finetune", copied, "--epochs", 1], ["resume", copied]):
        ran = evoprune(*command)
        assert ran.code == 0, ran.err
        assert "the CPU is used" in caplog.text
        caplog.clear()


@pytest.mark.usefixtures("undrawn")
def test_resume_of_a_finished_run_changes_nothing(evoprune: Command, copied: Path) -> None:
    assert evoprune("finetune", copied, "--epochs", 1, "--quiet").code == 0
    before = {path: path.read_bytes() for path in copied.rglob("*") if path.is_file()}
    ran = evoprune("resume", copied)
    assert ran.code == 0, ran.err
    assert "classifier.1" in ran.out
    assert "2 epochs of fine-tuning" in ran.out
    assert {path: path.read_bytes() for path in copied.rglob("*") if path.is_file()} == before


def test_finetune_trains_nothing_on_a_damaged_folder(evoprune: Command, copied: Path) -> None:
    journal, model = copied / "journal.jsonl", copied / "model.safetensors"
    events, weights = journal.read_bytes(), load_file(model)
    journal.write_bytes(b"#" + events[1:])
    assert evoprune("finetune", copied, "--epochs", 100_000).failed("journal.jsonl", "line 1")
    journal.write_bytes(events)
    weights["classifier.5.weight"] += 1
    save_file(weights, model)
    assert evoprune("finetune", copied, "--epochs", 100_000).failed("model.safetensors", "masks.safetensors")
    (copied / "result.json").write_text("[]")
    for command in ("eval", "finetune", "report", "resume"):
        assert evoprune(command, copied).failed("result.json", "evoprune resume")


@pytest.mark.usefixtures("undrawn")
def test_a_lost_result_of_a_later_fine_tuning_is_not_overwritten_by_the_end_of_the_run(
    evoprune: Command, copied: Path
) -> None:
    assert evoprune("finetune", copied, "--epochs", 1, "--quiet").code == 0
    model = (copied / "model.safetensors").read_bytes()
    (copied / "result.json").write_text("[]")
    for command in ("eval", "finetune", "resume"):
        assert evoprune(command, copied).failed("result.json is damaged", "put it back from a copy")
    (copied / "result.json").unlink()
    assert evoprune("resume", copied).failed("result.json is missing", "fine-tuned later")
    assert (copied / "model.safetensors").read_bytes() == model


def test_a_report_older_than_the_result_is_drawn_again(evoprune: Command, copied: Path) -> None:
    (copied / "report.html").write_text("half a run")
    assert evoprune("resume", copied, "--quiet").code == 0
    assert (copied / "report.html").read_text() == "half a run", "it is newer"
    os.utime(copied / "report.html", (0, 0))
    assert evoprune("resume", copied, "--quiet").code == 0
    assert "half a run" not in (copied / "report.html").read_text()


@pytest.mark.usefixtures("undrawn")
def test_a_missed_goal_says_why(evoprune: Command, digits: Path, tmp_path: Path) -> None:
    arguments = ("prune", "lenet5", "--data", digits, "--quiet", "--population", 2, "--generations", 1)
    short = ("--finetune-epochs", 0, "--final-epochs", 1)
    ran = evoprune(*arguments, *short, "--sparsity", 0.97, "--time-limit", "0.01s", "--out", tmp_path / "a")
    assert "because the time was up" in ran.out
    zero = ("--max-drop", 0, "--finetune-epochs", 0, "--final-epochs", 0, "--guidance", "none", "--passes", "0.99")
    ran = evoprune(*arguments, *zero, "--out", tmp_path / "b")
    assert "nothing could be pruned above the floor" in ran.out
    ran = evoprune(*arguments, *zero[2:-1], "0.1,0.99", "--max-drop", 5, "--out", tmp_path / "c")
    assert "below the 0.99 asked for, because the floor no longer held" in ran.out


@pytest.mark.usefixtures("undrawn")
def test_a_run_folder_works_from_anywhere(
    evoprune: Command, digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    home, away = tmp_path / "home", tmp_path / "away"
    shutil.copytree(digits, home / "digits")
    away.mkdir()
    (home / "model_of_home.py").write_text(
        "from torch import nn\ndef tiny():\n    return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))\n"
    )
    before = list(sys.path)
    monkeypatch.chdir(home)
    ran = evoprune(
        "prune", "model_of_home:tiny", "--data", "digits", "--out", tmp_path / "run", "--threads", 1, "--quiet", *TINY
    )
    assert ran.code == 0, ran.err
    assert "no checkpoint" in caplog.text
    monkeypatch.chdir(away)
    monkeypatch.setattr(sys, "path", [entry for entry in before if entry != str(home)])
    sys.modules.pop("model_of_home")
    again = evoprune("eval", tmp_path / "run")
    assert again.code == 0, again.err
    sys.modules.pop("model_of_home")
    (home / "model_of_home.py").unlink()
    assert evoprune("eval", tmp_path / "run").failed("model_of_home", str(home))


@pytest.mark.usefixtures("undrawn")
def test_changed_data_is_noticed(
    evoprune: Command, digits: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "digits"
    shutil.copytree(digits, folder)
    assert evoprune("prune", "lenet5", "--data", folder, "--out", tmp_path / "run", "--quiet", *TINY).code == 0
    test = next(folder.glob("test-*"))
    parquet.write_table(parquet.read_table(test).slice(1), test)
    assert evoprune("eval", tmp_path / "run").code == 0
    assert "not what it was" in caplog.text
    (tmp_path / "run" / "result.json").unlink()
    assert evoprune("resume", tmp_path / "run").failed(str(folder), "not what it was", "--overwrite")


def test_eval_measures_what_the_run_recorded(evoprune: Command, finished: Path) -> None:
    ran = evoprune("eval", finished, "--json")
    assert ran.code == 0, ran.err
    found = json.loads(ran.out)
    for name in ("sparsity", "nonzero_weights", "val_score", "test_score"):
        assert found[name] == found["recorded"][name]
    assert "measured now, on digits" in " ".join(evoprune("eval", finished).out.split())


def test_report_draws_again(evoprune: Command, copied: Path) -> None:
    (copied / "report.html").unlink()
    ran = evoprune("report", copied)
    assert ran.code == 0, ran.err
    assert ran.out.strip() == str(copied / "report.html")
    assert "http://" not in (copied / "report.html").read_text().replace("http://www.w3.org", "")


def test_layers_lists_what_can_be_pruned(evoprune: Command) -> None:
    assert "61,470" in evoprune("layers", "lenet5").out
    rows = json.loads(evoprune("layers", "lenet5", "--json").out)
    assert [row["name"] for row in rows] == LAYERS
    assert sum(row["weights"] for row in rows) == 61_470


def test_train_writes_weights_that_prune_takes(evoprune: Command, digits: Path, tmp_path: Path) -> None:
    file = tmp_path / "lenet.safetensors"
    arguments = ("train", "lenet5", "--data", digits, "--out", file, "--epochs", 2)
    ran = evoprune(*arguments)
    assert ran.code == 0, ran.err
    assert [line.split()[3] for line in ran.err.splitlines()] == ["1/2", "2/2"]
    assert "test accuracy" in ran.out
    assert evoprune(*arguments).failed(str(file), "--overwrite")
    first = file.read_bytes()
    again = evoprune(*arguments, "--overwrite", "--quiet", "--json")
    assert (again.code, again.err) == (0, "")
    assert json.loads(again.out)["epochs"] == 2
    assert load_file(file).keys() == load_model("lenet5").state_dict().keys()
    assert all(torch.equal(value, load_file(file)[name]) for name, value in load(first).items())
    assert evoprune("layers", "lenet5", "--checkpoint", file).code == 0


def test_a_training_over_an_older_file_goes_on_where_it_was_interrupted(
    evoprune: Command, digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "lenet.safetensors"
    arguments = ("train", "lenet5", "--data", digits, "--out", file, "--epochs", 2)
    assert evoprune(*arguments, "--quiet").code == 0
    first = file.read_bytes()
    epochs: list[int] = []

    def interrupted_in_the_second(*args: Any, **options: Any) -> float:
        epochs.append(1)
        if len(epochs) == 2:
            raise KeyboardInterrupt
        return train_epoch(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(sys.modules["evoprune.zoo.trainer"], "train_epoch", interrupted_in_the_second)
        ran = evoprune(*arguments, "--overwrite")
    assert ran.code == 130
    assert "the same command without --overwrite goes on" in ran.err
    assert file.read_bytes() == first
    ran = evoprune(*arguments)
    assert ran.code == 0, ran.err
    assert [line.split()[3] for line in ran.err.splitlines()] == ["2/2"]
    assert all(torch.equal(value, load_file(file)[name]) for name, value in load(first).items())


def test_a_training_that_is_interrupted_in_its_first_epoch_changed_nothing(
    evoprune: Command, digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any, **__: Any) -> float:
        raise KeyboardInterrupt

    file = tmp_path / "lenet.safetensors"
    file.write_bytes(b"")
    monkeypatch.setattr(sys.modules["evoprune.zoo.trainer"], "train_epoch", interrupted)
    ran = evoprune("train", "lenet5", "--data", digits, "--out", file, "--epochs", 2, "--overwrite")
    assert (ran.code, "nothing was changed" in ran.err) == (130, True), ran.err


def test_a_place_that_cannot_be_written_is_found_before_the_training(
    evoprune: Command, digits: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"")
    out = tmp_path / "file" / "lenet.safetensors"
    ran = evoprune("train", "lenet5", "--data", digits, "--out", out, "--epochs", 1)
    assert ran.code == 2
    assert "cannot write" in ran.err
    assert "epoch" not in ran.err


def test_train_goes_on_from_given_weights(evoprune: Command, digits: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    options = ("--data", digits, "--epochs", 1, "--quiet")
    assert evoprune("train", "lenet5", "--out", first, *options).code == 0
    ran = evoprune(
        "train", "lenet5", "--out", second, "--checkpoint", first, *options, "--learning-rate", 1e-9, "--cutout", 2
    )
    assert ran.code == 0, ran.err
    for name, value in load_file(first).items():
        torch.testing.assert_close(load_file(second)[name], value, rtol=0, atol=1e-6)
    with safe_open(second, "pt") as file:
        described = file.metadata()
    assert json.loads(described["from"])["recipe"] != described["recipe"]
    shipped = tmp_path / "shipped.safetensors"
    assert evoprune("train", "lenet5", "--out", shipped, "--checkpoint", "lenet5", *options).code == 0
    with safe_open(shipped, "pt") as file:
        assert "mnist" in json.loads(file.metadata()["from"])["data"]
    assert evoprune(
        "train", "lenet5", "--out", tmp_path / "third.safetensors", *options, "--epochs", 2, "--first-size", 8
    ).failed("--first-size 8", "does not take images of 8 pixels a side")


@pytest.mark.usefixtures("undrawn")
def test_a_model_of_ones_own(evoprune: Command, digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_model.py").write_text(
        "from torch import nn\n"
        "def tiny():\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(784, 16), nn.ReLU(), nn.Linear(16, 10))\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    trained = evoprune("train", "own_model:tiny", "--data", digits, "--out", "own.safetensors", "--epochs", 3)
    assert trained.code == 0, trained.err
    ran = evoprune(
        "prune", "own_model:tiny", "--checkpoint", "own.safetensors", "--data", digits, "--json", "--quiet", *TINY
    )
    assert ran.code == 0, ran.err
    assert [layer["name"] for layer in json.loads(ran.out)["layers"]] == ["1", "3"]
    assert Path("runs/own_model-tiny/result.json").exists()


@pytest.mark.parametrize(
    ("forward", "after", "words"),
    [
        ("outputs = self.inner(x); return (outputs, outputs) if self.training else outputs", "", "gives a tuple"),
        ("return self.inner(x)", ".requires_grad_(False)", "no parameter of the model can be trained"),
    ],
)
def test_a_model_that_cannot_be_trained_is_found_before_the_search(
    forward: str, after: str, words: str, evoprune: Command, digits: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    (tmp_path / "untrained.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.inner = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))\n"
        f"    def forward(self, x): {forward}\n"
        "def make():\n"
        f"    return Net(){after}\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "untrained", raising=False)
    ran = evoprune("prune", "untrained:make", "--data", digits, "--out", "run", *TINY)
    assert (ran.code, words in ran.err) == (2, True), ran.err
    assert not Path("run").exists()
    ran = evoprune("train", "untrained:make", "--data", digits, "--out", "run.safetensors")
    assert (ran.code, words in ran.err) == (2, True), ran.err
    assert not list(tmp_path.glob("run*"))


def test_help_and_version_of_the_installed_command() -> None:
    ran = subprocess.run([sys.executable, "-m", "evoprune"], capture_output=True, text=True, check=True)
    for command in ("prune", "finetune", "resume", "eval", "report", "layers", "train"):
        assert command in ran.stdout


# -- bad input -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("prune", "lenet"), ("unknown model 'lenet'", "lenet5")),
        (("prune", "nowhere:factory"), ("nowhere",)),
        (("prune", "lenet5", "--layer", "classifier.2"), ("classifier.2", "did you mean classifier.")),
        (("prune", "lenet5", "--layer", "zzz"), ("zzz", "there are feature.0")),
        (("prune", "lenet5", "--layer", "zzz", "--data", "nowhere"), ("unknown layer 'zzz'",)),
        (("prune", "./model.py:make"), ("model:make", "not a file")),
        (("prune", "lenet5", "--scoring", "reference,racing"), ("--scoring", "reference alone")),
        (("prune", "lenet5", "--sparsity", 95), ("--sparsity", "such as 0.95")),
        (("export", "runs/lenet5", "--to", "onnx"), ("export is not there yet", "model.safetensors")),
        (("prune", "lenet5", "--population", 1), ("--population 1", "2")),
        (("prune", "lenet5", "--population", "many"), ("--population",)),
        (("prune", "lenet5", "--mutation-rate", 1.5), ("--mutation-rate 1.5", "1")),
        (("prune", "lenet5", "--crossover-rate", -0.1), ("--crossover-rate -0.1", "0")),
        (("prune", "lenet5", "--sparsity", 1), ("--sparsity 1.0", "1")),
        (("prune", "lenet5", "--alpha", 0.5), ("--alpha", "--preset original")),
        (("prune", "lenet5", "--preset", "original", "--alpha", 2), ("--alpha 2.0", "1")),
        (("prune", "lenet5", "--passes", "0.9,0.5"), ("--passes", "rise")),
        (("prune", "lenet5", "--passes", "much"), ("--passes 'much'",)),
        (("prune", "lenet5", "--floor", 0.5, "--max-drop", 1), ("--floor", "--max-drop")),
        (("prune", "lenet5", "--time-limit", "soon"), ("--time-limit 'soon'", "10m")),
        (("prune", "lenet5", "--guidance", "gradient", "--generations", 3), ("--generations", "add --space weights")),
        (("prune", "lenet5", "--space", "training"), ("needs --guidance gradient",)),
        (("prune", "lenet5", "--space", "channels"), ("--space channels is not there yet",)),
        (("prune", "lenet5", "--space", "blocks"), ("--space 'blocks'", "weights")),
        (("prune", "lenet5", "--algorithm", "luck"), ("--algorithm", "'luck'", "ga")),
        (("prune", "lenet5", "--preset", "best"), ("--preset", "default", "original")),
        (("prune", "lenet5", "--checkpoint", "nowhere.pt"), ("nowhere.pt",)),
        (("prune", "lenet5", "--wrong"), ("--wrong",)),
        (("prune",), ("MODEL",)),
        (("prane",), ("prane",)),
        (("layers", "lenet6"), ("lenet6", "lenet5")),
        (("train", "lenet5", "--out", "weights.pth"), ("weights.pth", ".safetensors")),
        (("train", "lenet5", "--out", "w.safetensors", "--seed", -1), ("--seed", "-1")),
        (("train", "lenet5", "--out", "w.safetensors", "--seed", 2**64), ("--seed", "2**64 - 1")),
        (("train", "lenet5", "--out", "w.safetensors", "--epochs", 0), ("epochs", "at least 1")),
        (("resume", "nowhere"), ("nowhere", "not a run folder")),
        (("eval", "nowhere"), ("nowhere", "no run folder")),
        (("report", "nowhere"), ("nowhere", "not a run folder")),
        (("finetune", "nowhere"), ("nowhere", "not a run folder")),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    evoprune: Command,
    digits: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[object, ...],
    words: tuple[str, ...],
) -> None:
    monkeypatch.chdir(tmp_path)
    wants_data = arguments[0] in ("prune", "train") and len(arguments) > 1
    assert evoprune(*arguments, *(("--data", digits) if wants_data else ())).failed(*words)
    assert list(tmp_path.iterdir()) == [], "nothing is left behind"


def test_a_floor_above_the_dense_score_leaves_no_trace(evoprune: Command, digits: Path, copied: Path) -> None:
    before = (copied / "result.json").read_bytes()
    arguments = ("prune", "lenet5", "--data", digits, "--floor", "1", "--quiet", "--out")
    assert evoprune(*arguments, copied.parent / "new").failed("floor 1", "dense", "--max-drop")
    assert not (copied.parent / "new").exists()
    assert evoprune(*arguments, copied, "--overwrite").failed("floor 1")
    assert (copied / "result.json").read_bytes() == before


def test_unusable_data(evoprune: Command, digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert evoprune("prune", "lenet5", "--data", "mnits").failed("mnits", "mnist")
    empty = tmp_path / "empty"
    empty.mkdir()
    assert evoprune("prune", "lenet5", "--data", empty).failed("empty", "train")
    for name, labels, word in (("none", [], "no images"), ("odd", [-1], "-1"), ("many", [0, 12] * 8, "12")):
        folder = tmp_path / name
        shutil.copytree(digits, folder)
        table = parquet.read_table(next(folder.glob("test-*")))
        rows = [table["image"][0].as_py()] * len(labels)
        image = pa.array(rows, table.schema.field("image").type)
        wrong = pa.table({"image": image, "label": pa.array(labels, pa.int64())})
        parquet.write_table(wrong, next(folder.glob("test-*")))
        assert evoprune("prune", "lenet5", "--data", folder).failed(word)
    assert not (tmp_path / "runs").exists()


def test_unusable_checkpoints(evoprune: Command, digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    weights = load_model("lenet5").state_dict()
    name = "classifier.5.weight"
    for wrong, word in ((weights[name].T.contiguous(), "shape"), (torch.full_like(weights[name], torch.nan), "NaN")):
        save_file(weights | {name: wrong}, "wrong.safetensors")
        ran = evoprune("prune", "lenet5", "--data", digits, "--checkpoint", "wrong.safetensors")
        assert ran.failed("wrong.safetensors", name, word)
    Path("garbage.pt").write_bytes(b"garbage")
    assert evoprune("prune", "lenet5", "--data", digits, "--checkpoint", "garbage.pt").failed("garbage.pt")
    assert not (tmp_path / "runs").exists()


def test_a_damaged_run_folder(evoprune: Command, copied: Path) -> None:
    result, snapshot = copied / "result.json", copied / "state" / "snapshot.safetensors"
    recorded = result.read_bytes()
    result.unlink()
    snapshot.write_bytes(snapshot.read_bytes()[:1000])
    assert evoprune("resume", copied).failed("snapshot", "damaged")
    result.write_bytes(recorded)
    (copied / "masks.safetensors").write_bytes(b"")
    assert evoprune("eval", copied).failed("masks.safetensors")
    (copied / "result.json").write_text("{")
    assert evoprune("eval", copied).failed("result.json", "damaged")
    assert evoprune("finetune", copied).failed("result.json", "damaged")
    (copied / "config.json").write_text("{")
    for command in ("resume", "eval", "finetune", "report"):
        assert evoprune(command, copied).failed("config.json", "damaged")


def test_debug_shows_the_traceback() -> None:
    command = [sys.executable, "-m", "evoprune", "layers", "lenet6"]
    plain, debug = (
        subprocess.run([*command, *more], capture_output=True, text=True, check=False) for more in ((), ("--debug",))
    )
    assert plain.returncode == 2
    assert "Traceback" not in plain.stderr
    assert plain.stderr.count("\n") == 1
    assert debug.returncode != 0
    assert "Traceback" in debug.stderr


def test_a_full_disk_behind_stdout_is_one_line() -> None:
    command = [sys.executable, "-m", "evoprune", "layers", "lenet5"]
    with Path("/dev/full").open("w") as full:
        ran = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert ran.returncode == 2
    assert ran.stderr.count("\n") == 1
    assert "No space left on device" in ran.stderr


@pytest.mark.parametrize("begun", [False, True])
def test_an_interrupt_promises_resume_only_where_a_folder_is(
    evoprune: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begun: bool
) -> None:
    if not begun:  # an older run's
        (tmp_path / "config.json").write_text("{}")

    def interrupted(*_: Any) -> None:
        if begun:
            (tmp_path / "config.json").write_text("{}")
        raise KeyboardInterrupt

    monkeypatch.setattr(api, "prune_named", interrupted)
    ran = evoprune("prune", "lenet5", "--out", tmp_path)
    assert ran.code == 130
    assert ("evoprune resume" in ran.err) == begun


def test_an_interrupt_while_importing_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise KeyboardInterrupt")
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    command = [sys.executable, "-m", "evoprune", "layers", "lenet5"]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode != 0
    assert ran.stderr == "evoprune: interrupted; nothing was changed\n"


GIVEN: dict[str, dict[str, Any]] = {
    "default": {
        "checkpoint": "w.pt", "data": "d", "layers": ["a", "b"], "space": "weights", "guidance": "magnitude",
        "algorithm": "ga", "floor": 0.5, "sparsity": 0.7, "front": True, "population": 7, "generations": 3,
        "crossover_rate": 0.3, "mutation_rate": 0.01, "finetune_epochs": 4, "final_epochs": 6, "learning_rate": 0.02,
        "batch_size": 9, "distill": 0.25, "shift": 1, "flip": True, "cutout": 2, "first_size": 16,
        "train_precision": "bfloat16", "recalibrate": True, "include_norm": True, "time_limit_seconds": 90.0,
        "memory_mb": 77, "scoring": ["racing", "prefix"], "seed": 5, "device": "cpu", "threads": 3,
    },
    "original": {"alpha": 0.6, "initial_sparsity": 0.2, "passes": [0.3, 1.0], "max_drop": 2.0, "workers": 1},
    "budget": {"budget": "flops", "space": "allocation", "sparsity": 0.5},
}  # fmt: skip


@pytest.mark.parametrize("name", GIVEN)
def test_every_option_of_prune_reaches_the_run(
    name: str, evoprune: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words: list[str] = ["--preset", "original"] if name == "original" else []
    for key, value in GIVEN[name].items():
        option = {"layers": "--layer", "time_limit_seconds": "--time-limit"}.get(key, "--" + key.replace("_", "-"))
        if key in ("scoring", "passes"):
            words += [option, ",".join(map(str, value))]
        elif isinstance(value, list):
            words += [word for part in value for word in (option, part)]
        else:
            words += [option] if value is True else [option, str(value)]
    asked: list[Any] = []

    def remember(settings: Any, out: Path, overwrite: bool, _: Any) -> None:
        asked.append((settings, out, overwrite))
        raise EvopruneError("enough")

    monkeypatch.setattr(api, "prune_named", remember)
    assert evoprune("prune", "m:f", "--out", tmp_path / "run", "--overwrite", *words).failed("enough")
    ((settings, *rest),) = asked
    assert rest == [tmp_path / "run", True]
    assert {key: getattr(settings, key) for key in GIVEN[name]} == GIVEN[name]


def test_no_option_of_prune_is_forgotten_above() -> None:
    given = {key for part in GIVEN.values() for key in part} | {"preset", "model"}
    taken = {"layer": "layers", "time_limit": "time_limit_seconds"}
    own = {"out", "overwrite", "quiet", "as_json", "debug"}
    assert {taken.get(p, p) for p in inspect.signature(prune).parameters} - own == given


def test_the_options_of_train_reach_it(
    evoprune: Command, digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}

    def remember(model: Any, _: Any, recipe: Any, seed: int, out: Path, **more: Any) -> None:
        asked.update(vars(recipe), model=model, seed=seed, out=out, **more)
        raise EvopruneError("enough")

    monkeypatch.setattr("evoprune.cli.run_training", remember)
    monkeypatch.setattr("evoprune.cli.device_named", lambda name: asked.update(device=name) or "cpu")
    given = {"epochs": 3, "learning_rate": 0.01, "batch_size": 7, "cutout": 3, "first_size": 20, "seed": 5}
    words = [word for key, value in given.items() for word in ("--" + key.replace("_", "-"), value)]
    out = tmp_path / "w.safetensors"
    command = ("train", "lenet5", "--data", digits, "--out", out, "--device", "cpu", *words)
    assert evoprune(*command, "--overwrite").failed("enough")
    assert {key: asked[key] for key in given} == given
    assert (asked["out"], asked["device"], asked["restart"]) == (out, "cpu", True)
    assert torch.equal(asked["model"].feature[0].weight, load_model("lenet5", 5).feature[0].weight)
    assert evoprune(*command).failed("enough")
    assert asked["restart"] is False


def test_the_options_of_finetune_and_layers_reach_them(
    evoprune: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def remember(*given: Any) -> None:
        asked.extend(given)
        raise EvopruneError("enough")

    monkeypatch.setattr(api, "finetune", remember)
    assert evoprune("finetune", tmp_path, "--epochs", 3, "--learning-rate", 0.01, "--quiet").failed("enough")
    assert (*asked[:3], asked[3].quiet) == (tmp_path, 3, 0.01, True)
    plain, norms = (
        json.loads(evoprune("layers", "resnet18", "--json", *more).out) for more in ((), ("--include-norm",))
    )
    assert {row["name"] for row in norms} - {row["name"] for row in plain} >= {"bn1", "layer4.1.bn2"}


def test_too_little_memory_on_the_gpu_is_one_line(
    evoprune: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")

    monkeypatch.setattr(api, "prune_named", full)
    ran = evoprune("prune", "lenet5", "--out", tmp_path / "run")
    assert ran.failed("the GPU has too little memory", "Tried to allocate 2 GiB", "--batch-size", "nothing was changed")
    with pytest.raises(torch.OutOfMemoryError):
        evoprune("prune", "lenet5", "--out", tmp_path / "run", "--debug")


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_has_gone_is_no_error_to_tell_of(unbuffered: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "evoprune", "layers", "lenet5", "--json"]
    environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    ran = subprocess.run(command, check=False, stdout=writer, stderr=subprocess.PIPE, env=environment)
    os.close(writer)
    assert (ran.returncode, ran.stderr) == (1, b"")


def test_names_with_brackets_are_shown_as_they_are(evoprune: Command, finished: Path, tmp_path: Path) -> None:
    run = tmp_path / "run [bold]" / "[/b]"
    shutil.copytree(finished, run)
    ran = evoprune("eval", run)
    assert ran.code == 0, ran.err
    assert "run[bold]/[/b]" in "".join(ran.out.split())  # it is wrapped


def test_the_shipped_weights_prove_nothing_on_images_they_have_seen(caplog: pytest.LogCaptureFixture) -> None:
    named_task(make_settings(model="lenet5", data="mnist-sample", device="cpu"))
    assert "have seen the images of mnist-sample in training" in caplog.text


def test_validation_images_are_cut_alike_for_every_seed_and_the_test_set_is_another(digits: Path) -> None:
    data = load_data(str(digits))
    task, _ = named_task(make_settings(model="lenet5", data=str(digits), seed=5, device="cpu"))
    assert isinstance(task.train, TensorSource)
    seen = (task.train, task.val_score, task.test_score)
    for part, split in zip(seen, (data.train, data.val, data.test), strict=True):
        assert torch.equal(part.inputs, split.inputs)
        assert torch.equal(part.targets, split.targets)
