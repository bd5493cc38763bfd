"""Options that do not go together, or would be ignored in silence: one line that names them, before a run begins."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evoprune.core import EvopruneError
from evoprune.search import ALGORITHMS, BoundarySwaps, BudgetedBits, Shares

__all__ = ["ONLY_ORIGINAL", "option_name", "refuse_contradictions", "spaces_of"]

NOT_ORIGINAL: dict[str, tuple[Any, str]] = {
    "algorithm": ("ga", "is one genetic algorithm"),
    "space": ("weights", "evolves one bit a weight"),
    "guidance": ("none", "orders nothing"),
    "front": (False, "prunes layer after layer"),
    "budget": ("weights", "keeps to no budget"),
    "sparsity": (None, "prunes as far as its fitness leads; its thresholds are --passes"),
}
"""What the original preset has no choice in: the value that it has, and what it does instead."""
ONLY_ORIGINAL = ("alpha", "initial_sparsity")
"""Settings that the other presets do not read."""
ONLY_SEARCH = ("algorithm", "population", "generations", "crossover_rate", "mutation_rate", "scoring", "memory_mb")
NOT_YET = ("channels", "2:4")
GENES: dict[str, tuple[type, ...]] = {
    "weights": (BudgetedBits,),
    "allocation": (Shares,),
    "mixture": (Shares, BoundarySwaps),
}
"""Space -> the kinds of genes that its genomes are made of."""


def refuse_contradictions(given: Mapping[str, Any], chosen: Mapping[str, Any]) -> None:
    """Raise EvopruneError where options contradict each other.

    Args:
        given: what the user said.
        chosen: the same, completed by defaults; what is left out there has the default of `Settings`.
    """
    original = chosen.get("preset") == "original"
    if given.get("layers") == []:
        raise EvopruneError("layers is empty; name the layers to prune, or leave it out to prune all")
    if str(given.get("space")) in NOT_YET:
        raise EvopruneError(f"--space {given['space']} is not there yet; there are {', '.join(GENES)} and training")
    if given.get("workers", 1) not in (0, 1):
        raise EvopruneError(f"--workers {given['workers']}: only 1 so far; scoring already uses all cores")
    if original:
        _refuse_beside_original(given)
    elif wrong := [name for name in ONLY_ORIGINAL if name in given]:
        raise EvopruneError(f"{option_name(wrong[0])} belongs to --preset original; leave it out")
    for one, other in (("sparsity", "passes"), ("floor", "max_drop")):
        if one in given and other in given:
            raise EvopruneError(f"{option_name(one)} and {option_name(other)} both set the goal; give one of them")
    if chosen.get("space") == "training":
        _refuse_beside_training(given)
    elif not original:
        _refuse_unfit_algorithm(given, chosen)
        if chosen.get("budget", "weights") != "weights":
            _refuse_without_budget(chosen)


def _refuse_beside_original(given: Mapping[str, Any]) -> None:
    for name, (only, instead) in NOT_ORIGINAL.items():
        if given.get(name, only) != only:
            what = option_name(name) if given[name] is True else f"{option_name(name)} {given[name]}"
            raise EvopruneError(
                f"{what} does not go with --preset original, which {instead}; leave it out, or use --preset default"
            )


def _refuse_beside_training(given: Mapping[str, Any]) -> None:
    """Where training itself prunes there is no search."""
    if given.get("guidance") != "gradient" or given.get("finetune_epochs", 1) == 0:
        raise EvopruneError(
            "--space training prunes by the gradients of training: it needs --guidance gradient and epochs"
        )
    if given.get("budget", "weights") != "weights":
        raise EvopruneError(
            f"--budget {given['budget']} is shared between layers, and --space training counts weights: add --space"
            " allocation"
        )
    for name in ONLY_SEARCH:
        if name in given:
            raise EvopruneError(
                f"{option_name(name)} belongs to a search, and with --guidance gradient training itself prunes;"
                " add --space weights, allocation or mixture to search"
            )


def _refuse_unfit_algorithm(given: Mapping[str, Any], chosen: Mapping[str, Any]) -> None:
    """Not every algorithm can evolve what the genomes of a space are made of."""
    algorithm, space = str(chosen.get("algorithm", "steady")), str(chosen.get("space", "weights"))
    entry = ALGORITHMS.get(algorithm)
    if entry is None or space not in GENES:
        return  # refused by `Settings`, which lists what there is
    if space not in (fit := spaces_of(algorithm)):
        raise EvopruneError(f"--algorithm {algorithm} cannot search --space {space}; use --space {' or '.join(fit)}")
    if "crossover_rate" in given and "crossover_rate" not in entry.rates:
        raise EvopruneError(f"--algorithm {algorithm} crosses nothing; leave --crossover-rate out")
    if "mutation_rate" in given and space != "weights":
        raise EvopruneError(f"--space {space} sets its mutations itself; leave --mutation-rate out")
    if given.get("mutation_rate") == 1:
        raise EvopruneError("--mutation-rate 1 would draw every bit anew; give one below 1")
    entry.check_installed()


def spaces_of(algorithm: object) -> list[str]:
    """The spaces that an algorithm can search; all of them where there is no such algorithm."""
    entry = ALGORITHMS.get(str(algorithm))
    return [space for space, genes in GENES.items() if entry is None or entry.evolves(genes)]


def _refuse_without_budget(chosen: Mapping[str, Any]) -> None:
    """A budget in another quantity than weights needs what can keep to it."""
    option = f"--budget {chosen['budget']}"
    if chosen.get("space", "weights") == "weights":
        raise EvopruneError(f"{option} is shared between layers: add --space allocation")
    if "sparsity" not in chosen:
        raise EvopruneError(f"{option} needs --sparsity, the share of it that goes")
    if chosen.get("algorithm") == "nsga2":
        raise EvopruneError(f"{option} is exact, and --algorithm nsga2 leaves the total free; choose another algorithm")


def option_name(name: str) -> str:
    """A setting as the command line calls it."""
    return "--" + name.replace("_", "-")
