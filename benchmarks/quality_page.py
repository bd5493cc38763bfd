"""The tables of docs/quality.md and its figure, from results/quality.json and results/quality-search.json.

python benchmarks/quality_page.py
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import record
from matplotlib.axes import Axes

from evoprune.report.style import LIGHT, figure, legend_below, png, share_axis, style

DOCS = Path(__file__).parents[1] / "docs"
LABELS = {
    "none": "evolved, no rule (`--algorithm ga`)",
    "steady": "evolved, no rule (`--algorithm steady`, the default)",
    "evolved-magnitude": "evolved, magnitude biases proposals (`--guidance magnitude --algorithm ga`)",
    "wanda": "evolved, Wanda biases proposals (`--guidance wanda --algorithm ga`)",
    "gradient": "masks tighten in training by (w g)² (`--guidance gradient`)",
    "magnitude": "global magnitude",
    "lamp": "LAMP",
    "erk": "ERK, magnitude inside",
    "uniform": "uniform, magnitude inside",
    "shuffled": "budgets of the evolved masks, weights at random",
    "random": "random",
    "unpruned": "nothing: the dense model, trained as long",
    "steady-magnitude": "budgets evolved, magnitude inside (`--guidance magnitude --space allocation`)",
}
SEARCHES = {
    "none": "weights, `ga`",
    "steady": "weights, `steady`: the default",
    "evopress": "weights, `evopress`",
    "pbil": "weights, `pbil`",
    "cmaes": "allocation, `cmaes`",
    "nsga2": "allocation, `nsga2`",
    "mixture": "mixture, `ga`",
    "chance": "weights, `random`",
}
"""Without a rule, compared at one sparsity."""
SPAN = 8
"""Points below the best that a figure shows at most."""
DASHED = ("shuffled", "random", "unpruned")
Trials = list[dict[str, Any]]


def spread(values: list[float]) -> str:
    """Mean and standard deviation in percent."""
    deviation = f" ± {100 * stdev(values):.2f}" if len(values) > 1 else ""
    return f"{100 * mean(values):.2f}{deviation}"


def above(mine: dict[int, dict[str, Any]], chance: dict[int, dict[str, Any]]) -> str:
    """By how much trials are above those of chance, both by seed; empty for chance itself."""
    gain = [mine[seed]["test_score"] - chance[seed]["test_score"] for seed in mine if seed in chance]
    return spread(gain) if gain and mine != chance else ""


def by_settings(trials: Trials) -> dict[str, Trials]:
    """Trials that may share a table: of one dense model, trained as long after each stage.

    `MODEL` for a model's latest weights, `MODEL from 90.27%` for earlier ones; `..., 7 epochs each` where that is not
    how long their first trial trained. Those of one method, sparsity and seed that still differ would be no repetition.
    """
    last = {trial["model"]: trial["dense"] for trial in trials}
    usual: dict[str, int] = {}
    groups: dict[str, Trials] = {}
    for trial in trials:
        model, dense = trial["model"], trial["dense"]
        name = model if dense == last[model] else f"{model} from {dense:.2%}"
        epochs = trial["finetune_epochs"] + trial["final_epochs"]
        if epochs != usual.setdefault(name, epochs):
            name += f", {epochs} epochs each"
        groups.setdefault(name, []).append(trial)
    for name, group in groups.items():
        (trial, count), *_ = Counter((t["method"], t["target"], t["seed"]) for t in group).most_common()
        if count > 1:
            sys.exit(f"{name} has {count} trials of {trial} in different settings; keep one of them")
    return groups


def tuned_table(trials: Trials) -> str:
    """Methods x sparsities: test accuracy after fine-tuning."""
    targets = sorted({trial["target"] for trial in trials})
    lines = [
        "| what decides | "
        + " | ".join(f"{target:.1%}" for target in targets)
        + f" | epochs trained to {targets[-1]:.0%} | searched, in epochs |"
    ]
    lines.append("|---" * (len(targets) + 3) + "|")
    for method, label in LABELS.items():
        own = [trial for trial in trials if trial["method"] == method]
        if not own:
            continue
        cells = []
        for target in targets:
            found = [trial["test_score"] for trial in own if trial["target"] == target]
            cells.append(f"{spread(found)} ({len(found)})" if found else "")
        last = [trial for trial in own if trial["target"] == targets[-1]]
        cost = " | ".join(f"{mean(t[name] for t in last):.0f}" if last else "" for name in ("epochs", "search_epochs"))
        lines.append(f"| {label} | " + " | ".join(cells) + f" | {cost} |")
    return "\n".join(lines)


def searches_table(trials: Trials) -> str:
    """Searches without a rule at the sparsity that all of them were run at: test accuracy after fine-tuning."""
    target = next(trial["target"] for trial in trials if trial["method"] == "chance")
    lines = [f"| space and algorithm, to {target:.0%} | test accuracy | above random search | searched, in epochs |"]
    lines.append("|---" * 4 + "|")
    at = [trial for trial in trials if trial["target"] == target]
    by_seed = {name: {trial["seed"]: trial for trial in at if trial["method"] == name} for name in SEARCHES}
    for name, label in SEARCHES.items():
        mine, chance = by_seed[name], by_seed["chance"]
        if not mine:
            continue
        cost = mean(t["search_epochs"] for t in mine.values())
        test = spread([t["test_score"] for t in mine.values()])
        lines.append(f"| {label} | {test} ({len(mine)}) | {above(mine, chance)} | {cost:.0f} |")
    return "\n".join(lines)


def search_table(trials: Trials, rules: Trials, model: str, target: float) -> str:
    """Searches: test accuracy and loss of the best mask, beside chance and the shuffled mask."""
    own = [trial for trial in trials if trial["model"] == model and trial["target"] == target]
    lines = ["| space | guidance | algorithm | test accuracy | validation loss | against random search | shuffled |"]
    lines.append("|---" * 7 + "|")
    for space, guidance, algorithm in dict.fromkeys((t["space"], t["guidance"], t["algorithm"]) for t in own):
        here = [t for t in own if (t["space"], t["guidance"]) == (space, guidance)]
        mine = {t["seed"]: t for t in here if t["algorithm"] == algorithm}
        chance = {t["seed"]: t for t in here if t["algorithm"] == "random"}
        test = [t["test_score"] for t in mine.values()]
        lines.append(
            f"| {space} | {guidance} | {algorithm} | {spread(test)} | {mean(t['val_loss'] for t in mine.values()):.3f}"
            f" | {above(mine, chance)} | {spread([t['shuffled_test_score'] for t in mine.values()])} |"
        )
    for found in (rule for rule in rules if (rule["model"], rule["target"]) == (model, target)):
        alone = {name: value for name, value in found.items() if name not in ("model", "target")}
        lines += [
            f"| no search | {name.replace('_', ' ')} | | {100 * value:.2f} | | | |" for name, value in alone.items()
        ]
    return "\n".join(lines)


def draw(groups: list[Trials], path: Path) -> None:
    """Accuracy against the share of weights that stay, a panel for each dense model; what is far below is not drawn."""
    scores = [100 * score for trials in groups for t in trials for score in (t["dense"], t["test_score"])]
    lowest = min(score for score in scores if score > max(scores) - SPAN) - 0.3
    drawing = figure(LIGHT, height=4.2)
    panels = drawing.subplots(1, len(groups), sharex=True, sharey=True, squeeze=False)[0]
    for axes, trials in zip(panels, groups, strict=True):
        draw_panel(axes, trials, lowest)
    panels[0].set_ylabel("test accuracy, last epoch (%)")
    panels[0].set_ylim(lowest, max(scores) + 0.3)
    legend_below(drawing, list(panels), LIGHT, columns=2)
    path.write_bytes(png(drawing))


def draw_panel(axes: Axes, own: Trials, lowest: float) -> None:
    """Bars are a standard deviation over seeds; a method that is all below `lowest` is said to be."""
    style(axes, LIGHT, "share of the weights that stay (%)")
    more = ["#8a6d3b", "#5b3a8e", "#777777", "#b0b0b0", "#000000", "#2e7d6b"]
    colors = [LIGHT.palette[0], "#00305c", *LIGHT.palette[1:], *more]
    for color, (method, label) in zip(colors, LABELS.items(), strict=True):
        targets = sorted({trial["target"] for trial in own if trial["method"] == method})
        found = [[100 * t["test_score"] for t in own if (t["method"], t["target"]) == (method, at)] for at in targets]
        if not targets:
            continue
        means = [mean(values) for values in found]
        named = re.sub("`", "", label) + (f": {max(means):.1f} % and less" if max(means) < lowest else "")
        axes.errorbar(
            [100 * (1 - target) for target in targets], means,
            yerr=[stdev(values) if len(values) > 1 else 0.0 for values in found], color=color, marker="o", markersize=4,
            linewidth=1.5, capsize=2, linestyle="--" if method in DASHED else "-", label=named,
        )  # fmt: skip
    axes.axhline(100 * own[0]["dense"], color=LIGHT.muted, linewidth=1, linestyle=":", label="dense model")
    share_axis(axes, LIGHT)
    axes.set_title(f"dense {own[0]['dense']:.2%}", fontsize=9, color=LIGHT.muted)


def main() -> None:
    """Replace what stands between the marks of docs/quality.md."""
    page = DOCS / "quality.md"
    text = page.read_text()
    tuned, found = by_settings(record.earlier("quality").get("trials", [])), record.earlier("quality-search")
    searched = found.get("trials", [])
    tables = {f"tuned {name}": tuned_table(trials) for name, trials in tuned.items()}
    for name, trials in tuned.items():
        if any(trial["method"] == "chance" for trial in trials):
            tables[f"searches {name}"] = searches_table(trials)
    for model, target in dict.fromkeys((t["model"], t["target"]) for t in searched):
        tables[f"search {model} {target:g}"] = search_table(searched, found["rules"], model, target)
    for name, table in tables.items():
        start, end = f"<!-- {name} -->", f"<!-- end {name} -->"
        if start in text:
            text = text.split(start)[0] + f"{start}\n{table}\n{end}" + text.split(end, 1)[1]
    page.write_text(text)
    shown = {name: trials for name, trials in tuned.items() if f"<!-- tuned {name} -->" in text}
    several = [trials for trials in shown.values() if len({trial["target"] for trial in trials}) > 1]
    for model in dict.fromkeys(trials[0]["model"] for trials in several):
        draw([trials for trials in several if trials[0]["model"] == model], DOCS / "images" / f"quality-{model}.png")


if __name__ == "__main__":
    main()
