"""Accuracy against sparsity: evoprune beside the rules that it has to beat, with the same fine-tuning.

    python benchmarks/quality.py --data mnist [--sparsities 0.95 0.98 0.99] [--seeds 0 1 2] [--only NAME ...]
    python benchmarks/quality.py --data mnist --sparsities 0.98 --only steady evopress pbil cmaes nsga2 mixture chance
    python benchmarks/quality.py --model resnet18 --data cifar10 --chain --beside gradient --only gradient magnitude

Everyone prunes step by step to the same targets, trains as long after each, and ends with the same final schedule;
the dense model teaches. What the search took of the method they stand beside is counted: the rules get as many final
epochs more as that method trained in that time. Its epochs are scored on validation images and theirs are not, so the
rules end up to a tenth earlier. With --chain one run goes through all
sparsities, and the model of each is trained to the end before it is pruned further. Figures are of the last epoch; the
test set is read once a figure. Trials go into results/quality.json as they end; those that are there for the same
settings are not repeated, unless --again asks for those of other commits, whose place the new ones take.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import math
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import baselines
import record
import torch
from safetensors.torch import load_file
from torch import nn

import evoprune
from evoprune.core import Layer, Masks, generator, prunable_layers, sparsity_of
from evoprune.run.schedule import Outcome, Stage, next_stage
from evoprune.run.settings import Settings, make_settings
from evoprune.scoring import Accuracy, device_of
from evoprune.storage import save_tensors
from evoprune.surgery import FineTuner, load_masks
from evoprune.training import TensorSource, repeatable
from evoprune.zoo import BUILT_IN, Data, default_checkpoint, load_checkpoint, load_data, load_model

NAME = "quality"
EVOPRUNE: dict[str, dict[str, Any]] = {
    "none": {"algorithm": "ga"},
    "evolved-magnitude": {"guidance": "magnitude", "algorithm": "ga"},
    "gradient": {"guidance": "gradient"},
}
"""Methods and their settings: with `gradient` training itself prunes, in smaller steps and without a search."""
SEARCHES: dict[str, dict[str, Any]] = {
    "steady": {"algorithm": "steady"},  # with batch norms measured anew, where there are any
    "evopress": {"algorithm": "evopress"},
    "pbil": {"algorithm": "pbil"},
    "cmaes": {"space": "allocation", "algorithm": "cmaes"},
    "nsga2": {"space": "allocation", "algorithm": "nsga2"},
    "mixture": {"space": "mixture", "algorithm": "ga"},
    "wanda": {"guidance": "wanda", "algorithm": "ga"},
    "chance": {"algorithm": "random"},
    "steady-magnitude": {"guidance": "magnitude", "space": "allocation"},
}
"""Other searches and the control, to be named with --only."""
OURS = EVOPRUNE | SEARCHES
RULES = ("magnitude", "lamp", "erk", "uniform", "random", "shuffled", "unpruned")
"""`shuffled` has as many weights in each layer as the method beside found, at random places; `unpruned` is the dense
model, trained as long."""
PLACE = (
    "method",
    "model",
    "dense",
    "target",
    "chain",
    "finetune_epochs",
    "final_epochs",
    "first_size",
    "cutout",
    "distill",
    "seed",
    "beside",
)
"""What tells trials apart."""

Rule = Callable[[nn.Module, Stage], Masks]
Report = Callable[[float, nn.Module, Masks, dict[str, Any]], None]
"""Takes a sparsity that was asked for, the model there and its masks, and what was measured of it."""
Reached = dict[float, tuple[dict[str, Any], Path]]
"""The sparsities that are done: their trials, and the folders of their models."""


def source_of(data: Data, settings: Settings, model: nn.Module) -> TensorSource:
    """Training batches where the model is, not augmented yet."""
    place = device_of(model)
    return TensorSource(data.train.inputs, data.train.targets, settings.batch_size, fill=data.black, device=place)


def by_evoprune(dense: nn.Module, data: Data, settings: Settings, folder: Path, report: Report) -> None:
    """What `evoprune prune` does, or goes on with; reports each stage that reaches one of its goals."""
    model, layers, test = copy.deepcopy(dense), prunable_layers(dense), Accuracy(data.test.inputs, data.test.targets)

    def listen(event: dict[str, Any]) -> None:
        if event["event"] != "stage_end":
            return
        events = [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]
        target = next(old["target"] for old in reversed(events) if old["event"] == "stage_start")
        if target in goals(settings):
            masks = load_masks(folder / "masks.safetensors", layers)
            figures = {"val_score": event["val_score"], "test_score": float(test(model)), "seconds": event["seconds"]}
            report(target, model, masks, figures | spent(events))

    score, train = Accuracy(data.val.inputs, data.val.targets), source_of(data, settings, model)
    if (folder / "config.json").exists() and not (folder / "result.json").exists():
        evoprune.resume(folder, model, score, train=train, inplace=True, listener=listen)
        return
    # A model's own defaults may name a population where nothing is searched.
    unused = {"threads", "model"} | ({"population"} if settings.tightens else set())
    evoprune.prune(
        model, score, train=train, inplace=True, out=folder, overwrite=True, listener=listen,
        **settings.model_dump(exclude_unset=True, exclude=unused),
    )  # fmt: skip


def spent(events: list[dict[str, Any]]) -> dict[str, float]:
    """Epochs, the search's time in epochs, and evaluations, of a run whose journal goes so far."""
    epochs, evaluations, searching = 0, 0, 0.0
    for last, event in pairwise(events):  # before a generation stands another, or the start of its stage
        if event["event"] == "generation":
            evaluations = event["evaluations"]
            searching += event["seconds"] - last["seconds"]
        elif event["event"] == "epoch":
            epochs += 1
    training = max(events[-1]["seconds"] - searching, 1e-9)
    return {"epochs": epochs, "search_epochs": searching * epochs / training, "evaluations": evaluations}


