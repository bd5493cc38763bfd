"""Candidates a second: the reference loop against evoprune's evaluator, on the same masks, in one run.

    python benchmarks/scoring.py --mnist mnist --cifar10 cifar10 [--models lenet5 resnet18] [--candidates 20]

The reference loop does what the reference system does for every candidate: deep-copies the model, installs a
torch.nn.utils.prune hook with the mask, and runs a DataLoader over the validation images, batch 32 (LeNet-5) or 128
(ResNet-18), four worker processes, each image turned into a tensor and normalized one by one. It is timed on a few
candidates, evoprune on all of them. Masks are children of random genomes as in the reference's search; the floor that
racing may use is the worst survivor's score, as the search gives it.
"""

from __future__ import annotations

import argparse
import copy
import math
import time
from typing import Any

import numpy as np
import record
import torch
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.utils.data import DataLoader, Dataset

from evoprune.core import weight_of
from evoprune.evaluate import make_evaluator
from evoprune.scoring import Accuracy
from evoprune.zoo import default_checkpoint, load_checkpoint, load_data, load_model
from evoprune.zoo.resnet import resnet18

LAYERS = {
    "lenet5": ["feature.0", "feature.3", "classifier.1", "classifier.3", "classifier.5"],
    "resnet18": [
        "conv1",
        "layer1.0.conv1",
        "layer2.0.conv1",
        "layer3.0.conv1",
        "layer4.0.conv2",
        "linear",
    ],
}
BATCH = {"lenet5": 32, "resnet18": 128}


class Images(Dataset[tuple[Tensor, int]]):
    """8-bit images, each made a normalized tensor when it is asked for, as ToTensor and Normalize do."""

    def __init__(self, inputs: Tensor, targets: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        self.mean, self.std = (torch.tensor(v)[:, None, None] for v in (mean, std))
        pixels = ((inputs * self.std + self.mean) * 255).round().clamp(0, 255).byte()
        self.pixels: list[np.ndarray[Any, Any]] = [image.permute(1, 2, 0).numpy() for image in pixels]
        self.targets = targets.tolist()

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = torch.from_numpy(self.pixels[index]).permute(2, 0, 1).contiguous().float().div(255)
        return (image - self.mean) / self.std, self.targets[index]


def reference_score(model: nn.Module, layer: str, mask: Tensor, loader: DataLoader[Any]) -> float:
    """One candidate, as the reference system scores it."""
    candidate = copy.deepcopy(model)
    prune.custom_from_mask(candidate.get_submodule(layer), "weight", mask)
    correct = total = 0
    with torch.no_grad():
        for inputs, targets in loader:
            correct += int((candidate(inputs).argmax(1) == targets).sum())
            total += len(targets)
    return correct / total


def masks_of(model: nn.Module, layer: str, candidates: int) -> Tensor:
    """(P, *shape) masks with 20 to 60 % zeros, what the reference's search scores in its first generations."""
    rng = torch.Generator().manual_seed(0)
    rates = torch.linspace(0.2, 0.6, candidates)
    shape = weight_of(model, layer).shape
    return torch.stack([torch.rand(shape, generator=rng) >= rate for rate in rates])


def measure(model: nn.Module, name: str, data: Any, layer: str, candidates: int, trials: int) -> dict[str, Any]:
    """One layer: seconds a candidate of both, and what racing saved."""
    val = data.val
    loader = DataLoader(Images(val.inputs, val.targets, data.mean, data.std), batch_size=BATCH[name], num_workers=4)
    masks = masks_of(model, layer, candidates)
    score = Accuracy(val.inputs, val.targets)
    begun = time.perf_counter()
    evaluator = make_evaluator(model, score, [layer])
    evaluator({layer: masks[:1]})  # keeps the prefix
    preparation = time.perf_counter() - begun
    plain, raced, reference, skipped = [], [], [], 0.0
    scores = evaluator({layer: masks})
    floor = float(scores.score.median())
    for trial in range(trials):
        begun = time.perf_counter()
        wanted = reference_score(model, layer, masks[trial % candidates], loader)
        reference.append(time.perf_counter() - begun)
        begun = time.perf_counter()
        scores = evaluator({layer: masks})
        plain.append((time.perf_counter() - begun) / candidates)
        begun = time.perf_counter()
        stopped = evaluator({layer: masks}, floor)
        raced.append((time.perf_counter() - begun) / candidates)
        skipped = 1 - stopped.samples / (candidates * len(val.targets))
        if abs(float(scores.score[trial % candidates]) - wanted) > 0.0011:  # pixels were rounded to 8 bits
            raise SystemExit(f"{layer}: {float(scores.score[trial % candidates])} but the reference says {wanted}")
    return {
        "layer": layer,
        "reference_s": _median(reference),
        "evoprune_s": _median(plain),
        "evoprune_raced_s": _median(raced),
        "ratio": _median(reference) / _median(plain),
        "ratio_raced": _median(reference) / _median(raced),
        "samples_skipped_by_racing": skipped,
        "preparation_s": preparation,
        "trials": trials,
    }


def _median(values: list[float]) -> float:
    return float(np.median(values))


def main() -> None:
    """Measure, print, write results/scoring.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mnist", default="mnist")
    parser.add_argument("--cifar10", default="cifar10")
    parser.add_argument("--models", nargs="+", default=["lenet5", "resnet18"], choices=LAYERS)
    parser.add_argument("--candidates", type=int, default=20)
    parser.add_argument("--trials", type=int, default=3)
    args = parser.parse_args()
    content: dict[str, Any] = {"candidates": args.candidates, "seed": 0, "models": {}}
    for name in args.models:
        if name == "lenet5":
            model, data = load_model(name), load_data(args.mnist)
            checkpoint = default_checkpoint(name)
            assert checkpoint is not None
            load_checkpoint(model, checkpoint)
        else:
            torch.manual_seed(0)
            model, data = resnet18(), load_data(args.cifar10)
        model.eval()
        trials = args.trials if name == "lenet5" else 1
        rows = []
        for layer in LAYERS[name]:
            rows.append(measure(model, name, data, layer, args.candidates, trials))
            print(f"{name} {layer:16} reference {rows[-1]['reference_s']:7.2f} s, ours {rows[-1]['evoprune_s']:.4f} s,"
                  f" x{rows[-1]['ratio']:.0f}, raced x{rows[-1]['ratio_raced']:.0f}", flush=True)  # fmt: skip
        means = {
            key: math.exp(float(np.mean([math.log(row[key]) for row in rows]))) for key in ("ratio", "ratio_raced")
        }
        content["models"][name] = {"layers": rows, "geometric_mean": means, "samples": len(data.val.targets)}
        print(f"{name}: geometric mean x{means['ratio']:.0f}, with racing x{means['ratio_raced']:.0f}")
        print(record.write("scoring", content))


if __name__ == "__main__":
    main()
