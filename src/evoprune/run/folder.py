"""The run folder: names of its files, and who may write into it."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from fnmatch import fnmatch
from pathlib import Path
from shlex import quote
from typing import Any
from weakref import finalize

from evoprune.core import EvopruneError
from evoprune.run.records import ResultFile, read_object, validated
from evoprune.run.settings import Settings
from evoprune.storage import write_json

__all__ = ["Folder"]

OUTPUTS = (
    "journal.jsonl", "masks.safetensors", "model.safetensors", "model.before-finetune*.safetensors", "result.json",
    "report.html", "figures", "front",
)  # fmt: skip
"""What `--overwrite` removes; files of the user beside them stay."""


class Folder:
    """The files of a run; `create` and `open` lock it until `close`, or the end of the process."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.json"
        self.journal = path / "journal.jsonl"
        self.state = path / "state"
        self.snapshot = self.state / "snapshot.safetensors"
        self.dense = self.state / "dense.safetensors"
        self.masks = path / "masks.safetensors"
        self.model = path / "model.safetensors"
        self.result = path / "result.json"
        self.before_finetune = path / "model.before-finetune.safetensors"
        self.report = path / "report.html"
        self._lock: Any = None

    @classmethod
    def create(cls, path: Path, settings: Settings, overwrite: bool = False) -> Folder:
        """A new run folder.

        Raises:
            EvopruneError: there is a run already (and not `overwrite`), something else, or no writing there.
        """
        folder = cls(path)
        folder.check_vacant(overwrite)
        try:
            folder.state.mkdir(parents=True, exist_ok=True)
            folder._acquire()
            if overwrite:
                for entry in [entry for pattern in OUTPUTS for entry in path.glob(pattern)]:
                    linked = entry.is_symlink()  # to another disk, say: what is there stays
                    shutil.rmtree(entry) if entry.is_dir() and not linked else entry.unlink()
                for entry in folder.state.iterdir():
                    if entry.name != "lock":
                        entry.unlink()
        except OSError as error:
            raise EvopruneError(f"cannot make the run folder {path}: {error.strerror or error}") from error
        write_json(folder.config, settings.model_dump())
        return folder

    def check_vacant(self, overwrite: bool) -> None:
        """Raise EvopruneError where there is a run already (and not `overwrite`), or something else."""
        path = self.path
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            begun = self.has_settings()  # other tools write a config.json, too
            if not begun and not (self.state.is_dir() and self._is_half_made()):
                raise EvopruneError(f"{path} exists and is not a run folder; choose another --out")
            if begun and not overwrite:
                raise EvopruneError(
                    f"{path} already holds a run; go on with `{self.resuming}`, start over with --overwrite"
                    " (overwrite=True), or choose another --out"
                )

    @classmethod
    def open(cls, path: Path, lock: bool = True) -> tuple[Folder, Settings]:
        """An existing run folder and its settings.

        Raises:
            EvopruneError: there is no run, it is damaged, or another process works in it.
        """
        folder = cls(path)
        if not folder.config.exists():
            raise EvopruneError(f"{path} is not a run folder: it has no config.json; check the path")
        try:
            settings = Settings(**json.loads(folder.config.read_text()))
        except (OSError, TypeError, ValueError) as error:
            raise EvopruneError(f"{folder.config} is damaged; start the run again with --overwrite") from error
        if lock:
            folder._acquire()
        return folder, settings

    def next_backup(self) -> Path:
        """Where the model goes before it is fine-tuned once more; the run's own one is `before_finetune`."""
        path, number = self.before_finetune, 1
        while path.exists():
            number += 1
            path = self.path / f"model.before-finetune-{number}.safetensors"
        return path

    def has_settings(self) -> bool:
        """Whether a run's config.json is here; a damaged one counts where the folder of a run's state lies beside."""
        if self.config.exists() and self.state.is_dir():
            return True
        try:
            Settings(**json.loads(self.config.read_text()))
        except (OSError, TypeError, ValueError):
            return False
        return True

    def _is_half_made(self) -> bool:
        """Whether a run was stopped before it had written its settings: only its lock and temporary files are here."""
        entries = [entry for entry in self.path.rglob("*") if entry != self.state]
        return all(entry == self.state / "lock" or fnmatch(entry.name, ".*.tmp") for entry in entries)

    def read_result(self) -> dict[str, Any]:
        """result.json.

        Raises:
            EvopruneError: the run has not ended, or the file is damaged.
        """
        if not self.result.exists():
            raise EvopruneError(f"{self.path} has no result yet; finish the run with `{self.resuming}`")
        content = read_object(self.result, self.remedy)
        validated(ResultFile, content, str(self.result), self.remedy)
        return content

    @property
    def resuming(self) -> str:
        """How a user goes on with the run; one from Python needs its model again."""
        try:
            from_python = json.loads(self.config.read_text())["has_train"] is not None
        except (OSError, KeyError, TypeError, ValueError):
            from_python = False
        path = str(self.path)
        return f"evoprune.resume({path!r}, model, score, ...)" if from_python else f"evoprune resume {quote(path)}"

    @property
    def remedy(self) -> str:
        """What to do where a file of the result is damaged or missing."""
        if self.before_finetune.exists():
            return "put it back from a copy: the run was fine-tuned later, and only this file tells how that ended"
        return f"delete {self.result.name} and run `{self.resuming}` to write it again"

    def _acquire(self) -> None:
        try:
            self._lock = (self.state / "lock").open("w")
            finalize(self, self._lock.close)  # at the latest
            os.register_at_fork(after_in_child=self._lock.close)  # else a loader's worker would hold the lock, too
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.close()
            raise EvopruneError(
                f"another process is working in {self.path}; wait for it or choose another --out"
            ) from None
        except FileNotFoundError:
            raise EvopruneError(
                f"{self.state} is missing, where the run keeps what it goes on from; put it back, or prune again with"
                " --overwrite"
            ) from None
        except OSError as error:
            self.close()
            raise EvopruneError(
                f"cannot lock {self.path}: {error.strerror or error}; make the folder writable"
            ) from error

    def close(self) -> None:
        """Give the lock back."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None
