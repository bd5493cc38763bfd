"""Train a model from its data, deterministically, one resumable epoch after the other."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from evoprune.core import generator
from evoprune.scoring import Accuracy, device_of
from evoprune.storage import check_state, check_writable
from evoprune.training import Recipe, TensorSource, repeatable, reuse_freed_memory, set_memory_format, train_epoch
from evoprune.zoo.checkpoint import save_checkpoint
from evoprune.zoo.data import Data, Split, check_data_fits, check_size_fits
from evoprune.zoo.train_state import EpochResult, load_state, save_state, settings_of

__all__ = ["measured_accuracy", "train"]


def train(
    model: nn.Module,
    data: Data,
    recipe: Recipe,
    seed: int,
    out: str | Path,
    *,
    on_epoch: Callable[[EpochResult], None] | None = None,
    on_step: Callable[[float], None] | None = None,
    restart: bool = False,
    metadata: dict[str, str] | None = None,
) -> dict[str, Any]:
    """Train `model` in place and save it to `out`.

    After every epoch the whole state goes to `<out>.part`. A training that was interrupted continues from
    there and ends with the same bits as an unbroken one (same machine, same number of threads). The weights
    of the last epoch are saved, whatever the validation accuracy did; the test split is read once, after it.

    Args:
        model: a classifier, (B, C, H, W) to (B, classes) logits; its weights now are the start, and it is trained on
            the device that it is on.
        data: its splits; validation is watched, never trained on.
        recipe: the settings.
        seed: for the order of the samples, augmentation and dropout.
        out: the safetensors file to write.
        on_epoch: called after every epoch with epoch, train_loss, val_accuracy, seconds (of all epochs).
        on_step: called after every step with the number of epochs that are done, as in `train_epoch`.
        restart: start over even where `<out>.part` could be continued.
        metadata: more entries for the file's metadata.

    Returns:
        epochs, seconds, train_loss, val_accuracy, test_accuracy, and history (one dict an epoch).

    Raises:
        EvopruneError: the model does not fit the data, the loss is no longer finite, `<out>.part`
            is damaged or of other settings, or a file cannot be written.
    """
    reuse_freed_memory()
    part = Path(f"{out}.part")
    check_state(model)
    check_data_fits(model, data)
    if recipe.first_size:
        check_size_fits(model, data.train.inputs, [recipe])
    settings = settings_of(model, data, recipe, seed)
    optimizer = recipe.make_optimizer(model)
    set_memory_format(model, torch.channels_last)
    history: list[EpochResult] = []
    if part.exists() and not restart:
        history = load_state(part, model, optimizer, settings)
    check_writable(part)  # before the first epoch
    source = TensorSource(
        data.train.inputs, data.train.targets, recipe.batch_size,
        shift=recipe.shift, flip=recipe.flip, cutout=recipe.cutout, fill=data.black, device=device_of(model),
    )  # fmt: skip
    mode = model.training
    for epoch in range(len(history), recipe.epochs):
        start = time.perf_counter()
        with repeatable():
            loss = train_epoch(model, source, recipe, optimizer, epoch, generator(seed, epoch), after_step=on_step)
        val_accuracy = measured_accuracy(model, data.val)
        before = history[-1]["seconds"] if history else 0.0
        seconds = before + time.perf_counter() - start
        history.append({"epoch": epoch + 1, "train_loss": loss, "val_accuracy": val_accuracy, "seconds": seconds})
        save_state(part, model, optimizer, settings, history)
        if on_epoch is not None:
            on_epoch(history[-1])
    set_memory_format(model, torch.contiguous_format)
    result = {
        "epochs": recipe.epochs,
        **{key: history[-1][key] for key in ("seconds", "train_loss", "val_accuracy")},
        "test_accuracy": measured_accuracy(model, data.test),
    }
    described = {
        "data": data.name,
        "recipe": json.dumps(asdict(recipe)),
        "seed": str(seed),
        "torch": torch.__version__,
    }
    described |= {key: f"{value:.6g}" for key, value in result.items()} | (metadata or {})
    save_checkpoint(model, out, described)
    part.unlink(missing_ok=True)
    model.train(mode)
    return {**result, "history": history}


def measured_accuracy(model: nn.Module, split: Split) -> float:
    """Share of `split` whose largest logit is the target's, in float32; the model's mode is left as found."""
    return Accuracy(split.inputs, split.targets)(model)
