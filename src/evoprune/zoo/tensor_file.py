"""Named tensors as one safetensors file, written completely or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from evoprune.core import EvopruneError

__all__ = ["read_tensors", "save_tensors"]


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a safetensors file and its metadata.

    Raises:
        EvopruneError: it cannot be read.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise EvopruneError(
            f"{path} is not a readable safetensors file ({error}); is it complete?"
        ) from error


def save_tensors(
    tensors: Mapping[str, Tensor], path: str | Path, metadata: Mapping[str, str] | None = None
) -> None:
    """Write to a file beside `path`, sync it, and rename it to `path`. Equal content gives equal bytes.

    Raises:
        EvopruneError: it cannot be written; a file that was there before is left as it was.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    # An own copy of each: safetensors refuses tensors that share memory or have gaps.
    copies = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }
    header, body = _sorted_header(save(copies, dict(metadata or {})))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                file.write(header)
                file.write(body)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise EvopruneError(
            f"cannot write {path}: {error.strerror or error}; free space or choose another place"
        ) from error


def _sorted_header(content: bytes) -> tuple[bytes, memoryview]:
    """Header and body of a safetensors file; safetensors itself writes metadata in a random order."""
    size = int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8 : 8 + size]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # the body stays aligned
    return len(header).to_bytes(8, "little") + header, memoryview(content)[8 + size :]
