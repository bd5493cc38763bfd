"""Masks on a model and on disk."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from evoprune.core import EvopruneError, Layer, Masks, weight_of
from evoprune.storage import read_tensors

__all__ = ["apply_masks", "load_masks", "set_weights"]


@torch.no_grad()
def apply_masks(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Set every weight whose mask is False to zero, in place (a true +0.0, also where the weight is NaN)."""
    for name, mask in masks.items():
        weight = weight_of(model, name)
        weight.masked_fill_(~mask.to(weight.device), 0.0)


@torch.no_grad()
def set_weights(model: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Copy `values` into the weights of the layers that they name."""
    for name, value in values.items():
        weight_of(model, name).copy_(value)


def load_masks(path: Path, layers: list[Layer], remedy: str = "put the masks back from a copy") -> Masks:
    """Read masks, one bool tensor a layer under its name, and check them against the layers of a model.

    Raises:
        EvopruneError: the file cannot be read, or a mask does not fit its layer.
    """
    masks, _ = read_tensors(path, remedy)
    shapes = {layer.name: layer.shape for layer in layers}
    for name, mask in masks.items():
        if tuple(mask.shape) != shapes.get(name):
            raise EvopruneError(
                f"{path}: the mask {name!r} has shape {tuple(mask.shape)} but the model's layer has"
                f" {shapes.get(name, 'no such name')}; is this another model's run?"
            )
    return {name: mask.bool() for name, mask in masks.items()}
