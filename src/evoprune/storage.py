"""Files that are whole or not there: write beside, sync, rename."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from evoprune.core import EvopruneError

__all__ = [
    "as_safetensors",
    "check_state",
    "check_writable",
    "digest_of",
    "finite",
    "read_tensors",
    "save_tensors",
    "shapes_of",
    "under",
    "write_atomic",
    "write_json",
]


def check_state(model: nn.Module) -> None:
    """Raise EvopruneError where a model's state dict holds what safetensors cannot keep."""
    for name, value in model.state_dict().items():
        if not isinstance(value, Tensor):
            raise EvopruneError(
                f"the model's state dict holds {name}, a {type(value).__name__} (get_extra_state), and files keep only"
                " tensors; give a model without it"
            )
        if value.layout is not torch.strided or value.dtype == torch.complex128:
            kind = "sparse" if value.layout is not torch.strided else str(value.dtype)
            raise EvopruneError(
                f"the model's state dict holds {name}, a {kind} tensor, and safetensors cannot keep it; give a model"
                " without it, such as with register_buffer(..., persistent=False)"
            )


def write_atomic(path: Path, content: bytes) -> None:
    """Write a file so that a reader, or a start after a crash, finds the old content or the new, never half.

    Raises:
        EvopruneError: it cannot be written (a full disk, no permission); the old file is untouched.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
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
        reason = error.strerror or str(error)
        raise EvopruneError(f"cannot write {path}: {reason}; free space or choose another place") from error
    finally:  # also where it was interrupted; once renamed it is gone
        with suppress(OSError):
            beside.unlink()


def check_writable(path: Path) -> None:
    """Raise where no file can be written; none is left there.

    Raises:
        EvopruneError: it cannot.
    """
    beside = path.with_name(f"{path.name}.try")
    write_atomic(beside, b"")
    beside.unlink()


def under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix`, under their names without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def write_json(path: Path, content: Any) -> None:
    """Write JSON, atomically."""
    write_atomic(path, (json.dumps(finite(content), indent=1, allow_nan=False) + "\n").encode())


def finite(content: Any) -> Any:
    """The same with None for NaN and infinities, which JSON has no words for."""
    if isinstance(content, Mapping):
        return {key: finite(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def read_tensors(path: Path, remedy: str = "is it complete?") -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a safetensors file and its metadata.

    Raises:
        EvopruneError: it cannot be read; `remedy` says what to do then.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise EvopruneError(f"{path} is not a readable safetensors file ({error}); {remedy}") from error


def digest_of(tensors: Iterable[Tensor]) -> str:
    """A hash of what tensors hold."""
    digest = hashlib.blake2b(digest_size=16)
    for tensor in tensors:
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def shapes_of(tensors: Mapping[str, Tensor]) -> str:
    """Names and shapes as JSON: kept beside tensors, it tells whether one was lost or replaced."""
    return json.dumps({name: list(tensors[name].shape) for name in sorted(tensors)})


def save_tensors(tensors: Mapping[str, Tensor], path: str | Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write safetensors, atomically."""
    write_atomic(Path(path), as_safetensors(tensors, metadata))


def as_safetensors(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """The content of a safetensors file. Tensors that share memory are written each in full.

    Equal content gives equal bytes.
    """
    # An own copy of each: safetensors refuses tensors that share memory or have gaps.
    copies = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()
    }
    return _with_sorted_header(save(copies, dict(metadata or {})))


def _with_sorted_header(content: bytes) -> bytes:
    """A safetensors file in one fixed form; safetensors itself writes metadata in a random order."""
    size = int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8 : 8 + size]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # the body stays aligned
    return len(header).to_bytes(8, "little") + header + content[8 + size :]
