"""All that a run has to remember, as plain data, and its snapshots on disk."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from evoprune.core import EvopruneError, Masks
from evoprune.guidance import Advice
from evoprune.run.schedule import Outcome, Stage
from evoprune.search import Population
from evoprune.spaces import pack_bits, unpack_bits
from evoprune.storage import read_tensors, save_tensors, shapes_of, under

__all__ = ["FrontPoint", "Kept", "RunState", "load_state", "packed", "save_state", "unpacked"]

Phase = Literal["search", "short", "final"]


@dataclass
class Kept:
    """A model at one moment.

    Attributes:
        model: its state dict, pruned weights at zero.
        masks: what stays.
        values: the last values of all weights that may be pruned, so that a pruned one can come back.
        left: int16, of each weight the number, from 1, of the stage in which it left the model; 0 while it stays.
    """

    model: dict[str, Tensor]
    masks: Masks
    values: dict[str, Tensor]
    left: dict[str, Tensor]


@dataclass
class FrontPoint:
    """A model that a stage of a front ended with: `kept` has no values and nothing of what left."""

    sparsity: float
    score: float
    kept: Kept


@dataclass
class RunState:
    """Where a run is. Everything random is derived from the seed and this position."""

    now: Kept
    accepted: Kept
    history: list[Outcome] = field(default_factory=list)
    front: list[FrontPoint] = field(default_factory=list)
    stage: Stage | None = None
    phase: Phase = "search"
    """Of the stage: its search, its short fine-tuning, its final epochs."""
    step: int = 0
    """Generations or epochs of the phase that are done."""
    epoch_scores: list[float] = field(default_factory=list)
    """Validation scores after the epochs of the present stage."""
    dense_val_score: float = 0.0
    evaluations: int = 0
    samples_scored: int = 0
    scoring_bytes: int = 0
    """Highest memory of scoring, as the evaluator estimates it."""
    generations: int = 0
    search_seconds: float = 0.0
    finetune_seconds: float = 0.0
    finetune_epochs: int = 0
    seconds: float = 0.0
    first_scores_seconds: float = 0.0
    """From the start of the last search to the scores of its first population."""
    cut_short: bool = False
    """Whether the time limit left something out that would have been done."""
    late: bool = False
    """Whether the time was up when the next stage was asked for: then only what ends the run follows."""
    journal_bytes: int = 0
    population: Population | None = None
    """Between generations bit genomes are packed, eight a byte: see `packed`."""
    advice: Advice | None = None
    """What guidance said of the present stage, until its search ends: it may have taken minutes."""
    optimizer: dict[str, Tensor] = field(default_factory=dict)
    warm: dict[str, Tensor] = field(default_factory=dict)
    """Stage name -> packed last population, from which the next pass over that layer starts."""


TENSORS = {"now", "accepted", "front", "population", "advice", "optimizer", "warm"}


def packed(population: Population) -> Population:
    """The same with bool genomes as bits, (P, ceil(G / 8)) uint8; real-valued ones stay as they are."""
    genomes = population.genomes
    return replace(population, genomes=pack_bits(genomes)) if genomes.dtype == torch.bool else population


def unpacked(population: Population, genes: int) -> Population:
    """The inverse of `packed` for G = `genes`."""
    genomes = population.genomes
    return replace(population, genomes=unpack_bits(genomes, genes)) if genomes.dtype == torch.uint8 else population


def save_state(state: RunState, path: Path) -> None:
    """Write a snapshot, atomically."""
    tensors: dict[str, Tensor] = {}
    points = [(f"front/{index:03}", point.kept) for index, point in enumerate(state.front)]
    for name, kept in [("now", state.now), ("accepted", state.accepted), *points]:
        for part in fields(Kept):
            for key, tensor in getattr(kept, part.name).items():
                written = pack_bits(tensor.flatten()) if part.name == "masks" and kept.values else tensor
                tensors[f"{name}/{part.name}/{key}"] = written
    if state.population is not None:
        tensors["population/genomes"] = state.population.genomes
        tensors["population/fitness"] = state.population.fitness
        tensors |= {f"population/traits/{key}": value for key, value in state.population.traits.items()}
        tensors |= {f"population/state/{key}": value for key, value in state.population.state.items()}
    if state.advice is not None:
        tensors["advice/order"] = state.advice.order
        if state.advice.importance is not None:
            tensors["advice/importance"] = state.advice.importance
    tensors |= {f"optimizer/{key}": value for key, value in state.optimizer.items()}
    tensors |= {f"warm/{key}": value for key, value in state.warm.items()}
    plain = {f.name: getattr(state, f.name) for f in fields(state) if f.name not in TENSORS}
    plain["history"] = [asdict(outcome) for outcome in state.history]
    plain["front"] = [{"sparsity": point.sparsity, "score": point.score} for point in state.front]
    plain["stage"] = None if state.stage is None else asdict(state.stage)
    if state.advice is not None:
        plain["advice"] = {"candidates": state.advice.candidates, "samples": state.advice.samples}
    save_tensors(tensors, path, {"state": json.dumps(plain), "shapes": shapes_of(tensors)})


def load_state(path: Path) -> RunState:
    """Read a snapshot.

    Raises:
        EvopruneError: there is none, or it is damaged.
    """
    try:
        tensors, metadata = read_tensors(path)
        plain: dict[str, Any] = json.loads(metadata["state"])
        if metadata["shapes"] != shapes_of(tensors):
            raise ValueError("it lacks tensors that it was written with, or they have other shapes")
        if plain["phase"] not in get_args(Phase):
            raise ValueError("another version of evoprune wrote it")
        plain["history"] = [Outcome(**record) for record in plain["history"]]
        if plain["stage"] is not None:
            plain["stage"] = Stage(**(plain["stage"] | {"layers": tuple(plain["stage"]["layers"])}))
        plain["front"] = [
            FrontPoint(point["sparsity"], point["score"], _kept(under(tensors, f"front/{index:03}/")))
            for index, point in enumerate(plain["front"])
        ]
        now, accepted = (_kept(under(tensors, f"{name}/")) for name in ("now", "accepted"))
        population = None
        if under(tensors, "population/"):
            population = Population(
                tensors["population/genomes"],
                tensors["population/fitness"],
                under(tensors, "population/traits/"),
                under(tensors, "population/state/"),
            )
        advice = None
        if "advice" in plain:
            said = under(tensors, "advice/")
            advice = Advice(said["order"], said.get("importance"), **plain.pop("advice"))
        return RunState(
            now=now,
            accepted=accepted,
            population=population,
            advice=advice,
            optimizer=under(tensors, "optimizer/"),
            warm=under(tensors, "warm/"),
            **plain,
        )
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise EvopruneError(
            f"cannot go on from {path}: {error or type(error).__name__}; the run folder is damaged or"
            " incomplete, start it again with --overwrite"
        ) from error


def _kept(tensors: dict[str, Tensor]) -> Kept:
    values = under(tensors, "values/")
    masks = {
        name: unpack_bits(mask, values[name].numel()).view(values[name].shape) if values else mask
        for name, mask in under(tensors, "masks/").items()
    }
    return Kept(under(tensors, "model/"), masks, values, under(tensors, "left/"))
