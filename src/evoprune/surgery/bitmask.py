"""A pruned model in one small file: a bit for every weight that may be pruned, and the values of those that stay."""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import prod
from pathlib import Path

import torch
from torch import Tensor, nn

from evoprune.core import EvopruneError, Masks, prefix_of
from evoprune.spaces.packing import pack_bits, unpack_bits
from evoprune.storage import check_state, read_tensors, save_tensors

__all__ = ["halved", "read_bitmask", "save_bitmask"]

SHAPES = "bitmask-shapes"
"""Key of the metadata that tells such a file: weight name -> shape, as JSON."""


def halved(tensor: Tensor) -> Tensor:
    """Matrices and kernels in float16; vectors, whose size does not matter and whose range may, as they are."""
    return tensor.half() if tensor.is_floating_point() and tensor.dim() >= 2 else tensor


def _weight(layer: str) -> str:
    """The state dict's key of a layer's weight; a model that is one layer has no name for it."""
    return f"{layer}.weight" if layer else "weight"


def save_bitmask(
    model: nn.Module, masks: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None
) -> None:
    """Write a pruned model as safetensors, in half precision.

    A masked weight becomes `<name>.weight.bits`, uint8, eight weights a byte in row-major order, the first in the
    highest bit, and `<name>.weight.values`, float16, the weights that stay in the same order. All else is a state dict.

    Args:
        model: its weights.
        masks: layer name -> bool tensor of the weight's shape, True where the weight stays.
        path: the file.
        metadata: more entries for the file's metadata.
    """
    check_state(model)
    tensors, shapes, prefix = {}, {}, prefix_of(model)
    named = {_weight(layer): mask for layer, mask in masks.items()}
    for key, tensor in model.state_dict().items():
        name = key.removeprefix(prefix)
        if (mask := named.get(name)) is None:
            tensors[name] = halved(tensor)
            continue
        tensors[f"{name}.bits"] = pack_bits(mask.flatten())
        tensors[f"{name}.values"] = halved(tensor)[mask.to(tensor.device)]
        shapes[name] = list(mask.shape)
    save_tensors(tensors, path, {SHAPES: json.dumps(shapes, sort_keys=True), **(metadata or {})})


def read_bitmask(path: Path) -> tuple[dict[str, Tensor], Masks, dict[str, str]]:
    """What `save_bitmask` wrote: a state dict with zeros in place, the masks, and the metadata.

    Raises:
        EvopruneError: it cannot be read, or was not written so.
    """
    tensors, metadata = read_tensors(path)
    masks: Masks = {}
    try:
        for name, shape in json.loads(metadata.pop(SHAPES)).items():
            mask = unpack_bits(tensors.pop(f"{name}.bits"), prod(shape)).view(shape)
            values = tensors.pop(f"{name}.values")
            weight = torch.zeros(shape, dtype=values.dtype)
            weight[mask] = values
            tensors[name], masks[name.removesuffix("weight").removesuffix(".")] = weight, mask
    except (KeyError, ValueError, RuntimeError, AttributeError, IndexError) as error:
        raise EvopruneError(f"{path} is no bitmask file of a pruned model ({error}); is it complete?") from error
    return tensors, masks, metadata
