"""Files that are whole or not there."""

from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from evoprune.core import EvopruneError
from evoprune.storage import finite, read_tensors, save_tensors, write_atomic, write_json


def test_tensors_come_back_with_their_metadata(tmp_path: Path) -> None:
    tensors = {"a": torch.arange(6).view(2, 3), "b": torch.tensor([True, False]), "none": torch.zeros(0, 3)}
    save_tensors(tensors, tmp_path / "x.safetensors", {"model": "lenet5"})
    found, metadata = read_tensors(tmp_path / "x.safetensors")
    assert metadata == {"model": "lenet5"}
    assert found.keys() == tensors.keys()
    assert all(
        torch.equal(found[name], tensor) and found[name].dtype == tensor.dtype for name, tensor in tensors.items()
    )


def test_shared_strided_and_trained_tensors_are_written_in_full(tmp_path: Path) -> None:
    base = torch.arange(12.0).view(3, 4)
    tensors = {
        "base": base,
        "same": base,
        "part": base[:, ::2],
        "turned": base.t(),
        "trained": torch.nn.Parameter(base),
    }
    tensors["last"] = torch.zeros(1, 2, 4, 4).to(memory_format=torch.channels_last)
    save_tensors(tensors, tmp_path / "x.safetensors")
    assert all(torch.equal(found, tensors[name]) for name, found in load_file(tmp_path / "x.safetensors").items())


def test_equal_content_gives_equal_bytes_that_any_reader_takes(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a", "b")]
    metadata = {str(number): "x" * number for number in range(20)}
    for path, order in zip(paths, (1, -1), strict=True):
        save_tensors({"w": torch.ones(3), "v": torch.zeros(5, 1)}, path, dict(list(metadata.items())[::order]))
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert load_file(paths[0])["w"].tolist() == [1, 1, 1]


@pytest.mark.parametrize("content", [b"", b"not tensors", b"\xff" * 100, None])
def test_a_damaged_or_missing_file_is_one_line(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "x.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(EvopruneError, match="not a readable safetensors file") as error:
        read_tensors(path)
    assert "\n" not in str(error.value)


def test_a_cut_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_tensors({"w": torch.ones(1000)}, path)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(EvopruneError):
        read_tensors(path)


@pytest.mark.parametrize(
    ("problem", "seen"),
    [(OSError(errno.ENOSPC, "No space left on device"), EvopruneError), (KeyboardInterrupt(), KeyboardInterrupt)],
    ids=["full", "interrupted"],
)
def test_a_write_that_fails_leaves_the_old_file_and_nothing_beside(
    problem: BaseException, seen: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "result.json"
    write_json(path, {"a": 1})

    def fails(*_: object) -> None:
        raise problem

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(seen, match=r"No space left on device|^$"):
        write_json(path, {"a": 2})
    assert json.loads(path.read_text()) == {"a": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["result.json"]


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EvopruneError, match="cannot write") as error:
        write_atomic(tmp_path / "file" / "inside.json", b"")
    assert "\n" not in str(error.value)


def test_folders_on_the_way_are_made(tmp_path: Path) -> None:
    write_atomic(tmp_path / "a" / "b" / "c", b"x")
    assert (tmp_path / "a" / "b" / "c").read_bytes() == b"x"


def test_numbers_that_json_cannot_say_become_null(tmp_path: Path) -> None:
    content = {"a": [float("nan"), float("inf"), 1.5, 2], "b": (-float("inf"), "text", None, True)}
    assert finite(content) == {"a": [None, None, 1.5, 2], "b": [None, "text", None, True]}
    write_json(tmp_path / "x.json", content)
    assert json.loads((tmp_path / "x.json").read_text())["a"] == [None, None, 1.5, 2]


def test_the_file_and_the_folder_that_names_it_reach_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced, fsync = [], os.fsync

    def watched(descriptor: int) -> None:
        synced.append((stat.S_ISDIR(os.fstat(descriptor).st_mode), sorted(path.name for path in tmp_path.iterdir())))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", watched)
    write_atomic(tmp_path / "x", b"content")
    assert synced == [(False, [f".x.{os.getpid()}.tmp"]), (True, ["x"])]