def by_rule(
    dense: nn.Module, data: Data, settings: Settings, rule: Rule, more: int, reached: Reached, report: Report
) -> None:
    """The same stages with a rule in place of the search, and `more` final epochs to each goal.

    Goes on from the sparsest model that an earlier run reached and kept.
    """
    model, begun, history, epochs = copy.deepcopy(dense), time.perf_counter(), list[Outcome](), 0
    layers = prunable_layers(model)
    last = max(reached, default=0.0)
    if reached:
        trial, folder = reached[last]
        model.load_state_dict(load_file(folder / "model.safetensors"))
        epochs, begun = trial["epochs"], begun - trial["seconds"]
    source = source_of(data, settings, model)
    if settings.augmentation:
        source = source.augmented(**settings.augmentation)
    if (teacher := dense if settings.distill else None) is not None:
        source.cache_teacher_logits(teacher)
    masks = baselines.unpruned(model, layers)
    while (stage := next_stage(settings, layers, history, True, False)) is not None:
        final = 0 if stage.only_below_floor else stage.final_epochs + more
        history.append(Outcome(stage.target, stage.target, 0.0, True, final > 0))
        if stage.target <= last:
            continue
        if stage.layers:
            masks = rule(model, stage)
        parts = ((0, settings.finetune_schedule, stage.epochs), (stage.epochs, settings.final_schedule, final))
        for first, schedule, count in parts:
            if count == 0:
                continue
            recipe = settings.recipe(count, schedule)
            tuner = FineTuner(model, masks, source, recipe, teacher)
            with repeatable():
                for epoch in range(count):
                    tuner.epoch(epoch, settings.seed, stage.index, first, 1)  # the streams of `evoprune prune`
            epochs += count
            tuner.close()
        if stage.target not in goals(settings):
            continue
        report(stage.target, model, masks, {
            "val_score": Accuracy(data.val.inputs, data.val.targets)(model),
            "test_score": Accuracy(data.test.inputs, data.test.targets)(model),
            "epochs": epochs, "search_epochs": 0.0, "evaluations": 0,
            "seconds": time.perf_counter() - begun,
        })  # fmt: skip


def goals(settings: Settings) -> list[float]:
    """The sparsities of which figures are wanted."""
    return settings.passes or [] if settings.sparsity is None else [settings.sparsity]


def make_rule(name: str, layers: list[Layer], kept: dict[str, int], seed: int) -> Rule:
    """The masks of a stage by the rule's name; `kept` is what the method beside left in each layer."""
    rules: dict[str, Callable[..., Masks]] = {
        "magnitude": baselines.global_magnitude, "lamp": baselines.lamp,
        "erk": baselines.erk, "uniform": baselines.uniform, "unpruned": baselines.unpruned,
    }  # fmt: skip
    if name in rules:
        return lambda model, stage: rules[name](model, layers, stage.target)
    rng = generator(seed)
    order = {layer.name: torch.rand(layer.shape, generator=rng) for layer in layers}
    sizes = [layer.size for layer in layers]

    def at_random(_: nn.Module, stage: Stage) -> Masks:
        """The same random order in every stage, so that masks are nested."""
        shares = [float(size) for size in sizes]
        if name == "shuffled":
            done = math.log(1 - stage.target) / math.log(sum(kept.values()) / sum(sizes))
            shares = [(kept[layer.name] / layer.size) ** done * layer.size for layer in layers]
        counts = baselines.allot(shares, sizes, baselines.kept_weights(layers, stage.target))
        return baselines.highest_each(order, layers, counts)

    return at_random


