"""Memory: out-of-memory errors, sizes of nested values, and reuse of freed memory on a CPU."""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

__all__ = ["bytes_of", "is_out_of_memory", "reuse_freed_memory"]

SAID = ("can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED", "unable to find an engine")
"""By the CPU's allocator and by libraries of the GPU."""
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h


def bytes_of(values: Any) -> int:
    """Memory of all tensors inside nested lists and dicts; a storage that two tensors share counts once."""
    storages = {
        leaf.untyped_storage().data_ptr(): leaf.untyped_storage().nbytes()
        for leaf in tree_leaves(values)
        if isinstance(leaf, Tensor)
    }
    return sum(storages.values())


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error says that memory ran out, on a GPU or a CPU."""
    return isinstance(error, torch.OutOfMemoryError) or any(text in str(error) for text in SAID)


@cache
def reuse_freed_memory() -> None:
    """Let glibc's malloc keep freed blocks of up to 32 MB instead of giving them back to the system.

    By default each activation of a few MB is mapped anew and every page of it faults: on LeNet-5's first
    layer that takes longer than the arithmetic. Process-wide; other C libraries are left alone.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, 32 << 20)
        mallopt(M_TRIM_THRESHOLD, 1 << 30)
