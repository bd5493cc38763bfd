"""The journal: one JSON line an event, appended and synced, so that nothing that happened is lost."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
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
        next_stage: number of the stage after those that ended.

    Raises:
        EvopruneError: the file cannot be written, is shorter than `keep_bytes`, or damaged.
    """

    def __init__(self, path: Path | None, keep_bytes: int = 0) -> None:
        self.path, self.bytes, self.next_stage = path, keep_bytes, 0
        if path is None:
            return
        if keep_bytes > (path.stat().st_size if path.exists() else 0):
            raise EvopruneError(
                f"{path} has lost events that the run had; put it back, or prune again with --overwrite"
            )
        self.next_stage = _next_stage(path, keep_bytes)
        try:
            with path.open("ab") as file:
                file.truncate(keep_bytes)
        except OSError as error:
            raise EvopruneError(f"cannot write the journal {path}: {error.strerror or error}") from error

    @classmethod
    def reopen(cls, path: Path) -> Journal:
        """Go on after the last whole line."""
        try:
            return cls(path, path.read_bytes().rfind(b"\n") + 1)
        except OSError as error:
            raise EvopruneError(f"cannot read the journal {path}: {error.strerror or error}; put it back") from error

    @contextmanager
    def all_or_nothing(self) -> Iterator[None]:
        """What is appended inside is cut off again if it ends in an error, or is interrupted."""
        before = self.bytes
        try:
            yield
        except BaseException:
            Journal(self.path, before)
            raise

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


def _next_stage(path: Path, keep_bytes: int) -> int:
    """Reads what is kept, so that damage is found before more is appended."""
    lines = path.read_bytes()[:keep_bytes].splitlines() if keep_bytes else []
    last = -1
    for number, line in enumerate(lines, start=1):
        try:
            event = json.loads(line)
            if event.get("event") == "stage_end":
                last = max(last, int(event["stage"]))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise EvopruneError(
                f"{path} is damaged at line {number}; put it back from a copy, or prune again with --overwrite"
            ) from error
    return last + 1
