"""What several rooms' tests share: real digits on disk, and the command line in this process."""

import io
import os
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import hypothesis
import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from pyarrow import parquet

from evoprune.cli import main
from evoprune.zoo import mnist_sample

hypothesis.settings.register_profile("evoprune", deadline=None)  # machines are shared: no test has a time limit
hypothesis.settings.load_profile("evoprune")
for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "PY_COLORS", "COLUMNS", "LINES", "PYTHONWARNINGS", "PYTHONDEVMODE"):
    os.environ.pop(name, None)  # they change what is printed
# DataParallel would put models on a GPU where there is one, and the tests' data is on the CPU.
sys.modules["torch.nn.parallel.data_parallel"]._get_available_device_type = lambda: None
torch.set_num_threads(1)  # operations of a few microseconds only wait for each other on more


@dataclass(frozen=True)
class Ran:
    """What a command left behind."""

    code: int
    out: str
    err: str

    def failed(self, *words: str) -> bool:
        """Exit code 2, nothing on stdout, one line on stderr with these words."""
        assert self.code == 2, self.out + self.err
        assert self.out == ""
        assert self.err.count("\n") == 1, self.err
        assert self.err.startswith("evoprune: ")
        assert all(word in self.err for word in words), self.err
        return True


Command = Callable[..., Ran]


def run_command(*arguments: object) -> Ran:
    """`evoprune ARGUMENTS...`, in this process."""
    before, sys.argv = sys.argv, ["evoprune", *map(str, arguments)]
    out, err, code = io.StringIO(), io.StringIO(), 0
    try:
        with redirect_stdout(out), redirect_stderr(err):
            main()
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    finally:
        sys.argv = before
    return Ran(code, out.getvalue(), err.getvalue())


@pytest.fixture(scope="session")
def evoprune() -> Command:
    return run_command


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A parquet folder of real digits: 160 to train on (20 of them become validation), 40 to test."""
    images, folder = mnist_sample.read(), tmp_path_factory.mktemp("data") / "digits"
    folder.mkdir()
    for split, first, each in (("train", 0, 16), ("test", 16, 4)):
        rows, labels = [], []
        for label in range(10):
            for pixels in images.pixels[images.labels == label][first : first + each, 0]:
                rows.append(pixels.numpy())
                labels.append(label)
        write_split(folder, split, rows, labels)
    return folder


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A parquet folder like CIFAR-10, of 3x8x8 pixels: 24 dark and bright images to train on, 3 of them become
    validation, and 8 to test."""
    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp("data") / "photos"
    folder.mkdir()
    for split, count in (("train", 24), ("test", 8)):
        labels = [index % 2 for index in range(count)]
        pixels = [rng.integers(160 * label, 160 * label + 90, (8, 8, 3), dtype=np.uint8) for label in labels]
        write_split(folder, split, pixels, labels)
    return folder


def write_split(folder: Path, split: str, images: list[np.ndarray], labels: list[int]) -> None:
    rows = []
    for pixels in images:
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        rows.append({"bytes": buffer.getvalue(), "path": None})
    table = pa.table({"image": rows, "label": pa.array(labels, pa.int64())})
    parquet.write_table(table, folder / f"{split}-00000-of-00001.parquet")


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the user's data cache."""
    monkeypatch.setenv("EVOPRUNE_DATA", str(tmp_path_factory.getbasetemp() / "cache"))
