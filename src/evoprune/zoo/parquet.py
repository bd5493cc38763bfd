"""Folders of parquet splits in the Hugging Face layout: one image column, one label column."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evoprune.core import EvopruneError, said
from evoprune.zoo import decoded
from evoprune.zoo.images import Images

__all__ = ["read_folder", "split_files"]

INSTALL = (
    "reading parquet images needs pyarrow and Pillow; install them with pip install -e '.[data]' in evoprune's folder"
)


def read_folder(folder: Path) -> tuple[Images, Images]:
    """The training and the test split of `folder`, decoded.

    Raises:
        EvopruneError: a split is missing, empty or incomplete, its columns cannot be told, an image cannot be
            decoded or is of another size, or a label is null or out of range.
    """
    files = {split: split_files(folder, split) for split in ("train", "test")}
    for split, found in files.items():
        if not found:
            raise EvopruneError(
                f"{folder} has no {split}*.parquet, nor has a folder in it; expected train-*.parquet and test-*.parquet"
            )
    train, test = (_read_split(found) for found in files.values())
    if train.pixels.shape[1:] != test.pixels.shape[1:]:
        raise EvopruneError(
            f"{folder}: training images are (C, H, W) = {tuple(train.pixels.shape[1:])} but test images "
            f"{tuple(test.pixels.shape[1:])}; they must be alike"
        )
    classes = _classes(folder, train, test)
    return Images(train.pixels, train.labels, classes), Images(test.pixels, test.labels, classes)


def _classes(folder: Path, train: Images, test: Images) -> int:
    """Number of classes: what the files name, else what the training labels use."""
    named = max(train.classes, test.classes)
    classes = named or int(train.labels.max()) + 1
    for split, images in (("training", train), ("test", test)):
        if (label := int(images.labels.max())) >= classes:
            raise EvopruneError(
                f"{folder}: a {split} label is {label}; expected 0 to {classes - 1} for {classes} classes"
            )
    present = set(train.labels.tolist())
    if not named and len(present) < classes:
        unused = next(label for label in range(classes) if label not in present)
        raise EvopruneError(
            f"{folder}: no training image is of class {unused} but one is of class {classes - 1}; "
            f"number the {len(present)} classes 0 to {len(present) - 1}"
        )
    return classes


def split_files(folder: Path, split: str) -> list[Path]:
    """The shards of a split, in order: in `folder`, its `data/`, or else its only subfolder that has some.

    Raises:
        EvopruneError: a shard is missing, or several subfolders have some.
    """
    subfolders = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    found = [sorted(place.glob(f"{split}[-.]*parquet")) for place in (folder, folder / "data", *subfolders)]
    if not found[0] and not found[1] and sum(map(bool, found)) > 1:
        names = ", ".join(files[0].parent.name for files in found if files)
        raise EvopruneError(f"{folder} holds several data sets ({names}); pass one of these folders")
    files = next(filter(None, found), [])
    if files and (shards := re.search(r"-of-(\d+)\.parquet$", files[0].name)) and len(files) != int(shards[1]):
        raise EvopruneError(
            f"{files[0].parent} has {len(files)} {split} files but their names say {int(shards[1])}; is one missing?"
        )
    return files


def _read_split(files: list[Path]) -> Images:
    cached = decoded.load(files)
    if cached is None:
        cached = _decode_split(files)
        decoded.save(files, cached)
    return cached


def _decode_split(files: list[Path]) -> Images:
    """Read and decode; `classes` is 0 where the file does not name them."""
    try:
        from pyarrow import ArrowException, concat_tables, parquet  # noqa: PLC0415 (optional)
    except ImportError as error:
        raise EvopruneError(INSTALL) from error
    where = files[0]
    try:
        schema = parquet.read_schema(where)
        image, label = _image_column(where, schema), _label_column(where, schema)
        table = concat_tables([parquet.read_table(file, columns=[image, label]) for file in files])
    except (ArrowException, OSError) as error:
        raise EvopruneError(f"{where} or a file beside it is not a readable parquet split: {said(error)}") from error
    if len(files) > 1:  # rows are counted over all of them
        where = where.with_name(re.split(r"[-.]", where.name)[0] + "-*.parquet")
    if not table.num_rows:
        raise EvopruneError(f"{where} holds no images; its split is empty")
    if table[label].null_count:
        raise EvopruneError(f"{where}: {table[label].null_count} labels in column {label} are null; remove these rows")
    labels = torch.from_numpy(table[label].to_numpy().astype(np.int64))
    if int(labels.min()) < 0:
        raise EvopruneError(f"{where}: column {label} holds label {int(labels.min())}; labels must be 0 or more")
    pixels = _decode(where, (row and row["bytes"] for row in table[image].to_pylist()))
    return Images(pixels, labels, _class_count(schema, label))


def _image_column(file: Path, schema: Any) -> str:
    from pyarrow import types  # noqa: PLC0415 (optional)

    columns = [
        field.name for field in schema if types.is_struct(field.type) and field.type.get_field_index("bytes") >= 0
    ]
    return _only(file, columns, schema, "image column (a struct with `bytes`)")


def _label_column(file: Path, schema: Any) -> str:
    from pyarrow import types  # noqa: PLC0415 (optional)

    columns = [field.name for field in schema if types.is_integer(field.type)]
    return "label" if "label" in columns else _only(file, columns, schema, "label column (of integers)")


def _only(file: Path, columns: list[str], schema: Any, wanted: str) -> str:
    if len(columns) != 1:
        found = f"several: {', '.join(columns)}" if columns else f"none among {', '.join(schema.names)}"
        raise EvopruneError(f"{file} must have one {wanted} but has {found}")
    return columns[0]


def _class_count(schema: Any, label: str) -> int:
    """Number of class names that the Hugging Face metadata gives `label`, or 0."""
    try:
        features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
        return len(features[label]["names"])
    except (ValueError, KeyError, TypeError):
        return 0


def _decode(file: Path, encoded: Iterable[bytes | None]) -> Tensor:
    """Image files to (N, C, H, W) uint8; C is 3 as soon as one image has colours."""
    try:
        from PIL import Image  # noqa: PLC0415 (optional)
    except ImportError as error:
        raise EvopruneError(INSTALL) from error
    images: list[np.ndarray[Any, np.dtype[np.uint8]]] = []
    for row, content in enumerate(encoded):
        try:
            with Image.open(io.BytesIO(content or b"")) as image:
                mode = image.mode
                array = np.asarray(image.convert("L" if mode in ("1", "L", "LA") else "RGB"))
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise EvopruneError(
                f"{file}: image {row} cannot be decoded; expected a PNG or JPEG file of 8 bits a channel"
            ) from error
        if mode.startswith(("I", "F")):
            raise EvopruneError(f"{file}: image {row} has pixels of mode {mode}; only 8 bits a channel are supported")
        if images and array.shape[:2] != images[0].shape[:2]:
            raise EvopruneError(
                f"{file}: image {row} is {array.shape[0]}x{array.shape[1]} pixels but image 0 is "
                f"{images[0].shape[0]}x{images[0].shape[1]}; all must be of one size"
            )
        images.append(array)
    if any(array.ndim == 3 for array in images):
        images = [array if array.ndim == 3 else np.repeat(array[:, :, None], 3, axis=2) for array in images]
    stacked = torch.from_numpy(np.stack(images))
    return stacked[:, None] if stacked.dim() == 3 else stacked.permute(0, 3, 1, 2).contiguous()
