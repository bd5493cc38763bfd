"""A run folder as plain typed data. A run that is still going, or was stopped, reads as far as it got."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evoprune.core import EvopruneError, Masks
from evoprune.run import Folder
from evoprune.run.journal import read_journal
from evoprune.run.objective import floor_of
from evoprune.run.records import (
    Epoch,
    Generation,
    LayerRow,
    Record,
    ResultFile,
    RunStart,
    StageEnd,
    StageStart,
    are_accuracies,
    read_object,
    validated,
)
from evoprune.storage import read_tensors

__all__ = ["Run", "StageEvents", "read_run"]


@dataclass
class StageEvents:
    """One search with the fine-tuning after it, or fine-tuning alone; `end` is None while it is not finished.

    `label` is the stage's name, with its pass where several stages have that name.
    """

    start: StageStart
    label: str = ""
    generations: list[Generation] = field(default_factory=list)
    epochs: list[Epoch] = field(default_factory=list)
    end: StageEnd | None = None


@dataclass(frozen=True)
class Run:
    """A run folder.

    Attributes:
        config: the settings, whatever they are called.
        result: None while the run is not finished.
        masks: layer name -> bool tensor of the weight's shape, True where the weight stays; may be empty.
        stages: in the order they ran.
        dense_val_score: validation score before pruning.
    """

    folder: Path
    config: dict[str, Any]
    result: ResultFile | None
    masks: Masks
    stages: list[StageEvents]
    dense_val_score: float | None

    @property
    def warnings(self) -> list[str]:
        """Warnings from before the run began."""
        found = self.config.get("warnings") if self.result is None else self.result.warnings
        return [str(text) for text in found or []]

    @property
    def searched(self) -> bool:
        """Whether evolution chooses what goes; else training itself prunes."""
        return self.config.get("space") != "training" if self.result is None else self.result.searched

    @property
    def picked(self) -> bool:
        """Whether the result is not what the last stage left: of a front the floor picks one, maybe an earlier one."""
        last = self.last_end
        return self.result is not None and last is not None and self.result.pruned.val_score != last.val_score

    @property
    def scores_are_accuracies(self) -> bool:
        """Whether scores are shares of correct answers, shown in percent, or the user's own numbers."""
        return are_accuracies(self.config.get("score_name"), self.config.get("data"))

    @property
    def floor(self) -> float | None:
        """The validation score that the pruned model must keep, None when the run has no floor."""
        if self.result is not None and self.result.floor is not None:
            return self.result.floor
        return floor_of(self.config.get("floor"), self.config.get("max_drop"), self.dense_val_score)

    @property
    def tuned_later(self) -> list[str]:
        """The commands, or calls, that fine-tuned the model after the run's end."""
        return [stage.start.command for stage in self.stages if stage.start.command and stage.end is not None]

    @property
    def commands(self) -> list[str]:
        """What repeats the run: its command, and every fine-tuning after it. Nothing for a run from Python."""
        first = self.config.get("command")
        return [first, *self.tuned_later] if isinstance(first, str) else []

    @property
    def last_end(self) -> StageEnd | None:
        """The end of the last stage whose outcome was kept."""
        ends = [stage.end for stage in self.stages if stage.end is not None and stage.end.accepted]
        return ends[-1] if ends else None

    @property
    def layers(self) -> list[LayerRow]:
        """Every prunable layer: from the result, or from the last stage that was kept."""
        if self.result is not None:
            return self.result.layers
        end, rows = self.last_end, []
        for name, sparsity in (end.layers if end is not None else {}).items():
            weights = self.masks[name].numel() if name in self.masks else None
            kept = None if weights is None else round(weights * (1 - sparsity))
            rows.append(LayerRow(name=name, weights=weights, kept=kept, sparsity=sparsity))
        return rows


def read_run(run_dir: str | Path) -> Run:
    """Read a run folder, finished or not.

    Raises:
        EvopruneError: the folder or its config.json is missing, nothing has been journalled yet, or a file
            is damaged. A last journal line that was cut off is ignored.
    """
    folder = Folder(Path(run_dir))
    if not folder.config.is_file():
        raise EvopruneError(
            f"{folder.path} is not a run folder (no config.json); pass the folder `evoprune prune --out` wrote"
        )
    if not folder.journal.is_file() and not folder.result.is_file():
        raise EvopruneError(
            f"{folder.path} has no journal.jsonl and no result.json, so nothing to report: run the search again"
        )
    config = read_object(folder.config)
    result = validated(ResultFile, folder.read_result(), "result.json") if folder.result.is_file() else None
    events = read_journal(folder.journal)
    start = next((event for event in events if isinstance(event, RunStart)), RunStart())
    dense = start.dense_val_score
    remedy = "restore it, or delete it to report without masks"
    masks = read_tensors(folder.masks, remedy)[0] if folder.masks.is_file() else {}
    return Run(
        folder=folder.path,
        config=config,
        result=result,
        masks={name: mask.bool() for name, mask in masks.items()},
        stages=_stages(events),
        dense_val_score=result.dense.val_score if dense is None and result is not None else dense,
    )


def _stages(events: list[Record]) -> list[StageEvents]:
    """Gather the journal by stage; a later fine-tuning that was killed and begun again replaces the one before."""
    stages: dict[int, StageEvents] = {}
    for event in events:
        match event:
            case StageStart():
                stages[event.stage] = StageEvents(event)
            case Generation():
                _stage(stages, event.stage).generations.append(event)
            case Epoch():
                _stage(stages, event.stage).epochs.append(event)
            case StageEnd():
                _stage(stages, event.stage).end = event
    names = Counter(stage.start.name for stage in stages.values())
    for stage in stages.values():
        numbered = f"{stage.start.name} (pass {stage.start.pass_index + 1})"
        stage.label = numbered if names[stage.start.name] > 1 else stage.start.name
    return [stages[index] for index in sorted(stages)]


def _stage(stages: dict[int, StageEvents], index: int) -> StageEvents:
    unnamed = StageStart.model_validate({"stage": index, "name": f"stage {index}"})
    return stages.setdefault(index, StageEvents(unnamed))
