"""The reference system's command lines, kept working: `evoprune prune --preset original` under its old names.

python pruning.py --lenet [--layer module.classifier.3] [--save_results]
python pruning.py --resnet [--layer module.layer4.0.conv2] [--save_results]
python pruning.py --finetune [--lenet | --resnet] [--layer module.classifier.3]

Each layer that is pruned alone has its own run folder beside that of the whole model.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from evoprune import EvopruneError, Result, finetune
from evoprune.api import prune_named
from evoprune.core import strip_module_prefix
from evoprune.progress import ProgressView
from evoprune.report import layer_table, summary_lines
from evoprune.run import Folder, make_settings
from evoprune.run.state import load_state
from evoprune.storage import save_tensors
from evoprune.zoo import BUILT_IN


@dataclass(frozen=True)
class Network:
    """A network of the reference system.

    Attributes:
        option: chooses it on the command line.
        model: its name in evoprune.
        name: of its folders in populations, solutions and sparse_models.
        run: run folder of all its layers.
    """

    option: str
    model: str
    name: str
    run: Path

    def run_of(self, layer: str | None) -> Path:
        """Where the run of one layer is, or that of all."""
        return self.run if layer is None else self.run.with_name(f"{self.run.name}-{strip_module_prefix(layer)}")

    def layers_run(self) -> list[str]:
        """Layers that have a run of their own."""
        runs = self.run.parent.glob(f"{self.run.name}-*/config.json")
        return sorted(path.parent.name.removeprefix(f"{self.run.name}-") for path in runs)


NETWORKS = (
    Network("--lenet", "lenet5", "LeNet", Path("runs/pruning-lenet")),
    Network("--resnet", "resnet18", "ResNet", Path("runs/pruning-resnet")),
)


class Weights:
    """Shows progress, and keeps the weights as they were before the latest retraining began."""

    def __init__(self, view: ProgressView, run: Path) -> None:
        self.view, self.run = view, run
        self.before: dict[str, Any] = {}

    def __call__(self, event: dict[str, Any]) -> None:
        """The snapshot on disk is older than the first epoch that is told of."""
        self.view(event)
        if event["event"] == "epoch" and event["epoch"] == 0:
            self.before = load_state(Folder(self.run).snapshot).now.model


def prune(network: Network, options: argparse.Namespace) -> Result:
    """Prune a network exactly as the reference does."""
    run = network.run_of(options.layer)
    if not options.overwrite:
        check_vacant(run)
    data = options.data or BUILT_IN[network.model].data
    settings = make_settings(
        model=network.model, checkpoint=options.checkpoint, data=data, preset="original",
        layers=[options.layer] if options.layer else None, include_norm=options.include_norm,
        command=shlex.join(["python", *sys.argv]),
    )  # fmt: skip
    with ProgressView() as view:
        weights = Weights(view, run)
        result = prune_named(settings, run, options.overwrite, weights)
    if options.save_results:
        for name, packed in load_state(Folder(run).snapshot).warm.items():
            genes = {"genes": str(result.masks[name].numel())}
            file = Path(f"populations/{network.name}/population_{len(packed)}_{name}.safetensors")
            save_tensors({"packed": packed}, file, genes)
            solution = Path(f"solutions/{network.name}/best_solution_{name}.safetensors")
            save_tensors({name: result.masks[name]}, solution)
        models = Path("sparse_models") / network.name
        save_tensors(weights.before, models / "sparse_weights.safetensors")
        save_tensors(result.model.state_dict(), models / "sparse_weights_retrained.safetensors")
        print(f"saved: populations/{network.name}, solutions/{network.name}, {models}")
    return result


def check_vacant(run: Path) -> None:
    """A run that is there is not replaced unasked."""
    if (run / "result.json").exists():
        raise EvopruneError(f"{run} holds a finished run; start over with --overwrite")
    if (run / "config.json").exists():
        raise EvopruneError(f"{run} holds an unfinished run; `evoprune resume {run}` goes on, --overwrite starts over")


def train_on(network: Network, options: argparse.Namespace) -> Result:
    """Fine-tune the run of all layers, or that of one. All but the layer comes from the run itself."""
    given = {
        "--save_results": options.save_results, "--data": options.data, "--checkpoint": options.checkpoint,
        "--overwrite": options.overwrite, "--include-norm": options.include_norm,
    }  # fmt: skip
    if refused := [name for name, value in given.items() if value]:
        raise EvopruneError(f"--finetune goes on with a run as it is: leave out {' and '.join(refused)}")
    run = network.run_of(options.layer)
    if not (run / "config.json").exists():
        only = "" if options.layer is None else f" --layer {options.layer}"
        option = network.option if options.network else "--resnet or --lenet"
        others = network.layers_run()
        hint = f"; or give --layer, there are runs of {', '.join(others)}" if others else ""
        raise EvopruneError(f"{run} is not a run folder: first prune with {option}{only}{hint}")
    with ProgressView() as view:
        return finetune(run, listener=view, command=shlex.join(["python", *sys.argv]))


def chosen_network(options: argparse.Namespace) -> Network:
    """The network asked for; to fine-tune, ResNet-18 as in the reference, or LeNet-5 where that alone has runs."""
    if options.network is not None:
        network: Network = options.network
        return network
    lenet, resnet = NETWORKS
    for network in (resnet, lenet):
        if (network.run_of(options.layer) / "config.json").exists() or (options.layer is None and network.layers_run()):
            return network
    return resnet


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description="Prune with the reference system's genetic algorithm.")
    what = parser.add_mutually_exclusive_group()
    for known in NETWORKS:
        into = f"prune {known.model} into {known.run}, one layer into {known.run}-LAYER"
        what.add_argument(known.option, dest="network", action="store_const", const=known, help=into)
    parser.add_argument("--finetune", action="store_true", help="train the model of such a run 20 epochs more")
    parser.add_argument("--layer", metavar="NAME", help="only this layer, such as module.classifier.3")
    parser.add_argument("--save_results", action="store_true", help="also keep populations, masks and weights")
    parser.add_argument(
        "--checkpoint", metavar="FILE", help="trained weights; those that come with evoprune by default"
    )
    parser.add_argument("--data", metavar="NAME_OR_DIR", help="mnist or cifar10 (default), or a parquet folder")
    parser.add_argument("--include-norm", action="store_true", help="prune the scales of norm layers, as the reference")
    parser.add_argument("--overwrite", action="store_true", help="start over where there is such a run")
    options = parser.parse_args()
    if options.network is None and not options.finetune:
        parser.error("one of --lenet, --resnet and --finetune is needed")
    try:
        network = chosen_network(options)
        run = network.run_of(options.layer)
        result = train_on(network, options) if options.finetune else prune(network, options)
    except EvopruneError as error:
        print(f"pruning.py: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        begun = (run / "config.json").exists() and not (run / "result.json").exists()
        goes_on = f"; `evoprune resume {run}` goes on where it stopped" if begun else "; the same command starts again"
        if begun and options.save_results:
            goes_on += "; what --save_results writes comes of an unbroken run alone: --overwrite starts over"
        print(f"pruning.py: interrupted{goes_on}", file=sys.stderr)
        raise SystemExit(130) from None
    Console().print(layer_table(result.summary))
    print("\n".join(summary_lines(result.summary)), f"\nreport: {run / 'report.html'}")


if __name__ == "__main__":
    main()
