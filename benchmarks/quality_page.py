"""The tables of docs/quality.md and its figure, from results/quality.json and results/quality-search.json.

python benchmarks/quality_page.py
"""

from __future__ import annotations

import re
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import record

from evoprune.report.style import LIGHT, figure, legend_below, png, style

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


def of_last_weights(trials: Trials) -> Trials:
    """Those from the dense weights that a model's last trial began with."""
    last = {trial["model"]: trial["dense"] for trial in trials}
    return [trial for trial in trials if trial["dense"] == last[trial["model"]]]


def tuned_table(trials: Trials, model: str) -> str:
    """Methods x sparsities: test accuracy after fine-tuning."""
    of_model = [trial for trial in trials if trial["model"] == model]
    targets = sorted({trial["target"] for trial in of_model})
    lines = [
        "| what decides | "
        + " | ".join(f"{target:.1%}" for target in targets)
        + f" | epochs trained to {targets[-1]:.0%} | searched, in epochs |"
    ]
    lines.append("|---" * (len(targets) + 3) + "|")
    for method, label in LABELS.items():
        own = [trial for trial in of_model if trial["method"] == method]
        if not own:
            continue
        cells = []
        for target in targets:
            found = [trial["test_score"] for trial in own if trial["target"] == target]
            cells.append(f"{spread(found)} ({len(found)})" if found else "")
        last = [trial for trial in own if trial["target"] == targets[-1]] or own
        cost = f"{mean(trial['epochs'] for trial in last):.0f} | {mean(trial['search_epochs'] for trial in last):.0f}"
        lines.append(f"| {label} | " + " | ".join(cells) + f" | {cost} |")
    return "\n".join(lines)


def searches_table(trials: Trials, model: str) -> str:
    """Searches without a rule at the sparsity that all of them were run at: test accuracy after fine-tuning."""
    own = [trial for trial in trials if trial["model"] == model]
    target = next(trial["target"] for trial in own if trial["method"] == "chance")
    lines = [f"| space and algorithm, to {target:.0%} | test accuracy | above random search | searched, in epochs |"]
    lines.append("|---" * 4 + "|")
    by_seed = {name: {t["seed"]: t for t in own if (t["method"], t["target"]) == (name, target)} for name in SEARCHES}
    for name, label in SEARCHES.items():
        mine, chance = by_seed[name], by_seed["chance"]
        if not mine:
            continue
        cost = mean(t["search_epochs"] for t in mine.values())
        test = spread([t["test_score"] for t in mine.values()])
        lines.append(f"| {label} | {test} ({len(mine)}) | {above(mine, chance)} | {cost:.0f} |")
    return "\n".join(lines)


def search_table(trials: Trials, rules: dict[str, Any], model: str, target: float) -> str:
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
    if (rules["model"], rules["target"]) == (model, target):
        alone = {name: value for name, value in rules.items() if name not in ("model", "target")}
        lines += [
            f"| no search | {name.replace('_', ' ')} | | {100 * value:.2f} | | | |" for name, value in alone.items()
        ]
    return "\n".join(lines)


def draw(trials: Trials, model: str, path: Path) -> None:
    """Accuracy against the share of weights that stay; bars are a standard deviation over seeds."""
    drawing = figure(LIGHT, height=4.2)
    axes = drawing.subplots()
    style(axes, LIGHT, "share of the weights that stay (%)", "test accuracy, last epoch (%)")
    own = [trial for trial in trials if trial["model"] == model]
    colors = [LIGHT.palette[0], "#00305c", *LIGHT.palette[1:], "#8a6d3b", "#5b3a8e", "#777777", "#b0b0b0", "#000000"]
    for color, (method, label) in zip(colors, LABELS.items(), strict=True):
        targets = sorted({trial["target"] for trial in own if trial["method"] == method})
        found = [[100 * t["test_score"] for t in own if (t["method"], t["target"]) == (method, at)] for at in targets]
        if not targets:
            continue
        axes.errorbar(
            [100 * (1 - target) for target in targets], [mean(values) for values in found],
            yerr=[stdev(values) if len(values) > 1 else 0.0 for values in found], color=color, marker="o", markersize=4,
            linewidth=1.5, capsize=2, linestyle="--" if method in DASHED else "-", label=re.sub("`", "", label),
        )  # fmt: skip
    axes.axhline(100 * own[0]["dense"], color=LIGHT.muted, linewidth=1, linestyle=":", label="dense")
    axes.set_xscale("log")
    axes.invert_xaxis()
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:g}"[0] in "25" else "")
    axes.tick_params(axis="x", which="minor", colors=LIGHT.muted, labelsize=8, length=0)
    low = sorted(100 * score for score in (own[0]["dense"], *(trial["test_score"] for trial in own)))
    axes.set_ylim(max(low[0] - 0.3, low[-1] - 8), low[-1] + 0.3)
    legend_below(drawing, [axes], LIGHT, columns=2)
    path.write_bytes(png(drawing))


def main() -> None:
    """Replace what stands between the marks of docs/quality.md."""
    page = DOCS / "quality.md"
    text = page.read_text()
    tuned, found = of_last_weights(record.earlier("quality").get("trials", [])), record.earlier("quality-search")
    searched = found.get("trials", [])
    tables = {f"tuned {model}": tuned_table(tuned, model) for model in dict.fromkeys(t["model"] for t in tuned)}
    for model in dict.fromkeys(t["model"] for t in tuned if t["method"] == "chance"):
        tables[f"searches {model}"] = searches_table(tuned, model)
    for model, target in dict.fromkeys((t["model"], t["target"]) for t in searched):
        tables[f"search {model} {target:g}"] = search_table(searched, found["rules"], model, target)
    for name, table in tables.items():
        start, end = f"<!-- {name} -->", f"<!-- end {name} -->"
        if start in text:
            text = text.split(start)[0] + f"{start}\n{table}\n{end}" + text.split(end, 1)[1]
    page.write_text(text)
    for model in dict.fromkeys(trial["model"] for trial in tuned):
        if len({trial["target"] for trial in tuned if trial["model"] == model}) > 1:
            draw(tuned, model, DOCS / "images" / f"quality-{model}.png")


if __name__ == "__main__":
    main()
