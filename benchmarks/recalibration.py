"""What measuring batch norms anew does to a pruned, untrained ResNet-18: accuracy without it and with it.

    python benchmarks/recalibration.py --data cifar10 [--sparsities 0.2 0.5 0.7 0.8 0.9] [--samples 2000]

Masks are those of rules, at each sparsity; accuracy is on validation images. Statistics are measured on 512 training
images, augmented as in training, which is what `evoprune prune --recalibrate` does (`candidate`); and on 3,000 of them,
augmented (`augmented`) and as they are (`plain_images`).
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable

import baselines
import record
import torch
from torch import nn

from evoprune.core import Layer, Masks, generator, prunable_layers
from evoprune.run.settings import make_settings
from evoprune.surgery import NORM_SAMPLES, apply_masks, recalibrate
from evoprune.tasks import SAMPLES
from evoprune.training import TensorSource, first_batches
from evoprune.zoo import Split, load_data, load_trained, measured_accuracy

MODEL = "resnet18"


def by_chance(_: nn.Module, layers: list[Layer], sparsity: float) -> Masks:
    """All layers equally dense, weights at random."""
    return baselines.random_uniform(layers, sparsity, generator(0))


RULES: dict[str, Callable[..., Masks]] = {
    "magnitude": baselines.global_magnitude,
    "lamp": baselines.lamp,
    "random": by_chance,
}


def main() -> None:
    """Prune, score, measure batch norms anew, score again."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--sparsities", nargs="+", type=float, default=[0.2, 0.5, 0.7, 0.8, 0.9])
    parser.add_argument("--rules", nargs="+", choices=RULES, default=list(RULES))
    parser.add_argument("--samples", type=int, default=2000, help="validation images")
    args = parser.parse_args()
    data, dense = load_data(args.data), load_trained(MODEL)
    dense.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    layers = prunable_layers(dense)
    images = Split(data.val.inputs[: args.samples], data.val.targets[: args.samples])
    settings = make_settings(model=MODEL)
    source = TensorSource(data.train.inputs, data.train.targets, settings.batch_size, fill=data.black)
    shown_in_training = source.augmented(**settings.augmentation)
    rows = []
    whole = measured_accuracy(dense, images)
    images_for_norms = {
        "augmented": first_batches(shown_in_training, SAMPLES),
        "candidate": first_batches(shown_in_training, NORM_SAMPLES),
        "plain_images": list(data.train.inputs[:SAMPLES].split(settings.batch_size)),
    }
    for sparsity in args.sparsities:
        for name, rule in ((name, RULES[name]) for name in args.rules):
            model = copy.deepcopy(dense)
            apply_masks(model, rule(dense, layers, sparsity))
            row = {"rule": name, "sparsity": sparsity, "as_it_is": measured_accuracy(model, images)}
            for kind, inputs in images_for_norms.items():
                recalibrate(model, inputs)
                row[kind] = measured_accuracy(model, images)
            rows.append(row)
            record.write("recalibration", {"data": data.name, "samples": len(images), "dense": whole, "rows": rows})
            shown = ", ".join(f"{kind} {row[kind]:.2%}" for kind in ("as_it_is", *images_for_norms))
            print(f"{sparsity:.0%} {name}: {shown}", flush=True)


if __name__ == "__main__":
    main()
