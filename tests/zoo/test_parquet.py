"""Folders of parquet splits: what is read, and what is said when it cannot be."""

import io
import json
import os
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from pyarrow import parquet

from evoprune.core import EvopruneError
from evoprune.zoo import load_data
from evoprune.zoo.parquet import read_folder

from .conftest import WriteSplit, images, pixels_of, png


def test_gray_images_are_read_exactly_and_in_order(folder: Path, write: WriteSplit) -> None:
    write("train-00000-of-00002", labels=[0, 1, 2])
    write("train-00001-of-00002", labels=[1, 0], start=3)
    write("test-00000-of-00001", labels=[2], start=9)
    train, test = read_folder(folder)
    assert train.pixels.dtype == torch.uint8
    assert torch.equal(train.pixels, torch.from_numpy(np.stack([pixels_of(row) for row in range(5)]))[:, None])
    assert torch.equal(test.pixels[0, 0], torch.from_numpy(pixels_of(9)))
    assert train.labels.tolist() == [0, 1, 2, 1, 0]
    assert train.labels.dtype == torch.int64
    assert train.classes == test.classes == 3


def test_an_image_is_counted_over_all_files_of_its_split(folder: Path, write: WriteSplit) -> None:
    write("train-00000-of-00002", labels=[0, 1, 2])
    write("train-00001-of-00002", labels=[1, 0], image=images(png(pixels_of(0)), b"no image"))
    write("test", labels=[2])
    with pytest.raises(EvopruneError, match=re.escape(f"{folder}/train-*.parquet: image 4 cannot be decoded")):
        read_folder(folder)


@pytest.mark.parametrize("mode", ["1", "LA"])
def test_images_without_colours_have_one_channel(mode: str, folder: Path, write: WriteSplit) -> None:
    buffer = io.BytesIO()
    Image.new(mode, (8, 8), 255 if mode == "1" else (255, 9)).save(buffer, "PNG")
    for split in ("train", "test"):
        write(split, labels=[0], image=images(buffer.getvalue()))
    assert torch.equal(read_folder(folder)[0].pixels, torch.full((1, 1, 8, 8), 255, dtype=torch.uint8))


def test_colour_images_have_three_channels_in_the_order_red_green_blue(folder: Path, write: WriteSplit) -> None:
    colour, gray = pixels_of(0, channels=3), pixels_of(1)
    write("train", labels=[0, 1], image=None, img=images(png(gray), png(colour)))
    write("test", labels=[0], image=None, img=images(png(colour)))
    train, _ = read_folder(folder)
    assert train.pixels.shape == (2, 3, 8, 8)
    assert torch.equal(train.pixels[1], torch.from_numpy(colour).permute(2, 0, 1))
    assert torch.equal(train.pixels[0], torch.from_numpy(gray).expand(3, 8, 8))


@pytest.mark.parametrize("place", ["data/", "plain_text/"])
def test_splits_are_found_in_a_subfolder(place: str, folder: Path, write: WriteSplit) -> None:
    write(f"{place}train-00000-of-00001")
    write(f"{place}test-00000-of-00001", labels=[1])
    assert len(read_folder(folder)[0].labels) == 16


def test_named_classes_count_even_when_unused(folder: Path) -> None:
    features = {"image": {"_type": "Image"}, "label": {"names": ["a", "b", "c"], "_type": "ClassLabel"}}
    table = pa.table({"image": images(png(pixels_of(0))), "label": pa.array([1])})
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    for split in ("train", "test"):
        parquet.write_table(table, folder / f"{split}.parquet")
    assert read_folder(folder)[0].classes == 3


