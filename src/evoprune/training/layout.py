"""How tensors lie in memory: the layout of a model's weights, and reuse of freed memory on a CPU."""

from __future__ import annotations

import ctypes
import sys
from functools import cache

import torch
from torch import nn

__all__ = ["reuse_freed_memory", "set_memory_format"]

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h


@torch.no_grad()
def set_memory_format(model: nn.Module, memory_format: torch.memory_format) -> None:
    """What `Module.to` does to four-dimensional parameters; it fails where others have five dimensions.

    Strides follow the format even where the layout is the same, as with one input channel: convolutions go by them.
    """
    for parameter in model.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.to(memory_format=memory_format)


@cache
def reuse_freed_memory() -> None:
    """Let glibc's malloc keep freed blocks of up to 32 MB instead of giving them back to the system.

    By default each activation of a few MB is mapped anew and every page of it faults: on LeNet-5's first
    layer that takes longer than the arithmetic, and a training step of ResNet-18 takes a tenth longer. Process-wide;
    other C libraries are left alone.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, 32 << 20)
        mallopt(M_TRIM_THRESHOLD, 1 << 30)
