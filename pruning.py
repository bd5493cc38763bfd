"""The reference system's command lines, kept working: `evoprune prune --preset original` under its old names.

python pruning.py --lenet [--layer module.classifier.3] [--save_results]
python pruning.py --finetune [--layer module.classifier.3]

Each layer that is pruned alone has its own run folder beside that of the whole model.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from torch import Tensor

from evoprune import EvopruneError, Result, finetune
from evoprune.api import prune_named
from evoprune.core import strip_module_prefix
from evoprune.progress import ProgressView
from evoprune.report import layer_table, summary_lines
from evoprune.run import make_settings
from evoprune.run.state import load_state
from evoprune.storage import save_tensors

RUN = Path("runs/pruning-lenet")


def run_folder(layer: str | None) -> Path:
    """Where the run of one layer is, or that of all."""
    return RUN if layer is None else RUN.with_name(f"{RUN.name}-{strip_module_prefix(layer)}")


def snapshot_of(run: Path) -> Path:
    """The run's latest state."""
    return run / "state" / "snapshot.safetensors"


class Weights:
    """Shows progress, and keeps the weights as they were before the latest retraining began."""

    def __init__(self, view: ProgressView, run: Path) -> None:
        self.view, self.run = view, run
        self.before: dict[str, Tensor] = {}

    def __call__(self, event: dict[str, Any]) -> None:
        """The snapshot on disk is older than the first epoch that is told of."""
        self.view(event)
        if event["event"] == "epoch" and event["epoch"] == 0:
            self.before = load_state(snapshot_of(self.run)).now.model


def prune(options: argparse.Namespace) -> Result:
    """Prune LeNet-5 exactly as the reference does."""
    run = run_folder(options.layer)
    if not options.overwrite:
        check_vacant(run)
    settings = make_settings(
        model="lenet5", data=options.data or "mnist", preset="original",
        layers=[options.layer] if options.layer else None, command=shlex.join(["python", *sys.argv]),
    )  # fmt: skip
    with ProgressView() as view:
        weights = Weights(view, run)
        result = prune_named(settings, run, options.overwrite, weights)
    if options.save_results:
        for name, packed in load_state(snapshot_of(run)).warm.items():
            genes = {"genes": str(result.masks[name].numel())}
            file = Path(f"populations/LeNet/population_{len(packed)}_{name}.safetensors")
            save_tensors({"packed": packed}, file, genes)
            save_tensors({name: result.masks[name]}, Path(f"solutions/LeNet/best_solution_{name}.safetensors"))
        save_tensors(weights.before, "sparse_models/LeNet/sparse_weights.safetensors")
        save_tensors(result.model.state_dict(), "sparse_models/LeNet/sparse_weights_retrained.safetensors")
        print("saved: populations/LeNet, solutions/LeNet, sparse_models/LeNet")
    return result


def check_vacant(run: Path) -> None:
    """A run that is there is not replaced unasked."""
    if (run / "result.json").exists():
        raise EvopruneError(f"{run} holds a finished run; start over with --overwrite")
    if (run / "config.json").exists():
        raise EvopruneError(f"{run} holds an unfinished run; `evoprune resume {run}` goes on, --overwrite starts over")


def train_on(options: argparse.Namespace) -> Result:
    """Fine-tune the run of all layers, or that of one. All but the layer comes from the run itself."""
    given = {"--save_results": options.save_results, "--data": options.data, "--overwrite": options.overwrite}
    if refused := [name for name, value in given.items() if value]:
        raise EvopruneError(f"--finetune goes on with a run as it is: leave out {' and '.join(refused)}")
    run = run_folder(options.layer)
    if not (run / "config.json").exists():
        only = "" if options.layer is None else f" --layer {options.layer}"
        others = [
            path.parent.name.removeprefix(f"{RUN.name}-") for path in RUN.parent.glob(f"{RUN.name}-*/config.json")
        ]
        hint = f"; or give --layer, there are runs of {', '.join(sorted(others))}" if others else ""
        raise EvopruneError(f"{run} is not a run folder: first prune with --lenet{only}{hint}")
    with ProgressView() as view:
        return finetune(run, listener=view)


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description="Prune LeNet-5 with the reference system's genetic algorithm.")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--lenet", action="store_true", help=f"prune LeNet-5 into {RUN}, one layer into {RUN}-LAYER")
    what.add_argument("--resnet", action="store_true", help="prune ResNet-18 (comes with a later release)")
    what.add_argument("--finetune", action="store_true", help="train the model of such a run 20 epochs more")
    parser.add_argument("--layer", metavar="NAME", help="only this layer, such as module.classifier.3")
    parser.add_argument("--save_results", action="store_true", help="also keep populations, masks and weights")
    parser.add_argument("--data", metavar="NAME_OR_DIR", help="mnist (default) or a parquet folder")
    parser.add_argument("--overwrite", action="store_true", help="start over where there is such a run")
    options = parser.parse_args()
    run = run_folder(options.layer)
    try:
        if options.resnet:
            raise EvopruneError("--resnet: ResNet-18 comes with a later release; --lenet works now")
        result = train_on(options) if options.finetune else prune(options)
    except EvopruneError as error:
        print(f"pruning.py: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        begun = (run / "config.json").exists() and not (run / "result.json").exists()
        goes_on = f"; `evoprune resume {run}` goes on where it stopped" if begun else "; the same command starts again"
        print(f"pruning.py: interrupted{goes_on}", file=sys.stderr)
        raise SystemExit(130) from None
    Console().print(layer_table(result.summary))
    print("\n".join(summary_lines(result.summary)), f"\nreport: {run / 'report.html'}")


if __name__ == "__main__":
    main()
