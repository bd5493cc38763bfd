"""Networks pruned by the commands that a user would type; most figures of the README, and some earlier ones.

    python benchmarks/runs.py lenet5 --data mnist [--only default] [--seeds 0 1 2]
    python benchmarks/runs.py resnet18 --data cifar10 [--keep runs]

Every run is a process of its own; its result takes the place of an earlier one of the same name and seed in
results/lenet5.json or results/resnet18.json as soon as it is there. With --keep the run folders stay, and a run that
was interrupted goes on.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import record

LENET5 = {
    "original": "lenet5 --preset original",
    "default": "lenet5",
    "default-96.5": "lenet5 --sparsity 0.965",
    "gradient-98": "lenet5 --guidance gradient --sparsity 0.98 --final-epochs 24",
    "gradient-99": "lenet5 --guidance gradient --sparsity 0.99 --final-epochs 24",
    "caffe-320x": (
        "lenet5-caffe --guidance gradient --sparsity 0.996871 --finetune-epochs 2 --final-epochs 40 --shift 1"
    ),
}
RESNET18 = {
    "gradient-95": (
        "resnet18 --guidance gradient --passes 0.7,0.88,0.95 --finetune-epochs 1 --final-epochs 4 --first-size 24"
        " --distill 0"
    ),
    "gradient-90": "resnet18 --guidance gradient --passes 0.9 --finetune-epochs 1 --final-epochs 11 --distill 0",
    "none-78.9": "resnet18 --passes 0.789 --distill 0 --finetune-epochs 0 --final-epochs 6 --no-recalibrate",
}
RUNS = {"lenet5": LENET5, "resnet18": RESNET18}
DATA = {"lenet5": "mnist", "resnet18": "cifar10"}


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", choices=RUNS)
    parser.add_argument("--data", help="a folder of parquet splits; mnist or cifar10 by default")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="runs, by name")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--keep", type=Path, metavar="DIR", help="where run folders stay; thrown away without it")
    args = parser.parse_args()
    runs, data = RUNS[args.network], DATA[args.network]
    if unknown := set(args.only or ()) - set(runs):
        parser.error(f"{', '.join(unknown)}: no run of {args.network}; there are {', '.join(runs)}")
    for name in args.only or runs:
        for seed in args.seeds:
            with nullcontext(args.keep) if args.keep else tempfile.TemporaryDirectory() as folder:
                out = Path(folder) / f"{args.network}-{name}-{seed}"
                trial = {"name": name, "seed": seed, **run(f"{runs[name]} --seed {seed}", data, args.data or data, out)}
            trials = record.earlier(args.network).get("trials", [])  # of now: another process may have written
            trials = [old for old in trials if (old["name"], old["seed"]) != (name, seed)] + [trial]
            trials.sort(key=lambda t: (t["name"], t["seed"]))
            record.write(args.network, {"data": data, "trials": trials})
            pruned = trial["result"]["pruned"]
            figures = f"{pruned['sparsity']:.2%} at {pruned['test_score']:.2%}, {trial['result']['seconds']:.0f} s"
            print(f"{name} seed {seed}: {figures}", flush=True)


def run(words: str, data: str, place: str, out: Path) -> dict[str, Any]:
    """One `evoprune prune` into the folder `out`, or its rest; `data` is a name, and `place` where it is."""
    model, *options = words.split()
    command = ["prune", model, "--data", place, *options, "--out", str(out)]
    if (out / "result.json").exists():
        command.append("--overwrite")
    elif out.exists():
        command = ["resume", str(out)]
    evoprune = [sys.executable, "-m", "evoprune"]
    finished = subprocess.run([*evoprune, *command, "--json"], stdout=subprocess.PIPE, text=True, check=True)
    result = json.loads(finished.stdout)
    result["data"] = data
    shown = " ".join([f"evoprune prune {model} --data {data}", *options])
    return {"command": shown, **record.provenance(), "result": result}


if __name__ == "__main__":
    main()
