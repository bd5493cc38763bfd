"""Accuracy against sparsity: evoprune beside the rules that it has to beat, with the same fine-tuning.

    python benchmarks/quality.py --data mnist [--sparsities 0.95 0.98 0.99] [--seeds 0 1 2] [--only NAME ...]

Everyone prunes step by step to the same targets, trains as long after each, and ends with the same final schedule;
the dense model teaches. What evoprune's search took is counted: the rules get as many final epochs more as could be
trained in that time, so that all have the same time. Figures are of the last epoch; the test set is read once a
trial. Trials go into results/quality.json as they end; those that are there for the same settings are not repeated.
"""

from __future__ import annotations

import argparse
import copy
import math
import sys
import time
from collections.abc import Callable
from typing import Any

import baselines
import record
import torch
from torch import nn

import evoprune
from evoprune.core import Layer, Masks, generator, prunable_layers
from evoprune.run.schedule import Outcome, Stage, next_stage
from evoprune.run.settings import Settings, make_settings
from evoprune.scoring import Accuracy
from evoprune.surgery import FineTuner
from evoprune.training import TensorSource
from evoprune.zoo import Data, default_checkpoint, load_checkpoint, load_data, load_model

NAME = "quality"
EVOPRUNE = {"none": "none", "evolved-magnitude": "magnitude", "gradient": "gradient"}
"""Methods and their guidances: with `gradient` training itself prunes, without a search."""
RULES = ("magnitude", "lamp", "erk", "uniform", "random", "shuffled")
"""`shuffled` has as many weights in each layer as `none` found, at random places."""

Rule = Callable[[nn.Module, Stage], Masks]


def by_evoprune(model: nn.Module, data: Data, settings: Settings) -> dict[str, Any]:
    """What `evoprune prune` does."""
    given = settings.model_dump(exclude_unset=True, exclude={"model", "threads"})
    result = evoprune.prune(
        model, Accuracy(data.val.inputs, data.val.targets), train=(data.train.inputs, data.train.targets),
        test=Accuracy(data.test.inputs, data.test.targets), **given,
    )  # fmt: skip
    summary = result.summary
    epochs, seconds = summary["finetune"]["epochs"], summary["finetune"]["seconds"]
    return {
        "sparsity": result.sparsity, "val_score": result.score, "test_score": summary["pruned"]["test_score"],
        "kept": {layer["name"]: layer["kept"] for layer in summary["layers"]},
        "epochs": epochs, "search_epochs": summary["search"]["seconds"] * epochs / seconds,
        "evaluations": summary["search"]["evaluations"], "seconds": summary["seconds"],
    }  # fmt: skip


def by_rule(dense: nn.Module, data: Data, settings: Settings, rule: Rule, more: int) -> dict[str, Any]:
    """The same stages with a rule in place of the search, and `more` final epochs."""
    model, begun, history, epochs = copy.deepcopy(dense), time.perf_counter(), list[Outcome](), 0
    layers = prunable_layers(model)
    source = TensorSource(data.train.inputs, data.train.targets, settings.batch_size)
    source.ask(dense)
    masks: Masks = {layer.name: torch.ones(layer.shape, dtype=torch.bool) for layer in layers}
    while (stage := next_stage(settings, layers, history, True, False)) is not None:
        if stage.layers:
            masks = rule(model, stage)
        final = 0 if stage.only_below_floor else stage.final_epochs + more
        for schedule, count in ((settings.finetune_schedule, stage.epochs), (settings.final_schedule, final)):
            if count == 0:
                continue
            recipe = settings.recipe(count, schedule)
            tuner = FineTuner(model, masks, source, recipe, dense)
            for epoch in range(count):
                tuner.epoch(epoch, settings.seed, stage.index, schedule == "constant")
            epochs += count
            tuner.close()
        history.append(Outcome(stage.target, stage.target, 0.0, True, final > 0))
    kept = {name: int(mask.sum()) for name, mask in masks.items()}
    return {
        "sparsity": 1 - sum(kept.values()) / sum(layer.size for layer in layers),
        "val_score": Accuracy(data.val.inputs, data.val.targets)(model),
        "test_score": Accuracy(data.test.inputs, data.test.targets)(model),
        "kept": kept, "epochs": epochs, "search_epochs": 0.0, "evaluations": 0, "seconds": time.perf_counter() - begun,
    }  # fmt: skip


