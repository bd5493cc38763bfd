"""What a generation costs beside scoring: ask, operators, tell, packing, journal; genomes of 1e4 to 1e8 bits.

    python benchmarks/generation.py [--genes 1e4 1e5 1e6 1e7 1e8]

The model is a perceptron of four linear layers of equal size with that many weights in all. Scoring is what
evoprune's evaluator takes for a candidate on 5,000 samples; for large models it is measured on fewer samples and
candidates and scaled (`scored`). `own_share` is the generation's own seconds over scoring's, for one child.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import record
import torch
from torch import nn

from evoprune.core import generator, prunable_layers
from evoprune.evaluation import make_evaluator
from evoprune.run.journal import Journal
from evoprune.run.state import packed, unpacked
from evoprune.scoring import Accuracy
from evoprune.search import BudgetedBits, GenerationalGA, Population
from evoprune.spaces import WeightSpace
from evoprune.training import reuse_freed_memory

SAMPLES = 5000
GENERATIONS = {10**6: 30, 10**9: 3}
"""Up to so many genes; what is quick is measured more often. Figures are medians."""


def perceptron(genes: int) -> nn.Module:
    """Four square linear layers of about `genes` weights in all."""
    width = round((genes / 4) ** 0.5)
    layers: list[nn.Module] = []
    for _ in range(4):
        layers += [nn.Linear(width, width), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def measure(genes: int) -> dict[str, Any]:
    """Seconds of a generation's parts, and of scoring, a child."""
    torch.manual_seed(0)
    model = perceptron(genes)
    layers = prunable_layers(model)
    space = WeightSpace(layers)
    size = 12 if genes <= 2e7 else 4
    priority = torch.rand(space.length, generator=generator(1))
    keep = round(0.2 * space.length)
    bits = BudgetedBits(space.sizes, keep, torch.ones(space.length, dtype=torch.bool), priority)
    algorithm = GenerationalGA(bits, size)
    generations = next(count for most, count in GENERATIONS.items() if genes <= most)
    parts: dict[str, list[float]] = {name: [] for name in ("unpack", "ask", "plans", "tell", "pack", "journal")}
    population: Population | None = None
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal(Path(folder) / "journal.jsonl")
        for number in range(generations + 1):
            times = [time.perf_counter()]
            before = None if population is None else unpacked(population, space.length)
            times.append(time.perf_counter())
            genomes, traits = algorithm.ask(before, generator(0, number))
            times.append(time.perf_counter())
            space.plans(genomes), space.sparsity(genomes)
            times.append(time.perf_counter())
            fitness = torch.rand(size, 2, generator=generator(2, number)).double()
            after = algorithm.tell(before, Population(genomes, fitness, traits))
            times.append(time.perf_counter())
            population = packed(after)
            times.append(time.perf_counter())
            journal.append({"event": "generation", "fitness": fitness.tolist()})
            times.append(time.perf_counter())
            if number:  # the first makes the start
                for name, begun, ended in zip(parts, times, times[1:], strict=False):
                    parts[name].append((ended - begun) / size)
    assert population is not None
    bits_a_gene = 8 * population.genomes.numel() / (size * space.length)
    del before, after, genomes
    scoring_s, scored = scoring(model, [layer.name for layer in layers], space.length)
    own = {name: median(seconds) for name, seconds in parts.items()}
    own_s = sum(own.values())
    return {
        "genes": space.length, "population": size, "generations": generations,
        "own_s": own_s, "own_ns_a_gene": 1e9 * own_s / space.length,
        "parts_s": own, "scoring_s": scoring_s, "scored": scored, "own_share": own_s / scoring_s,
        "bits_a_gene_between_generations": bits_a_gene,
    }  # fmt: skip


def scoring(model: nn.Module, names: list[str], genes: int) -> tuple[float, dict[str, int]]:
    """Seconds for a candidate on SAMPLES samples, all layers varied, and on what that was measured."""
    samples, candidates = (SAMPLES, 12) if genes <= 2e6 else (1000, 4) if genes <= 2e7 else (500, 2)
    width = model[0].in_features  # type: ignore[index, union-attr]
    score = Accuracy(torch.randn(samples, width), torch.randint(min(10, width), (samples,)))
    evaluator = make_evaluator(model, score, names, memory_mb=4096)
    shapes = {name: model.get_submodule(name).weight.shape for name in names}
    plans = {name: torch.rand(candidates, *shape) < 0.2 for name, shape in shapes.items()}
    evaluator(plans)
    trials = []
    for _ in range(5 if genes <= 2e6 else 1):
        begun = time.perf_counter()
        evaluator(plans)
        trials.append(time.perf_counter() - begun)
    seconds = median(trials) / candidates * SAMPLES / samples
    return seconds, {"samples": samples, "candidates": candidates}


def main() -> None:
    """Measure, print, write results/generation.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--genes", nargs="+", type=float, default=[1e4, 1e5, 1e6, 1e7, 1e8])
    args = parser.parse_args()
    reuse_freed_memory()
    rows = []
    for genes in args.genes:
        rows.append(measure(int(genes)))
        row = rows[-1]
        print(
            f"{row['genes']:>11,} genes  own {1e3 * row['own_s']:.2f} ms a child ({row['own_ns_a_gene']:.1f} ns a gene)"
            f"  scoring {1e3 * row['scoring_s']:.1f} ms  share {row['own_share']:.3f}",
            flush=True,
        )
        record.write("generation", {"seed": 0, "samples": SAMPLES, "sizes": rows})


if __name__ == "__main__":
    main()
