"""The numbers behind the figures, and that each figure draws."""

import io
import json
import math
import re

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from evoprune.report import search_figures, write_report
from evoprune.report.axes import Break, ScoreAxis, draw_levels, spans
from evoprune.report.figures import mask_drawings, run_drawings
from evoprune.report.front_figure import front
from evoprune.report.mask_figures import mask_image
from evoprune.report.model_figures import finetuning, layer_sparsity, stage_progress
from evoprune.report.read import read_run
from evoprune.report.search_figures import cloud, search_history, sparsity_by_generation
from evoprune.report.style import DARK, LIGHT, png, stage_colors


def edit(path, change):
    """Rewrite a JSON or JSON-lines file entry by entry; None drops an entry."""
    entries = [change(json.loads(line)) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries if entry is not None))


def test_layer_sparsity_is_the_results(run_dir):
    data = layer_sparsity(read_run(run_dir))
    assert data.weights == [150, 2400, 48000, 10080, 840]
    pruned = sum(share * weights for share, weights in zip(data.sparsity, data.weights, strict=True))
    assert data.model_sparsity == pytest.approx(pruned / 61470)


def test_stage_progress_starts_dense_and_ends_with_the_result(run_dir):
    run = read_run(run_dir)
    data = stage_progress(run)
    assert data.labels == ["dense", *(layer.name for layer in run.result.layers), "fine-tuning"]
    assert data.sparsity[0] == 0
    assert data.sparsity == sorted(data.sparsity)
    assert (data.score[0], data.score[-1]) == (0.9884, run.result.pruned.val_score)
    assert all(data.kept)


def test_a_result_that_is_not_the_last_stage_is_shown_behind_it(run_dir):
    """As where the floor picks one of a front."""
    edit(run_dir / "journal.jsonl", lambda e: e | ({"val_score": 0.5} if e["event"] == "stage_end" else {}))
    data = stage_progress(read_run(run_dir))
    assert data.labels[-2:] == ["fine-tuning", "result"]
    assert data.score[-2:] == [0.5, read_run(run_dir).result.pruned.val_score]


def test_the_front_marks_the_result_unless_it_was_trained_since(run_dir):
    pruned = read_run(run_dir).result.pruned
    points = [
        {"sparsity": 0.5, "score": 0.98, "folder": "front/000"},
        {"sparsity": pruned.sparsity, "score": 0.9, "folder": "front/001"},
    ]
    result = json.loads((run_dir / "result.json").read_text()) | {"front": points}
    (run_dir / "result.json").write_text(json.dumps(result))
    assert front(read_run(run_dir)).picked == 1, "whatever a noisy score says of it"
    later = {"event": "stage_start", "stage": 99, "name": "more", "command": "evoprune.finetune('run', 1, 0.01)"}
    with (run_dir / "journal.jsonl").open("a") as journal:
        journal.write(json.dumps(later) + "\n")
    assert front(read_run(run_dir)).picked == 1, "it was killed before it had changed anything"
    assert len(read_run(run_dir).commands) == 1
    with (run_dir / "journal.jsonl").open("a") as journal:
        end = {"event": "stage_end", "stage": 99, "model_sparsity": pruned.sparsity, "val_score": 0.9, "layers": {}}
        journal.write(json.dumps(end) + "\n")
    assert front(read_run(run_dir)).picked is None
    assert len(read_run(run_dir).commands) == 2
    (run_dir / "config.json").write_text("{}")
    assert read_run(run_dir).commands == [], "of a run from Python none repeats it"


def test_a_stage_that_was_undone_is_marked(run_dir):
    edit(
        run_dir / "journal.jsonl",
        lambda e: e | ({"accepted": False} if e["event"] == "stage_end" and e["stage"] == 4 else {}),
    )
    assert stage_progress(read_run(run_dir)).kept == [True] * 5 + [False, True]


def test_sparsity_by_generation_has_a_panel_for_each_set_of_layers(run_dir):
    panels = sparsity_by_generation(read_run(run_dir))
    assert [panel.title for panel in panels] == [
        "feature.0",
        "feature.3",
        "classifier.1",
        "classifier.3",
        "classifier.5",
    ]
    (curve,) = panels[0].curves
    assert curve.generation == list(range(21))
    assert all(low <= best <= high for low, best, high in zip(curve.lowest, curve.best, curve.highest, strict=True))


