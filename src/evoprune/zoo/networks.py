"""Pruned networks that are shipped, by name."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from torch import nn

from evoprune.core import EvopruneError, Masks
from evoprune.surgery.bitmask import read_bitmask
from evoprune.zoo.checkpoint import load_tensors
from evoprune.zoo.models import load_model

__all__ = ["NETWORKS", "Network", "load_network"]


@dataclass(frozen=True)
class Network:
    """A shipped network: zoo/networks/NAME.safetensors.

    Attributes:
        model: name of the built-in model that was pruned.
        how: the command that pruned it.
    """

    model: str
    how: str


FOLDER = Path(__file__).parent / "networks"
NETWORKS: dict[str, Network] = {
    "lenet5-caffe-320x": Network(
        "lenet5-caffe",
        "evoprune prune lenet5-caffe --data mnist --guidance gradient --sparsity 0.996871 --finetune-epochs 2"
        " --final-epochs 40 --shift 1",
    ),
}


def load_network(name: str) -> tuple[nn.Module, Masks, dict[str, str]]:
    """A shipped pruned network: the model, its masks, and what its file says about itself.

    Raises:
        EvopruneError: no network has this name.
    """
    if name not in NETWORKS:
        near = get_close_matches(name, NETWORKS, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise EvopruneError(f"{name!r} is no run folder and no shipped network ({', '.join(NETWORKS)}){hint}")
    path = FOLDER / f"{name}.safetensors"
    tensors, masks, metadata = read_bitmask(path)
    model = load_model(NETWORKS[name].model)
    load_tensors(model, tensors, path)
    return model, masks, metadata
