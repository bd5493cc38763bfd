"""How the search went: sparsity, fitness and score by generation, and every candidate that was scored.

Each figure is a function that computes its data (None when the run has none) and one that draws it.
Shares and accuracies are 0 to 1 in the data and drawn in percent.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from evoprune.report.axes import Break, ScoreAxis, draw_breaks, draw_levels, draw_stage_bar, mean, nan, spans
from evoprune.report.read import Run
from evoprune.report.style import Theme, figure, legend_below, legend_name, stage_colors, style
from evoprune.run.records import Generation

__all__ = [
    "MOST_PANELS", "Cloud", "Curve", "Panel", "SearchHistory", "cloud", "draw_cloud", "draw_search_history",
    "draw_sparsity_by_generation", "search_history", "sparsity_by_generation",
]  # fmt: skip

MOST_DOTS = 60_000
MOST_PANELS = 24
"""Enough for each layer of ResNet-18; of more a reader sees nothing."""
AT_TARGET = 5e-4
"""Sparsities this close are one line in the figure."""


@dataclass(frozen=True)
class Curve:
    """One stage: the best candidate of each generation, and the range of all of its candidates."""

    number: int
    generation: list[int]
    best: list[float]
    lowest: list[float]
    highest: list[float]
    target: float | None

    @property
    def held(self) -> bool:
        """Whether every candidate has the stage's target, up to a weight or two."""
        return self.target is not None and max(self.highest) - min(self.lowest) < AT_TARGET > abs(
            self.target - self.best[0]
        )


@dataclass(frozen=True)
class Panel:
    """The stages that search the same layers, one after another: generations count on."""

    title: str
    curves: list[Curve]


def sparsity_by_generation(run: Run) -> list[Panel]:
    panels: dict[tuple[str, ...], list[Curve]] = {}
    in_weights = run.config.get("budget", "weights") == "weights"  # else the target is no sparsity
    for number, stage in enumerate(run.stages, start=1):
        generations = [g for g in stage.generations if g.best.sparsity is not None]
        if not generations:
            continue
        curves = panels.setdefault(tuple(stage.start.layers) or (stage.start.name,), [])
        before = curves[-1].generation[-1] + 1 if curves else 0
        ranges = [[s for s in [*g.candidates.sparsity, g.best.sparsity] if s is not None] for g in generations]
        curve = Curve(
            number=number,
            generation=[before + g.generation for g in generations],
            best=[nan(g.best.sparsity) for g in generations],
            lowest=[min(values) for values in ranges],
            highest=[max(values) for values in ranges],
            target=stage.start.target if in_weights else None,
        )
        curves.append(curve)
    return [Panel(_layers_in_words(layers), curves) for layers, curves in panels.items()]


def _layers_in_words(layers: tuple[str, ...]) -> str:
    return layers[0] if len(layers) == 1 else f"{len(layers)} layers together"


def draw_sparsity_by_generation(panels: list[Panel], theme: Theme) -> Figure:
    if len(panels) > MOST_PANELS:
        return _draw_many_curves(panels, theme)
    columns = min(len(panels), 3)
    rows = math.ceil(len(panels) / columns)
    drawing = figure(theme, height=3.2 if rows == 1 else 0.5 + 2.0 * rows)
    grid = drawing.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel().tolist()
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    for index, (axes, panel) in enumerate(zip(grid, panels, strict=False)):
        left, lowest = index % columns == 0, index + columns >= len(panels)
        style(axes, theme, "generation" if lowest else "", "sparsity (%)" if left else "")
        axes.tick_params(labelbottom=lowest)
        axes.set_title(panel.title, fontsize=9, color=theme.ink, loc="left", parse_math=False)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
        for curve in panel.curves:
            low, high = [100 * share for share in curve.lowest], [100 * share for share in curve.highest]
            best, few = [100 * share for share in curve.best], "o" if len(curve.best) < 3 else None
            color = theme.palette[0]
            axes.fill_between(curve.generation, low, high, color=color, alpha=0.22, linewidth=0)
            axes.plot(curve.generation, best, color=color, linewidth=1.6, marker=few)
            # Where a stage holds its candidates at the target, the line says it already.
            if curve.target is not None and curve.target < 1 and not curve.held:
                ends = [curve.generation[0], curve.generation[-1]]
                axes.plot(ends, [100 * curve.target] * 2, color=theme.palette[1], linestyle=(0, (1, 1.5)))
        for curve in panel.curves[1:]:
            axes.axvline(curve.generation[0] - 0.5, color=theme.muted, linewidth=0.7, alpha=0.5)
    return drawing


