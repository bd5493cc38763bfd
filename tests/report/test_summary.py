"""The end of a run in the terminal, and how numbers are written."""

import io
import json

import pytest
from rich.console import Console

from evoprune.core import EvopruneError
from evoprune.report import layer_table, summary_lines, wording


@pytest.fixture
def result(run_dir):
    return json.loads((run_dir / "result.json").read_text())


def printed(table):
    console = Console(width=100, file=io.StringIO())
    console.print(table)
    return console.file.getvalue()


def test_the_table_has_every_layer_and_the_total(result):
    lines = printed(layer_table(result)).splitlines()
    row = next(line for line in lines if "classifier.1" in line)
    layer = result["layers"][2]
    kept, sparsity = f"{layer['kept']:,}", f"{100 * layer['sparsity']:.2f} %"
    cells = [part.strip() for part in row.strip("│").split("│")]
    assert cells == ["classifier.1", "Linear", "48,000", kept, sparsity]
    total = next(line for line in lines if "total" in line)
    assert "61,470" in total
    assert f"{result['pruned']['nonzero_weights']:,}" in total


def test_markup_in_a_layer_name_is_printed_as_it_is(result):
    result["layers"][0]["name"] = "[red]x[/red]"
    assert "[red]x[/red]" in printed(layer_table(result))


def test_summary(result):
    text = "\n".join(summary_lines(result))
    assert "98.86 % dense, 98.01 % pruned (0.85 points lower)" in text
    assert "90.00 % on validation: met" in text
    result["floor"] = result["pruned"]["val_score"]
    assert "on validation: met" in "\n".join(summary_lines(result))
    result["floor"] = 0.99
    assert "99.00 % on validation: NOT met" in "\n".join(summary_lines(result))


def test_of_some_layers_their_own_share_is_said_too(result):
    assert "chosen layers" not in "\n".join(summary_lines(result))
    result["budget"] = {"kind": "weights", "dense": 840, "pruned": 84, "share_left": 0.1}
    assert "in chosen layers     84 of 840 are left (10.00 %)" in summary_lines(result)


def test_summary_of_a_run_with_an_own_score_and_no_test_set(result):
    result["data"], result["floor"] = None, None
    result["pruned"]["test_score"] = result["dense"]["test_score"] = None
    text = "\n".join(summary_lines(result))
    assert "validation score" in text
    assert not any(word in text for word in ("accuracy", "floor", "test"))


def test_a_damaged_result_is_named(result):
    result["layers"][3]["sparsity"] = "much"
    with pytest.raises(EvopruneError, match=r"layers\.3\.sparsity"):
        summary_lines(result)


def test_wording():
    assert wording.percent(0.9443) == "94.43 %"
    assert wording.percent(0.999999) == "99.99 %"
    assert wording.percent(1.0) == "100.00 %"
    assert wording.percent(1e-7) == "0.01 %"
    assert wording.percent(0.0) == "0.00 %"
    assert wording.drop(0.98, 0.99, accuracy=True) == "1.00 points higher"
    assert wording.drop(0.98, 0.98, accuracy=True) == "unchanged"
    assert wording.size(999) == "999 bytes"
    assert wording.size(247_736) == "247.7 kB"
    assert wording.size(45_000_000_000) == "45.0 GB"
    assert wording.duration(59.96) == "1 min 0 s"
    assert wording.duration(3.14) == "3.1 s"
    assert wording.duration(3725) == "1 h 2 min"
    assert {f(None) for f in (wording.count, wording.percent, wording.size)} == {wording.NONE}


def test_a_run_without_a_search_says_so(result):
    lines = summary_lines(result | {"algorithm": "none"})
    assert "search               none: the masks tightened while training" in lines
