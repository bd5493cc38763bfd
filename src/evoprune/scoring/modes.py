"""Run a model for scoring and leave it as it was found."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import nn

from evoprune.training import OwnRandomState

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
    """Eval mode, no gradients, full float32; afterwards every module's mode and the random states are as before.

    A model that draws random numbers all the same draws the same ones each time.
    """
    device = device_of(model)
    with (
        OwnRandomState(0).active(),
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
    """No TF32 and no bfloat16 inside, whichever of torch's switches asks for it; afterwards all are as before.

    (`torch.backends.cudnn.flags` would set all of its other flags, too.)
    """
    cudnn: Any = torch.backends.cudnn
    mkldnn: Any = torch.backends.mkldnn
    newer: tuple[Any, ...] = ()
    if hasattr(cudnn, "conv"):
        newer = (cudnn.conv, cudnn.rnn, torch.backends.cuda.matmul, mkldnn.conv, mkldnn.rnn, mkldnn.matmul)
    before, allowed, precision = [place.fp32_precision for place in newer], False, "highest"
    # torch will not read an older switch where a user has set one of the newer ones.
    with suppress(RuntimeError):
        precision = torch.get_float32_matmul_precision()
    with suppress(RuntimeError):
        allowed = cudnn.allow_tf32
    try:
        if precision != "highest":
            torch.set_float32_matmul_precision("highest")
        if allowed:
            cudnn.allow_tf32 = False
        for place in newer:
            if place.fp32_precision in ("tf32", "bf16"):
                place.fp32_precision = "ieee"
        yield
    finally:
        if precision != "highest":
            torch.set_float32_matmul_precision(precision)
        if allowed:
            cudnn.allow_tf32 = True
        for place, value in zip(newer, before, strict=True):
            if place.fp32_precision != value:
                place.fp32_precision = value


def device_of(model: nn.Module) -> torch.device:
    """Where the model's first parameter is; the CPU for a model without any."""
    first = next(model.parameters(), None)
    return torch.device("cpu") if first is None else first.device


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside nn.DataParallel, whose replicas would each see a part of a batch and keep what they measure."""
    return model.module if isinstance(model, nn.DataParallel) else model
