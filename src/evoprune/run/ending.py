"""The end of a run: read the test set once, write the results, draw the report."""

from __future__ import annotations

import logging
from typing import Any

from torch import nn

from evoprune.core import EvopruneError, sparsity_of
from evoprune.run.objective import slack
from evoprune.run.result import (
    Result,
    describe_layers,
    file_bytes,
    front_folder,
    non_dominated,
    versions,
)
from evoprune.run.runner import Runner
from evoprune.run.task import Task
from evoprune.scoring import device_of
from evoprune.storage import finite

__all__ = ["finish", "side", "status_after_finetuning"]

log = logging.getLogger("evoprune")


def side(task: Task, model: nn.Module, masks: dict[str, Any], val_score: float, name: str) -> dict[str, Any]:
    """The `dense` or `pruned` entry of result.json; `name` is the model's in the settings."""
    weights = sum(layer.size for layer in task.layers)
    kept = sum(row["kept"] for row in describe_layers(task.layers, masks))
    return {
        "val_score": val_score,
        "test_score": None if task.test_score is None else task.test_score(model),
        "weights": weights,
        "nonzero_weights": kept,
        "sparsity": sparsity_of(masks, task.layers),
        "file_bytes": file_bytes(model, name),
    }


def finish(runner: Runner, dense: nn.Module) -> Result:
    """Make the result of a run whose schedule has ended; with a folder, write everything there.

    Args:
        runner: after `run`.
        dense: the model as it was before, on any device.
    """
    task, state, settings = runner.task, runner.state, runner.settings
    masks, costs = state.accepted.masks, runner.costs
    val_score = task.val_score(task.model)
    dense = dense.to(device_of(task.model))

    def sides() -> tuple[dict[str, Any], dict[str, Any]]:
        dense_side = side(task, dense, {}, state.dense_val_score, settings.model)
        return dense_side, side(task, task.model, masks, val_score, settings.model)

    try:
        dense_side, pruned_side = sides()
    except EvopruneError as error:
        if runner.folder is not None or task.test_score is None:
            raise  # `resume` ends the run once the test score is mended
        log.warning("the result has no test score: %s", error)
        task.test_score = None
        dense_side, pruned_side = sides()
    summary = {
        "model": settings.model,
        "data": settings.data,
        "score_name": settings.score_name,
        "space": settings.space,
        "algorithm": "none" if settings.tightens else settings.algorithm,
        "preset": settings.preset,
        "guidance": settings.guidance,
        "seed": settings.seed,
        "device": device_of(task.model).type,
        "versions": versions(),
        "dense": {key: dense_side[key] for key in ("val_score", "test_score", "weights", "file_bytes")},
        "pruned": pruned_side,
        "budget": {
            "kind": costs.kind,
            "dense": costs.dense,
            "pruned": runner.cost(),
            "share_left": runner.cost() / costs.dense,
        },
        "floor": runner.floor,
        "status": _status(runner, val_score),
        "warnings": settings.warnings,
        "parameters": sum(parameter.numel() for parameter in task.model.parameters()),
        "layers": describe_layers(task.layers, masks),
        "search": {
            "generations": state.generations,
            "evaluations": state.evaluations,
            "full_evaluations": round(state.samples_scored / task.val_score.samples, 3),
            "seconds": round(state.search_seconds, 3),
            "peak_memory_mb": round(state.scoring_bytes / 2**20, 1),
        },
        "finetune": {"epochs": state.finetune_epochs, "seconds": round(state.finetune_seconds, 3)},
        "seconds": round(runner.elapsed(), 3),
    }
    points = non_dominated(state.front, lambda point: point.score)
    if points:
        summary["front"] = [
            {"sparsity": point.sparsity, "score": point.score, "folder": front_folder(index)}
            for index, point in enumerate(points)
        ]
    else:
        stages = non_dominated(state.history, lambda outcome: outcome.val_score)
        summary["front"] = [{"sparsity": stage.sparsity, "score": stage.val_score} for stage in stages]
    result = Result(task.model, masks, pruned_side["sparsity"], val_score, finite(summary), points=points)
    if runner.folder is not None:
        result.path = runner.folder.path
        result.save(result.path)  # result.json last: where it is, the run is complete
    return result


def _status(runner: Runner, val_score: float) -> str:
    """One sentence on how the run ended."""
    floor, state, settings = runner.floor, runner.state, runner.settings
    wanted = settings.sparsity
    if settings.passes and settings.passes[-1] < 1 and settings.preset != "original":
        wanted = settings.passes[-1]
    late = state.cut_short
    if all(bool(mask.all()) for mask in state.accepted.masks.values()):
        reason = " before the time was up" if late else " above the floor" if floor is not None else ""
        kept = any(outcome.accepted and not (settings.front and outcome.below_floor) for outcome in state.history)
        return f"nothing could be pruned{reason}; {_TUNED if kept and state.finetune_epochs else _DENSE}"
    if floor is not None and val_score < floor:
        return _below(val_score, floor) + ("; the time was up" if late else "")
    gone, quantity = 1 - runner.cost() / runner.costs.dense, runner.costs.kind
    reached = f"sparsity {gone:.4f}" if quantity == "weights" else f"{gone:.4f} of the {quantity} gone"
    masks = state.accepted.masks.values()
    rounding = 0.501 / sum(mask.numel() for mask in masks)
    if wanted is not None and gone < wanted - max(slack(wanted), rounding):
        if late:
            reason = "the time was up"
        elif all(int(mask.sum()) == 1 for mask in masks):
            reason = "every layer keeps a weight"
        elif floor is not None:
            reason = "the floor no longer held"
        else:
            reason = "the search found nothing sparser"
        return f"ended at {reached}, below the {wanted:g} asked for, because {reason}"
    return f"ended early at {reached} because the time was up" if late else "complete"


_BELOW = "the validation score"
_DENSE, _TUNED = "the dense model is returned", "the model was only fine-tuned"


def _below(val_score: float, floor: float) -> str:
    return f"{_BELOW} {val_score:.4f} is below the floor {floor:.4f}"


def status_after_finetuning(summary: dict[str, Any], val_score: float) -> str:
    """The status of a result.json, brought up to date with a later validation score.

    How the run itself ended stays in `run_status`.
    """
    floor, status = summary.get("floor"), summary.setdefault("run_status", summary.get("status") or "complete")
    if floor is not None and val_score < floor:
        return _below(val_score, floor)
    return "complete" if status.startswith(_BELOW) else str(status).replace(_DENSE, _TUNED)
