"""LeNet-5 and LeNet-5 Caffe on MNIST, pruned by the commands that a user would type; the figures of the README.

    python benchmarks/lenet5.py --data mnist [--only default] [--seeds 0 1 2]

Every run is a process of its own; its result goes into results/lenet5.json as soon as it is there, and runs that
are already in the file with the same commit and command are not repeated.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import record

RUNS = {
    "original": "lenet5 --preset original",
    "default": "lenet5",
    "default-96.5": "lenet5 --sparsity 0.965",
    "default-97.5": "lenet5 --sparsity 0.975",
    "gradient": "lenet5 --guidance gradient",
    "gradient-98": "lenet5 --guidance gradient --sparsity 0.98 --final-epochs 24",
    "gradient-99": "lenet5 --guidance gradient --sparsity 0.99 --final-epochs 24",
    "caffe-320x": (
        "lenet5-caffe --guidance gradient --sparsity 0.996871 --finetune-epochs 2 --final-epochs 40 --shift 1"
    ),
}


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="mnist", help="mnist or a folder of parquet splits")
    parser.add_argument("--only", nargs="+", choices=RUNS, default=list(RUNS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    args = parser.parse_args()
    path = record.RESULTS / "lenet5.json"
    trials = json.loads(path.read_text())["trials"] if path.exists() else []
    for name in args.only:
        for seed in args.seeds:
            trial = run(name, args.data, seed)
            trials = [old for old in trials if (old["name"], old["seed"]) != (name, seed)] + [trial]
            trials.sort(key=lambda t: (t["name"], t["seed"]))
            record.write("lenet5", {"data": "MNIST, 60,000 + 10,000 images", "trials": trials})
            pruned = trial["result"]["pruned"]
            figures = f"{pruned['sparsity']:.2%} at {pruned['test_score']:.2%}, {trial['result']['seconds']:.0f} s"
            print(f"{name} seed {seed}: {figures}", flush=True)


def run(name: str, data: str, seed: int) -> dict[str, object]:
    """One `evoprune prune`, in a folder that is thrown away."""
    model, *rest = RUNS[name].split()
    options = [*rest, "--seed", str(seed)]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        command = [
            sys.executable,
            "-m",
            "evoprune",
            "prune",
            model,
            "--data",
            data,
            *options,
            "--out",
            str(out),
            "--json",
        ]
        finished = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    result = json.loads(finished.stdout)
    result["data"] = "mnist"
    shown = " ".join([f"evoprune prune {model} --data mnist", *options])
    return {"name": name, "seed": seed, "command": shown, "commit": record.commit(), "result": result}


if __name__ == "__main__":
    main()
