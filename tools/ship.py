"""Make the files that are shipped with evoprune: trained weights, and pruned networks, both in half precision.

python tools/ship.py weights resnet18 trained.safetensors --data cifar10
python tools/ship.py network runs/resnet18 resnet18-95 resnet18 --data cifar10 [--called "cifar10, from JPEG"]

What the files say of their accuracy is measured on the rounded weights.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from evoprune import zoo
from evoprune.core import prunable_layers, sparsity_of
from evoprune.run.result import describe_layers
from evoprune.surgery import apply_masks, load_masks
from evoprune.surgery.bitmask import halved, save_bitmask
from evoprune.zoo.parts import INDEX, save_parts

PART_BYTES = 15_000_000


def measured(model: nn.Module, data: zoo.Data) -> dict[str, str]:
    """Accuracies as a file's metadata."""
    model.eval()
    return {f"{name}_accuracy": f"{zoo.measured_accuracy(model, getattr(data, name)):.4f}" for name in ("val", "test")}


def ship_weights(name: str, trained: Path, data: zoo.Data, place: Path) -> Path:
    """A trained model's weights as an index and parts in zoo/checkpoints/."""
    model = zoo.load_model(name)
    metadata = zoo.load_checkpoint(model, trained)
    rounded = {key: halved(tensor) for key, tensor in model.state_dict().items()}
    model.load_state_dict(rounded)
    index = place / "checkpoints" / f"{name}-{Path(data.name).name}{INDEX}"
    save_parts(rounded, index, PART_BYTES, metadata | measured(model, data) | {"precision": "float16"})
    return index


def ship_network(folder: Path, name: str, model_name: str, data: zoo.Data, called: str, place: Path) -> Path:
    """The masks and the weights in `folder` as zoo/networks/NAME.safetensors, with what the data is called there."""
    model = zoo.load_model(model_name)
    layers = prunable_layers(model)
    zoo.load_checkpoint(model, folder / "model.safetensors")
    model.load_state_dict({key: halved(tensor) for key, tensor in model.state_dict().items()})
    masks = load_masks(folder / "masks.safetensors", layers)
    apply_masks(model, masks)
    scores = measured(model, data)
    recorded = {
        "model": model_name,
        "data": called,
        "sparsity": str(sparsity_of(masks, layers)),
        "nonzero_weights": str(sum(row["kept"] for row in describe_layers(layers, masks))),
        "val_score": scores["val_accuracy"],
        "test_score": scores["test_accuracy"],
    }
    path = place / "networks" / f"{name}.safetensors"
    save_bitmask(model, masks, path, recorded)
    return path


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse, make the file, say where it is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(dest="kind", required=True)
    weights, network = kinds.add_parser("weights"), kinds.add_parser("network")
    weights.add_argument("name", choices=list(zoo.BUILT_IN))
    weights.add_argument("trained", type=Path)
    network.add_argument("folder", type=Path, help="a run folder, a point of its front, or one that quality.py kept")
    network.add_argument("name")
    network.add_argument("model", choices=list(zoo.BUILT_IN))
    network.add_argument("--called", help="what `evoprune eval` says that the figures were recorded on; --data's name")
    for kind in (weights, network):
        kind.add_argument("--data", required=True)
        kind.add_argument("--zoo", type=Path, default=Path(zoo.__file__).parent)
    given = parser.parse_args(arguments)
    data = zoo.load_data(given.data)
    if given.kind == "weights":
        print(ship_weights(given.name, given.trained, data, given.zoo))
    else:
        print(ship_network(given.folder, given.name, given.model, data, given.called or data.name, given.zoo))


if __name__ == "__main__":
    main()
