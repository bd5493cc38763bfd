"""Run folders: finished, interrupted, resumed, damaged."""

import json

import pytest
import torch
from safetensors.torch import save_file

from evoprune.core import EvopruneError
from evoprune.report.read import read_run


def append(folder, **event):
    with (folder / "journal.jsonl").open("a") as file:
        file.write(json.dumps(event) + "\n")


def journal(folder):
    return [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]


def write_journal(folder, events):
    (folder / "journal.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))


def test_finished_run(run_dir):
    run = read_run(run_dir)
    assert [stage.label for stage in run.stages] == [*(layer.name for layer in run.result.layers), "fine-tuning"]
    assert [len(stage.generations) for stage in run.stages] == [21] * 5 + [0]
    assert [len(stage.epochs) for stage in run.stages] == [3] * 5 + [10]
    assert run.dense_val_score == 0.9884
    assert run.masks["feature.3"].dtype == torch.bool
    assert run.scores_are_accuracies


def test_interrupted_run_reads_as_far_as_it_got(interrupted_dir):
    run = read_run(interrupted_dir)
    assert run.result is None
    assert [stage.end is not None for stage in run.stages] == [True, True, False]
    assert len(run.stages[2].generations) == 4
    assert run.layers[0].kept == round(150 * (1 - run.layers[0].sparsity))
    assert [layer.sparsity for layer in run.layers[2:]] == [0, 0, 0]


def test_a_line_cut_off_at_the_end_is_ignored_but_not_in_the_middle(run_dir):
    path = run_dir / "journal.jsonl"
    lines = path.read_text().splitlines()
    lines[4] = lines[4][:30]
    path.write_text("\n".join(lines))
    with pytest.raises(EvopruneError, match=r"journal\.jsonl is damaged at line 5"):
        read_run(run_dir)


def test_a_stage_without_layers_owns_the_fine_tuning_in_it(run_dir):
    events = [e for e in journal(run_dir) if e.get("stage") != 5]
    for index, value in ((5, 0.981), (6, 0.982)):
        start = {
            "event": "stage_start",
            "stage": index,
            "pass": index - 5,
            "name": "fine-tuning",
            "layers": [],
        }
        epoch = {"event": "epoch", "stage": index, "epoch": 0, "val_score": value}
        end = {"event": "stage_end", "stage": index, "model_sparsity": 0.9, "val_score": value, "layers": {}}
        events += [start, epoch, end]
    write_journal(run_dir, events)
    run = read_run(run_dir)
    assert [stage.label for stage in run.stages[5:]] == ["fine-tuning (pass 1)", "fine-tuning (pass 2)"]
    assert [stage.epochs[0].val_score for stage in run.stages[5:]] == [0.981, 0.982]


def test_a_stage_that_was_undone_does_not_count(interrupted_dir):
    path = interrupted_dir / "journal.jsonl"
    path.write_text(path.read_text().rsplit("\n", 1)[0] + "\n")
    kept = read_run(interrupted_dir).last_end
    append(
        interrupted_dir,
        event="stage_end",
        stage=2,
        model_sparsity=0.99,
        val_score=0.4,
        layers={},
        accepted=False,
    )
    assert read_run(interrupted_dir).last_end == kept


def test_unknown_events_are_ignored_and_nan_reads_as_missing(run_dir):
    append(run_dir, event="weather", stage="sunny")
    append(run_dir, event="epoch", stage=5, epoch=10, val_score=float("nan"))
    assert read_run(run_dir).stages[-1].epochs[-1].val_score is None


@pytest.mark.parametrize(
    ("result_floor", "settings", "expected"),
    [
        (0.95, {"floor": 0.9}, 0.95),
        (None, {"floor": 0.9}, 0.9),
        (None, {"floor": None, "max_drop": 0.5}, 0.9834),
        (None, {"floor": None, "max_drop": None}, None),
    ],
)
def test_floor_comes_from_the_result_or_the_settings(run_dir, result_floor, settings, expected):
    for name, change in (("result.json", {"floor": result_floor}), ("config.json", settings)):
        path = run_dir / name
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
    floor = read_run(run_dir).floor
    assert floor == (expected if expected is None else pytest.approx(expected))


def test_a_run_without_named_data_has_scores_not_accuracies(run_dir):
    path = run_dir / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"data": None}))
    assert not read_run(run_dir).scores_are_accuracies
    path.write_text(json.dumps(config | {"data": None, "score_name": "accuracy"}))
    assert read_run(run_dir).scores_are_accuracies


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", None, "is not a run folder"),
        ("config.json", "{", r"config\.json is damaged \(not JSON\)"),
        ("config.json", "[]", r"not a JSON object\); restore it from a copy"),
        (
            "result.json",
            '{"model": "lenet5"}',
            r"result\.json is damaged at 'dense' \(field required\); delete result.json and run `evoprune res",
        ),
        ("result.json", "[]", r"not a JSON object\); delete result.json and run `evoprune resume"),
        ("journal.jsonl", '{"event": "generation", "stage": 0}\n', r"line 1 is damaged at 'generation'"),
        ("journal.jsonl", "[1]\n{}\n", r"damaged at line 1 \(not an object\)"),
        ("masks.safetensors", "no tensors", "not a readable safetensors file"),
    ],
)
def test_missing_and_damaged_files_are_named_in_one_line(run_dir, name, content, message):
    path = run_dir / name
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(EvopruneError, match=message) as error:
        read_run(run_dir)
    assert "\n" not in str(error.value)
    assert str(run_dir) in str(error.value)


def test_nothing_but_settings_is_an_error(run_dir):
    (run_dir / "journal.jsonl").unlink()
    (run_dir / "result.json").unlink()
    with pytest.raises(EvopruneError, match="nothing to report"):
        read_run(run_dir)


def test_masks_stored_as_integers_read_as_bool(run_dir):
    save_file({"feature.0": torch.tensor([[0, 1]], dtype=torch.uint8)}, run_dir / "masks.safetensors")
    assert read_run(run_dir).masks["feature.0"].tolist() == [[False, True]]
