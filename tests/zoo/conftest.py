"""Small parquet folders and data sets, made on the spot."""

import io
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from pyarrow import parquet

from evoprune.zoo import Data, Split

WriteSplit = Callable[..., Path]


def png(pixels: np.ndarray, form: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form)
    return buffer.getvalue()


def pixels_of(row: int, size: int = 8, channels: int = 1) -> np.ndarray:
    """An image that no other row has."""
    rng = np.random.default_rng(row)
    shape = (size, size) if channels == 1 else (size, size, channels)
    return rng.integers(0, 256, shape, dtype=np.uint8)


def images(*encoded: bytes | None) -> pa.Array:
    rows = [None if content is None else {"bytes": content, "path": None} for content in encoded]
    return pa.array(rows, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))


@pytest.fixture(autouse=True)
def data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test has its own, empty cache."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("EVOPRUNE_DATA", str(folder))
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "digits"
    path.mkdir()
    return path


@pytest.fixture
def write(folder: Path) -> WriteSplit:
    """Write one shard: `write("train-00000-of-00001", labels=[0, 1])`, columns replaced or added by name."""

    def write_shard(name: str, labels: Sequence[int | None] = (0, 1) * 8, start: int = 0, **columns: object) -> Path:
        encoded = (png(pixels_of(start + row)) for row in range(len(labels)))
        table = {"image": images(*encoded), "label": pa.array(labels, pa.int64())} | columns
        file = folder / f"{name}.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        parquet.write_table(pa.table({key: value for key, value in table.items() if value is not None}), file)
        return file

    return write_shard


@pytest.fixture
def tiny() -> Data:
    """Bright left halves against bright right halves: (C, H, W) = (1, 6, 6), 64 + 16 + 16 samples."""

    def split(samples: int, seed: int) -> Split:
        rng = torch.Generator().manual_seed(seed)
        targets = torch.arange(samples) % 2
        inputs = torch.randn(samples, 1, 6, 6, generator=rng)
        inputs[targets == 0, :, :, :3] += 2
        inputs[targets == 1, :, :, 3:] += 2
        return Split(inputs, targets)

    return Data("tiny", split(64, 0), split(16, 1), split(16, 2), classes=2, mean=(0.5,), std=(0.25,))
