"""A run that was killed, at any moment, ends with the same bits as one that was not."""

from __future__ import annotations

import copy
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import evoprune
from evoprune import api
from evoprune.run import runner

COMMON = {"threads": 1, "seed": 3, "population": 3, "generations": 2, "batch_size": 16, "recalibrate": False}
CASES: dict[str, dict[str, Any]] = {
    "default": {"sparsity": 0.8, "finetune_epochs": 1, "final_epochs": 2},
    "default, floor that fails": {"max_drop": 3.0, "finetune_epochs": 1, "final_epochs": 2, "learning_rate": 0.01},
    "default, passes": {"passes": [0.4, 0.7], "finetune_epochs": 0, "final_epochs": 1, "guidance": "gradient"},
    "default, final epochs below the floor only": {
        "passes": [0.85, 0.95], "finetune_epochs": 0, "final_epochs": 3, "floor": -0.45, "learning_rate": 0.02,
        "algorithm": "ga",
        "score": "function",
    },
    "default, nothing tuned": {"sparsity": 0.6, "guidance": "magnitude", "train": None},
    "default, any function": {"sparsity": 0.6, "score": "function", "train": None},
    "default, shuffling loader": {"sparsity": 0.5, "finetune_epochs": 2, "final_epochs": 1, "train": "loader"},
    **{
        f"{space}, {algorithm}": {"sparsity": 0.7, "space": space, "algorithm": algorithm, "finetune_epochs": 1}
        for space, algorithm in (
            ("allocation", "ga"), ("allocation", "evopress"), ("allocation", "cmaes"), ("allocation", "nsga2"),
            ("allocation", "random"), ("weights", "ga"), ("weights", "pbil"), ("weights", "evopress"),
            ("mixture", "ga"), ("mixture", "steady"), ("mixture", "evopress"), ("mixture", "random"),
        )
    },
    "budget in bytes": {"sparsity": 0.6, "space": "allocation", "budget": "bytes", "finetune_epochs": 1},
    "channels last": {"passes": [0.4, 0.7], "finetune_epochs": 1, "final_epochs": 0, "layout": torch.channels_last},
    "front": {"max_drop": 5.0, "front": True, "finetune_epochs": 1, "final_epochs": 1, "learning_rate": 0.01},
    "masks tighten in training": {
        "sparsity": 0.8, "guidance": "gradient", "finetune_epochs": 2, "final_epochs": 1, "population": None,
        "generations": None,
    },
    "batch norms measured anew, images augmented": {
        "sparsity": 0.8, "finetune_epochs": 1, "final_epochs": 2, "recalibrate": True, "shift": 1, "flip": True,
        "cutout": 2, "label_smoothing": 0.1, "train_precision": "bfloat16", "optimizer": "sgd", "weight_decay": 5e-4,
        "learning_rate": 0.05, "finetune_schedule": "cosine",
    },
    "batch norms measured anew, evopress": {
        "sparsity": 0.7, "algorithm": "evopress", "finetune_epochs": 1, "recalibrate": True,
    },
    "batch norms measured anew, nsga2": {
        "sparsity": 0.7, "algorithm": "nsga2", "finetune_epochs": 1, "recalibrate": True, "train": "loader",
    },
    "batch norms measured anew, nothing else": {
        "passes": [0.4, 0.7], "finetune_epochs": 0, "final_epochs": 0, "recalibrate": True, "max_drop": 50.0,
        "train": "loader",
    },
    "batch norms measured anew while masks tighten": {
        "sparsity": 0.8, "guidance": "gradient", "finetune_epochs": 2, "final_epochs": 1, "population": None,
        "generations": None, "recalibrate": True,
    },
    "original": {"preset": "original", "finetune_epochs": 1, "final_epochs": 2, "floor": 0.1},
    "original, passes": {
        "preset": "original", "passes": [0.15, 1.0], "finetune_epochs": 1, "final_epochs": 1, "floor": 0.1,
        "generations": 1,
    },
    "original, nothing tuned": {"preset": "original", "train": None, "floor": 0.1, "layers": ["0"]},
}  # fmt: skip


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A snapshot every generation, and no report."""
    monkeypatch.setattr(runner, "SNAPSHOT_SECONDS", 0.0)
    monkeypatch.setattr(api, "write_report", lambda _: None)


def data() -> tuple[Tensor, Tensor]:
    inputs = torch.randn(64, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    return inputs, (inputs[:, 0, :3].mean((1, 2)) > inputs[:, 0, 3:].mean((1, 2))).long()


@cache
def trained() -> nn.Sequential:
    """Trained a little, so that scores differ; with running statistics and dropout."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 3, 3),
        nn.BatchNorm2d(3),
        nn.ReLU(),
        nn.Conv2d(3, 4, 3),
        nn.Dropout(0.1),
        nn.Flatten(),
        nn.Linear(16, 2),
    )
    optimizer, (inputs, targets) = torch.optim.Adam(net.parameters(), 0.03), data()
    for _ in range(20):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(inputs), targets).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return net.eval()


