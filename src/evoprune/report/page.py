"""The page: one HTML file with its figures inside, for a browser without a network, or a printer."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from evoprune.core import EvopruneError
from evoprune.report import wording
from evoprune.report.figures import Drawing, mask_drawings, run_drawings
from evoprune.report.read import Run, read_run
from evoprune.report.style import DARK, LIGHT, png
from evoprune.run import Folder
from evoprune.run.contradictions import ONLY_ORIGINAL
from evoprune.run.records import ResultFile
from evoprune.storage import write_atomic

__all__ = ["Tile", "headline", "notes", "write_report"]


MOST = 0.9
"""Where fewer of the parameters may be pruned, the first sentence says so."""


@dataclass(frozen=True)
class Tile:
    """One headline number."""

    label: str
    value: str
    detail: str
    tone: str = ""


@dataclass(frozen=True)
class Picture:
    """A figure in the page, `width` CSS pixels wide; `light` and `dark` are PNG data URIs."""

    title: str
    caption: str
    width: int
    light: str
    dark: str


def write_report(run_dir: str | Path) -> Path:
    """Write figures/*.png and report.html into a run folder.

    A run that is not finished gets a report of what there is, which says so.

    Args:
        run_dir: the folder that `evoprune prune --out` wrote.

    Returns:
        The path of report.html, which needs no other file.

    Raises:
        EvopruneError: the folder is no run folder, a file in it is damaged, or the report cannot be written.
    """
    run = read_run(run_dir)
    environment = Environment(
        loader=PackageLoader("evoprune", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"count": wording.count, "percent": wording.percent}
    masks = mask_drawings(run)
    path = run.folder / "report.html"
    try:
        (run.folder / "figures").mkdir(exist_ok=True)
        html = environment.get_template("page.html").render(
            title=_title(run),
            lead=_lead(run),
            warnings=_warnings(run),
            tiles=headline(run),
            layers=run.layers,
            total=_total(run),
            pictures=[_picture(drawing, run.folder) for drawing in run_drawings(run)],
            masks=[_picture(drawing, run.folder) for drawing in masks],
            masks_left_out=len(run.masks) - len(masks),
            notes=notes(run),
            settings=_settings(run),
            commands=run.commands,
            versions=_versions(run),
        )
        write_atomic(path, html.encode())
    except OSError as error:
        where = error.filename or path
        raise EvopruneError(
            f"cannot write {where}: {error.strerror or error}; free space or check permissions"
        ) from error
    return path


def headline(run: Run) -> list[Tile]:
    """The numbers a reader wants first."""
    return _final_tiles(run, run.result) if run.result is not None else _tiles_so_far(run)


def _final_tiles(run: Run, result: ResultFile) -> list[Tile]:
    pruned, search, accuracy = result.pruned, result.search, run.scores_are_accuracies
    split, before, after = _judged(result)
    kept = f"{wording.count(pruned.nonzero_weights)} of {wording.count(pruned.weights)} weights are left"
    change = f"dense {wording.score(before, accuracy)}: {wording.drop(before, after, accuracy)}"
    tiles = [
        Tile("Sparsity", wording.percent(pruned.sparsity), kept),
        Tile(f"{split} {_score_word(run)}".capitalize(), wording.score(after, accuracy), change),
    ]
    budget = result.budget
    if budget is not None and budget.kind != "weights":
        less = wording.percent(1 - budget.share_left)
        tiles.append(Tile(f"Fewer {budget.kind}", less, wording.spent(budget.pruned, budget.dense)))
    validation = f"validation {_score_word(run)} {wording.score(pruned.val_score, accuracy)}"
    if run.floor is not None and pruned.val_score is not None:
        met = pruned.val_score >= run.floor
        tiles.append(
            Tile(
                f"Floor {wording.score(run.floor, accuracy)}",
                "met" if met else "not met",
                validation,
                "good" if met else "bad",
            )
        )
    else:
        tiles.append(Tile("Floor", "none", validation))
    full = wording.TIGHTENS
    if result.searched:
        full = _search_cost(search.evaluations, search.full_evaluations, search.seconds, search.peak_memory_mb)
    tiles.append(Tile("Candidates scored", wording.count(search.evaluations) if result.searched else "none", full))
    whole = f"{wording.epochs(result.finetune.epochs)} of fine-tuning took {wording.duration(result.finetune.seconds)}"
    tiles.append(Tile("Whole run", wording.duration(result.seconds), whole))
    if pruned.file_bytes is not None:
        tiles.append(
            Tile("Weights on disk", wording.size(pruned.file_bytes), f"dense {wording.size(result.dense.file_bytes)}")
        )
    return tiles


def _tiles_so_far(run: Run) -> list[Tile]:
    end, accuracy = run.last_end, run.scores_are_accuracies
    generations = [generation for stage in run.stages for generation in stage.generations]
    scored = max((generation.evaluations for generation in generations), default=0)
    full = max((generation.full_evaluations for generation in generations), default=0.0)
    scores = Tile("Candidates scored", wording.count(scored), _search_cost(scored, full))
    if not run.searched:
        scores = Tile("Candidates scored", "none", wording.TIGHTENS)
    ended = sum(stage.end is not None for stage in run.stages)
    return [
        Tile("Sparsity so far", wording.percent(end.model_sparsity if end else 0.0), "after the last stage"),
        Tile(
            f"Validation {_score_word(run)} so far",
            wording.score(end.val_score if end else None, accuracy),
            f"dense {wording.score(run.dense_val_score, accuracy)}",
        ),
        Tile("Stages", f"{ended} finished", f"{len(run.stages)} begun, {len(generations)} generations"),
        scores,
    ]


def notes(run: Run) -> list[str]:
    """What the numbers mean and what they do not."""
    result, score = run.result, _score_word(run)
    chose = "The search chose by" if run.searched else "The run kept or undid its stages by"
    flattered = f"{chose} validation {score}, so validation numbers flatter the result a little; the figures of the run"
    lines = [f"{flattered} show those."]
    if not run.searched and run.floor is None:
        lines = [f"Nothing was chosen by validation {score}; the figures of the run show it."]
    if result is None or result.pruned.test_score is not None:
        again = "at the end of the run and again after each later fine-tuning"
        times = again if run.tuned_later else "once, at the end of the run"
        lines.append(f"The test set is read {times}, and decides nothing.")
    else:
        lines.append(f"No test set was given, so no number here is free of selection: measure the {score} on new data.")
    lines.append("Fine-tuning reports its last epoch, not its best; pruned weights stay zero throughout.")
    lines.append(
        "Zeros alone do not make a dense kernel faster: this model does the same multiplications as before."
        " To gain time, run it on a runtime with sparse kernels, and measure; pruning whole channels, or a pattern"
        " that the hardware knows (2:4), would help more, and evoprune does neither yet."
    )
    lines.append(
        "A file with zeros in place is as large as before; it shrinks only when it is stored sparsely or compressed."
    )
    counted = "the weights of the layers that may be pruned"
    if result is not None and result.parameters is not None:
        counted += (
            f", {wording.count(result.pruned.weights)} of the model's {wording.count(result.parameters)} parameters"
        )
    lines.append(f"Sparsity counts {counted}; biases are not among them.")
    return lines


def _title(run: Run) -> str:
    model, data = run.config.get("model") or "model", run.config.get("data")
    # Data may be a folder: its name says enough here, the settings have the path.
    return f"{model} on {Path(str(data)).name}" if data else str(model)


def _lead(run: Run) -> str:
    result = run.result
    if result is None:
        return f"{'Pruned by evolution' if run.searched else 'Pruned while training'}; the run is not finished."
    by = "Evolution" if result.searched else "Training under tightening masks"
    removed = f"{by} removed {wording.percent(result.pruned.sparsity)} of the weights"
    weights, parameters = result.pruned.weights, result.parameters
    if parameters is not None and weights < MOST * parameters:
        removed = (
            f"{removed} that may be pruned, which are {wording.count(weights)} of the model's"
            f" {wording.count(parameters)} parameters"
        )
    split, before, after = _judged(result)
    if before is None or after is None:
        return f"{removed}."
    change = wording.drop(before, after, run.scores_are_accuracies)
    compared = "that of" if change == "unchanged" else f"{change} than that of"
    return f"{removed}; {split} {_score_word(run)} is {compared} the dense model."


def _judged(result: ResultFile) -> tuple[str, float | None, float | None]:
    """The split that the result is judged by, and the scores of the dense and the pruned model there."""
    dense, pruned = result.dense, result.pruned
    if pruned.test_score is not None:
        return "test", dense.test_score, pruned.test_score
    return "validation", dense.val_score, pruned.val_score


def _warnings(run: Run) -> list[str]:
    """What a reader has to know before the numbers."""
    if run.result is None:
        unfinished = (
            "This run is not finished. The page shows what its journal holds so far; nothing here is a"
            f" final result. To continue it: {Folder(run.folder).resuming}"
        )
        return [unfinished, *run.warnings]
    ended = [] if run.result.status in (None, "complete") else [f"Note: {run.result.status}."]
    return ended + run.warnings


def _total(run: Run) -> dict[str, Any] | None:
    rows = run.layers
    if not rows or any(row.weights is None or row.kept is None for row in rows):
        return None
    weights, kept = sum(row.weights or 0 for row in rows), sum(row.kept or 0 for row in rows)
    return {"weights": weights, "kept": kept, "sparsity": 1 - kept / weights if weights else None}


def _versions(run: Run) -> list[tuple[str, str]]:
    return [] if run.result is None else [(key, _shown(value)) for key, value in run.result.versions.items()]


def _settings(run: Run) -> list[tuple[str, str]]:
    hidden = {"command", "warnings"}  # the page has places of their own for them
    if run.config.get("preset") != "original":
        hidden |= {*ONLY_ORIGINAL}
    return [(key, _shown(value)) for key, value in run.config.items() if key not in hidden]


def _search_cost(
    evaluations: int, full_evaluations: float, seconds: float | None = None, memory_mb: float | None = None
) -> str:
    """What scoring cost in samples, time and memory, where that is known."""
    parts = [f"{full_evaluations:,.1f} full evaluations"]
    if seconds is not None:
        parts[0] += f" in {wording.duration(seconds)}"
    if 0 < full_evaluations < evaluations:
        saved = wording.percent(1 - full_evaluations / evaluations, 0)
        parts.append(f"{saved} fewer samples than if every candidate had been scored in full")
    if memory_mb:
        parts.append(f"scoring took at most {memory_mb:,.0f} MiB of memory")
    return "; ".join(parts)


def _score_word(run: Run) -> str:
    return wording.score_word(run.scores_are_accuracies)


def _shown(value: object) -> str:
    """A setting's value for people."""
    if value is None or value in ([], {}):
        return wording.NONE
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(_shown, value))
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else str(value)


def _picture(drawing: Drawing, folder: Path) -> Picture:
    figure = drawing.draw(LIGHT)
    light, width = png(figure), round(96 * figure.get_figwidth())
    (folder / "figures" / f"{drawing.name}.png").write_bytes(light)
    return Picture(drawing.title, drawing.caption, width, _data_uri(light), _data_uri(png(drawing.draw(DARK))))


def _data_uri(content: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(content).decode("ascii")
