"""A run folder as `evoprune prune lenet5 --preset original` leaves it: the real layers, made-up numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

LENET = {
    "feature.0": ("Conv2d", (6, 1, 5, 5), 0.93),
    "feature.3": ("Conv2d", (16, 6, 5, 5), 0.955),
    "classifier.1": ("Linear", (120, 400), 0.965),
    "classifier.3": ("Linear", (84, 120), 0.95),
    "classifier.5": ("Linear", (10, 84), 0.9),
}
DENSE, FLOOR, POPULATION, GENERATIONS, EPOCHS = 0.9884, 0.90, 10, 20, 3


def write_run(folder: Path, floor: float = FLOOR, passes: int = 1) -> Path:
    """Write a finished run; the search gets sparser and its scores fall, fine-tuning brings them back."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    journal: list[dict[str, Any]] = [{"event": "run_start", "dense_val_score": DENSE, "seconds": 0.4}]
    masks = {name: torch.from_numpy(rng.random(shape) >= share) for name, (_, shape, share) in LENET.items()}
    weights = {name: mask.numel() for name, mask in masks.items()}
    so_far, evaluations, seconds, stage = dict.fromkeys(LENET, 0.0), 0, 0.4, 0
    for index in range(passes):
        for name, mask in masks.items():
            final = 1 - float(mask.double().mean())
            begin, goal = so_far[name] or 0.1, final * (0.7 if index + 1 < passes else 1)
            journal.append(
                {
                    "event": "stage_start",
                    "stage": stage,
                    "pass": index,
                    "name": name,
                    "layers": [name],
                    "target": 0.9 if passes == 1 else 0.6,
                    "seconds": seconds,
                }
            )
            for generation in range(GENERATIONS + 1):
                evaluations += POPULATION if generation == 0 else 2 * POPULATION
                seconds += 0.21
                at = begin + (goal - begin) * (1 - np.exp(-generation / 6)) / (1 - np.exp(-GENERATIONS / 6))
                sparsity = np.clip(at + rng.normal(-0.02, 0.015, POPULATION), 0, at)
                sparsity[0] = at
                score = np.clip(DENSE - 0.05 * sparsity**6 - 0.04 * rng.random(POPULATION) * sparsity, 0, 1)
                fitness = 0.8 * sparsity + 0.2 * score
                journal.append(
                    {
                        "event": "generation",
                        "stage": stage,
                        "generation": generation,
                        "evaluations": evaluations,
                        "full_evaluations": evaluations * 0.8,
                        "mean_fitness": float(fitness.mean()),
                        "best": {"sparsity": at, "score": score[0], "loss": 0.1, "fitness": fitness[0]},
                        "candidates": {"sparsity": sparsity.tolist(), "score": score.tolist()},
                        "seconds": seconds,
                    }
                )
            so_far[name] = goal
            for epoch in range(EPOCHS):
                seconds += 3.1
                value = DENSE - 0.012 / (epoch + 1) - 0.0006 * stage
                journal.append(
                    {
                        "event": "epoch",
                        "stage": stage,
                        "epoch": epoch,
                        "loss": 0.1 / (epoch + 1),
                        "val_score": value,
                        "seconds": seconds,
                    }
                )
            model_sparsity = sum(so_far[n] * weights[n] for n in LENET) / sum(weights.values())
            journal.append(
                {
                    "event": "stage_end",
                    "stage": stage,
                    "model_sparsity": model_sparsity,
                    "val_score": value,
                    "layers": dict(so_far),
                    "seconds": seconds,
                }
            )
            stage += 1
    start = {"event": "stage_start", "stage": stage, "pass": passes - 1, "name": "fine-tuning", "layers": []}
    journal.append(start | {"target": 0.9, "seconds": seconds})
    for epoch in range(10):
        seconds += 3.2
        value = DENSE - 0.006 - 0.006 / (epoch + 1)
        journal.append(
            {
                "event": "epoch",
                "stage": stage,
                "epoch": epoch,
                "loss": 0.05,
                "val_score": value,
                "seconds": seconds,
            }
        )
    end = {"event": "stage_end", "stage": stage, "model_sparsity": model_sparsity, "val_score": value}
    journal.append(end | {"layers": dict(so_far), "seconds": seconds})
    (folder / "journal.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in journal))
    save_file({name: mask.to(torch.uint8) for name, mask in masks.items()}, folder / "masks.safetensors")
    config = {
        "model": "lenet5",
        "checkpoint": None,
        "data": "mnist",
        "layers": [],
        "space": "weights",
        "preset": "original",
        "algorithm": "ga",
        "guidance": "none",
        "floor": floor,
        "max_drop": None,
        "sparsity": None,
        "passes": [1.0],
        "population": POPULATION,
        "generations": GENERATIONS,
        "crossover_rate": 1.0,
        "mutation_rate": 0.1,
        "initial_sparsity": 0.1,
        "finetune_epochs": EPOCHS,
        "seed": 0,
        "device": "cpu",
        "command": "evoprune prune lenet5 --data mnist --preset original --seed 0 --out runs/original",
    }
    (folder / "config.json").write_text(json.dumps(config))
    kept = {name: int(mask.sum()) for name, mask in masks.items()}
    total, left = sum(weights.values()), sum(kept.values())
    result = {
        "model": "lenet5",
        "data": "mnist",
        "space": "weights",
        "algorithm": "ga",
        "guidance": "none",
        "seed": 0,
        "device": "cpu",
        "versions": {"evoprune": "0.1.0", "torch": "2.13.0", "python": "3.11.9"},
        "dense": {"val_score": DENSE, "test_score": 0.9886, "weights": total, "file_bytes": 247_720},
        "pruned": {
            "val_score": value,
            "test_score": 0.9801,
            "weights": total,
            "nonzero_weights": left,
            "sparsity": 1 - left / total,
            "file_bytes": 247_736,
        },
        "layers": [
            {
                "name": name,
                "kind": kind,
                "weights": weights[name],
                "kept": kept[name],
                "sparsity": 1 - kept[name] / weights[name],
            }
            for name, (kind, _, _) in LENET.items()
        ],
        "search": {
            "generations": stage * GENERATIONS,
            "evaluations": evaluations,
            "full_evaluations": evaluations * 0.8,
            "seconds": 22.1,
        },
        "finetune": {"epochs": stage * EPOCHS + 10, "seconds": 78.5},
        "seconds": seconds,
        "floor": floor,
        "status": "complete",
    }
    (folder / "result.json").write_text(json.dumps(result))
    return folder


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A finished run."""
    return write_run(tmp_path / "run")


@pytest.fixture
def interrupted_dir(run_dir: Path) -> Path:
    """The same run, killed in its third stage while it wrote a line."""
    (run_dir / "result.json").unlink()
    lines = (run_dir / "journal.jsonl").read_text().splitlines()
    cut = next(i for i, line in enumerate(lines) if '"generation"' in line and '"stage": 2' in line) + 4
    (run_dir / "journal.jsonl").write_text("\n".join(lines[:cut]) + "\n" + lines[cut][:40])
    return run_dir
