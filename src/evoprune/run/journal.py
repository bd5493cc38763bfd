"""The journal: one JSON line an event, appended and synced, so that nothing that happened is lost; and read again."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from evoprune.core import EvopruneError
from evoprune.run.records import EVENTS, Record, read_bytes, validated
from evoprune.storage import finite

__all__ = ["Journal", "read_journal"]


class Journal:
    """Appends to a file of JSON lines.

    Args:
        path: the file; None keeps nothing (a run without a folder).
        keep_bytes: what was written later than a snapshot is cut off when a run goes on from it, since the
            same events are about to happen again.

    Attributes:
        bytes: length of the file.

    Raises:
        EvopruneError: the file cannot be written, is shorter than `keep_bytes`, or damaged.
    """

    def __init__(self, path: Path | None, keep_bytes: int = 0) -> None:
        self.path, self.bytes = path, keep_bytes
        if path is None:
            return
        if keep_bytes > (path.stat().st_size if path.exists() else 0):
            raise EvopruneError(
                f"{path} has lost events that the run had; put it back, or prune again with --overwrite"
            )
        read_journal(path, keep_bytes)  # so that damage is found before more is appended
        self._cut(keep_bytes)

    def _cut(self, keep_bytes: int) -> None:
        if self.path is None:
            return
        try:
            with self.path.open("ab") as file:
                file.truncate(keep_bytes)
        except OSError as error:
            raise EvopruneError(f"cannot write the journal {self.path}: {error.strerror or error}") from error
        self.bytes = keep_bytes

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
            self._cut(before)
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
                f"cannot write the journal: {error.strerror or error}; make room, then resume the run, or"
                " fine-tune it again"
            ) from error


def read_journal(path: Path, length: int | None = None) -> list[Record]:
    """The events of a journal, or of its first `length` bytes.

    Events of other kinds are left out, and a last line that was cut off, which none of the first `length` bytes can be;
    nothing where there is no file.

    Raises:
        EvopruneError: the file cannot be read, or a line is damaged.
    """
    if not path.is_file():
        return []
    lines = read_bytes(path)[:length].split(b"\n")
    while lines and not lines[-1].strip():
        lines.pop()
    events = []
    for number, line in enumerate(lines, start=1):
        try:
            entry = json.loads(line)
        except ValueError as error:
            if length is None and number == len(lines):
                break  # the run was stopped while it wrote this line
            raise EvopruneError(
                f"{path} is damaged at line {number} (not JSON); restore it from a copy, or prune again with"
                " --overwrite"
            ) from error
        if not isinstance(entry, dict):
            raise EvopruneError(
                f"{path} is damaged at line {number} (not an object); restore it from a copy, or prune again with"
                " --overwrite"
            )
        record = EVENTS.get(str(entry.get("event")))
        if record is not None:
            events.append(validated(record, entry, f"{path} line {number}"))
    return events