def _draw_many_curves(panels: list[Panel], theme: Theme) -> Figure:
    drawing = figure(theme, height=3.6)
    axes = drawing.subplots()
    style(axes, theme, "generation", "sparsity of the stage's layers (%)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    curves = sorted((curve for panel in panels for curve in panel.curves), key=lambda curve: curve.number)
    numbers = [curve.number for curve in curves]
    for curve, color in zip(curves, stage_colors(theme, numbers), strict=True):
        axes.plot(curve.generation, [100 * share for share in curve.best], color=color, linewidth=1.2)
    draw_stage_bar(drawing, axes, numbers, theme)
    return drawing


@dataclass(frozen=True)
class SearchHistory:
    """All generations of the run in a row; lists are as long as `step`, missing numbers are NaN.

    `mean_fitness` is that of the population, those that survived; `mean_score` that of the generation's new
    candidates, of which those that were stopped early have no score.
    `breaks` are the steps at which stages begin.
    """

    step: list[int]
    best_fitness: list[float]
    mean_fitness: list[float]
    best_score: list[float]
    mean_score: list[float]
    breaks: list[Break]


def search_history(run: Run) -> SearchHistory | None:
    breaks: list[Break] = []
    generations: list[Generation] = []
    for number, stage in enumerate(run.stages, start=1):
        if stage.generations:
            breaks.append(Break(len(generations), stage.label, number))
            generations += stage.generations
    if not generations:
        return None
    return SearchHistory(
        step=list(range(len(generations))),
        best_fitness=[nan(g.best.fitness) for g in generations],
        mean_fitness=[nan(g.mean_fitness) for g in generations],
        best_score=[nan(g.best.score) for g in generations],
        mean_score=[mean(g.candidates.score) for g in generations],
        breaks=breaks,
    )


def draw_search_history(data: SearchHistory, scores: ScoreAxis, theme: Theme) -> Figure:
    drawing = figure(theme, height=4.8)
    top, bottom = drawing.subplots(2, 1, sharex=True)
    style(top, theme, ylabel="fitness (higher is better)", grid="y")
    style(bottom, theme, "generation, counted over all stages", scores.label, grid="y")
    series = (
        (top, data.best_fitness, data.mean_fitness, "mean of the population", theme.palette[1]),
        (
            bottom, scores.scale(data.best_score), scores.scale(data.mean_score),
            "mean of the new candidates scored in full", theme.palette[4],
        ),
    )  # fmt: skip
    for axes, best, average, averaged, color in series:
        # Stages are separate searches: no line leads from one to the next.
        for start, end in spans(data.breaks, len(data.step)):
            steps, few = data.step[start:end], "o" if end - start == 1 else None
            thin: dict[str, Any] = {"color": color, "linewidth": 1.1, "marker": few, "markersize": 3}
            thick: dict[str, Any] = {"color": theme.palette[0], "linewidth": 1.7, "marker": few, "markersize": 4}
            axes.plot(steps, best[start:end], label="best of the population", zorder=2.5, **thick)
            axes.plot(steps, average[start:end], label=averaged, **thin)
    draw_levels(bottom, scores, [*data.best_score, *data.mean_score], theme)
    draw_breaks((top, bottom), data.breaks, len(data.step), -0.5, theme)
    legend_below(drawing, (top, bottom), theme)
    bottom.xaxis.set_major_locator(MaxNLocator(integer=True))
    return drawing


@dataclass(frozen=True)
class Cloud:
    """Every candidate scored in full (at most 60,000, evenly taken), and the last best of each stage.

    `numbers` are those of the stages in the run, `candidates` those scored in full, `stopped` those that were
    stopped early and have no score.
    """

    numbers: list[int]
    labels: list[str]
    sparsity: list[list[float]]
    score: list[list[float]]
    chosen: list[tuple[float, float]]
    candidates: int
    stopped: int


def cloud(run: Run) -> Cloud | None:
    numbers, labels, sparsity, score, chosen = [], [], [], [], []
    stopped = 0
    for number, stage in enumerate(run.stages, start=1):
        stopped += sum(value is None for g in stage.generations for value in g.candidates.score)
        # Those that a search screens out on a few samples are counted, and not listed.
        stopped += sum(
            max(0, after.evaluations - before.evaluations - len(after.candidates.score))
            for before, after in pairwise(stage.generations)
        )
        dots = [
            (share, value)
            for g in stage.generations
            for share, value in zip(g.candidates.sparsity, g.candidates.score, strict=False)
            if share is not None and value is not None
        ]
        if not dots:
            continue
        numbers.append(number)
        labels.append(stage.label)
        sparsity.append([share for share, _ in dots])
        score.append([value for _, value in dots])
        best = stage.generations[-1].best
        if best.sparsity is not None and best.score is not None:
            chosen.append((best.sparsity, best.score))
    total = sum(map(len, sparsity))
    if not total:
        return None
    every = math.ceil(total / MOST_DOTS)
    thinned = [s[::every] for s in sparsity], [s[::every] for s in score]
    return Cloud(numbers, labels, *thinned, chosen, total, stopped)


def draw_cloud(data: Cloud, scores: ScoreAxis, theme: Theme) -> Figure:
    drawing = figure(theme, height=4.2)
    axes = drawing.subplots()
    style(axes, theme, "sparsity of the stage's layers (%)", scores.label)
    dots = sum(map(len, data.sparsity))
    size, alpha = (14.0, 0.6) if dots < 3000 else (5.0, 0.35)
    colors = stage_colors(theme, data.numbers)
    for label, share, score, color in zip(data.labels, data.sparsity, data.score, colors, strict=True):
        axes.scatter(
            [100 * s for s in share],
            scores.scale(score),
            color=color,
            label=legend_name(label),
            linewidths=0,
            s=size,
            alpha=alpha,
        )
    if data.chosen:
        share, score = [100 * s for s, _ in data.chosen], scores.scale([value for _, value in data.chosen])
        axes.scatter(share, score, s=46, facecolors="none", edgecolors=theme.ink, linewidths=1.3, label="last best")
    draw_levels(axes, scores, [value for stage in data.score for value in stage], theme)
    if len(data.labels) <= len(theme.palette):
        legend_below(drawing, [axes], theme, markerscale=1.4)
    else:
        draw_stage_bar(drawing, axes, data.numbers, theme)
    return drawing
