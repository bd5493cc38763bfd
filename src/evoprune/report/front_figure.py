"""The front of a run: what each sparsity costs in score, and which point the floor picked."""

from __future__ import annotations

from dataclasses import dataclass
from math import isclose
from typing import Any

from matplotlib.figure import Figure

from evoprune.report import wording
from evoprune.report.axes import ScoreAxis, draw_levels
from evoprune.report.read import Run
from evoprune.report.style import Theme, figure, legend_below, share_axis, style, write

__all__ = ["Front", "draw_front", "front"]

SPARSEST_LABELLED = 0.5
"""Points below this sparsity stand close together and have no label."""


@dataclass(frozen=True)
class Front:
    """Models that no other beats in both, by rising sparsity; `picked` is the run's result, if it is one of them."""

    sparsity: list[float]
    score: list[float]
    picked: int | None


def front(run: Run) -> Front | None:
    """The points that the run kept; None for a run that kept none."""
    points = [] if run.result is None else [point for point in run.result.front if point.folder]
    if run.result is None or not points:
        return None
    pruned = run.result.pruned
    same = (index for index, point in enumerate(points) if isclose(point.sparsity, pruned.sparsity))
    picked = None if run.tuned_later else next(same, None)
    return Front([point.sparsity for point in points], [point.score for point in points], picked)


def draw_front(data: Front, scores: ScoreAxis, theme: Theme) -> Figure:
    drawing = figure(theme)
    axes = drawing.subplots()
    style(axes, theme, "share of the weights that stay (%)", scores.label)
    kept, drawn = [100 * (1 - sparsity) for sparsity in data.sparsity], scores.scale(data.score)
    axes.plot(kept, drawn, color=theme.palette[0], marker="o", markersize=5, linewidth=1.6)
    share_axis(axes, theme)
    for x, y, sparsity in zip(kept, drawn, data.sparsity, strict=True):
        if sparsity >= SPARSEST_LABELLED:
            write(axes, wording.percent(sparsity), (x, y), (4, 5), theme.muted, fontsize=7)  # the curve falls
    if data.picked is not None:
        at = kept[data.picked], drawn[data.picked]
        ring: dict[str, Any] = {"marker": "o", "markersize": 11, "markerfacecolor": "none", "linestyle": "none"}
        axes.plot(*at, **ring, color=theme.palette[1], label="the result")
        legend_below(drawing, [axes], theme)
    draw_levels(axes, scores, data.score, theme)
    return drawing
