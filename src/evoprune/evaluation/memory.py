"""Memory: out-of-memory errors, and sizes of nested values."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

__all__ = ["bytes_of", "is_out_of_memory"]

SAID = (
    "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED", "DEVICE_ALLOCATION_FAILED",
    "unable to find an engine",
)  # fmt: skip
"""By the CPU's allocator and by libraries of the GPU."""


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
