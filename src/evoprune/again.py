"""A run taken up again: its folder, and what the user passes once more where it began from Python."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from evoprune.checks import check_model, copied
from evoprune.core import EvopruneError, Masks, prunable_layers, sparsity_of, weight_of
from evoprune.report import write_report
from evoprune.run import Folder, Result, Settings, Task, read_points
from evoprune.run.task import Score
from evoprune.scoring import DataScore, as_score
from evoprune.surgery import load_masks
from evoprune.surroundings import surroundings
from evoprune.tasks import device_named, given_task, load_weights, named_model, named_task, read_weights
from evoprune.training import Loss

__all__ = ["Given", "load_pruned", "on_this_machine", "opened", "recorded", "show_dense"]

log = logging.getLogger("evoprune")


@dataclass(frozen=True)
class Given:
    """What `prune` was given, passed again; nothing where the run knows its model and data by name."""

    model: nn.Module | None = None
    score: Score | None = None
    train: Any = None
    test: Score | None = None
    loss: Loss | None = None

    def __post_init__(self) -> None:
        if self.model is not None:
            check_model(self.model)

    def with_copy(self) -> Given:
        """The same with a copy of the model, which may be changed."""
        return self if self.model is None else replace(self, model=copied(self.model))

    def check(self, **had: bool | None) -> None:
        """Whether what the run `had` is there again, and nothing else: it would end with something else.

        Raises:
            EvopruneError: it is not.
        """
        for name, began in had.items():
            given = getattr(self, name) is not None
            if self.model is not None and began not in (None, given):
                how, what = ("with", "pass it, too") if began else ("without", "leave it out")
                raise EvopruneError(f"the run began {how} `{name}`; {what}")

    def task(
        self, settings: Settings, weights: dict[str, Tensor] | None, source: Path, same_data: bool = False
    ) -> tuple[Task, Settings]:
        """The task of a run: of the names in its settings, or of what is given.

        `weights`, from a file `source` of its folder, become the model's; what is given needs those of the dense model,
        since scores may be relative to it.
        """
        if self.model is None or self.score is None:
            if any(given is not None for given in (self.model, self.score, self.train, self.test, self.loss)):
                raise EvopruneError("pass `model` and `score`, both; what else is given goes with them")
            return named_task(settings, weights, source, same_data)
        task = given_task(self.model, as_score(self.score), self.train, self.test, settings, self.loss)
        if weights is not None:
            load_weights(task.model, weights, source)
        show_dense(task)
        return task, settings


def show_dense(task: Task) -> None:
    """Show the dense model to scores that are relative to it."""
    for score in (task.val_score, task.test_score):
        if isinstance(score, DataScore):
            score.rebind(task.model)


@contextmanager
def opened(run: str | Path, lock: bool = True) -> Iterator[tuple[Folder, Settings]]:
    """A run folder and its settings, with the number of threads the run was made with."""
    folder, settings = Folder.open(Path(run), lock)
    try:
        with surroundings(settings):
            yield folder, settings
    finally:
        folder.close()


def on_this_machine(settings: Settings) -> Settings:
    """A run that has ended on a GPU can be used on a machine without one."""
    if settings.device != "cuda" or torch.cuda.is_available():
        return settings
    log.warning("the run was made with --device cuda, and this PyTorch sees no GPU: the CPU is used")
    return settings.model_copy(update={"device": "cpu"})


def recorded(folder: Folder, settings: Settings, model: nn.Module | None) -> Result:
    """The result of a run that has ended, as its folder holds it."""
    summary, weights = folder.read_result(), read_weights(folder.model, folder.remedy)
    if model is None:
        model = named_model(settings, weights, folder.model).to(device_named(settings.device))
    masks = load_pruned(model, folder, settings)
    layers = prunable_layers(model, settings.include_norm)
    points = read_points(folder.path, summary, layers)
    score = summary["pruned"]["val_score"]
    if not folder.report.exists() or folder.report.stat().st_mtime_ns < folder.result.stat().st_mtime_ns:
        write_report(folder.path)
    return Result(model, masks, sparsity_of(masks, layers), score, summary, folder.path, points)


def load_pruned(model: nn.Module, folder: Folder, settings: Settings) -> Masks:
    """Put the folder's pruned weights into `model`; returns its masks.

    Raises:
        EvopruneError: weights and masks contradict each other.
    """
    load_weights(model, read_weights(folder.model, folder.remedy), folder.model)
    masks = load_masks(folder.masks, prunable_layers(model, settings.include_norm), folder.remedy)
    if any(bool(weight_of(model, name).cpu()[~mask].any()) for name, mask in masks.items()):
        raise EvopruneError(
            f"{folder.model} has weights that {folder.masks} says are pruned; the folder is damaged: {folder.remedy}"
        )
    return masks