def test_more_layers_than_panels_share_one(run_dir, monkeypatch):
    panels = sparsity_by_generation(read_run(run_dir))
    each = search_figures.draw_sparsity_by_generation(panels, LIGHT).axes[:5]
    assert all(len(axes.lines) > 0 for axes in each)
    monkeypatch.setattr(search_figures, "MOST_PANELS", 4)
    shared, *_ = search_figures.draw_sparsity_by_generation(panels, LIGHT).axes
    assert len(shared.lines) == 5


def test_stages_over_the_same_layers_continue_one_another(run_dir):
    edit(
        run_dir / "journal.jsonl",
        lambda e: e | ({"layers": ["a", "b"]} if e["event"] == "stage_start" else {}),
    )
    (panel,) = sparsity_by_generation(read_run(run_dir))
    assert panel.title == "2 layers together"
    assert [g for curve in panel.curves for g in curve.generation] == list(range(5 * 21))


def test_search_history_takes_the_mean_over_known_scores(run_dir):
    def with_gap(event):
        if event["event"] == "generation" and event["generation"] == 0:
            event["candidates"]["score"] = [None, 0.5, float("nan"), 0.7]
        return event

    edit(run_dir / "journal.jsonl", with_gap)
    data = search_history(read_run(run_dir))
    assert data.mean_score[0] == pytest.approx(0.6)
    assert data.step == list(range(105))
    assert spans(data.breaks, 105) == [(0, 21), (21, 42), (42, 63), (63, 84), (84, 105)]
    assert data.breaks[1] == Break(21, "feature.3", 2)


def test_cloud_holds_every_known_candidate_and_skips_unknown_scores(run_dir, monkeypatch):
    data = cloud(read_run(run_dir))
    assert data.candidates == sum(map(len, data.score)) == 5 * 21 * 10
    assert len(data.chosen) == 5
    edit(
        run_dir / "journal.jsonl",
        lambda e: e | ({"candidates": {"sparsity": [0.5, 0.6], "score": [None, 0.9]}} if "candidates" in e else {}),
    )
    run = read_run(run_dir)
    assert cloud(run).score == [[0.9] * 21] * 5
    monkeypatch.setattr(search_figures, "MOST_DOTS", 21)
    assert sum(map(len, cloud(run).score)) <= 5 * 5


def test_finetuning_is_all_epochs_in_a_row(run_dir):
    data = finetuning(read_run(run_dir))
    assert len(data.score) == 5 * 3 + 10
    assert data.breaks[-1] == Break(15, "fine-tuning", 6)


def test_mask_of_a_convolution_is_a_grid_of_kernels():
    mask = torch.zeros(3, 2, 2, 2, dtype=torch.bool)
    mask[2, 1] = torch.tensor([[True, False], [False, True]])
    image = mask_image(mask)
    assert image.pixels.shape == (3 * 3 - 1, 2 * 3 - 1)
    assert image.pixels[6:8, 3:5].tolist() == [[1, 0], [0, 1]]
    assert np.nansum(image.pixels) == 2
    assert np.isnan(image.pixels[2]).all()
    assert np.isnan(image.pixels[:, 2]).all()


def test_filters_of_one_input_channel_are_wrapped_like_text():
    mask = torch.zeros(10, 1, 2, 2, dtype=torch.bool)
    mask[9] = True
    pixels = mask_image(mask).pixels
    assert pixels.shape == (2 * 3 - 1, 8 * 3 - 1)
    assert (pixels[3:5, 3:5] == 1).all()
    assert np.isnan(pixels[3:, 6:]).all()


def test_large_masks_are_taken_apart_and_say_so():
    image = mask_image(torch.ones(64, 40, 3, 3, dtype=torch.bool))
    assert image.pixels.shape == (32 * 4 - 1, 32 * 4 - 1)
    assert "32 of 64 output and 32 of 40 input" in image.note
    matrix = torch.zeros(3, 1000, dtype=torch.bool)
    matrix[1, 3] = True
    image = mask_image(matrix)
    assert "1 x 3 weights" in image.note
    assert image.pixels.shape == (3, 334)
    assert image.pixels[1, 1] == pytest.approx(1 / 3)
    assert image.pixels.sum() == pytest.approx(1 / 3)


