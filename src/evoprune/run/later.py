"""Fine-tuning of a finished run's model."""

from __future__ import annotations

import time
from typing import Any

from torch import nn

from evoprune.core import Masks, sparsity_of
from evoprune.run.ending import side, status_after_finetuning
from evoprune.run.folder import Folder
from evoprune.run.journal import Journal
from evoprune.run.result import Result, model_metadata, read_points
from evoprune.run.runner import Listener
from evoprune.run.settings import Settings
from evoprune.run.task import Task
from evoprune.storage import save_tensors, write_atomic
from evoprune.surgery import FineTuner
from evoprune.training import Recipe, TensorSource

__all__ = ["finetune_later"]

STREAM = 0xF17E
"""Place of the random stream beside those of the stages."""


def finetune_later(
    task: Task,
    dense: nn.Module,
    settings: Settings,
    folder: Folder,
    summary: dict[str, Any],
    masks: Masks,
    stage: int,
    recipe: Recipe,
    command: str,
    listener: Listener | None,
) -> Result:
    """Train the pruned model further and replace what the folder holds of it; interrupted, nothing is changed.

    Args:
        task: its model is the pruned one; it has training batches.
        dense: the teacher, in eval mode.
        settings: of the run.
        folder: of the run.
        summary: the content of its result.json, brought up to date here.
        masks: of the pruned model.
        stage: number of this fine-tuning, the next after those of the run.
        recipe: of the training.
        command: what was typed, for the report.
        listener: called with every event.
    """
    train = task.train
    assert train is not None
    # What is needed after the last epoch is known to be readable before the first.
    points = read_points(folder.path, summary, task.layers)
    teacher = dense if settings.distill and task.loss is None else None
    before = {name: tensor.detach().cpu().clone() for name, tensor in task.model.state_dict().items()}
    if teacher is not None and isinstance(train, TensorSource):
        train.cache_teacher_logits(teacher)
    journal, begun, epochs = Journal.reopen(folder.journal), time.perf_counter(), recipe.epochs
    started = begun - summary["seconds"]  # the journal's clock goes on where the run's stopped
    sparsity = sparsity_of(masks, task.layers)

    def tell(event: str, **content: Any) -> None:
        seconds = round(time.perf_counter() - started, 3)
        record = {"event": event, "seconds": seconds, "stage": stage, **content}
        journal.append(record)
        if listener is not None:
            listener(record)

    def show_step(done: float) -> None:
        if listener is not None:
            listener({"event": "step", "epochs_done": done, "epochs": epochs})

    with journal.all_or_nothing():
        tell(
            "stage_start", name="later fine-tuning", layers=[], target=sparsity, **{"pass": stage}, generations=0,
            epochs=epochs, command=command,
        )  # fmt: skip
        tuner = FineTuner(task.model, masks, train, recipe, teacher, loss=task.loss)
        val_score = 0.0
        for epoch in range(epochs):
            loss = tuner.epoch(epoch, settings.seed, STREAM, stage, on_step=show_step)
            val_score = task.val_score(task.model)
            tell("epoch", epoch=epoch, epochs=epochs, loss=loss, val_score=val_score)
        tuner.close()
        layers = {layer.name: sparsity_of(masks, [layer]) for layer in task.layers if layer.name in masks}
        pruned = side(task, task.model, masks, val_score, settings.model)
        seconds = round(time.perf_counter() - begun, 3)
        summary["pruned"] = pruned
        summary["status"] = status_after_finetuning(summary, val_score)
        summary["finetune"]["epochs"] += epochs
        summary["finetune"]["seconds"] += seconds
        summary["seconds"] += seconds
        backup = folder.next_backup()
        save_tensors(before, backup, model_metadata(summary["model"]))
        result = Result(task.model, masks, sparsity, val_score, summary, folder.path, points)
        said_before = folder.result.read_bytes()
        try:
            result.save_model(folder.path)  # the front is there
            tell("stage_end", model_sparsity=sparsity, val_score=val_score, layers=layers, accepted=True)
        except BaseException:  # between the model and what is said of it
            if folder.result.read_bytes() != said_before:
                write_atomic(folder.result, said_before)
            backup.replace(folder.model)
            raise
    return result
