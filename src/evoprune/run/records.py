"""What is read of a run's files, as records: the events of journal.jsonl and the content of result.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from evoprune.core import EvopruneError
from evoprune.storage import finite

__all__ = [
    "EVENTS", "RESTORE", "Epoch", "FrontRow", "Generation", "LayerRow", "Number", "Record", "ResultFile", "RunStart",
    "StageEnd", "StageStart", "are_accuracies", "read_bytes", "read_object", "validated",
]  # fmt: skip


Number = Annotated[float | None, BeforeValidator(finite)]
"""A number that may be missing: null, NaN and infinity all read as None."""


class Record(BaseModel):
    """The fields that are read again; the files hold more."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore", protected_namespaces=())


class LayerRow(Record):
    """One prunable layer at the end of the run, or as far as it got (then some fields are None)."""

    name: str
    kind: str = ""
    weights: int | None = None
    kept: int | None = None
    sparsity: float


class DenseModel(Record):
    val_score: Number
    test_score: Number
    weights: int
    file_bytes: int | None = None


class PrunedModel(DenseModel):
    nonzero_weights: int
    sparsity: float


class SearchCost(Record):
    evaluations: int = 0
    full_evaluations: float = 0.0
    seconds: float = 0.0
    peak_memory_mb: Number = None


class FinetuneCost(Record):
    epochs: int
    seconds: float


class Budget(Record):
    """What the run's exact budget counted."""

    kind: str
    dense: int
    pruned: int
    share_left: float


class FrontRow(Record):
    """A model that no other of the run beats in both; `folder` is where it lies, if it was kept."""

    sparsity: float
    score: float
    folder: str | None = None


class ResultFile(Record):
    """result.json: what the run reached and what it cost."""

    model: str
    data: str | None = None
    algorithm: str | None = None
    versions: dict[str, object] = {}
    budget: Budget | None = None
    dense: DenseModel
    pruned: PrunedModel
    layers: list[LayerRow]
    front: list[FrontRow] = []
    search: SearchCost = SearchCost()
    finetune: FinetuneCost

    seconds: float
    floor: Number = None
    status: str | None = None
    parameters: int | None = None
    warnings: list[str] = []
    score_name: str | None = None

    @property
    def searched(self) -> bool:
        """Whether evolution chose what goes; else training itself pruned."""
        return self.algorithm != "none"

    @property
    def scores_are_accuracies(self) -> bool:
        """Whether scores are shares of correct answers, shown in percent, or the user's own numbers."""
        return are_accuracies(self.score_name, self.data)


class Best(Record):
    sparsity: Number = None
    score: Number = None
    fitness: Number = None


class Candidates(Record):
    sparsity: list[Number] = []
    score: list[Number] = []


class Generation(Record):
    """One generation of a stage; `evaluations` are counted from the start of the run."""

    stage: int
    generation: int
    evaluations: int = 0
    full_evaluations: float = 0.0
    best: Best = Best()
    mean_fitness: Number = None
    candidates: Candidates = Candidates()


class Epoch(Record):
    """One epoch of a stage's fine-tuning."""

    stage: int
    epoch: int
    val_score: Number = None


class RunStart(Record):
    dense_val_score: Number = None


class StageStart(Record):
    stage: int
    pass_index: int = Field(0, alias="pass")
    name: str
    layers: list[str] = []
    target: Number = None
    command: str | None = None


class StageEnd(Record):
    """The model after a stage; it was set back to the one before where `accepted` is false."""

    stage: int
    model_sparsity: float
    val_score: Number = None
    layers: dict[str, float] = {}
    accepted: bool = True


EVENTS: dict[str, type[Record]] = {
    "run_start": RunStart,
    "stage_start": StageStart,
    "generation": Generation,
    "epoch": Epoch,
    "stage_end": StageEnd,
}

RESTORE = "restore it from a copy"

R = TypeVar("R", bound=Record)


def read_object(path: Path, remedy: str = RESTORE) -> dict[str, Any]:
    """A file that holds one JSON object.

    Raises:
        EvopruneError: it cannot be read, or is damaged; `remedy` says what to do then.
    """
    try:
        content = json.loads(read_bytes(path))
    except ValueError as error:
        raise EvopruneError(f"{path} is damaged (not JSON); {remedy}") from error
    if not isinstance(content, dict):
        raise EvopruneError(f"{path} is damaged (not a JSON object); {remedy}")
    return content


def read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise EvopruneError(f"cannot read {path}: {error.strerror or error}; check its permissions") from error


def validated(record: type[R], content: Mapping[str, Any], where: str, remedy: str = RESTORE) -> R:
    """The record that `content` holds; `remedy` says what to do where it is damaged.

    Raises:
        EvopruneError: something is missing or of the wrong type; names it.
    """
    try:
        return record.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise EvopruneError(f"{where} is damaged at {key!r} ({first['msg'].lower()}); {remedy}") from error


def are_accuracies(score_name: object, data: object) -> bool:
    return score_name == "accuracy" if score_name else bool(data)
