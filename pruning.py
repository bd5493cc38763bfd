"""The reference system's command lines, kept working: `evoprune prune --preset original` under its old names.

python pruning.py --lenet [--layer module.classifier.3] [--save_results]
python pruning.py --finetune
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
from evoprune.progress import ProgressView
from evoprune.report import layer_table, summary_lines
from evoprune.run import make_settings
from evoprune.run.state import load_state
from evoprune.storage import save_tensors

RUN = Path("runs/pruning-lenet")
SNAPSHOT = RUN / "state" / "snapshot.safetensors"


class Weights:
    """Shows progress, and keeps the weights as they were before the latest retraining began."""

    def __init__(self, view: ProgressView) -> None:
        self.view = view
        self.before: dict[str, Tensor] = {}

    def __call__(self, event: dict[str, Any]) -> None:
        """The snapshot on disk is older than the first epoch that is told of."""
        self.view(event)
        if event["event"] == "epoch" and event["epoch"] == 0:
            self.before = load_state(SNAPSHOT).now.model


def prune(options: argparse.Namespace) -> Result:
    """Prune LeNet-5 exactly as the reference does."""
    settings = make_settings(
        model="lenet5", data=options.data, preset="original", layers=[options.layer] if options.layer else None,
        command=shlex.join(["python", *sys.argv]),
    )  # fmt: skip
    with ProgressView() as view:
        weights = Weights(view)
        result = prune_named(settings, RUN, options.overwrite, weights)
    if options.save_results:
        for name, packed in load_state(SNAPSHOT).warm.items():
            genes = {"genes": str(result.masks[name].numel())}
            file = Path(f"populations/LeNet/population_{len(packed)}_{name}.safetensors")
            save_tensors({"packed": packed}, file, genes)
            save_tensors({name: result.masks[name]}, Path(f"solutions/LeNet/best_solution_{name}.safetensors"))
        save_tensors(weights.before, "sparse_models/LeNet/sparse_weights.safetensors")
        save_tensors(result.model.state_dict(), "sparse_models/LeNet/sparse_weights_retrained.safetensors")
        print("saved: populations/LeNet, solutions/LeNet, sparse_models/LeNet")
    return result


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description="Prune LeNet-5 with the reference system's genetic algorithm.")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--lenet", action="store_true", help=f"prune LeNet-5 into {RUN}")
    what.add_argument("--resnet", action="store_true", help="prune ResNet-18 (comes with a later release)")
    what.add_argument("--finetune", action="store_true", help=f"train the model in {RUN} 20 epochs more")
    parser.add_argument("--layer", metavar="NAME", help="prune only this layer, such as module.classifier.3")
    parser.add_argument("--save_results", action="store_true", help="also keep populations, masks and weights")
    parser.add_argument("--data", metavar="NAME_OR_DIR", default="mnist", help="mnist (default) or a parquet folder")
    parser.add_argument("--overwrite", action="store_true", help=f"start over where {RUN} holds a run")
    options = parser.parse_args()
    try:
        if options.resnet:
            raise EvopruneError("--resnet: ResNet-18 comes with a later release; --lenet works now")
        if options.finetune:
            with ProgressView() as view:
                result = finetune(RUN, listener=view)
        else:
            result = prune(options)
    except EvopruneError as error:
        print(f"pruning.py: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print(f"pruning.py: interrupted; `evoprune resume {RUN}` goes on where it stopped", file=sys.stderr)
        raise SystemExit(130) from None
    Console().print(layer_table(result.summary))
    print("\n".join(summary_lines(result.summary)), f"\nreport: {RUN / 'report.html'}")


if __name__ == "__main__":
    main()
