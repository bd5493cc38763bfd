"""Networks that are shipped with their weights, by name: dense ones and pruned ones."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from evoprune.core import EvopruneError, Masks, did_you_mean
from evoprune.surgery.bitmask import read_bitmask
from evoprune.zoo.checkpoint import load_checkpoint, load_tensors
from evoprune.zoo.models import BUILT_IN, default_checkpoint, load_model

__all__ = ["NETWORKS", "load_network", "load_trained"]

FOLDER = Path(__file__).parent / "networks"
NETWORKS = {
    "lenet5-caffe-320x": "lenet5-caffe",
    "resnet18-79": "resnet18",
    "resnet18-90": "resnet18",
    "resnet18-95": "resnet18",
    "resnet18-99": "resnet18",
}
"""Name -> the built-in model that was pruned; how, says zoo/networks/README.md."""


def load_trained(name: str) -> nn.Module:
    """A built-in model with its shipped weights, in eval mode.

    Raises:
        EvopruneError: no built-in model has this name, or none of its weights are shipped.
    """
    checkpoint = default_checkpoint(name)
    if checkpoint is None:
        shipped = ", ".join(name for name, model in BUILT_IN.items() if model.checkpoint is not None)
        raise EvopruneError(f"{name!r} has no shipped weights; those that have: {shipped}")
    model = load_model(name)
    load_checkpoint(model, checkpoint)
    return model.eval()


def load_network(name: str) -> tuple[nn.Module, Masks, dict[str, str]]:
    """A shipped pruned network: the model in eval mode, its masks, and what its file says about itself.

    Raises:
        EvopruneError: no network has this name.
    """
    if name not in NETWORKS:
        hint = did_you_mean(name, NETWORKS)
        raise EvopruneError(f"{name!r} is no run folder and no shipped network ({', '.join(NETWORKS)}){hint}")
    path = FOLDER / f"{name}.safetensors"
    tensors, masks, metadata = read_bitmask(path)
    model = load_model(NETWORKS[name])
    load_tensors(model, tensors, path)
    return model.eval(), masks, metadata
