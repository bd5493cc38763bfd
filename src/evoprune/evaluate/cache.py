"""What candidates share on each chunk of samples, kept between generations within a memory limit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


from torch import Tensor
from torch.utils._pytree import tree_leaves

__all__ = ["SharedCache", "bytes_of"]


class SharedCache:
    """Shared values of each chunk, computed once and kept while they fit.

    Args:
        limit_bytes: at most so much is kept; chunks beyond are computed again at every call.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes, self.bytes = limit_bytes, 0
        self._kept: dict[int, Any] = {}

    def get(self, chunk: int, compute: Callable[[], Any]) -> Any:
        """The values of a chunk."""
        if chunk in self._kept:
            return self._kept[chunk]
        values = compute()
        size = bytes_of(values)
        if self.bytes + size <= self.limit_bytes:
            self._kept[chunk] = values
            self.bytes += size
        return values

    def clear(self) -> None:
        """Forget everything."""
        self._kept.clear()
        self.bytes = 0


def bytes_of(values: Any) -> int:
    """Memory of all tensors inside nested lists and dicts; a storage that two tensors share counts once."""
    storages = {
        leaf.untyped_storage().data_ptr(): leaf.untyped_storage().nbytes()
        for leaf in tree_leaves(values)
        if isinstance(leaf, Tensor)
    }
    return sum(storages.values())
