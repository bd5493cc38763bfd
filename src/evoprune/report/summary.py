"""What a command prints when a run is done."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.markup import escape
from rich.table import Table

from evoprune.report import wording
from evoprune.run.records import ResultFile, validated

__all__ = ["layer_table", "summary_lines"]


def layer_table(result: Mapping[str, Any]) -> Table:
    """The layers of a result.json and their total, for `rich.print`.

    Raises:
        EvopruneError: `result` lacks something or holds the wrong type.
    """
    content = validated(ResultFile, result, "result.json")
    table = Table(show_footer=True)
    table.add_column("layer", "total", no_wrap=True)
    table.add_column("kind")
    pruned = content.pruned
    totals = wording.count(pruned.weights), wording.count(pruned.nonzero_weights), wording.percent(pruned.sparsity)
    for title, total in zip(("weights", "kept", "sparsity"), totals, strict=True):
        table.add_column(title, total, justify="right", no_wrap=True)
    for layer in content.layers:
        numbers = wording.count(layer.weights), wording.count(layer.kept), wording.percent(layer.sparsity)
        table.add_row(escape(layer.name), escape(layer.kind), *numbers)
    return table


def summary_lines(result: Mapping[str, Any]) -> list[str]:
    """Dense against pruned, the floor and the cost, one plain line each.

    Raises:
        EvopruneError: `result` lacks something or holds the wrong type.
    """
    content = validated(ResultFile, result, "result.json")
    accuracy = content.scores_are_accuracies
    dense, pruned, search = content.dense, content.pruned, content.search
    name = wording.score_word(accuracy)
    lines = [
        f"sparsity             {wording.percent(pruned.sparsity)}"
        f" ({wording.count(pruned.nonzero_weights)} of {wording.count(pruned.weights)} weights stay)"
    ]
    budget = content.budget
    if budget is not None and (budget.kind != "weights" or budget.dense < pruned.weights):
        what = "in chosen layers" if budget.kind == "weights" else budget.kind
        lines.append(f"{what:<20} {wording.spent(budget.pruned, budget.dense)}")
    for split, before, after in (
        ("validation", dense.val_score, pruned.val_score),
        ("test", dense.test_score, pruned.test_score),
    ):
        if after is not None:
            change = f"{wording.score(before, accuracy)} dense, {wording.score(after, accuracy)} pruned"
            lines.append(f"{f'{split} {name}':<20} {change} ({wording.drop(before, after, accuracy)})")
    if content.floor is not None and pruned.val_score is not None:
        met = "met" if pruned.val_score >= content.floor else "NOT met"
        lines.append(f"{'floor':<20} {wording.score(content.floor, accuracy)} on validation: {met}")
    if content.status is not None and content.status != "complete":
        lines.append(f"{'status':<20} {content.status}")
    searched = f"none: {wording.TIGHTENS}"
    if content.searched:
        cost = f"the cost of {search.full_evaluations:,.1f} full evaluations"
        took = wording.duration(search.seconds)
        searched = f"{wording.count(search.evaluations)} candidates scored in {took} ({cost})"
    lines.append(f"{'search':<20} {searched}")
    epochs = f"{wording.epochs(content.finetune.epochs)} of fine-tuning"
    lines.append(f"{'whole run':<20} {wording.duration(content.seconds)}, {epochs}")
    return lines
