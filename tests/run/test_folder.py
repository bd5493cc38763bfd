"""Run folders, journals and snapshots on disk."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import time
import warnings
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from evoprune.core import EvopruneError
from evoprune.run import Folder, make_settings
from evoprune.run.journal import Journal
from evoprune.run.schedule import Outcome, Stage
from evoprune.run.state import Kept, RunState, load_state, packed, save_state, unpacked
from evoprune.search import Population

SETTINGS = make_settings(model="m", sparsity=0.5, seed=3)


def made(path: Path) -> Path:
    Folder.create(path, SETTINGS).close()
    return path


def test_a_folder_is_made_with_its_settings(tmp_path: Path) -> None:
    path = made(tmp_path / "a" / "run")
    folder, found = Folder.open(path)
    folder.close()
    assert found == SETTINGS
    assert json.loads((path / "config.json").read_text())["seed"] == 3


def test_an_empty_folder_will_do(tmp_path: Path) -> None:
    made(tmp_path)


def test_a_second_run_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    path = made(tmp_path / "run")
    (path / "journal.jsonl").write_text("events\n")
    with pytest.raises(EvopruneError, match=r"already holds a run.*evoprune resume.*--overwrite.*--out"):
        Folder.create(path, SETTINGS.model_copy(update={"seed": 4}))
    assert json.loads((path / "config.json").read_text())["seed"] == 3
    assert (path / "journal.jsonl").read_text() == "events\n"


def test_overwrite_starts_over_and_spares_the_users_files(tmp_path: Path) -> None:
    path = made(tmp_path / "run")
    for name in ("journal.jsonl", "masks.safetensors", "model.safetensors", "result.json", "report.html"):
        (path / name).write_text("old")
    (path / "figures").mkdir()
    (path / "figures" / "a.png").write_text("old")
    (path / "state" / "snapshot.safetensors").write_text("old")
    (path / "notes.txt").write_text("mine")
    Folder.create(path, SETTINGS.model_copy(update={"seed": 4}), overwrite=True).close()
    left = {str(entry.relative_to(path)) for entry in path.rglob("*")}
    assert left == {"config.json", "state", "state/lock", "notes.txt"}
    assert json.loads((path / "config.json").read_text())["seed"] == 4


def test_overwrite_takes_a_link_away_and_leaves_what_it_leads_to(tmp_path: Path) -> None:
    path, disk = made(tmp_path / "run"), tmp_path / "disk"
    disk.mkdir()
    (disk / "a.safetensors").write_text("elsewhere")
    (path / "front").symlink_to(disk)
    Folder.create(path, SETTINGS, overwrite=True).close()
    assert not (path / "front").exists()
    assert (disk / "a.safetensors").read_text() == "elsewhere"


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("name", ["holiday.jpg", "config.json"])
def test_a_folder_of_something_else_is_never_touched(tmp_path: Path, name: str, overwrite: bool) -> None:
    """Also not one with a config.json and a model.safetensors, as downloaded models have them."""
    (tmp_path / name).write_text("{}")
    (tmp_path / "model.safetensors").write_text("precious")
    with pytest.raises(EvopruneError, match="not a run folder"):
        Folder.create(tmp_path, SETTINGS, overwrite)
    assert (tmp_path / "model.safetensors").read_text() == "precious"
    assert (tmp_path / name).read_text() == "{}"


def test_a_file_in_the_way_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "inside"):
        with pytest.raises(EvopruneError) as error:
            Folder.create(path, SETTINGS)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_that_was_only_half_made_will_do(tmp_path: Path, overwrite: bool) -> None:
    """The process was killed, or the disk full, between its lock and its settings."""
    (tmp_path / "state").mkdir()
    for name in ("state/lock", "state/.snapshot.safetensors.12.tmp", ".config.json.12.tmp"):
        (tmp_path / name).write_text("")
    Folder.create(tmp_path, SETTINGS, overwrite).close()
    assert Folder.open(tmp_path, lock=False)[1] == SETTINGS


def test_a_folder_state_of_something_else_is_never_touched(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "dense.safetensors").write_text("precious")
    with pytest.raises(EvopruneError, match="not a run folder"):
        Folder.create(tmp_path, SETTINGS, overwrite=True)


@pytest.mark.parametrize("again", ["create", "open"])
def test_two_at_once_are_refused_until_the_first_is_closed(tmp_path: Path, again: str) -> None:
    folder = Folder.create(tmp_path / "run", SETTINGS)

    def second() -> Folder:
        if again == "create":
            return Folder.create(tmp_path / "run", SETTINGS, overwrite=True)
        return Folder.open(tmp_path / "run")[0]

    (tmp_path / "run" / "journal.jsonl").write_text("events\n")
    with pytest.raises(EvopruneError, match="another process is working"):
        second()
    assert (tmp_path / "run" / "journal.jsonl").read_text() == "events\n"
    Folder.open(tmp_path / "run", lock=False)
    folder.close()
    second().close()


@pytest.mark.parametrize("content", [None, "", "{", "[]", '{"model": 3}', '{"model": "m", "unknown": 1}', "\xff"])
def test_a_damaged_or_missing_config_is_one_line(tmp_path: Path, content: str | None) -> None:
    path = made(tmp_path / "run")
    (path / "config.json").unlink()
    if content is not None:
        (path / "config.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(EvopruneError, match=r"not a run folder|damaged") as error:
        Folder.open(path)
    assert "\n" not in str(error.value)


def test_a_result_that_is_missing_or_damaged_is_one_line(tmp_path: Path) -> None:
    folder = Folder.create(tmp_path / "run", SETTINGS)
    with pytest.raises(EvopruneError, match=r"no result yet.*evoprune resume"):
        folder.read_result()
    for content in ('{"a": ', "{}", "[]", '{"pruned": 3, "finetune": 1}'):
        folder.result.write_text(content)
        with pytest.raises(EvopruneError, match=r"damaged.*evoprune resume"):
            folder.read_result()
    dense = {"val_score": 0.5, "test_score": None, "weights": 6}
    pruned = dense | {"nonzero_weights": 3, "sparsity": 0.5}
    whole = {
        "model": "m", "dense": dense, "pruned": pruned, "layers": [], "finetune": {"epochs": 1, "seconds": 2.5},
        "seconds": 3, "more": 4,
    }  # fmt: skip
    folder.result.write_text(json.dumps(whole))
    assert folder.read_result() == whole
    folder.result.write_text(json.dumps(whole | {"finetune": {"epochs": "1", "seconds": 2.5}}))
    with pytest.raises(EvopruneError, match=r"damaged at 'finetune\.epochs'"):
        folder.read_result()
    folder.close()


def test_a_journal_is_lines_of_json_and_knows_its_length(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    for number in range(3):
        journal.append({"event": "x", "number": number, "score": float("inf") if number == 1 else 0.5})
        assert journal.bytes == path.stat().st_size
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["number"] for row in rows] == [0, 1, 2]
    assert [row["score"] for row in rows] == [0.5, None, 0.5]


def test_a_journal_goes_on_after_what_the_snapshot_knew(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_text('{"n": 0}\n{"n": 1}\n{"n": 2, "half a li')
    journal = Journal(path, keep_bytes=9)
    journal.append({"n": 7})
    assert path.read_text() == '{"n": 0}\n{"n": 7}\n'


def test_damage_in_the_last_line_that_is_kept_is_no_line_that_was_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_text('{"n": 0}\n#"n": 1}\n{"n"')
    with pytest.raises(EvopruneError, match="damaged at line 2"):
        Journal.reopen(path)
    assert path.read_text() == '{"n": 0}\n#"n": 1}\n{"n"'


def test_a_journal_that_lost_events_is_refused_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    for content in (None, '{"n": 0}\n'):
        if content is not None:
            path.write_text(content)
        with pytest.raises(EvopruneError, match="lost events"):
            Journal(path, keep_bytes=100)
    assert path.read_text() == '{"n": 0}\n'


def test_a_journal_that_cannot_be_written_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(EvopruneError, match="cannot write the journal"):
        Journal(tmp_path / "folder")
    journal = Journal(tmp_path / "journal.jsonl")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(EvopruneError, match=r"No space left on device.*resume the run"):
        journal.append({"n": 0})


def test_no_journal_keeps_nothing() -> None:
    journal = Journal(None)
    journal.append({"n": 0})
    assert journal.bytes == 0


def state() -> RunState:
    """A run in the middle of things, with shapes that do not fill a byte."""
    rng = torch.Generator().manual_seed(0)

    def kept() -> Kept:
        masks = {"a": torch.rand(3, 5, generator=rng) < 0.5, "b.c": torch.rand(2, 1, 3, generator=rng) < 0.5}
        values = {name: torch.randn(mask.shape, generator=rng) for name, mask in masks.items()}
        model = {"a.weight": values["a"] * masks["a"], "count": torch.tensor(7), "none": torch.zeros(0)}
        left = {name: torch.where(mask, 0, 3).short() for name, mask in masks.items()}
        return Kept(model, masks, values, left)

    genomes, fitness = torch.rand(4, 21, generator=rng) < 0.5, torch.randn(4, 2, generator=rng).double()
    traits = {"score": torch.rand(4, generator=rng).double(), "log_share": torch.randn(4, 2, generator=rng)}
    return RunState(
        now=kept(), accepted=kept(),
        history=[Outcome(0.5, 0.501, 0.93, True, False), Outcome(0.75, 0.75, 0.1 + 0.2, False, True)],
        stage=Stage(2, "all layers", ("a", "b.c"), 2, 0.7, 2, 10, True), phase="search", step=4,
        dense_val_score=0.9876543210123, evaluations=120, samples_scored=9999, generations=8, search_seconds=1.5,
        finetune_seconds=2.5, finetune_epochs=6, seconds=4.25, journal_bytes=123,
        population=packed(Population(genomes, fitness, traits, {"mean": torch.rand(3, generator=rng)})),
        optimizer={"0/step": torch.tensor(3.0), "0/exp_avg": torch.randn(3, 5, generator=rng)},
        warm={"a": torch.tensor([[1, 2], [3, 4]], dtype=torch.uint8)},
    )  # fmt: skip


def plain(value: object) -> object:
    if isinstance(value, torch.Tensor):
        return (str(value.dtype), tuple(value.shape), value.tolist())
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    if isinstance(value, (Kept, RunState, Population)):
        return {key: plain(part) for key, part in vars(value).items()}
    return value


@pytest.mark.parametrize("middle", [True, False])
def test_a_snapshot_is_the_state_bit_for_bit(tmp_path: Path, middle: bool) -> None:
    before = state()
    if not middle:
        before.stage, before.population, before.optimizer, before.warm, before.history = None, None, {}, {}, []
    save_state(before, tmp_path / "snapshot.safetensors")
    assert plain(load_state(tmp_path / "snapshot.safetensors")) == plain(before)


def test_a_snapshot_packs_genomes(tmp_path: Path) -> None:
    before = state()
    genomes = torch.rand(10, 80_001) < 0.5
    before.population = packed(Population(genomes, torch.zeros(10, 1).double()))
    save_state(before, tmp_path / "snapshot.safetensors")
    assert (tmp_path / "snapshot.safetensors").stat().st_size < 110_000
    after = load_state(tmp_path / "snapshot.safetensors").population
    assert after is not None
    assert torch.equal(unpacked(after, 80_001).genomes, genomes)


def test_real_valued_genomes_are_kept_as_they_are() -> None:
    population = Population(torch.randn(4, 3), torch.zeros(4, 1).double())
    assert packed(population) is population
    assert unpacked(population, 3) is population


@pytest.mark.parametrize(
    "damage", ["missing", "empty", "cut", "no state", "other fields", "other phase", "lost tensor", "other shape"]
)
def test_a_damaged_snapshot_is_one_line(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "snapshot.safetensors"
    save_state(state(), path)
    with safe_open(path, framework="pt") as file:
        metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if damage == "missing":
        path.unlink()
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-20])
    elif damage == "no state":
        save_file(tensors, path)
    elif damage in ("other fields", "other phase"):
        other = {"unknown": 1} if damage == "other fields" else {"phase": "finetune"}
        save_file(tensors, path, metadata | {"state": json.dumps(json.loads(metadata["state"]) | other)})
    elif damage == "other shape":
        tensors["now/model/a.weight"] = tensors["now/model/a.weight"][:-1].clone()
        save_file(tensors, path, metadata)
    else:
        del tensors["now/model/a.weight"]
        save_file(tensors, path, metadata)
    with pytest.raises(EvopruneError, match="cannot go on from") as error:
        load_state(path)
    assert "\n" not in str(error.value)


def test_the_workers_of_a_loader_do_not_hold_the_lock(tmp_path: Path) -> None:
    folder = Folder.create(tmp_path / "my run", make_settings(model="m"), overwrite=False)
    context = multiprocessing.get_context("fork")
    begun = context.Event()
    worker = context.Process(target=lambda: (begun.set(), time.sleep(600)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of newer versions of Python, about threads
        worker.start()
    begun.wait()  # what follows a fork has run there
    try:
        folder.close()
        Folder.open(tmp_path / "my run")[0].close()
    finally:
        worker.kill()
        worker.join()


def test_a_run_from_python_is_resumed_from_python(tmp_path: Path) -> None:
    begun = SETTINGS.model_copy(update={"has_train": False})  # told apart from None
    Folder.create(tmp_path / "run", begun).close()
    said = rf"evoprune\.resume\('{tmp_path}/run', model, score, \.\.\.\)"
    with pytest.raises(EvopruneError, match=f"{said}.*overwrite=True"):
        Folder(tmp_path / "run").check_vacant(overwrite=False)
    with pytest.raises(EvopruneError, match=said):
        Folder(tmp_path / "run").read_result()


def test_a_command_in_a_message_can_be_pasted(tmp_path: Path) -> None:
    Folder.create(tmp_path / "my run", make_settings(model="m"), overwrite=False).close()
    with pytest.raises(EvopruneError, match=r"`evoprune resume '.*/my run'`"):
        Folder(tmp_path / "my run").check_vacant(overwrite=False)
    with pytest.raises(EvopruneError, match=r"`evoprune resume '.*/my run'`"):
        Folder(tmp_path / "my run").read_result()