@pytest.mark.parametrize("shape", [(4, 5), (1, 1), (4, 3, 1, 1), (4, 3, 5), (2, 3, 2, 2, 2), (600, 1, 3, 3)])
def test_masks_of_any_kind_of_layer_are_laid_out(shape):
    image = mask_image(torch.zeros(shape, dtype=torch.bool))
    assert np.nanmax(image.pixels) == 0


def test_masks_follow_the_model_not_the_file(run_dir):
    assert [drawing.title for drawing in mask_drawings(read_run(run_dir))] == [
        "feature.0", "feature.3", "classifier.1", "classifier.3", "classifier.5",
    ]  # fmt: skip


def test_of_many_masks_some_are_taken_evenly(run_dir, monkeypatch):
    monkeypatch.setattr("evoprune.report.figures.MOST_MASKS", 3)
    assert [drawing.title for drawing in mask_drawings(read_run(run_dir))] == [
        "feature.0", "classifier.1", "classifier.5",
    ]  # fmt: skip
    text = re.sub(r"\s+", " ", write_report(run_dir).read_text())
    assert "2 of 5 layers are left out here" in text


@pytest.mark.parametrize(("floor", "said"), [(0.8, "floor 80.00 %"), (0.5, "floor 50.00 %\nlies lower")])
def test_a_floor_far_below_the_scores_is_a_note_and_no_line(floor, said):
    axes = Figure().subplots()
    draw_levels(axes, ScoreAxis(accuracy=True, dense=None, floor=floor), [0.85, 0.95], LIGHT)
    assert [text.get_text() for text in axes.texts] == [said]
    assert len(axes.lines) == (floor == 0.8)


def test_every_figure_draws_in_both_themes_and_differs(run_dir):
    run = read_run(run_dir)
    drawings = run_drawings(run) + mask_drawings(run)[:2]
    assert [drawing.name for drawing in drawings[:6]] == [
        "layer_sparsity",
        "stages",
        "sparsity_by_generation",
        "fitness_by_generation",
        "candidates",
        "finetuning",
    ]
    for drawing in drawings:
        pictures = [Image.open(io.BytesIO(png(drawing.draw(theme)))).convert("RGB") for theme in (LIGHT, DARK)]
        assert pictures[0].getpixel((0, 0)) == (255, 255, 255)
        assert sum(pictures[1].getpixel((0, 0))) < 120
        assert len(np.unique(np.asarray(pictures[0]).reshape(-1, 3), axis=0)) > 3


def test_figures_without_data_are_left_out(run_dir):
    edit(run_dir / "journal.jsonl", lambda e: e if e["event"] == "run_start" else None)
    (run_dir / "masks.safetensors").unlink()
    run = read_run(run_dir)
    assert [drawing.name for drawing in run_drawings(run)] == ["layer_sparsity"]
    assert mask_drawings(run) == []


def caption(run_dir, name):
    return next(drawing.caption for drawing in run_drawings(read_run(run_dir)) if drawing.name == name)


def counted(event):
    """As where nothing is screened; what guidance scored before a stage is no candidate of the search."""
    if event["event"] == "generation":
        event["evaluations"] = 300 + 10 * (21 * event["stage"] + event["generation"] + 1)
    return event


def test_candidates_without_a_dot_are_counted_in_the_caption(run_dir):
    edit(run_dir / "journal.jsonl", counted)
    assert "no dot" not in caption(run_dir, "candidates")

    def some_stopped(event):
        if event["event"] == "generation":
            event["candidates"]["score"][:4] = [None] * 4
        return event

    edit(run_dir / "journal.jsonl", some_stopped)
    data = cloud(read_run(run_dir))
    assert (data.candidates, data.stopped) == (5 * 21 * 6, 5 * 21 * 4)
    assert "420 of 1,050 candidates have no dot: they were stopped early" in caption(run_dir, "candidates")


