"""Files that are whole or not there: write beside, sync, rename."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

from evoprune.core import EvopruneError

__all__ = ["save_tensors", "write_atomic", "write_json"]


def write_atomic(path: Path, content: bytes) -> None:
    """Write a file so that a reader, or a start after a crash, finds the old content or the new, never half.

    Raises:
        EvopruneError: it cannot be written (a full disk, no permission); the old file is untouched.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        beside.unlink(missing_ok=True)
        reason = error.strerror or str(error)
        raise EvopruneError(f"cannot write {path}: {reason}; make room or choose another folder") from error


def write_json(path: Path, content: Any) -> None:
    """Write JSON, atomically."""
    write_atomic(path, (json.dumps(content, indent=1, allow_nan=False) + "\n").encode())


def save_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write safetensors, atomically. Tensors that share memory are written each in full."""
    separate = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    write_atomic(path, save(separate, dict(metadata or {})))
