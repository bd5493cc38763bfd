"""What the model lost: the sparsity of each layer, the model after each stage, and its fine-tuning.

Each figure is a function that computes its data (None when the run has none) and one that draws it.
Shares and accuracies are 0 to 1 in the data and drawn in percent.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from evoprune.report import wording
from evoprune.report.axes import Break, ScoreAxis, draw_breaks, draw_levels, nan, spans
from evoprune.report.read import Run
from evoprune.report.style import Theme, figure, legend_below, share_axis, style, write

__all__ = [
    "Finetuning", "LayerSparsity", "StageProgress", "draw_finetuning", "draw_layer_sparsity",
    "draw_stage_progress", "finetuning", "layer_sparsity", "stage_progress",
]  # fmt: skip

MOST_NAMES = 14
LOGARITHMIC = 0.8
"""Sparser runs have a logarithmic axis for what stays: their last stages differ too little on any other."""


@dataclass(frozen=True)
class LayerSparsity:
    names: list[str]
    sparsity: list[float]
    weights: list[int | None]
    model_sparsity: float | None


def layer_sparsity(run: Run) -> LayerSparsity | None:
    rows, end = run.layers, run.last_end
    if not rows:
        return None
    so_far = end.model_sparsity if end is not None else None
    overall = run.result.pruned.sparsity if run.result is not None else so_far
    return LayerSparsity([r.name for r in rows], [r.sparsity for r in rows], [r.weights for r in rows], overall)


def draw_layer_sparsity(data: LayerSparsity, theme: Theme) -> Figure:
    drawing = figure(theme, height=max(1.6, 0.9 + 0.3 * len(data.names)))
    axes = drawing.subplots()
    style(axes, theme, "sparsity (% of the layer's weights that are zero)", grid="x")
    places = range(len(data.names))
    axes.barh(places, [100.0] * len(data.names), color=theme.line, height=0.62)
    axes.barh(places, [100 * share for share in data.sparsity], color=theme.palette[0], height=0.62)
    axes.set_yticks(places, data.names, parse_math=False)
    axes.tick_params(axis="y", colors=theme.ink)
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    for place, share, weights in zip(places, data.sparsity, data.weights, strict=True):
        text = wording.percent(share) + (f"  of {wording.count(weights)}" if weights is not None else "")
        write(axes, text, (100, place), (6, 0), theme.ink, va="center")
    if data.model_sparsity is not None:
        axes.axvline(100 * data.model_sparsity, color=theme.palette[1], linewidth=1.2, linestyle=(0, (4, 2)))
        label = f"all layers {wording.percent(data.model_sparsity)}"
        at, above = (100 * data.model_sparsity, 1.0), axes.get_xaxis_transform()
        write(axes, label, at, (-3, 2), theme.palette[1], xycoords=above, ha="right", va="bottom")
    return drawing


@dataclass(frozen=True)
class StageProgress:
    """The model after each finished stage; the first point is the dense model.

    Where `kept` is false the model fell under the floor and was set back to the one before.
    """

    labels: list[str]
    sparsity: list[float]
    score: list[float]
    kept: list[bool]


def stage_progress(run: Run) -> StageProgress | None:
    ended = [(stage.label, stage.end) for stage in run.stages if stage.end is not None]
    if not ended:
        return None
    labels = ["dense", *(label for label, _ in ended)]
    sparsity = [0.0, *(end.model_sparsity for _, end in ended)]
    score = [nan(run.dense_val_score), *(nan(end.val_score) for _, end in ended)]
    kept = [True, *(end.accepted for _, end in ended)]
    if run.result is not None and run.picked:
        labels.append("result")
        sparsity.append(run.result.pruned.sparsity)
        score.append(nan(run.result.pruned.val_score))
        kept.append(True)
    return StageProgress(labels, sparsity, score, kept)


def draw_stage_progress(data: StageProgress, scores: ScoreAxis, theme: Theme) -> Figure:
    drawing = figure(theme, height=4.6)
    top, bottom = drawing.subplots(2, 1, sharex=True)
    named = len(data.labels) <= MOST_NAMES
    style(top, theme, ylabel="weights that stay (%)")
    style(bottom, theme, "" if named else "stages finished", scores.label)
    places = range(len(data.labels))
    kept = [place for place in places if data.kept[place]]
    undone = [place for place in places if not data.kept[place]]
    for axes, values in ((top, [100 * (1 - share) for share in data.sparsity]), (bottom, scores.scale(data.score))):
        look: dict[str, Any] = {"color": theme.palette[0], "marker": "o", "clip_on": False, "zorder": 3}
        axes.plot(kept, [values[place] for place in kept], markersize=4, linewidth=1.6, **look)
        if undone:
            hollow = look | {"linestyle": "none", "markersize": 5, "markerfacecolor": theme.paper}
            axes.plot(undone, [values[place] for place in undone], label="fell under the floor: undone", **hollow)
    if undone:
        legend_below(drawing, [top], theme)
    if max(data.sparsity) > LOGARITHMIC:
        share_axis(top, theme, "y")
    else:
        top.set_ylim(0, 100)
    draw_levels(bottom, scores, data.score, theme)
    if named:
        long = max(map(len, data.labels)) * len(data.labels) > 90
        turn: dict[str, Any] = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"} if long else {}
        bottom.set_xticks(places, data.labels, parse_math=False, **turn)
    else:
        bottom.xaxis.set_major_locator(MaxNLocator(integer=True))
    return drawing


@dataclass(frozen=True)
class Finetuning:
    """Validation score after each epoch of fine-tuning, all stages in a row."""

    score: list[float]
    breaks: list[Break]


def finetuning(run: Run) -> Finetuning | None:
    score: list[float] = []
    breaks: list[Break] = []
    for number, stage in enumerate(run.stages, start=1):
        if stage.epochs:
            breaks.append(Break(len(score), stage.label, number))
            score += [nan(epoch.val_score) for epoch in stage.epochs]
    return Finetuning(score, breaks) if any(map(math.isfinite, score)) else None


def draw_finetuning(data: Finetuning, scores: ScoreAxis, theme: Theme) -> Figure:
    drawing = figure(theme, height=3.4)
    axes = drawing.subplots()
    style(axes, theme, "epoch of fine-tuning, counted over all stages", scores.label, grid="y")
    values = scores.scale(data.score)
    for start, end in spans(data.breaks, len(values)):
        axes.plot(
            range(start + 1, end + 1),
            values[start:end],
            color=theme.palette[0],
            linewidth=1.6,
            marker="o",
            markersize=3.5,
        )
    draw_levels(axes, scores, data.score, theme)
    axes.set_xlim(0.5, len(values) + 0.5)
    draw_breaks((axes,), data.breaks, len(values), 0.5, theme)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return drawing
