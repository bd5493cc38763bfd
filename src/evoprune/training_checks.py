"""Whether a model can be trained on what it is given: one step of training, tried on a copy."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evoprune.checks import copied
from evoprune.core import EvopruneError, Layer, said, weight_of
from evoprune.run import Settings, Task
from evoprune.scoring import device_of
from evoprune.training import Loss, OwnRandomState, TensorSource, at_least_float32, batch_of

__all__ = ["check_training"]

IGNORED = -100
"""The target that torch's cross-entropy leaves out."""

log = logging.getLogger("evoprune")


def check_training(task: Task, settings: Settings) -> None:
    """Try one step of training on a copy, so that what does not fit is found before a search is paid for.

    Raises:
        EvopruneError: it cannot.
    """
    model, source, samples, own = task.model, task.train, task.samples, task.loss
    if samples is None or (source is None and settings.guidance != "gradient"):
        return
    epochs = 0 if source is None else settings.finetune_epochs + settings.final_epochs
    if epochs:
        _check_parameters(model)
    has_loss = epochs > 0 or settings.guidance == "gradient"  # else it only shows guidance what inputs look like
    targets = source.targets if isinstance(source, TensorSource) else samples[1]
    classifies = has_loss and own is None
    _check_targets(targets, classifies, settings)
    tried, device = copied(model), device_of(model)
    inputs, labels = samples[0][:2], samples[1][:2]
    if source is not None:  # a whole batch, for not every model or loss can take a part of one
        inputs, labels, _ = next(iter(source.batches(torch.Generator().manual_seed(0))))
    if not epochs:
        _unfreeze(tried, task.layers)  # guidance asks for the gradients of frozen weights, too
    tried.train(epochs > 0)  # auxiliary outputs show only in train mode
    try:
        with (
            OwnRandomState(0).active(),
            settings.recipe(1, "constant").autocast(device) if epochs else nullcontext(),
            batch_of(len(labels)),
        ):
            outputs = at_least_float32(tried(inputs.to(device, copy=True)))
        if classifies:
            loss = _cross_entropy(outputs, labels, targets)
        elif has_loss and own is not None:
            loss = _own_loss(own, outputs, labels.to(device, copy=True))
        if epochs:
            loss.backward()
            if any(parameter.grad is not None and parameter.grad.is_sparse for parameter in tried.parameters()):
                raise TypeError("sparse gradients; make embeddings with sparse=False")
            settings.recipe(1, "constant").make_optimizer(tried).step()
        if epochs and classifies and settings.distill:
            with torch.no_grad():
                tried.eval()
                _check_teacher(tried(inputs.to(device, copy=True)))
    except (EvopruneError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # whatever a user's model says about its data
        raise EvopruneError(
            f"the training data {tuple(samples[0].shape[1:])} {samples[0].dtype} does not fit the model: {said(error)}"
        ) from error


def _check_targets(targets: Tensor, classifies: bool, settings: Settings) -> None:
    if classifies and targets.is_floating_point() and not _are_probabilities(targets):
        raise EvopruneError(
            f"the training data has targets {tuple(targets.shape)} {targets.dtype}, and fine-tuning is by"
            " cross-entropy: give class numbers (N,) or probabilities (N, C) that sum to 1, or a loss of your own, such"
            " as loss=torch.nn.functional.mse_loss"
        )
    if targets.dim() > 2 and (settings.augmentation or settings.first_size):
        raise EvopruneError(
            f"shift, flip, cutout and first_size change inputs alone, and the targets are {tuple(targets.shape)}; leave"
            " them out, and let a loader augment both"
        )


def _unfreeze(model: nn.Module, layers: Sequence[Layer]) -> None:
    for layer in layers:
        weight_of(model, layer.name).requires_grad_(True)


def _check_teacher(outputs: Any) -> None:
    """The dense model teaches in eval mode, where a model may give something else than in training."""
    if not isinstance(outputs, Tensor):
        raise EvopruneError(
            f"the model gives a {type(outputs).__name__} in eval mode, and as the teacher of fine-tuning it has to give"
            " logits (N, C); give distill=0, or a loss of your own"
        )
    if _are_probabilities(outputs):
        log.warning(
            "the model gives probabilities in eval mode, and what it teaches in fine-tuning is read as logits; give"
            " distill=0, or a model without its softmax"
        )


def _check_parameters(model: nn.Module) -> None:
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise EvopruneError(
            "no parameter of the model can be trained; call model.requires_grad_(True), or leave `train` out"
        )
    if any(parameter.requires_grad and parameter.dtype == torch.float16 for parameter in model.parameters()):
        raise EvopruneError(
            "weights in float16 are too coarse to be trained; give model.float(), with train_precision='bfloat16' where"
            " that is fast, and call .half() on the result"
        )


def _check_labels(labels: Tensor, classes: int) -> None:
    lowest, highest = (int(labels.min()), int(labels.max())) if len(labels) else (0, 0)
    if lowest < 0 or highest >= classes:
        raise EvopruneError(
            f"the training data has label {lowest if lowest < 0 else highest}, but the model has {classes} outputs;"
            f" expected class numbers from 0 to {classes - 1}, or {IGNORED} for what does not count; for another such"
            " number give a loss of your own, such as torch.nn.CrossEntropyLoss(ignore_index=255)"
        )


def _cross_entropy(outputs: Any, targets: Tensor, all_targets: Tensor) -> Tensor:
    if not isinstance(outputs, Tensor):
        raise EvopruneError(
            f"the model gives a {type(outputs).__name__}, and cross-entropy needs logits (N, C); give a loss of your"
            " own, or leave `train` out"
        )
    if targets.shape == (len(outputs), *outputs.shape[2:]) and not targets.is_floating_point():
        _check_labels(all_targets[all_targets != IGNORED], outputs.shape[1])
    F.cross_entropy(outputs.detach().cpu(), targets.cpu())  # a label out of range would leave a GPU unusable
    return F.cross_entropy(outputs, targets.to(outputs.device))


def _own_loss(loss: Loss, outputs: Any, targets: Tensor) -> Tensor:
    try:
        value = loss(outputs, targets)
    except Exception as error:
        raise EvopruneError(f"the loss raised {said(error)}") from error
    if not isinstance(value, Tensor) or value.dim() > 0:
        what = f"tensor {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise EvopruneError(f"the loss gives a {what}; expected a tensor without dimensions, such as a mean")
    if not value.requires_grad:
        raise EvopruneError("the loss has no gradients; compute it from the outputs, without .detach() or .item()")
    return value


def _are_probabilities(targets: Tensor) -> bool:
    if targets.dim() != 2 or targets.shape[1] < 2:
        return False
    return bool((targets >= 0).all()) and bool(((targets.sum(1) - 1).abs() < 1e-3).all())