def by_margin(net: nn.Module) -> float:
    inputs, targets = data()
    net.eval()
    with torch.no_grad():
        outputs = net(inputs).log_softmax(1)
    return float(outputs.gather(1, targets[:, None]).mean())


def objects(case: dict[str, Any]) -> tuple[nn.Module, Any, Any]:
    """Model, score and training data, made anew as another process would."""
    train: Any = data()
    if case.get("train", "tensors") is None:
        train = None
    elif case.get("train") == "loader":
        train = DataLoader(TensorDataset(*data()), 16, shuffle=True)
    net = copy.deepcopy(trained()).to(memory_format=case.get("layout", torch.contiguous_format))
    return net, by_margin if case.get("score") == "function" else evoprune.accuracy(data()), train


def start(case: dict[str, Any], out: Path, listener: Callable[[dict[str, Any]], None] | None = None) -> Any:
    net, score, train = objects(case)
    options = {name: value for name, value in case.items() if name not in ("train", "score", "layout")}
    return evoprune.prune(net, score, train=train, out=out, listener=listener, **(COMMON | options))


def go_on(case: dict[str, Any], out: Path, listener: Callable[[dict[str, Any]], None] | None = None) -> Any:
    torch.manual_seed(4711)  # the global random state plays no part
    net, score, train = objects(case)
    return evoprune.resume(out, net, score, train=train, listener=listener)


def without_times(content: Any) -> Any:
    if isinstance(content, dict):
        return {name: without_times(value) for name, value in content.items() if name != "seconds"}
    return [without_times(part) for part in content] if isinstance(content, list) else content


def left_behind(out: Path) -> dict[str, Any]:
    """All that a run folder says, apart from times."""
    journal = [without_times(json.loads(line)) for line in (out / "journal.jsonl").read_text().splitlines()]
    tensors = {
        f"{file}/{name}": (str(tensor.dtype), tensor.tolist())
        for file in ("masks", "model")
        for name, tensor in load_file(out / f"{file}.safetensors").items()
    }
    return {"journal": journal, "result": without_times(json.loads((out / "result.json").read_text()))} | tensors


@pytest.mark.parametrize("name", CASES)
def test_killed_at_every_event_it_ends_with_the_same_bits(name: str, tmp_path: Path) -> None:
    case, whole, copies, steps = CASES[name], tmp_path / "whole", [], []

    def keep(event: dict[str, Any]) -> None:
        """What a kill at this moment would leave on the disk."""
        if event["event"] == "step":
            steps.append(event["epochs_done"])
            return
        copies.append((event["event"], tmp_path / f"killed-{len(copies)}"))
        shutil.copytree(whole, copies[-1][1])

    result = start(case, whole, keep)
    expected = left_behind(whole)
    assert len([event for event, _ in copies if event != "ordered"]) == len(expected["journal"]) > 5
    whole_epochs = [step for step in steps if step == int(step)]
    assert len(whole_epochs) == expected["result"]["finetune"]["epochs"]
    if name == "default, floor that fails":
        assert not all(event.get("accepted", True) for event in expected["journal"])
    if name == "default, final epochs below the floor only":
        # The floor holds again before these epochs are over: a resumed run must carry them through.
        epochs = [event["val_score"] for event in expected["journal"] if event["event"] == "epoch"]
        assert epochs[0] > case["floor"]
        assert len(epochs) > 3
    for event, killed in copies:
        resumed = go_on(case, killed)
        assert left_behind(killed) == expected, event
        assert all(torch.equal(mask, resumed.masks[key]) for key, mask in result.masks.items())
        assert (resumed.sparsity, resumed.score, resumed.front) == (result.sparsity, result.score, result.front)


WATCHING = ("ordered", "step")


class Stopped(Exception):
    pass


@pytest.mark.parametrize("name", ["default", "original, passes"])
def test_interrupted_again_and_again(name: str, tmp_path: Path) -> None:
    """The listener stops at every third event, in the run and in every resumption of it."""
    case = CASES[name]
    start(case, tmp_path / "whole")

    def stopping() -> Callable[[dict[str, Any]], None]:
        events: list[Any] = []

        def stop(event: dict[str, Any]) -> None:
            if event["event"] not in WATCHING:  # nothing is saved there, so that a run stopped there gets no further
                events.append(event)
            if len(events) == 3:
                raise Stopped

        return stop

    broken = tmp_path / "broken"
    with pytest.raises(Stopped):
        start(case, broken, stopping())
    for _ in range(60):
        try:
            go_on(case, broken, stopping())
            break
        except Stopped:
            continue
    assert left_behind(broken) == left_behind(tmp_path / "whole")


