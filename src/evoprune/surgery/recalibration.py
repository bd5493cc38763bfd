"""Measure the running statistics of batch norms anew, since those of the dense model do not fit a pruned one.

Li et al., "EagleEye: Fast Sub-net Evaluation for Efficient Neural Network Pruning", ECCV 2020.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from evoprune.core import equal_parts
from evoprune.scoring import device_of, evaluating, unwrapped

__all__ = ["batch_norms", "recalibrate"]


def batch_norms(model: nn.Module) -> list[_BatchNorm]:
    """The batch norms of `model` that keep running statistics."""
    return [module for module in model.modules() if isinstance(module, _BatchNorm) and module.running_mean is not None]


def recalibrate(model: nn.Module, inputs: Tensor, batch_size: int = 256, dtype: torch.dtype = torch.float32) -> None:
    """Running means and variances become averages over batches of `inputs`; nothing else changes, nothing is random.

    Args:
        model: changed in place; modes and momentum are left as found.
        inputs: (N, ...) samples of the training data, two at least, on any device.
        batch_size: samples at a time at most; batches are of equal size, and count alike.
        dtype: of the arithmetic; float32, or bfloat16 by autocast, channels-last.
    """
    model, device = unwrapped(model), device_of(model)
    norms, rounded = batch_norms(model), dtype == torch.bfloat16
    layout = torch.channels_last if rounded and inputs.dim() == 4 else torch.preserve_format
    momentum = [norm.momentum for norm in norms]
    with evaluating(model), torch.autocast(device.type, dtype=torch.bfloat16, enabled=rounded):
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the plain average over all batches
            norm.train()
        try:
            for part in equal_parts(len(inputs), batch_size):
                model(inputs[part].to(device, copy=True, memory_format=layout))  # it may change them in place
        finally:
            for norm, value in zip(norms, momentum, strict=True):
                norm.momentum = value
