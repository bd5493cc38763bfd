"""The journal: one JSON line an event, appended and synced, so that nothing that happened is lost."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from evoprune.core import EvopruneError
from evoprune.storage import finite

__all__ = ["Journal"]


class Journal:
    """Appends to a file of JSON lines.

    Args:
        path: the file; None keeps nothing (a run without a folder).
        keep_bytes: what was written later than a snapshot is cut off when a run goes on from it, since the
            same events are about to happen again.

    Attributes:
        bytes: length of the file.

    Raises:
        EvopruneError: the file cannot be written, or is shorter than `keep_bytes`.
    """

    def __init__(self, path: Path | None, keep_bytes: int = 0) -> None:
        self.path, self.bytes = path, keep_bytes
        if path is None:
            return
        if keep_bytes > (path.stat().st_size if path.exists() else 0):
            raise EvopruneError(f"{path} has lost events that the run had; put it back, or start over with --overwrite")
        try:
            with path.open("ab") as file:
                file.truncate(keep_bytes)
        except OSError as error:
            raise EvopruneError(f"cannot write the journal {path}: {error.strerror or error}") from error

    def append(self, event: dict[str, Any]) -> None:
        """Write one event and wait until it is on the disk."""
        if self.path is None:
            return
        try:
            with self.path.open("ab") as file:
                file.write(json.dumps(finite(event), allow_nan=False).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
                self.bytes = file.tell()
        except OSError as error:
            raise EvopruneError(
                f"cannot write the journal: {error.strerror or error}; make room, then `evoprune resume` the run"
            ) from error
