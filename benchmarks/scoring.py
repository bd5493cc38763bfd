"""Candidates a second: the reference loop against evoprune's evaluator, on the same masks, in one run.

    python benchmarks/scoring.py --mnist mnist --cifar10 cifar10 [--models lenet5 resnet18]

The reference loop does what the reference system does for every candidate: deep-copies the model, installs a
torch.nn.utils.prune hook with the mask, and runs a DataLoader over the validation images, batch 32 (LeNet-5) or 128
(ResNet-18), four worker processes, each image turned into a tensor and normalized one by one. It is timed on a few
candidates, evoprune on all of them, three ways: float32, with bfloat16 where evoprune chooses it by itself, and racing
on top, against the median candidate's score as the floor (what the worst survivor gives in a search).

`matmul_share` is the rate of the floating-point operations that had to be done (of the samples scored, counted by
torch's FlopCounterMode) over that of a 2048 x 2048 matrix product of the same precision, measured beside it.
The weights are the shipped ones.
"""

from __future__ import annotations

import argparse
import copy
import math
import time
import warnings
from statistics import geometric_mean, median
from typing import Any

import numpy as np
import record
import torch
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.utils.data import DataLoader, Dataset

from evoprune.core import weight_of
from evoprune.evaluation import WAYS, SampledEvaluator, make_evaluator
from evoprune.scoring import Accuracy
from evoprune.zoo import load_data, load_trained
from evoprune.zoo.data import Split

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
CANDIDATES = {"lenet5": 24, "resnet18": 4}
SAMPLES = {"lenet5": 5000, "resnet18": 1000}
"""Validation images of both sides; fewer for ResNet-18, whose reference loop takes most of a minute on 5,000."""
KINDS = ("float32", "default", "racing")


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


def matmul_rate(dtype: torch.dtype) -> float:
    """Operations a second of a large matrix product."""
    a = torch.randn(2048, 2048).to(dtype)
    seconds = []
    for _ in range(6):
        begun = time.perf_counter()
        a @ a
        seconds.append(time.perf_counter() - begun)
    return 2 * 2048**3 / min(seconds)


class Ours:
    """evoprune's evaluator with some of its ways, and what it needed."""

    def __init__(self, model: nn.Module, score: Accuracy, layer: str, ways: tuple[str, ...]) -> None:
        begun = time.perf_counter()
        evaluator = make_evaluator(model, score, [layer], ways=ways)
        assert isinstance(evaluator, SampledEvaluator)
        self.evaluator, self.layer, self.seconds = evaluator, layer, list[float]()
        self.samples = 0
        self.preparation_s = time.perf_counter() - begun

    def run(self, masks: Tensor, floor: float = -math.inf) -> Tensor:
        """(P,) scores."""
        begun = time.perf_counter()
        scores = self.evaluator({self.layer: masks}, floor)
        self.seconds.append((time.perf_counter() - begun) / len(masks))
        self.samples = scores.samples
        return scores.score

    def figures(self, candidates: int, reference_s: float) -> dict[str, Any]:
        """Of all runs so far."""
        seconds, evaluator = median(self.seconds), self.evaluator
        operations = evaluator.sample_flops * self.samples / candidates
        return {
            "seconds": seconds,
            "candidates_per_second": 1 / seconds,
            "ratio": reference_s / seconds,
            "dtype": str(evaluator.dtype).removeprefix("torch."),
            "operations_per_second": operations / seconds,
            "matmul_rate": matmul_rate(evaluator.dtype),
            "samples_skipped_by_racing": 1 - self.samples / (candidates * evaluator.samples),
            "peak_memory_mb": evaluator.peak_bytes / 2**20,
            "preparation_s": self.preparation_s,
        }


def measure(model: nn.Module, name: str, data: Any, layer: str, candidates: int, trials: int) -> dict[str, Any]:
    """One layer: the reference and evoprune, in turns."""
    val = Split(data.val.inputs[: SAMPLES[name]], data.val.targets[: SAMPLES[name]])
    loader = DataLoader(Images(val.inputs, val.targets, data.mean, data.std), batch_size=BATCH[name], num_workers=4)
    masks = masks_of(model, layer, candidates)
    score = Accuracy(val.inputs, val.targets)
    exact, default, raced = (
        Ours(model, score, layer, ways) for ways in (("prefix", "batched"), ("prefix", "batched", "precision"), WAYS)
    )
    scores = exact.run(masks)
    floor = float(scores.median())
    for ours in (exact, default, raced):  # what is kept between generations is there from the second one on
        ours.run(masks[:1])
        ours.seconds.clear()
    reference = []
    for trial in range(trials):
        begun = time.perf_counter()
        wanted = reference_score(model, layer, masks[trial % candidates], loader)
        reference.append(time.perf_counter() - begun)
        scores = exact.run(masks)
        if abs(float(scores[trial % candidates]) - wanted) > 0.0011:  # pixels were rounded to 8 bits
            raise SystemExit(f"{layer}: {float(scores[trial % candidates])} but the reference says {wanted}")
        default.run(masks)
        raced.run(masks, floor)
    reference_s = median(reference)
    return {
        "layer": layer,
        "reference_s": reference_s,
        "trials": trials,
        "float32": exact.figures(candidates, reference_s),
        "default": default.figures(candidates, reference_s),
        "racing": raced.figures(candidates, reference_s),
    }


def main() -> None:
    """Measure, print, write results/scoring.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mnist", default="mnist")
    parser.add_argument("--cifar10", default="cifar10")
    parser.add_argument("--models", nargs="+", default=["lenet5", "resnet18"], choices=LAYERS)
    parser.add_argument("--trials", type=int, default=3)
    args = parser.parse_args()
    warnings.filterwarnings("ignore", "This DataLoader will create 4 worker")  # on fewer cores: what the reference has
    content: dict[str, Any] = {
        "candidates": CANDIDATES,
        "seed": 0,
        "models": record.earlier("scoring").get("models", {}),
    }
    for name in args.models:
        torch.manual_seed(0)
        model = load_trained(name)
        data = load_data(args.mnist if name == "lenet5" else args.cifar10)
        rows = []
        for layer in LAYERS[name]:
            row = measure(model, name, data, layer, CANDIDATES[name], args.trials if name == "lenet5" else 1)
            rows.append(row)
            ours = "  ".join(f"{key} {row[key]['seconds']:.4f} s x{row[key]['ratio']:.0f}" for key in KINDS)
            print(f"{name} {layer:16} reference {row['reference_s']:.2f} s  {ours}", flush=True)
        for key in KINDS:  # the product's best time of the run: other work on the machine only slows it
            for row in (row[key] for row in rows):
                rates = [other[k]["matmul_rate"] for other in rows for k in KINDS if other[k]["dtype"] == row["dtype"]]
                row["matmul_share"] = row["operations_per_second"] / max(rates)
        means = {key: geometric_mean(row[key]["ratio"] for row in rows) for key in KINDS}
        entry = {"layers": rows, "geometric_mean": means, "samples": SAMPLES[name]}
        content["models"][name] = entry | {"commit": record.commit(), "weights": "trained"}
        print(f"{name}: geometric mean " + "  ".join(f"{key} x{mean:.0f}" for key, mean in means.items()))
        record.write("scoring", content)


if __name__ == "__main__":
    main()
