"""One epoch of training."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn, optim
from torch.utils._pytree import tree_map_only

from evoprune.core import EvopruneError, said
from evoprune.training.random_state import OwnRandomState
from evoprune.training.recipe import Recipe
from evoprune.training.source import BatchSource

__all__ = ["Loss", "at_least_float32", "batch_of", "train_epoch"]

Loss = Callable[[Any, Tensor], Tensor]
"""A model's outputs and the targets -> what training makes small, a tensor of one number."""


def train_epoch(
    model: nn.Module,
    source: BatchSource,
    recipe: Recipe,
    optimizer: optim.Optimizer,
    epoch: int,
    rng: torch.Generator,
    teacher: nn.Module | None = None,
    loss: Loss | None = None,
    after_step: Callable[[float], None] | None = None,
) -> float:
    """One pass over the training data; returns the mean loss.

    Args:
        model: (B, ...) inputs to (B, C) logits, or to what `loss` takes; left in train mode.
        source: the batches.
        recipe: learning-rate schedule, label smoothing, distillation.
        optimizer: made by `recipe.make_optimizer(model)`.
        epoch: counted from 0; with `recipe.epochs` it places the epoch in the schedule.
        rng: all randomness of the epoch (order, augmentation, dropout) comes from here.
        teacher: a model in eval mode whose logits are to be matched (Hinton et al. 2015).
        loss: instead of cross-entropy, label smoothing and the teacher; the outputs come in float32 at least.
        after_step: called after every optimizer step with the number of epochs that are done, 2.5 in the middle of
            the third; for instance to keep pruned weights at zero.

    Raises:
        EvopruneError: the loss is not finite, or the model's outputs are no logits for cross-entropy.
    """
    device = next(model.parameters()).device
    total, samples = torch.zeros((), device=device), 0
    model.train()
    with torch.enable_grad(), OwnRandomState(rng.initial_seed()).active():
        for step, (images, targets, cached) in enumerate(source.batches(rng)):
            rate = recipe.learning_rate_at(min(1.0, (epoch + step / source.steps) / recipe.epochs))
            for group in optimizer.param_groups:
                group["lr"] = rate
            inputs = _scaled(images, recipe, epoch)
            teacher_logits = cached if teacher is not None else None
            if teacher is not None and cached is None:
                with torch.no_grad(), recipe.autocast(device):
                    # At full size, which it knows; and either model may change its inputs in place.
                    teacher_logits = teacher(images.clone()).float()
            with recipe.autocast(device), batch_of(len(targets)):
                outputs = model(inputs)
            outputs = at_least_float32(outputs)
            if loss is None and not isinstance(outputs, Tensor):
                raise EvopruneError(f"the model gives a {type(outputs).__name__} in training; expected logits (N, C)")
            value = _loss(outputs, targets, teacher_logits, recipe) if loss is None else loss(outputs, targets)
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            if after_step is not None:
                after_step(epoch + (step + 1) / source.steps)
            total += value.detach() * len(targets)
            samples += len(targets)
    mean = float(total) / max(samples, 1)
    if not math.isfinite(mean):
        raise EvopruneError(
            f"the training loss is {mean} in epoch {epoch + 1}; try a lower learning rate than {recipe.learning_rate:g}"
        )
    return mean


@contextmanager
def batch_of(samples: int) -> Iterator[None]:
    """Where a model runs that may not train on a batch of one sample, as batch norms do not."""
    try:
        yield
    except ValueError as error:
        if samples > 1 or isinstance(error, EvopruneError):
            raise
        raise EvopruneError(
            f"the model cannot train on a batch of one sample: {said(error)}; use larger batches, or drop_last=True in"
            " a loader"
        ) from error


def _scaled(inputs: Tensor, recipe: Recipe, epoch: int) -> Tensor:
    if inputs.dim() != 4 or (size := recipe.size_at(epoch, inputs.shape[-1])) == inputs.shape[-1]:
        return inputs
    return F.interpolate(inputs, (size, size), mode="bilinear", antialias=True)


def at_least_float32(outputs: Any) -> Any:
    """A model's outputs, also in tuples and dicts, with all floating-point tensors in float32 at least."""

    def at_least(leaf: Tensor) -> Tensor:
        return leaf.float() if leaf.is_floating_point() and leaf.dtype.itemsize < 4 else leaf

    return tree_map_only(Tensor, at_least, outputs)


def _loss(logits: Tensor, targets: Tensor, teacher_logits: Tensor | None, recipe: Recipe) -> Tensor:
    """Cross-entropy, and where there is a teacher its share."""
    try:
        loss = F.cross_entropy(logits, targets, label_smoothing=recipe.label_smoothing)
    except IndexError as error:  # of a loader, whose first batches alone were looked at before
        raise EvopruneError(
            f"the training data has a label that is no class number from 0 to {logits.shape[1] - 1} ({said(error)})"
        ) from error
    if teacher_logits is None:
        return loss
    return (1 - recipe.distill) * loss + recipe.distill * _distillation(logits, teacher_logits, recipe.temperature)


def _distillation(logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """T^2 * KL(teacher || model) at temperature T, mean over what cross-entropy is a mean over; both (B, C, ...)."""
    target = F.log_softmax(teacher_logits / temperature, dim=1)
    given = F.log_softmax(logits / temperature, dim=1)
    places = math.prod(logits.shape[2:])  # pixels, say
    return F.kl_div(given, target, reduction="batchmean", log_target=True) * temperature**2 / places