def test_the_second_reading_comes_from_the_cache(
    folder: Path, write: WriteSplit, data_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("train")
    write("test")
    first, _ = read_folder(folder)
    assert len(list((data_folder / "decoded").iterdir())) == 2
    with monkeypatch.context() as patch:
        patch.setattr("evoprune.zoo.parquet._decode", lambda *_: pytest.fail("decoded again"))
        again, _ = read_folder(folder)
    assert torch.equal(first.pixels, again.pixels)
    assert torch.equal(first.labels, again.labels)
    # A changed file is another file, a damaged cache is no cache.
    changed = write("train", labels=[1, 0] * 8)
    os.utime(changed, ns=(1, 1))
    assert read_folder(folder)[0].labels.tolist() == [1, 0] * 8
    for file in (data_folder / "decoded").iterdir():
        file.write_bytes(b"damaged")
    assert torch.equal(read_folder(folder)[0].pixels, first.pixels)


def test_a_cache_that_cannot_be_written_is_no_error(
    folder: Path, write: WriteSplit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVOPRUNE_DATA", str(write("train")))  # a file, not a folder
    write("test")
    assert len(read_folder(folder)[0].labels) == 16


def gray(*rows: int) -> pa.Array:
    return images(*(png(pixels_of(row)) for row in rows))


BAD_TRAINING = {
    "1 labels in column label are null": {"labels": [0, None, 1]},
    "holds label -1": {"labels": [0, -1]},
    "no training image is of class 1 but one is of class 2; number the 2 classes 0 to 1": {"labels": [0, 2]},
    "is of class 1 but one is of class 1099511627776; number the 2 classes 0 to 1": {"labels": [0, 2**40]},
    "holds no images": {"labels": []},
    "one label column .* none among image, label": {"label": pa.array(["cat", "dog"] * 8)},
    "one label column .* none among image, label$": {"label": pa.array([0.5] * 16)},
    "one label column .* several: fine, coarse": {
        "label": None, "fine": pa.array([0] * 16), "coarse": pa.array([0] * 16)
    },
    "one image column .* none among label": {"image": None},
    "one image column .* several: image, mask": {"mask": gray(*range(16))},
    "image 1 cannot be decoded": {"labels": [0, 1], "image": images(png(pixels_of(0)), b"no image")},
    "image 1 cannot be decoded; expected": {"labels": [0, 1], "image": images(png(pixels_of(0)), None)},
    "image 1 is 4x4 pixels but image 0 is 8x8": {
        "labels": [0, 1], "image": images(png(pixels_of(0)), png(pixels_of(1, size=4)))
    },
    "only 8 bits a channel|of 8 bits a channel": {
        "labels": [0, 1], "image": images(*[png(pixels_of(0).astype(np.uint16) * 256)] * 2)
    },
}  # fmt: skip


@pytest.mark.parametrize("message", BAD_TRAINING)
def test_bad_training_splits(message: str, folder: Path, write: WriteSplit) -> None:
    write("train-00000-of-00001", **BAD_TRAINING[message])
    write("test-00000-of-00001", labels=[0])
    with pytest.raises(EvopruneError, match=message) as caught:
        load_data(str(folder))
    assert "\n" not in str(caught.value)
    assert "train-00000" in str(caught.value) or str(folder) in str(caught.value)


def test_bad_folders(folder: Path, write: WriteSplit, tmp_path: Path) -> None:
    with pytest.raises(EvopruneError, match=r"no train\*.parquet"):
        load_data(str(folder))
    write("train-00000-of-00002")
    with pytest.raises(EvopruneError, match="1 train files but their names say 2"):
        load_data(str(folder))
    write("train-00001-of-00002", start=16)
    with pytest.raises(EvopruneError, match=r"no test\*.parquet"):
        load_data(str(folder))
    write("test", labels=[2])
    with pytest.raises(EvopruneError, match="a test label is 2; expected 0 to 1"):
        load_data(str(folder))
    write("test", labels=[1], image=images(png(pixels_of(0, size=4))))
    with pytest.raises(EvopruneError, match=r"training images are .* \(1, 8, 8\) but test images \(1, 4, 4\)"):
        load_data(str(folder))
    (folder / "test.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(EvopruneError, match="not a readable parquet split"):
        load_data(str(folder))
    for name in ("a", "b"):
        write(f"../both/{name}/train")
    with pytest.raises(EvopruneError, match=r"several data sets \(a, b\); pass one"):
        load_data(str(tmp_path / "both"))


def test_of_several_columns_of_integers_the_one_called_label_counts(folder: Path, write: WriteSplit) -> None:
    write("train", coarse=pa.array([1] * 16))
    write("test", coarse=pa.array([1] * 16))
    assert read_folder(folder)[0].labels.tolist() == [0, 1] * 8
