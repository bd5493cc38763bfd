"""The journal: one JSON line an event, appended and synced, so that nothing that happened is lost."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from evoprune.core import EvopruneError

__all__ = ["Journal"]


class Journal:
    """Appends to a file of JSON lines.

    Args:
        path: the file; None keeps nothing (a run without a folder).
        keep_bytes: what was written later than a snapshot is cut off when a run goes on from it, since the
            same events are about to happen again.
    """

    def __init__(self, path: Path | None, keep_bytes: int = 0) -> None:
        self.file = None
        if path is not None:
            self.file = path.open("ab")
            self.file.truncate(keep_bytes)
            self.file.seek(0, os.SEEK_END)

    def append(self, event: dict[str, Any]) -> None:
        """Write one event and wait until it is on the disk."""
        if self.file is None:
            return
        try:
            self.file.write(json.dumps(event, allow_nan=False).encode() + b"\n")
            self.file.flush()
            os.fsync(self.file.fileno())
        except OSError as error:
            raise EvopruneError(
                f"cannot write the journal: {error.strerror or error}; make room, then `evoprune resume` the run"
            ) from error

    @property
    def bytes(self) -> int:
        """Length of the file."""
        return 0 if self.file is None else self.file.tell()

    def close(self) -> None:
        """Close the file."""
        if self.file is not None:
            self.file.close()
