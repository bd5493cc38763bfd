"""Data sets that have a name on the Hugging Face hub, kept in a folder once downloaded."""

from __future__ import annotations

from pathlib import Path

from evoprune.core import EvopruneError
from evoprune.zoo.parquet import split_files
from evoprune.zoo.places import cache_folder

__all__ = ["REPOSITORIES", "fetch"]

REPOSITORIES = {"mnist": "ylecun/mnist", "cifar10": "uoft-cs/cifar10"}


def fetch(name: str) -> Path:
    """The local folder of a named data set, downloaded if it is not there yet.

    Raises:
        EvopruneError: it is not there and cannot be downloaded.
    """
    folder = cache_folder() / name
    if folder.is_dir() and split_files(folder, "train") and split_files(folder, "test"):
        return folder
    instead = "pass a folder of parquet splits instead (--data DIR)"
    if name == "mnist":
        instead += ", or --data mnist-sample with a model trained on it"
    try:
        from huggingface_hub import snapshot_download  # noqa: PLC0415 (optional)
    except ImportError as error:
        raise EvopruneError(
            f"downloading data {name} needs huggingface_hub (pip install -e '.[data]' in evoprune's folder);"
            f" or {instead}"
        ) from error
    try:
        snapshot_download(REPOSITORIES[name], repo_type="dataset", allow_patterns="*.parquet", local_dir=folder)
    except Exception as error:  # the hub's client raises its own, its HTTP library's and the system's errors
        raise EvopruneError(
            f"data {name} is not in {folder} and cannot be downloaded ({type(error).__name__}); {instead}"
        ) from error
    return folder
