"""Run a model for scoring and leave it as it was found."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import nn

from evoprune.core import forked_rng

__all__ = ["device_of", "eval_mode", "evaluating", "layer_by_layer", "unwrapped"]


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Eval mode; afterwards every module's mode is as before."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode, no gradients, full float32; afterwards every module's mode and the random state are as before."""
    device = device_of(model)
    with (
        forked_rng(device),
        torch.no_grad(),
        torch.autocast(device.type, enabled=False),
        _full_float32(),
        eval_mode(model),
    ):
        yield


@contextmanager
def layer_by_layer() -> Iterator[None]:
    """Transformers of torch call their layers, where hooks are to see what these are given.

    Else their fast path skips some, and packs padded batches into tensors without a shape.
    """
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


@contextmanager
def _full_float32() -> Iterator[None]:
    """No TF32 on GPUs. (`torch.backends.cudnn.flags` would set all of its other flags, too.)"""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    found: list[tuple[Any, str, Any]] = []

    def put(place: Any, name: str, value: object) -> None:
        found.append((place, name, getattr(place, name)))
        setattr(place, name, value)

    try:
        for place in (cudnn, matmul):
            with suppress(RuntimeError):  # torch will not read these where a user has set one of the newer ones
                if place.allow_tf32:
                    put(place, "allow_tf32", False)
        for newer in (cudnn.conv, cudnn.rnn, matmul) if hasattr(cudnn, "conv") else ():
            if newer.fp32_precision == "tf32":
                put(newer, "fp32_precision", "ieee")
        yield
    finally:
        for place, name, value in reversed(found):
            setattr(place, name, value)


def device_of(model: nn.Module) -> torch.device:
    """Where the model's first parameter is; the CPU for a model without any."""
    first = next(model.parameters(), None)
    return torch.device("cpu") if first is None else first.device


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside nn.DataParallel, whose replicas would each see a part of a batch and keep what they measure."""
    return model.module if isinstance(model, nn.DataParallel) else model