def make_rule(name: str, layers: list[Layer], kept: dict[str, int], seed: int) -> Rule:
    """The masks of a stage by the rule's name; `kept` is what the search without a rule left in each layer."""
    rules: dict[str, Callable[..., Masks]] = {
        "magnitude": baselines.global_magnitude, "lamp": baselines.lamp,
        "erk": baselines.erk, "uniform": baselines.uniform,
    }  # fmt: skip
    if name in rules:
        return lambda model, stage: rules[name](model, layers, stage.target)
    rng = generator(seed)
    order = {layer.name: torch.rand(layer.shape, generator=rng) for layer in layers}
    whole = sum(layer.size for layer in layers)
    final = math.log(sum(kept.values()) / whole)

    def at_random(_: nn.Module, stage: Stage) -> Masks:
        """The same random order in every stage, so that masks are nested."""
        done = math.log(1 - stage.target) / final
        shares = [(kept[layer.name] / layer.size) ** done * layer.size for layer in layers]
        if name == "random":
            shares = [float(layer.size) for layer in layers]
        sizes = [layer.size for layer in layers]
        counts = baselines.allot(shares, sizes, baselines.kept_weights(layers, stage.target))
        return baselines.highest_each(order, layers, counts)

    return at_random


def main() -> None:
    """Run what is missing; the searches first, since the rules are given their time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--model", default="lenet5")
    parser.add_argument("--sparsities", nargs="+", type=float, default=[0.95, 0.98, 0.99])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", choices=[*EVOPRUNE, *RULES], default=[*EVOPRUNE, *RULES])
    parser.add_argument("--finetune-epochs", type=int, default=1, help="after each stage")
    parser.add_argument("--final-epochs", type=int, default=6)
    args = parser.parse_args()
    data, model, layers = load_data(args.data), load_model(args.model), []
    checkpoint = default_checkpoint(args.model)
    if checkpoint is None:
        sys.exit(f"{args.model} has no shipped weights")
    load_checkpoint(model, checkpoint)
    model.eval()
    layers = prunable_layers(model)
    for seed in args.seeds:
        for sparsity in args.sparsities:
            given = {"finetune_epochs": args.finetune_epochs, "final_epochs": args.final_epochs}
            place = {"model": args.model, "target": sparsity, **given, "seed": seed}
            for method in [name for name in (*EVOPRUNE, *RULES) if name in args.only]:
                trials = record.earlier(NAME).get("trials", [])
                if any(({"method": method} | place).items() <= old.items() for old in trials):
                    continue
                settings = make_settings(
                    model=args.model, sparsity=sparsity, seed=seed, **given,
                    guidance=EVOPRUNE.get(method),
                )  # fmt: skip
                if method in EVOPRUNE:
                    figures = by_evoprune(model, data, settings)
                else:
                    found = next((old for old in trials if ({"method": "none"} | place).items() <= old.items()), None)
                    if found is None:
                        sys.exit("the rules need the time that `none` takes; run that first")
                    rule = make_rule(method, layers, found["kept"], seed)
                    figures = by_rule(model, data, settings, rule, round(found["search_epochs"]))
                trial = {"method": method, **place, **figures, "commit": record.commit()}
                record.write(NAME, {"data": "MNIST", "trials": [*record.earlier(NAME).get("trials", []), trial]})
                shown = f"{figures['test_score']:.2%} in {figures['epochs']:g} epochs, {figures['seconds']:.0f} s"
                print(f"{args.model} {sparsity:.2%} {method} seed {seed}: {shown}", flush=True)


if __name__ == "__main__":
    main()
