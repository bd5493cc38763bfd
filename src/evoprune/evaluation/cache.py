"""What candidates share on each chunk of samples, kept between generations within a memory limit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from evoprune.evaluation.memory import bytes_of

__all__ = ["SharedCache"]


class SharedCache:
    """Shared values of each chunk, computed once and kept while they fit.

    Args:
        limit_bytes: at most so much is kept; chunks beyond are computed again at every call.

    Attributes:
        bytes: kept now.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes, self.bytes = limit_bytes, 0
        self._kept: dict[int, Any] = {}

    def get(self, chunk: int, compute: Callable[[], Any]) -> Any:
        """The values of a chunk; None, for values that could not be had, is not kept."""
        if chunk in self._kept:
            return self._kept[chunk]
        values = compute()
        size = bytes_of(values)
        if values is not None and self.bytes + size <= self.limit_bytes:
            self._kept[chunk] = values
            self.bytes += size
        return values

    def __contains__(self, chunk: int) -> bool:
        """Whether the values of a chunk are kept."""
        return chunk in self._kept

    def clear(self) -> None:
        """Forget everything."""
        self._kept.clear()
        self.bytes = 0
