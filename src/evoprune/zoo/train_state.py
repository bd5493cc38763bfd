"""An unfinished training on disk, so that it can be continued."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn, optim

from evoprune.core import EvopruneError
from evoprune.scoring import device_of
from evoprune.storage import digest_of, read_tensors, save_tensors, shapes_of, under
from evoprune.training import Recipe, optimizer_from_tensors, optimizer_to_tensors
from evoprune.zoo.data import Data

__all__ = ["EpochResult", "load_state", "save_state", "settings_of"]

EpochResult = dict[str, float]
"""What one epoch gave: epoch, train_loss, val_accuracy, seconds."""


def settings_of(model: nn.Module, data: Data, recipe: Recipe, seed: int) -> dict[str, Any]:
    """All that a training's result depends on; only the same is continued.

    That is the recipe, the seed, the kind of device, and digests of the training data and of the weights that training
    starts from.
    """
    state = model.state_dict()
    return {
        "recipe": asdict(recipe),
        "seed": seed,
        "data": digest_of([data.train.inputs, data.train.targets]),
        "start": [shapes_of(state), digest_of(state.values())],
        "device": device_of(model).type,
    }


def save_state(
    part: Path, model: nn.Module, optimizer: optim.Optimizer, settings: dict[str, Any], history: list[EpochResult]
) -> None:
    """Write all that the next epoch needs, atomically."""
    tensors = {f"model/{name}": tensor for name, tensor in model.state_dict().items()}
    tensors |= {f"optimizer/{name}": value for name, value in optimizer_to_tensors(optimizer).items()}
    metadata = {"settings": json.dumps(settings), "history": json.dumps(history), "shapes": shapes_of(tensors)}
    save_tensors(tensors, part, metadata)


def load_state(part: Path, model: nn.Module, optimizer: optim.Optimizer, settings: dict[str, Any]) -> list[EpochResult]:
    """Put `model` and `optimizer` where `part` left off and return the epochs done.

    Raises:
        EvopruneError: the file is damaged or holds a training of other settings.
    """
    try:
        tensors, metadata = read_tensors(part)
        found, history = json.loads(metadata["settings"]), json.loads(metadata["history"])
        whole = metadata["shapes"] == shapes_of(tensors)
    except (EvopruneError, KeyError, ValueError) as error:
        raise EvopruneError(f"{part} is damaged; delete it to train from the start") from error
    if not whole:
        raise EvopruneError(f"{part} lacks tensors or holds others; delete it to train from the start")
    if found != settings:
        differing = ", ".join(key for key in settings if found.get(key) != settings[key])
        raise EvopruneError(
            f"{part} holds an unfinished training of other settings ({differing}); delete it to train from the start"
        )
    model.load_state_dict(under(tensors, "model/"))
    optimizer_from_tensors(optimizer, under(tensors, "optimizer/"))
    loaded: list[EpochResult] = history
    return loaded
