"""Every example runs and prints what it promises."""

import re
import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(name: str, capsys: pytest.CaptureFixture[str]) -> str:
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    return capsys.readouterr().out


def numbers(pattern: str, text: str) -> list[float]:
    found = re.search(pattern, text)
    assert found, text
    return [float(number) for number in found.groups()]


def test_own_model(capsys: pytest.CaptureFixture[str]) -> None:
    sparsity, dense, pruned = numbers(
        r"sparsity ([\d.]+)%; test accuracy ([\d.]+)% -> ([\d.]+)%", run("own_model.py", capsys)
    )
    assert sparsity == 90.0
    assert pruned >= dense - 3


def test_own_score(capsys: pytest.CaptureFixture[str]) -> None:
    printed = run("own_score.py", capsys)
    for part, least in zip(printed.split("with fine-tuning"), (60, 90), strict=True):
        dense, pruned, sparsity = numbers(r"R2 ([\d.]+) -> ([\d.]+) at ([\d.]+)%", part)
        assert pruned >= dense - 0.05
        assert sparsity >= least
        kept = [int(number) for number in part.rpartition("[")[2].partition("]")[0].split(",")]
        assert min(kept[:2]) > max(kept[2:]), "the two inputs that matter keep most"


def test_all_examples_are_tested() -> None:
    assert {file.name for file in EXAMPLES.glob("*.py")} == {"own_model.py", "own_score.py"}
