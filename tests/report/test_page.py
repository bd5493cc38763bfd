"""The page: complete, self-contained, honest, and safe against what a folder holds."""

import json
import re
from html.parser import HTMLParser

import pytest

from evoprune.core import EvopruneError
from evoprune.report import page, write_report
from evoprune.report.figures import run_drawings
from evoprune.report.page import headline, notes
from evoprune.report.read import read_run


@pytest.fixture
def quick(monkeypatch):
    """No drawing, where the test is about words."""
    monkeypatch.setattr(page, "run_drawings", lambda _: [])
    monkeypatch.setattr(page, "mask_drawings", lambda _: [])


def change(folder, name, **values):
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


class Page(HTMLParser):
    def __init__(self, html):
        super().__init__()
        self.links, self.text, self.tags = [], "", []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for key, value in attrs if key in ("src", "srcset", "href", "action", "data")]

    def handle_data(self, data):
        self.text += data


def test_the_page_needs_no_other_file(run_dir):
    path = write_report(run_dir)
    assert path == run_dir / "report.html"
    parsed = Page(path.read_text())
    assert len(parsed.links) == 2 * 11
    assert all(link.startswith("data:image/png;base64,iVBOR") for link in parsed.links)
    assert "script" not in parsed.tags
    assert not re.search(r"url\(|@import|https?://", re.sub(r"base64,[^\"]*", "", path.read_text()))
    figures = sorted(file.name for file in (run_dir / "figures").iterdir())
    assert len(figures) == 11
    assert "mask_00_feature.0.png" in figures


def test_the_same_run_gives_the_same_page(run_dir, monkeypatch):
    monkeypatch.setattr(page, "mask_drawings", lambda _: [])
    monkeypatch.setattr(page, "run_drawings", lambda run: run_drawings(run)[:1])
    first = write_report(run_dir).read_bytes()
    assert write_report(run_dir).read_bytes() == first


@pytest.mark.usefixtures("quick")
def test_the_page_says_what_matters(run_dir):
    text = Page(write_report(run_dir).read_text()).text
    command = "evoprune prune lenet5 --data mnist --preset original"
    for number in ("98.01 %", "dense 98.86 %: 0.85 points lower", "61,470", "2,050", "247.7 kB", "2.13.0"):
        assert number in text, number
    for words in (command, "crossover_rate", "Zeros alone do not make a dense", "test set is read once"):
        assert words in text, words
    assert "not finished" not in text


@pytest.mark.usefixtures("quick")
def test_an_interrupted_run_says_so(interrupted_dir):
    text = Page(write_report(interrupted_dir).read_text()).text
    assert "This run is not finished" in text
    assert f"evoprune resume {interrupted_dir}" in text
    assert headline(read_run(interrupted_dir))[2].value == "2 finished"


def test_a_run_that_has_only_begun_still_reports(interrupted_dir):
    path = interrupted_dir / "journal.jsonl"
    path.write_text(path.read_text().splitlines()[0] + "\n")
    (interrupted_dir / "masks.safetensors").unlink()
    parsed = Page(write_report(interrupted_dir).read_text())
    assert "img" not in parsed.tags
    assert "98.84 %" in parsed.text


@pytest.mark.usefixtures("quick")
def test_text_from_the_folder_is_escaped(run_dir):
    evil = "<script>alert(1)</script>\" onload='x'"
    change(run_dir, "config.json", model=evil, command=evil, **{evil: evil})
    result = json.loads((run_dir / "result.json").read_text())
    result["layers"][0] |= {"name": evil, "kind": evil}
    change(run_dir, "result.json", layers=result["layers"], status=evil, versions={evil: evil})
    html = write_report(run_dir).read_text()
    assert "<script" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html


def test_layer_names_that_are_no_file_names_or_mathematics(run_dir):
    change(run_dir, "config.json", data=None)
    path = run_dir / "journal.jsonl"
    path.write_text(path.read_text().replace("feature.0", "../$a_{$/x"))
    write_report(run_dir)
    assert {file.parent for file in run_dir.rglob("*.png")} == {run_dir / "figures"}


@pytest.mark.parametrize(("floor", "value", "tone"), [(0.9, "met", "good"), (0.985, "not met", "bad")])
def test_floor_met_or_not(run_dir, floor, value, tone):
    change(run_dir, "result.json", floor=floor)
    tile = headline(read_run(run_dir))[2]
    assert (tile.value, tile.tone) == (value, tone)


