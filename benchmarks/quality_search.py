"""Does a search find better masks than chance, at the same number of evaluations and without any training?

    python benchmarks/quality_search.py --data mnist [--model lenet5] [--sparsity 0.9] [--seeds 0 1 2] [--only NAME ...]

Every space, algorithm and guidance searches masks of exactly one sparsity, scored on the first 2,000 validation images;
the controls are random search from the same start, and the masks that were found with their bits shuffled inside each
layer. Test accuracy is read once for the best mask of each search. Trials go into results/quality-search.json as they
end; those that are there for the same settings are not repeated, unless --again asks for those of other commits, whose
place the new ones take.
"""

from __future__ import annotations

import argparse
import copy
import time
from typing import Any

import baselines
import record
from torch import nn

import evoprune
from evoprune.core import generator, prunable_layers
from evoprune.scoring import Accuracy
from evoprune.surgery import apply_masks
from evoprune.zoo import Data, load_data, load_trained

IMAGES = 2000
"""Validation images that candidates are scored on."""
SAMPLES = 3000
"""Training images that guidance looks at."""
POPULATION, GENERATIONS = 12, 41
ALGORITHMS = {
    "weights": ("ga", "steady", "evopress", "pbil", "random"),
    "allocation": ("ga", "steady", "evopress", "cmaes", "nsga2", "random"),
}
RULES = ("magnitude", "gradient", "wanda", "learned")
NAME = "quality-search"
PLACE = ("model", "target", "space", "algorithm", "guidance", "seed")
"""What tells trials apart; the first two, rules."""


def searches() -> list[tuple[str, str, str]]:
    """(space, algorithm, guidance): every algorithm without a rule, the default one and chance with each rule."""
    plain = [(space, algorithm, "none") for space in ALGORITHMS for algorithm in ALGORITHMS[space]]
    ruled = [(space, name, rule) for rule in RULES for space in ALGORITHMS for name in ("ga", "random")]
    mixed = [("mixture", name, guidance) for guidance in ("none", "magnitude") for name in ("ga", "random")]
    return plain + ruled + mixed


def trial(model: nn.Module, data: Data, sparsity: float, search: tuple[str, str, str], seed: int) -> dict[str, Any]:
    """One search; what it found, and the same masks shuffled."""
    space, algorithm, guidance = search
    score = Accuracy(data.val.inputs[:IMAGES], data.val.targets[:IMAGES])
    begun = time.perf_counter()
    result = evoprune.prune(
        model, score, train=(data.train.inputs[:SAMPLES], data.train.targets[:SAMPLES]),
        finetune_epochs=0, final_epochs=0, distill=0.0, passes=[sparsity], space=space, algorithm=algorithm,
        guidance=guidance, population=POPULATION, generations=GENERATIONS, seed=seed,
    )  # fmt: skip
    seconds = time.perf_counter() - begun
    control = copy.deepcopy(model)
    apply_masks(control, baselines.shuffled(result.masks, generator(seed)))
    test = Accuracy(data.test.inputs, data.test.targets)
    cost = result.summary["search"]
    return {
        "sparsity": result.sparsity, "val_score": result.score, "val_loss": score.measure(result.model)[1],
        "test_score": test(result.model), "shuffled_test_score": test(control),
        "evaluations": cost["evaluations"], "full_evaluations": cost["full_evaluations"], "seconds": seconds,
    }  # fmt: skip


def by_rules(model: nn.Module, data: Data, sparsity: float) -> dict[str, float]:
    """Test accuracy of the rules' masks, which need no evaluation."""
    test, found = Accuracy(data.test.inputs, data.test.targets), {}
    for rule in (baselines.global_magnitude, baselines.lamp, baselines.erk, baselines.uniform):
        pruned = copy.deepcopy(model)
        apply_masks(pruned, rule(model, prunable_layers(model), sparsity))
        found[rule.__name__] = test(pruned)
    return found


def main() -> None:
    """Run what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--model", default="lenet5")
    parser.add_argument("--sparsity", type=float, default=0.9)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", metavar="NAME", help="words that space/algorithm/guidance must contain")
    parser.add_argument("--again", action="store_true", help="repeat trials of other commits")
    args = parser.parse_args()
    data, model = load_data(args.data), load_trained(args.model)
    rules = {"model": args.model, "target": args.sparsity, **by_rules(model, data, args.sparsity)}
    print(rules, flush=True)
    save(rules)
    for seed in args.seeds:
        for search in searches():
            key = dict(zip(PLACE, (args.model, args.sparsity, *search, seed), strict=True))
            earlier = [old for old in record.earlier(NAME)["trials"] if key.items() <= old.items()]
            if any(record.stands(old, args.again) for old in earlier) or not _wanted(search, args.only):
                continue
            found = key | trial(model, data, args.sparsity, search, seed) | record.provenance()
            save(rules, found)
            print({k: v if not isinstance(v, float) else round(v, 4) for k, v in found.items()}, flush=True)


def save(rules: dict[str, Any], trial: dict[str, Any] | None = None) -> None:
    """Write results/quality-search.json; what it has of the same settings makes way."""
    earlier = record.earlier(NAME)
    rows, trials = _with(rules, earlier.get("rules", []), PLACE[:2]), earlier.get("trials", [])
    if trial is not None:
        trials = _with(trial, trials, PLACE)
    record.write(NAME, {"data": "MNIST", "scored_on": IMAGES, "rules": rows, "trials": trials})


def _with(new: dict[str, Any], old: list[dict[str, Any]], place: tuple[str, ...]) -> list[dict[str, Any]]:
    return [*(one for one in old if any(one[name] != new[name] for name in place)), new]


def _wanted(search: tuple[str, ...], only: list[str] | None) -> bool:
    return only is None or any(word in "/".join(search) for word in only)


if __name__ == "__main__":
    main()
