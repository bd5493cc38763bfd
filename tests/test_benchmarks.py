"""The benchmark of quality runs through on real digits, few of them; its figures mean nothing here."""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import quality
import record

from evoprune.surgery import FineTuner


@pytest.fixture
def trials(digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs benchmarks/quality.py with these methods; returns its trials by method."""
    monkeypatch.setattr(record, "RESULTS", tmp_path)
    monkeypatch.setattr(record, "provenance", lambda: {"commit": "0"})  # which an edit in the meantime would change

    def run(*methods: str, beside: str = "none", more: tuple[str, ...] = ()) -> dict[str, dict[str, Any]]:
        words = ["--data", str(digits), "--sparsities", "0.5", *more, "--seeds", "1", "--final-epochs", "1"]
        monkeypatch.setattr(sys, "argv", ["quality.py", *words, "--beside", beside, "--only", *methods])
        quality.main()
        return {trial["method"]: trial for trial in json.loads((tmp_path / "quality.json").read_text())["trials"]}

    return run


@pytest.mark.parametrize("name", sorted(file.stem for file in Path(quality.__file__).parent.glob("*.py")))
def test_every_benchmark_can_be_imported(name: str) -> None:
    import_module(name)


def test_rules_train_as_often_as_the_search_beside_them(trials: Any) -> None:
    found = trials("none", "magnitude", "lamp", "erk", "uniform", "random", "shuffled")
    assert len(found) == 7
    search, rules = found.pop("none"), found
    assert search["evaluations"] > 0
    for rule in rules.values():
        assert rule["sparsity"] == pytest.approx(0.5, abs=1e-4)
        assert rule["epochs"] == search["epochs"] + round(search["search_epochs"])
    assert rules["shuffled"]["kept"] == search["kept"]


def test_trials_that_are_there_are_not_repeated(trials: Any, capsys: pytest.CaptureFixture[str]) -> None:
    first = trials("gradient", "chance", "cmaes")
    assert [trial["sparsity"] for trial in first.values()] == pytest.approx([0.5] * 3, abs=1e-4)
    capsys.readouterr()
    both = trials("gradient", "chance", "magnitude", beside="gradient")
    assert {name: both[name] for name in first} == first
    assert both["magnitude"]["epochs"] == both["gradient"]["epochs"]
    assert capsys.readouterr().out.count("seed 1") == 1


def test_one_run_through_all_sparsities(trials: Any, tmp_path: Path) -> None:
    trials("gradient", "magnitude", beside="gradient", more=("0.8", "--chain", "--distill", "0"))
    written = json.loads((tmp_path / "quality.json").read_text())["trials"]
    for method in ("gradient", "magnitude"):
        first, second = [trial for trial in written if trial["method"] == method]
        assert [first["target"], second["target"]] == [0.5, 0.8]
        assert [first["sparsity"], second["sparsity"]] == pytest.approx([0.5, 0.8], abs=1e-4)
        assert second["epochs"] == 2 * first["epochs"]
        assert all(second["kept"][layer] <= kept for layer, kept in first["kept"].items()), "pruned further"


def test_a_rule_that_was_interrupted_goes_on_from_the_models_it_kept(
    trials: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = []
    monkeypatch.setattr(quality, "FineTuner", lambda *parts: trained.append(parts) or FineTuner(*parts))
    words = ("0.8", "--chain", "--distill", "0", "--keep", str(tmp_path))
    unbroken = trials("magnitude", beside="gradient", more=words)["magnitude"]
    before = len(trained)
    path = tmp_path / "quality.json"
    written = json.loads(path.read_text())
    path.write_text(json.dumps(written | {"trials": written["trials"][:1]}))
    resumed = trials("magnitude", beside="gradient", more=words)["magnitude"]
    assert len(trained) == 1.5 * before
    assert {**resumed, "seconds": 0} == {**unbroken, "seconds": 0}


def test_a_run_of_our_own_that_was_interrupted_goes_on(
    trials: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("0.8", "--chain", "--distill", "0")
    unbroken = trials("gradient", beside="gradient", more=words)["gradient"]
    (tmp_path / "quality.json").unlink()
    epoch, epochs = FineTuner.epoch, []

    def stopped(*parts: Any, **named: Any) -> float:
        epochs.append(parts)
        if len(epochs) == unbroken["epochs"]:
            raise KeyboardInterrupt
        return epoch(*parts, **named)

    monkeypatch.setattr(FineTuner, "epoch", stopped)
    kept = (*words, "--keep", str(tmp_path))
    with pytest.raises(KeyboardInterrupt):
        trials("gradient", beside="gradient", more=kept)
    resumed = trials("gradient", beside="gradient", more=kept)["gradient"]
    assert len(epochs) == unbroken["epochs"] + 1
    assert {**resumed, "seconds": 0} == {**unbroken, "seconds": 0}


def test_the_dense_model_trained_as_long_is_a_control(trials: Any) -> None:
    found = trials("magnitude", "unpruned", beside="gradient")
    assert (found["unpruned"]["sparsity"], found["unpruned"]["epochs"]) == (0, found["magnitude"]["epochs"])


def test_the_rules_need_what_they_stand_beside(trials: Any) -> None:
    with pytest.raises(SystemExit, match="run that first"):
        trials("magnitude")
