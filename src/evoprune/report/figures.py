"""The figures of a run, in the order of the page: what is drawn, under which name, with which caption."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from matplotlib.figure import Figure

from evoprune.report import wording
from evoprune.report.axes import score_axis
from evoprune.report.front_figure import draw_front, front
from evoprune.report.mask_figures import draw_mask, mask_image
from evoprune.report.model_figures import (
    draw_finetuning,
    draw_layer_sparsity,
    draw_stage_progress,
    finetuning,
    layer_sparsity,
    stage_progress,
)
from evoprune.report.read import Run
from evoprune.report.search_figures import (
    MOST_PANELS,
    cloud,
    draw_cloud,
    draw_search_history,
    draw_sparsity_by_generation,
    search_history,
    sparsity_by_generation,
)
from evoprune.report.style import Theme

__all__ = ["Drawing", "mask_drawings", "run_drawings"]

MOST_MASKS = 24


@dataclass(frozen=True)
class Drawing:
    """One figure: `draw` makes it in a theme."""

    name: str
    title: str
    caption: str
    draw: Callable[[Theme], Figure]


def run_drawings(run: Run) -> list[Drawing]:
    """The curves of a run; a figure whose data is not there is left out."""
    scores, drawings = score_axis(run), []
    score = wording.score_word(scores.accuracy)
    if (layers := layer_sparsity(run)) is not None:
        drawings.append(
            Drawing(
                "layer_sparsity",
                "Sparsity of each layer",
                "The share of each layer's weights that are zero; the dashed line is that of all layers.",
                partial(draw_layer_sparsity, layers),
            )
        )
    if (progress := stage_progress(run)) is not None:
        drawings.append(
            Drawing(
                "stages",
                f"Sparsity and {score}, stage by stage",
                f"The model after each stage and its fine-tuning: the weights that stay and its validation {score}.",
                partial(draw_stage_progress, progress, scores),
            )
        )
    if (points := front(run)) is not None:
        drawings.append(
            Drawing(
                "front",
                f"What sparsity costs: the front of {score} against size",
                f"Every point is a fine-tuned model that no other beats in both sparsity and validation {score};"
                " all of them are in the folder front/.",
                partial(draw_front, points, scores),
            )
        )
    if panels := sparsity_by_generation(run):
        if len(panels) > MOST_PANELS:
            caption = "The best candidate of each generation; a line is a stage, for the layers it searches."
        elif all(curve.held for panel in panels for curve in panel.curves):
            caption = (
                "A line is a stage, for the layers named: all of its candidates have the stage's sparsity; they"
                " differ in which weights go."
            )
        else:
            caption = (
                "The best candidate of each generation (line), the range of all scored in it (band),"
                " and the stage's target (dotted), for the layers named."
            )
        drawings.append(
            Drawing(
                "sparsity_by_generation",
                "Sparsity by generation",
                caption,
                partial(draw_sparsity_by_generation, panels),
            )
        )
    if (history := search_history(run)) is not None:
        drawings.append(
            Drawing(
                "fitness_by_generation",
                f"Fitness and {score} by generation",
                f"Fitness is what the search maximizes; validation {score} is before fine-tuning, so it may"
                " fall while sparsity rises. The population is those that survived the generation; new candidates"
                " that were stopped early are in no mean.",
                partial(draw_search_history, history, scores),
            )
        )
    if (dots := cloud(run)) is not None:
        shown = sum(map(len, dots.sparsity))
        part = "" if shown == dots.candidates else f" ({shown:,} of {dots.candidates:,} are drawn)"
        stopped = (
            f" {dots.stopped:,} of {dots.candidates + dots.stopped:,} candidates have no dot: they were stopped early,"
            " having fallen behind on a part of the samples."
        )
        drawings.append(
            Drawing(
                "candidates",
                "Every candidate that was scored in full" if dots.stopped else "Every candidate that was scored",
                f"Each dot is one candidate{part}, before fine-tuning: sparser to the right, better to the"
                f" top; rings mark the best of each stage's last generation.{stopped if dots.stopped else ''}",
                partial(draw_cloud, dots, scores),
            )
        )
    if (tuned := finetuning(run)) is not None:
        fell = any(stage.epochs and stage.end is not None and not stage.end.accepted for stage in run.stages)
        whose = " of the last stage that was kept" if fell else ""
        if run.picked:
            whose = " of the stage that the floor picked"
        drawings.append(
            Drawing(
                "finetuning",
                "Fine-tuning",
                f"Validation {score} after each epoch; this report's numbers are from the last epoch{whose}, not the"
                " best.",
                partial(draw_finetuning, tuned, scores),
            )
        )
    return drawings


def mask_drawings(run: Run) -> list[Drawing]:
    """The masks of layers with a weight of two dimensions or more: all, or 24 evenly taken."""
    names = [name for name in _in_model_order(run) if run.masks[name].dim() >= 2 and run.masks[name].numel()]
    kinds = {row.name: row.kind or "" for row in run.layers}
    every = -(-len(names) // MOST_MASKS)
    drawings = []
    for index, name in enumerate(names[:: max(every, 1)]):
        mask = run.masks[name]
        if kinds.get(name, "").startswith(("ConvTranspose", "Embedding")):  # their weight is (in, out, ...)
            mask = mask.transpose(0, 1)
        image = mask_image(mask)
        drawings.append(Drawing(f"mask_{index:02d}_{_file_part(name)}", name, image.note, partial(draw_mask, image)))
    return drawings


def _in_model_order(run: Run) -> list[str]:
    """Masks on disk are sorted by name; the layers of the run are in the model's order."""
    known = [layer.name for layer in run.layers if layer.name in run.masks]
    return known + sorted(run.masks.keys() - set(known))


def _file_part(name: str) -> str:
    """A layer name as part of a file name."""
    return "".join(letter if letter.isalnum() or letter in "._-" else "_" for letter in name)[:80]