def main() -> None:
    """Run what is missing; the searches first, since the rules are given their time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--model", default="lenet5", choices=[name for name in BUILT_IN if default_checkpoint(name)])
    parser.add_argument("--sparsities", nargs="+", type=float, default=[0.95, 0.98, 0.99])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", choices=[*OURS, *RULES], default=[*EVOPRUNE, *RULES])
    parser.add_argument("--beside", choices=OURS, default="none", help="whose steps and time the rules are given")
    parser.add_argument("--finetune-epochs", type=int, default=1, help="after each stage")
    parser.add_argument("--final-epochs", type=int, default=6)
    parser.add_argument("--first-size", type=int, help="pixels a side of the first images")
    parser.add_argument("--cutout", type=int, help="pixels a side of a square that each training image loses")
    parser.add_argument("--distill", type=float, help="share of the loss that the dense model decides")
    parser.add_argument("--chain", action="store_true", help="one run through all sparsities")
    parser.add_argument(
        "--keep",
        type=Path,
        metavar="DIR",
        help="for the pruned models and the runs; what was interrupted goes on from them",
    )
    parser.add_argument("--again", action="store_true", help="repeat trials of other commits")
    args = parser.parse_args()
    data, model = load_data(args.data), load_model(args.model)
    checkpoint = default_checkpoint(args.model)
    assert checkpoint is not None, "the models named here come with weights"
    dense = float(load_checkpoint(model, checkpoint)["test_accuracy"])  # other weights, other trials
    model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    chosen = ("finetune_epochs", "final_epochs", "first_size", "cutout", "distill")
    given = {name: value for name in chosen if (value := getattr(args, name)) is not None}
    runs = [args.sparsities] if args.chain else [[sparsity] for sparsity in args.sparsities]
    for seed in args.seeds:
        for targets in runs:
            chain = {"chain": targets} if args.chain else {}
            place = {"model": args.model, "dense": dense, **chain, **given, "seed": seed}
            for method in [name for name in (*OURS, *RULES) if name in args.only]:
                run(method, model, data, targets, place, args.beside, args.keep, args.again)


def run(
    method: str,
    model: nn.Module,
    data: Data,
    targets: list[float],
    place: dict[str, Any],
    beside: str,
    keep: Path | None,
    again: bool,
) -> None:
    """One method from the dense model to the last of the targets, unless all its figures are there."""
    own = {"method": method, **place} | ({"beside": beside} if method in RULES and beside != "none" else {})

    def done(target: float) -> dict[str, Any] | None:
        trial = earlier({"target": target, **own})
        return trial if trial and record.stands(trial, again) else None

    if all(done(target) for target in targets):
        return

    def folder_of(target: float) -> Path | None:
        return keep / f"{own['model']}-{method}-{target}-{own['seed']}" if keep else None

    def report(target: float, pruned: nn.Module, masks: Masks, figures: dict[str, Any]) -> None:
        if done(target):
            return
        if (folder := folder_of(target)) is not None:
            save_tensors(masks, folder / "masks.safetensors")
            save_tensors(pruned.state_dict(), folder / "model.safetensors")
        kept = {name: int(mask.sum()) for name, mask in masks.items()}
        counted = {"sparsity": sparsity_of(masks, prunable_layers(pruned)), "kept": kept}
        trial = {**own, "target": target, **counted, **figures, "data": data.name, **record.provenance()}
        others = [old for old in record.earlier(NAME).get("trials", []) if not same(old, trial)]
        record.write(NAME, {"trials": [*others, trial]})
        shown = f"{figures['test_score']:.2%} in {figures['epochs']:g} epochs, {figures['seconds']:.0f} s"
        print(f"{own['model']} {target:.2%} {method} seed {own['seed']}: {shown}", flush=True)

    goal = {"passes": targets, "front": True} if "chain" in place else {"sparsity": targets[-1]}
    given = {name: value for name, value in place.items() if name not in ("chain", "dense")}
    settings = make_settings(**given, **goal, **OURS.get(method, OURS[beside]))
    if method in OURS:
        told_by = [own, targets, record.commit()] if again else [own, targets]
        told_apart = hashlib.sha256(json.dumps(told_by).encode()).hexdigest()[:8]
        name = f"run-{own['model']}-{method}-{targets[-1]}-{own['seed']}-{told_apart}"
        with nullcontext(keep) if keep else TemporaryDirectory() as runs:
            by_evoprune(model, data, settings, Path(runs) / name, report)
        return
    found = earlier({"method": beside, **place, "target": targets[-1]})
    if found is None and settings.tightens and method != "shuffled":
        found = {"kept": {}, "search_epochs": 0.0}  # nothing is searched, so there is no time to be given
    if found is None:
        sys.exit(f"the rules need the time that `{beside}` takes; run that first")
    rule = make_rule(method, prunable_layers(model), found["kept"], place["seed"])
    reached = {}
    for target in targets:
        trial, folder = done(target), folder_of(target)
        if trial and folder and folder.exists():
            reached[target] = trial, folder
    by_rule(model, data, settings, rule, round(found["search_epochs"] / len(targets)), reached, report)


def earlier(wanted: dict[str, Any]) -> dict[str, Any] | None:
    """The trial of these settings, where there is one."""
    return next((old for old in record.earlier(NAME).get("trials", []) if same(old, wanted)), None)


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two trials are of the same settings."""
    return all(one.get(name) == other.get(name) for name in PLACE)


if __name__ == "__main__":
    main()
