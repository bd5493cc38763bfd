"""What several figures share: the score axis with its two levels, stage boundaries, missing numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean
from typing import Any

from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from evoprune.report import wording
from evoprune.report.read import Run
from evoprune.report.style import Theme, write

__all__ = [
    "Break",
    "ScoreAxis",
    "draw_breaks",
    "draw_levels",
    "draw_stage_bar",
    "mean",
    "nan",
    "score_axis",
    "spans",
]

MOST_NAMED = 12


@dataclass(frozen=True)
class Break:
    """Where on an axis over the whole run a stage begins; `number` counts stages from 1."""

    start: int
    label: str
    number: int


@dataclass(frozen=True)
class ScoreAxis:
    """How scores are drawn, and the two levels they are read against."""

    accuracy: bool
    dense: float | None
    floor: float | None

    @property
    def label(self) -> str:
        return "validation accuracy (%)" if self.accuracy else "validation score"

    def scale(self, scores: Sequence[float]) -> list[float]:
        """Scores in the units of the axis."""
        return [100 * score for score in scores] if self.accuracy else list(scores)


def score_axis(run: Run) -> ScoreAxis:
    return ScoreAxis(run.scores_are_accuracies, run.dense_val_score, run.floor)


def nan(value: float | None) -> float:
    return math.nan if value is None else value


def mean(values: Sequence[float | None]) -> float:
    known = [value for value in values if value is not None]
    return fmean(known) if known else math.nan


def spans(breaks: Sequence[Break], steps: int) -> list[tuple[int, int]]:
    """First step and the step after the last of each stage."""
    return list(pairwise([*(part.start for part in breaks), steps]))


def draw_levels(axes: Axes, scores: ScoreAxis, drawn: Sequence[float], theme: Theme) -> None:
    """The dense model and the floor as lines; a floor that lies far below the data only as a note."""
    known = [score for score in drawn if math.isfinite(score)]
    top = max([*known, *([scores.dense] if scores.dense is not None else [])], default=0.0)
    reach = 2 * max(top - min(known, default=top), 0.005 * abs(top))
    lines: list[tuple[str, float, str, Any]] = []
    if scores.dense is not None:
        lines.append(("dense", scores.dense, theme.palette[2], (0, (5, 2))))
    if scores.floor is not None and scores.floor >= top - reach:
        lines.append(("floor", scores.floor, theme.palette[3], (0, (1.5, 1.5))))
    elif scores.floor is not None:
        note = f"floor {wording.score(scores.floor, scores.accuracy)}\nlies lower"
        write(axes, note, (1, 0), (4, 0), theme.palette[3], xycoords="axes fraction", va="bottom")
    for name, level, color, dashes in lines:
        drawn_at = scores.scale([level])[0]
        axes.axhline(drawn_at, color=color, linewidth=1.1, linestyle=dashes, zorder=1.5)
        text, beside = f"{name} {wording.score(level, scores.accuracy)}", axes.get_yaxis_transform()
        above = level == max(level for _, level, _, _ in lines)
        write(axes, text, (1, drawn_at), (4, 0), color, xycoords=beside, va="bottom" if above else "top")


def draw_breaks(panels: Sequence[Axes], breaks: Sequence[Break], steps: int, offset: float, theme: Theme) -> None:
    """A thin line where a stage begins, and the stages' names (or numbers) above the first panel."""
    few = len(breaks) <= MOST_NAMED
    for axes in panels:
        for part in breaks[1:]:
            axes.axvline(part.start + offset, color=theme.muted, linewidth=0.7, alpha=0.6 if few else 0.25)
    room = 105 / steps  # about 105 letters of this size fit over a figure
    bounds = spans(breaks, steps)
    labels, numbers = [part.label for part in breaks], [str(part.number) for part in breaks]
    for names in (labels, numbers):
        if all(len(name) + 1 <= room * (end - start) for name, (start, end) in zip(names, bounds, strict=True)):
            break
    else:
        return
    if names is numbers:
        write(panels[0], "stage", (0, 1), (-4, 4), theme.muted, xycoords="axes fraction", ha="right", fontsize=7.5)
    for name, (start, end) in zip(names, bounds, strict=True):
        middle, above = (start + end) / 2 + offset, panels[0].get_xaxis_transform()
        write(panels[0], name, (middle, 1), (0, 4), theme.muted, xycoords=above, ha="center", fontsize=7.5)


def draw_stage_bar(drawing: Figure, axes: Axes, numbers: Sequence[int], theme: Theme) -> None:
    """A colour bar from the first of these stages to the last."""
    ramp = ScalarMappable(Normalize(numbers[0], numbers[-1]), theme.colormap)
    bar = drawing.colorbar(ramp, ax=axes, aspect=30)
    bar.set_label("stage", color=theme.muted, fontsize=9)
    bar.ax.tick_params(colors=theme.muted, labelsize=8, length=0)
    bar.ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    bar.outline.set_visible(False)