def test_candidates_that_were_screened_out_are_counted_in_the_caption(run_dir):
    def screened(event):
        if event["event"] == "generation":
            event["evaluations"] = 30 * (21 * event["stage"] + event["generation"])
        return event

    edit(run_dir / "journal.jsonl", screened)
    assert cloud(read_run(run_dir)).stopped == 5 * 20 * 20


def test_stages_keep_their_number_where_one_between_them_searched_nothing(run_dir):
    edit(run_dir / "journal.jsonl", lambda e: None if e["event"] == "generation" and e["stage"] == 1 else e)
    run = read_run(run_dir)
    assert cloud(run).numbers == [part.number for part in search_history(run).breaks] == [1, 3, 4, 5]


def test_the_two_means_by_generation_have_two_names(run_dir):
    drawing = next(d for d in run_drawings(read_run(run_dir)) if d.name == "fitness_by_generation").draw(LIGHT)
    (box,) = drawing.legends
    assert [text.get_text() for text in box.get_texts()] == [
        "best of the population", "mean of the population", "mean of the new candidates scored in full",
    ]  # fmt: skip
    assert all(axes.get_legend() is None for axes in drawing.axes), "a legend within would cover curves"


def test_a_search_at_one_sparsity_is_not_described_as_a_range(run_dir):
    def hold(event):
        if event["event"] == "generation":
            event["best"]["sparsity"] = 0.9
            event["candidates"]["sparsity"] = [0.9001] * 10
        return event

    assert "(band)" in caption(run_dir, "sparsity_by_generation")
    edit(run_dir / "journal.jsonl", hold)
    assert "all of its candidates have the stage's sparsity" in caption(run_dir, "sparsity_by_generation")


def test_a_stage_whose_layer_begins_with_an_underscore_is_in_the_legend(run_dir):
    edit(run_dir / "journal.jsonl", lambda e: e | {"name": "_head"} if e.get("stage") == 0 and "name" in e else e)
    drawing = next(d for d in run_drawings(read_run(run_dir)) if d.name == "candidates").draw(LIGHT)
    assert " _head" in [text.get_text() for text in drawing.legends[0].get_texts()]


def test_the_mask_of_a_transposed_convolution_has_outputs_in_rows(run_dir):
    """Its weight is (in, out, *kernel)."""

    def transposed(content):
        for row in content["layers"]:
            row["kind"] = "ConvTranspose2d" if row["name"] == "feature.3" else row["kind"]
        return content

    def size():
        drawn = next(d for d in mask_drawings(read_run(run_dir)) if d.title == "feature.3")
        return drawn.draw.args[0].pixels.shape

    height, width = size()
    edit(run_dir / "result.json", transposed)
    assert size() == (width, height)


def test_more_stages_than_colours_get_a_ramp():
    assert stage_colors(LIGHT, [1, 2, 4]) == list(LIGHT.palette[:3])
    ramp = stage_colors(LIGHT, list(range(1, 21)))
    assert len(set(ramp)) == 20
    assert stage_colors(LIGHT, [1, *range(14, 21)])[1:] == ramp[13:], "a colour is that of the stage's number"


def test_missing_fitness_is_a_gap_not_a_zero(run_dir):
    edit(run_dir / "journal.jsonl", lambda e: {k: v for k, v in e.items() if k != "mean_fitness"})
    assert all(map(math.isnan, search_history(read_run(run_dir)).mean_fitness))


def test_the_caption_of_fine_tuning_says_whose_last_epoch_counts(run_dir):
    assert "the last epoch, not the best" in caption(run_dir, "finetuning")
    edit(run_dir / "journal.jsonl", lambda e: e | {"accepted": e["stage"] != 4} if e["event"] == "stage_end" else e)
    assert "the last epoch of the last stage that was kept, not the best" in caption(run_dir, "finetuning")


def test_the_caption_of_fine_tuning_says_that_a_floor_picked_a_stage_of_a_front(run_dir):
    edit(run_dir / "result.json", lambda result: result | {"pruned": result["pruned"] | {"val_score": 0.91}})
    assert "the last epoch of the stage that the floor picked, not the best" in caption(run_dir, "finetuning")
