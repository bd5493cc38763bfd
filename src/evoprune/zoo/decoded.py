"""A cache of decoded splits: decoding 60,000 small images at every start would take many seconds."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from evoprune.core import EvopruneError
from evoprune.storage import read_tensors, save_tensors
from evoprune.zoo.images import Images
from evoprune.zoo.places import cache_folder

__all__ = ["load", "save"]


def load(files: Sequence[Path]) -> Images | None:
    """What was decoded from exactly these files before, or None."""
    try:
        tensors, metadata = read_tensors(_place(files))
        return Images(tensors["pixels"], tensors["labels"], int(metadata["classes"]))
    except (EvopruneError, KeyError):
        return None  # nothing there, or damaged: decode again


def save(files: Sequence[Path], images: Images) -> None:
    """Keep a decoded split; a cache that cannot be written is no error."""
    try:
        save_tensors(
            {"pixels": images.pixels, "labels": images.labels},
            _place(files),
            {"classes": str(images.classes)},
        )
    except EvopruneError:
        return


def _place(files: Sequence[Path]) -> Path:
    digest = hashlib.blake2b(digest_size=16)
    for file in files:
        stat = file.stat()
        digest.update(f"{file.resolve()} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return cache_folder() / "decoded" / f"{digest.hexdigest()}.safetensors"
