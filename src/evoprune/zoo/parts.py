"""A state dict in several safetensors files with an index beside them, the way transformers cuts large models."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from evoprune.core import EvopruneError
from evoprune.storage import read_tensors, save_tensors, write_json

__all__ = ["INDEX", "read_parts", "save_parts"]

INDEX = ".safetensors.index.json"
"""How an index's name ends."""


def save_parts(
    tensors: Mapping[str, Tensor], index: Path, part_bytes: int, metadata: Mapping[str, str] | None = None
) -> list[Path]:
    """Write `tensors` in as few files as a cut in their order gives, then the index that names them.

    Args:
        tensors: a state dict.
        index: the file to write last, `NAME.safetensors.index.json`; parts are `NAME-00001-of-00002.safetensors`.
        part_bytes: of the tensors in one file, at most; a larger tensor has a file of its own.
        metadata: kept in the index.

    Returns:
        The parts' files.
    """
    parts: list[dict[str, Tensor]] = [{}]
    for name, tensor in tensors.items():
        if parts[-1] and sum(t.nbytes for t in parts[-1].values()) + tensor.nbytes > part_bytes:
            parts.append({})
        parts[-1][name] = tensor
    stem = index.name.removesuffix(INDEX)
    files = [index.with_name(f"{stem}-{i + 1:05}-of-{len(parts):05}.safetensors") for i in range(len(parts))]
    for file, part in zip(files, parts, strict=True):
        save_tensors(part, file)
    places = {name: file.name for file, part in zip(files, parts, strict=True) for name in part}
    size = sum(tensor.nbytes for tensor in tensors.values())
    write_json(index, {"metadata": {**(metadata or {}), "total_size": size}, "weight_map": places})
    return files


def read_parts(index: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors that an index names, and its metadata.

    Raises:
        EvopruneError: the index is damaged, a part is missing or cannot be read, or lacks a tensor.
    """
    try:
        content = json.loads(index.read_text())
        places: dict[str, str] = dict(content["weight_map"])
        metadata = {str(key): str(value) for key, value in content.get("metadata", {}).items()}
        files = sorted(set(places.values()))
        if any(Path(file).name != file for file in files):
            raise ValueError("a part lies elsewhere")
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise EvopruneError(f"{index} is no index of safetensors files ({error}); is it complete?") from error
    tensors: dict[str, Tensor] = {}
    for file in files:
        if not (index.parent / file).is_file():
            raise EvopruneError(f"{index} names {file}, which is not beside it; put all parts into one folder")
        tensors |= read_tensors(index.parent / file)[0]
    if missing := sorted(places.keys() - tensors.keys()):
        raise EvopruneError(f"the parts of {index} lack {missing[0]}; are they of another model?")
    return tensors, metadata
