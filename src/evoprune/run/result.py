"""What a run gives back."""

from __future__ import annotations

import copy
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from math import inf
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from evoprune.core import EvopruneError, Layer, Masks, sparsity_of
from evoprune.run.folder import Folder
from evoprune.run.schedule import Outcome
from evoprune.run.state import FrontPoint, Kept
from evoprune.storage import as_safetensors, read_tensors, save_tensors, write_json
from evoprune.surgery import load_masks

__all__ = [
    "Result", "describe_layers", "file_bytes", "front_folder", "model_metadata", "non_dominated",
    "read_points", "versions",
]  # fmt: skip

P = TypeVar("P", Outcome, FrontPoint)
FRONT = "front"
"""The folder inside a run's that holds the points of its front."""


@dataclass
class Result:
    """A pruned model.

    Attributes:
        model: the pruned model, zeros in place.
        masks: layer name -> bool tensor of the weight's shape, True where the weight stays.
        sparsity: share of zeros among the weights of the layers that may be pruned.
        score: validation score after the last epoch.
        summary: the content of result.json.
        path: the run folder, or None.
        points: the models of `front`, of a run with `front=True`.
    """

    model: nn.Module
    masks: Masks = field(repr=False)
    sparsity: float
    score: float
    summary: dict[str, Any] = field(repr=False)
    path: Path | None = None
    points: list[FrontPoint] = field(default_factory=list, repr=False)

    @property
    def front(self) -> list[dict[str, float]]:
        """The stages that no other stage beats in both, as {"sparsity", "score"}, by sparsity.

        Those of a run with `front=True` can be loaded, see `point`.
        """
        return [{name: point[name] for name in ("sparsity", "score")} for point in self.summary.get("front", [])]

    def point(self, index: int) -> tuple[nn.Module, Masks]:
        """The model and the masks of `front[index]`; a copy, in the mode and on the device of `model`.

        Raises:
            EvopruneError: the run kept no models of its front.
        """
        if not self.points:
            raise EvopruneError("this run kept no models of its front; run it with --front (front=True)")
        model, kept = copy.deepcopy(self.model), self.points[index].kept
        model.load_state_dict(kept.model)
        return model, kept.masks

    def save(self, directory: str | Path) -> Path:
        """Write the front, masks.safetensors, model.safetensors, and last result.json into a folder.

        The folder is made if need be, and must not hold another run; each point of the front is in
        front/000, front/001, ..., by rising sparsity.
        """
        folder = Path(directory)
        own = self.path is not None and folder.resolve() == self.path.resolve()
        if not own and Folder(folder).has_settings():
            raise EvopruneError(f"{folder} holds another run, which would be lost; choose another folder")
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise EvopruneError(f"cannot make the folder {folder}: {error.strerror or error}") from error
        for index, point in enumerate(self.points):
            save_tensors(point.kept.masks, folder / front_folder(index) / "masks.safetensors")
            save_tensors(point.kept.model, folder / front_folder(index) / "model.safetensors")
        self.save_model(folder)
        return folder

    def save_model(self, folder: Path) -> None:
        """What `save` writes, without the front."""
        save_tensors(self.masks, folder / "masks.safetensors")
        save_tensors(self.model.state_dict(), folder / "model.safetensors", model_metadata(self.summary["model"]))
        write_json(folder / "result.json", self.summary)


def read_points(folder: Path, summary: Mapping[str, Any], layers: list[Layer]) -> list[FrontPoint]:
    """What `Result.save` wrote, for the `front` of a result.json; nothing where the folder `front` was deleted."""
    points = []
    for point in summary.get("front", []) if (folder / FRONT).exists() else []:
        if "folder" in point:
            masks = load_masks(folder / point["folder"] / "masks.safetensors", layers)
            weights, _ = read_tensors(folder / point["folder"] / "model.safetensors")
            points.append(FrontPoint(point["sparsity"], point["score"], Kept(weights, masks, {}, {})))
    return points


def front_folder(index: int) -> str:
    """Where a point of the front lies in the run folder."""
    return f"{FRONT}/{index:03}"


def describe_layers(layers: Sequence[Layer], masks: Mapping[str, Tensor]) -> list[dict[str, Any]]:
    """The `layers` entry of result.json."""
    rows = []
    for layer in layers:
        kept = int(masks[layer.name].sum()) if layer.name in masks else layer.size
        rows.append(
            {
                "name": layer.name,
                "kind": layer.kind,
                "weights": layer.size,
                "kept": kept,
                "sparsity": sparsity_of(masks, [layer]),
            }
        )
    return rows


def file_bytes(model: nn.Module, name: str) -> int:
    """Size of model.safetensors with these weights, where the run's model has this name."""
    return len(as_safetensors(model.state_dict(), model_metadata(name)))


def model_metadata(name: str) -> dict[str, str]:
    """What model.safetensors says of itself; `name` is the model's in the settings."""
    return {"model": name}


def non_dominated(points: Sequence[P], score: Callable[[P], float]) -> list[P]:
    """The points that no other one beats or equals in both sparsity and score, by rising sparsity.

    One that scores minus infinity is no use at any sparsity.
    """
    best: list[P] = []
    for point in sorted(points, key=lambda p: (-p.sparsity, -score(p))):
        if score(point) > (score(best[-1]) if best else -inf):
            best.append(point)
    return best[::-1]


def versions() -> dict[str, str]:
    """What the result was made with."""
    return {"evoprune": version("evoprune"), "torch": torch.__version__, "python": platform.python_version()}