def test_a_user_score_is_not_called_accuracy(run_dir):
    change(run_dir, "config.json", data=None)
    run = read_run(run_dir)
    words = " ".join(f"{tile.label} {tile.value} {tile.detail}" for tile in headline(run)) + " ".join(notes(run))
    assert "accuracy" not in words
    assert "Test score 0.9801 dense 0.9886: 0.0085 lower" in words


@pytest.mark.usefixtures("quick")
def test_warnings_and_parameters_that_cannot_be_pruned_are_on_the_page(run_dir):
    assert "shipped weights" not in write_report(run_dir).read_text()
    warned = ["the shipped weights have seen the images"]
    change(run_dir, "config.json", warnings=warned)
    change(run_dir, "result.json", warnings=warned, parameters=61_706)
    page = write_report(run_dir).read_text()
    assert page.count(warned[0]) == 1  # not among the settings again
    assert '<p class="warning" role="status">the shipped weights have seen the images</p>' in page
    assert "may be pruned, 61,470 of the model&#39;s 61,706 parameters" in page
    assert "of the weights;" in page
    change(run_dir, "result.json", parameters=1_000_000)
    assert "of the weights that may be pruned, which are 61,470 of the model&#39;s 1,000,000" in (
        write_report(run_dir).read_text()
    )


def test_masks_that_tightened_without_a_floor_were_chosen_by_nothing(run_dir):
    change(run_dir, "result.json", algorithm="none")
    assert notes(read_run(run_dir))[0].startswith("The run kept or undid its stages by validation accuracy")
    change(run_dir, "result.json", floor=None)
    change(run_dir, "config.json", floor=None)
    assert notes(read_run(run_dir))[0].startswith("Nothing was chosen by validation accuracy")


def test_without_a_test_set_the_page_does_not_claim_one(run_dir):
    result = json.loads((run_dir / "result.json").read_text())
    change(run_dir, "result.json", pruned=result["pruned"] | {"test_score": None})
    run = read_run(run_dir)
    assert headline(run)[1].label == "Validation accuracy"
    assert any("No test set was given" in note for note in notes(run))
    assert not any("read once" in note for note in notes(run))


@pytest.mark.usefixtures("quick")
def test_settings_that_the_preset_does_not_read_are_not_listed(run_dir):
    for preset, listed in (("original", True), ("default", False)):
        change(run_dir, "config.json", preset=preset, alpha=0.8, command=None)
        text = Page(write_report(run_dir).read_text()).text
        assert ("alpha" in text, "initial_sparsity" in text, "crossover_rate" in text) == (listed, listed, True)


def test_the_cost_of_the_search(run_dir):
    search = {"evaluations": 500, "full_evaluations": 370.0, "seconds": 75.2, "peak_memory_mb": 409.6}
    change(run_dir, "result.json", search=search)
    assert headline(read_run(run_dir))[3].detail == (
        "370.0 full evaluations in 1 min 15 s; 26 % fewer samples than if every candidate had been scored in full;"
        " scoring took at most 410 MiB of memory"
    )
    # A user's function is called once for each candidate, and its memory is not known.
    change(run_dir, "result.json", search=search | {"full_evaluations": 500.0, "peak_memory_mb": 0.0})
    assert headline(read_run(run_dir))[3].detail == "500.0 full evaluations in 1 min 15 s"


def test_a_report_that_cannot_be_written_says_where(run_dir):
    (run_dir / "figures").write_text("in the way")
    with pytest.raises(EvopruneError, match=r"cannot write .*figures"):
        write_report(run_dir)


@pytest.mark.parametrize(("above", "said"), [(0.0, "met"), (1e-9, "not met")])
def test_a_floor_is_met_by_the_score_itself(run_dir, above, said):
    score = json.loads((run_dir / "result.json").read_text())["pruned"]["val_score"]
    change(run_dir, "config.json", floor=score + above)
    change(run_dir, "result.json", floor=score + above)
    assert [tile.value for tile in headline(read_run(run_dir)) if tile.label.startswith("Floor")] == [said]


def test_a_run_without_a_search_says_so_before_it_is_finished(interrupted_dir):
    change(interrupted_dir, "config.json", space="training", floor=None)
    run = read_run(interrupted_dir)
    text = Page(write_report(interrupted_dir).read_text()).text
    assert "Pruned while training; the run is not finished." in text
    assert "by evolution" not in text
    assert notes(run)[0].startswith("Nothing was chosen by validation accuracy")
    assert [(tile.value, tile.detail) for tile in headline(run) if tile.label == "Candidates scored"] == [
        ("none", "the masks tightened while training")
    ]
