"""The settings of a run: what the user said, completed by a preset. Written to config.json."""

from __future__ import annotations

import re
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from evoprune.core import EvopruneError, did_you_mean
from evoprune.evaluation import WAYS, Way
from evoprune.run.contradictions import option_name, refuse_contradictions, spaces_of
from evoprune.training import Optimizer, Precision, Recipe
from evoprune.zoo import BUILT_IN

__all__ = [
    "PRESETS", "AlgorithmName", "BudgetName", "DeviceName", "GuidanceName", "PresetName", "Settings", "SpaceName",
    "TuningSchedule", "make_settings", "parse_duration",
]  # fmt: skip

SpaceName = Literal["weights", "allocation", "mixture", "training"]
PresetName = Literal["default", "original"]
AlgorithmName = Literal["steady", "ga", "evopress", "cmaes", "pbil", "nsga2", "random"]
GuidanceName = Literal["none", "magnitude", "gradient", "wanda", "learned"]
BudgetName = Literal["weights", "parameters", "flops", "bytes"]
TuningSchedule = Literal["cosine", "constant"]
DeviceName = Literal["auto", "cpu", "cuda"]


class Settings(BaseModel):
    """All numbers and choices of a run. What is not said is decided from the preset or the model.

    Those of fine-tuning are explained at `Recipe`; the learning rate follows `finetune_schedule` after each stage and
    `final_schedule` at the end. With `recalibrate` the statistics of batch norms are measured anew for each candidate
    and for new masks; None, until the run begins, where that suits it.
    `floor` is a validation score, `max_drop` is in points (hundredths of the score) below the dense model.
    `sparsity` is the share that goes of what `budget` names, see evaluation/costs.py.
    With `front` every stage's model is polished and kept, and the run goes on a little below the floor.
    `scoring` lists the ways to score faster that may be used; without any, candidates are scored one by one.
    `directory` is where the run was started, and modules of one's own are imported from; `data_digest` tells whether
    the data is still the same, `device_used` what `auto` came to; `has_train` and the like say what a run from
    Python was given; `warnings` came up before it began.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    model: str
    checkpoint: str | None = None
    data: str | None = None
    layers: list[str] | None = None
    include_norm: bool = False
    space: SpaceName = "weights"
    preset: PresetName = "default"
    algorithm: AlgorithmName = "steady"
    guidance: GuidanceName = "none"

    budget: BudgetName = "weights"
    floor: float | None = None
    max_drop: float | None = Field(None, ge=0)
    sparsity: float | None = Field(None, gt=0, lt=1)
    passes: list[float] | None = None
    front: bool = False
    alpha: float = Field(0.8, ge=0, le=1)

    population: int = Field(12, ge=2)
    generations: int = Field(5, ge=1)
    crossover_rate: float = Field(0.8, ge=0, le=1)
    mutation_rate: float = Field(0.002, ge=0, le=1)
    initial_sparsity: float = Field(0.1, ge=0, lt=1)

    finetune_epochs: int = Field(2, ge=0)
    final_epochs: int = Field(8, ge=0)
    optimizer: Optimizer = "adam"
    learning_rate: float = Field(3e-3, gt=0)
    finetune_schedule: TuningSchedule = "constant"
    final_schedule: TuningSchedule = "cosine"
    weight_decay: float = Field(0.0, ge=0)
    batch_size: int = Field(128, ge=1)
    distill: float = Field(0.5, ge=0, le=1)
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    shift: int = Field(0, ge=0)
    flip: bool = False
    cutout: int = Field(0, ge=0)
    first_size: int = Field(0, ge=0)
    train_precision: Precision = "float32"
    recalibrate: bool | None = None

    time_limit_seconds: float | None = Field(None, gt=0)
    memory_mb: int = Field(1024, ge=16)
    scoring: list[Way] = list(WAYS)
    seed: int = Field(0, ge=0)
    device: DeviceName = "auto"
    device_used: str | None = None
    workers: int = Field(1, ge=1)
    threads: int = Field(default_factory=torch.get_num_threads, ge=1)
    score_name: str | None = None
    command: str | None = None
    directory: str | None = None
    data_digest: str | None = None
    has_train: bool | None = None
    has_loss: bool | None = None
    has_test: bool | None = None
    warnings: list[str] = []

    @property
    def tightens(self) -> bool:
        """Whether training itself prunes, without a search."""
        return self.space == "training"

    @property
    def augmentation(self) -> dict[str, Any]:
        """What happens to training images; empty where nothing does."""
        chosen = {"shift": self.shift, "flip": self.flip, "cutout": self.cutout}
        return chosen if any(chosen.values()) else {}

    def recipe(self, epochs: int, schedule: TuningSchedule, learning_rate: float | None = None) -> Recipe:
        """The recipe of a fine-tuning; `learning_rate` takes the place of the run's."""
        return Recipe(
            epochs=epochs, schedule=schedule, batch_size=self.batch_size, optimizer=self.optimizer,
            learning_rate=self.learning_rate if learning_rate is None else learning_rate,
            weight_decay=self.weight_decay, label_smoothing=self.label_smoothing, distill=self.distill,
            precision=self.train_precision, first_size=self.first_size, **self.augmentation,
        )  # fmt: skip

    @field_validator("passes")
    @classmethod
    def _passes_rise(cls, passes: list[float] | None) -> list[float] | None:
        if passes is not None and (not passes or any(not 0 < p <= 1 for p in passes) or passes != sorted(passes)):
            raise ValueError("passes are sparsities above 0 and up to 1 that rise, such as 0.6,1.0")
        return passes


PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    # The reference system's numbers: docs/original.md. One layer alone: see `make_settings`.
    "original": {
        "population": 10,
        "generations": 25,
        "crossover_rate": 1.0,
        "mutation_rate": 0.1,
        "algorithm": "ga",
        "initial_sparsity": 0.1,
        "alpha": 0.8,
        "floor": 0.6,
        "passes": [1.0],
        "finetune_epochs": 3,
        "final_epochs": 10,
        "optimizer": "adam",
        "learning_rate": 1e-3,
        "final_schedule": "constant",
        "batch_size": 32,
        "distill": 0.0,
        "scoring": ["prefix", "batched", "racing"],  # all ways that are exact
    },
}

ORIGINAL_ONE_LAYER = {"generations": 20, "mutation_rate": 0.05, "final_epochs": 0, "passes": [1.0]}
DEFAULT_MAX_DROP = 0.75


def make_settings(**given: Any) -> Settings:
    """Settings from what the user gave; what is None is taken from the built-in model's own, else from the preset.

    Raises:
        EvopruneError: a value is unknown or out of its range, or two contradict each other.
    """
    given = {key: value for key, value in given.items() if value is not None}
    for name in given.keys() - Settings.model_fields.keys():
        hint = did_you_mean(name, Settings.model_fields) or "; leave it out"
        raise EvopruneError(f"{option_name(name)} {given[name]!r}: there is no such setting{hint}")
    if "passes" in given:
        given["passes"] = _passes(given["passes"])
    if isinstance(given.get("scoring"), str):
        given["scoring"] = _ways(given["scoring"])
    preset = given.get("preset", "default")
    model = BUILT_IN.get(given.get("model", ""))
    defaults = dict(PRESETS.get(preset, {})) | dict({} if model is None else model.pruning.get(preset, {}))
    if preset == "original":
        if len(given.get("layers") or []) == 1:
            defaults |= ORIGINAL_ONE_LAYER
        if "max_drop" in given:
            defaults.pop("floor")
    elif {"floor", "max_drop", "sparsity"}.isdisjoint(given) and given.get("passes", [1.0])[-1:] == [1.0]:
        defaults["max_drop"] = DEFAULT_MAX_DROP
    defaults |= _default_space(given, preset)
    refuse_contradictions(given, defaults | given)
    try:
        return Settings(**(defaults | given))
    except ValidationError as error:
        first = error.errors()[0]
        name = option_name(str(first["loc"][0]))
        reason = first["msg"].removeprefix("Value error, ")
        if name in ("--sparsity", "--initial-sparsity"):
            reason += ", such as 0.95"
        raise EvopruneError(f"{name} {first['input']!r}: {reason[0].lower()}{reason[1:]}") from None


def _default_space(given: dict[str, Any], preset: str) -> dict[str, Any]:
    """Some budgets and algorithms want layers' shares; guidance gradient prunes while the model trains, if it can."""
    if preset == "original":
        return {}
    if given.get("budget", "weights") != "weights" or "weights" not in spaces_of(given.get("algorithm", "steady")):
        return {"space": "allocation"}
    if given.get("guidance") != "gradient":
        return {}
    return {"space": "training" if given.get("finetune_epochs", 1) > 0 else "allocation"}


def _passes(given: Any) -> Any:
    """`0.6,1.0`, one number or several -> a list."""
    if isinstance(given, str):
        try:
            return [float(part) for part in given.split(",")]
        except ValueError:
            raise EvopruneError(f"--passes {given!r}: expected numbers with commas, such as 0.6,1.0") from None
    if isinstance(given, int | float):
        return [given]
    return list(given) if isinstance(given, tuple) else given


def _ways(text: str) -> list[str]:
    """`reference` or `prefix,racing` -> a list."""
    ways = [] if text == "reference" else [way.strip() for way in text.split(",")]
    if not set(ways) <= set(WAYS):
        raise EvopruneError(f"--scoring {text!r}: expected reference alone, or some of {','.join(WAYS)}")
    return ways


def parse_duration(text: str) -> float:
    """`90s`, `10m`, `1.5h` or plain seconds -> seconds."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smh]?)\s*", text)
    if not match or float(match[1]) == 0:
        raise EvopruneError(f"--time-limit {text!r}: expected a time above zero such as 90s, 10m or 1.5h")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]
