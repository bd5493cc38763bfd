"""Whether what a run still has to do fits into its time limit."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import replace

from torch import nn

from evoprune.run.settings import Settings
from evoprune.run.state import RunState
from evoprune.run.task import Task
from evoprune.surgery import FineTuner
from evoprune.training import FirstSteps

__all__ = ["TimeLimit"]

TIMED_STEPS = 4
"""Training steps that an epoch's time is estimated from."""


class TimeLimit:
    """The clock of a run; without a limit it is never up.

    Args:
        task: its model, training data and score are timed, the model on a copy.
        settings: the limit, and the epochs a stage takes.
        state: of the run, which knows what epochs have taken so far.
        teacher: of fine-tuning, or None.
        elapsed: seconds of work so far.
    """

    def __init__(
        self, task: Task, settings: Settings, state: RunState, teacher: nn.Module | None, elapsed: Callable[[], float]
    ) -> None:
        self.task, self.settings, self.state, self.teacher, self.elapsed = task, settings, state, teacher, elapsed
        self.first_epoch: float | None = None

    def is_up(self, tuned: bool = False) -> bool:
        """Whether no more than a stage's final epochs fit into the time left, and unless `tuned` its short ones.

        Before a further stage its first population has to fit, too, with the time that the last one's took.
        """
        limit, settings = self.settings.time_limit_seconds, self.settings
        if limit is None:
            return False
        epochs = settings.final_epochs + (0 if tuned else settings.finetune_epochs)
        first = self.state.first_scores_seconds if self.state.stage is None else 0.0
        return self.elapsed() + first + self._epoch_seconds() * epochs >= limit

    def epochs_left(self, wanted: int) -> int:
        """How many of `wanted` epochs fit into the time that is left, one at least; all without a limit."""
        if self.settings.time_limit_seconds is None:
            return wanted
        left = self.settings.time_limit_seconds - self.elapsed()
        return min(wanted, max(1, int(left / max(self._epoch_seconds(), 1e-9))))

    def _epoch_seconds(self) -> float:
        """Seconds of an epoch: the mean so far; before the first, estimated from a few steps of a copy.

        Where images grow, never less than that: those so far were small.
        """
        state, train = self.state, self.task.train
        if train is None or self.settings.finetune_epochs + self.settings.final_epochs == 0:
            return 0.0
        so_far = state.finetune_seconds / max(state.finetune_epochs, 1)
        if state.finetune_epochs and not self.settings.first_size:
            return so_far
        if self.first_epoch is None:
            model, begun = copy.deepcopy(self.task.model), time.perf_counter()
            self.task.val_score(model)
            scoring = time.perf_counter() - begun
            recipe = replace(self.settings.recipe(1, "constant"), first_size=0)
            first = FirstSteps(train, 1 + TIMED_STEPS)
            tuner = FineTuner(model, state.now.masks, first, recipe, self.teacher, loss=self.task.loss)
            weight, ends = next(model.parameters()), list[float]()

            def stepped(_: float) -> None:
                weight.sum().item()  # waits for a GPU
                ends.append(time.perf_counter())

            begun = time.perf_counter()
            tuner.epoch(0, self.settings.seed, on_step=stepped)
            tuner.close()
            # What comes before the first step, such as the start of a loader, and what makes it slow, comes once.
            step = (ends[-1] - ends[0]) / max(1, len(ends) - 1)
            self.first_epoch = scoring + (ends[0] - begun) + step * (train.steps - 1)
        return max(so_far, self.first_epoch)