def test_with_rare_snapshots_the_journal_is_cut_back_and_lived_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "SNAPSHOT_SECONDS", 1e9)
    case = CASES["default"]
    events: list[Any] = []

    def stop(event: dict[str, Any]) -> None:
        events.append(event)
        if [e["event"] for e in events].count("generation") == 5:
            raise Stopped

    start(case, tmp_path / "whole")
    with pytest.raises(Stopped):
        start(case, tmp_path / "broken", stop)
    with (tmp_path / "broken" / "journal.jsonl").open("a") as journal:
        journal.write('{"event": "generation", "stage": 1, "gen')  # killed while writing
    go_on(case, tmp_path / "broken")
    assert left_behind(tmp_path / "broken") == left_behind(tmp_path / "whole")


def test_what_guidance_said_of_a_stage_is_not_asked_for_again(tmp_path: Path) -> None:
    """It takes minutes for large models."""
    before: list[str] = []
    after: list[str] = []

    def stop(event: dict[str, Any]) -> None:
        before.append(event["event"])
        if event["event"] == "generation":
            raise Stopped

    with pytest.raises(Stopped):
        start(CASES["default"], tmp_path, stop)
    assert before.count("ordered") == 3  # layers
    go_on(CASES["default"], tmp_path, lambda event: after.append(event["event"]))
    assert "ordered" not in after[: after.index("stage_end")]
    assert "ordered" in after  # of the next stage


def test_killed_before_its_first_snapshot(tmp_path: Path) -> None:
    case = CASES["default"]

    def stop(_: dict[str, Any]) -> None:
        raise Stopped

    with pytest.raises(Stopped):
        start(case, tmp_path / "broken", stop)
    assert not (tmp_path / "broken" / "state" / "snapshot.safetensors").exists()
    start(case, tmp_path / "whole")
    go_on(case, tmp_path / "broken")
    assert left_behind(tmp_path / "broken") == left_behind(tmp_path / "whole")


def test_a_finished_run_resumed_stays_as_it_is(tmp_path: Path) -> None:
    case = CASES["default, nothing tuned"]
    start(case, tmp_path)
    before = left_behind(tmp_path)
    events: list[Any] = []
    go_on(case, tmp_path, events.append)
    assert left_behind(tmp_path) == before
    assert events == []


SCRIPT = """
import importlib.util, os, sys
from pathlib import Path
spec = importlib.util.spec_from_file_location("resume_tests", sys.argv[1])
tests = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tests)
tests.torch.set_num_threads(1)
tests.runner.SNAPSHOT_SECONDS = 0.0
def say(event):
    print(event["event"], flush=True)
tests.start(tests.CASES["default"], Path(sys.argv[2]), say)
"""


def test_a_process_killed_in_the_middle_of_things(tmp_path: Path) -> None:
    """SIGKILL, wherever the process is some events after its start."""
    case = CASES["default"]
    start(case, tmp_path / "whole")
    broken = tmp_path / "broken"
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, __file__, str(broken)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process.stdout as lines:
        for _ in range(2 + os.getpid() % 14):
            assert lines.readline(), "the run ended, or failed, before it was killed"
        process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    go_on(case, broken)
    assert left_behind(broken) == left_behind(tmp_path / "whole")


def damaged(out: Path, damage: str) -> None:
    snapshot = out / "state" / "snapshot.safetensors"
    if damage == "snapshot cut":
        snapshot.write_bytes(snapshot.read_bytes()[:-50])
    elif damage == "dense cut":
        dense = out / "state" / "dense.safetensors"
        dense.write_bytes(dense.read_bytes()[:-50])
    elif damage == "config":
        (out / "config.json").write_text("{")
    elif damage == "journal":
        (out / "journal.jsonl").write_text("")
    else:
        (out / "config.json").unlink()


@pytest.mark.parametrize("damage", ["snapshot cut", "dense cut", "config", "journal", "no config"])
def test_a_damaged_run_folder_is_one_line(damage: str, tmp_path: Path) -> None:
    case = CASES["default, nothing tuned"]
    start(case, tmp_path)
    (tmp_path / "result.json").unlink()
    damaged(tmp_path, damage)
    with pytest.raises(evoprune.EvopruneError) as error:
        go_on(case, tmp_path)
    assert "\n" not in str(error.value)
    assert str(tmp_path) in str(error.value)
