"""The search of one stage: what is searched, who searches, and how candidates are scored."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import torch
from torch import Tensor

from evoprune.core import Evaluator, Layer, Scores, generator, resolve_layers
from evoprune.evaluation import Costs, make_evaluator
from evoprune.guidance import Advice, advise
from evoprune.run.objective import mixed_fitness, score_fitness, slack
from evoprune.run.schedule import Stage
from evoprune.run.settings import Settings
from evoprune.run.state import RunState
from evoprune.run.task import Task
from evoprune.scoring import DataScore
from evoprune.search import (
    ALGORITHMS,
    Algorithm,
    BoundarySwaps,
    BudgetedBits,
    InTurn,
    OriginalGA,
    Population,
    Proposal,
    Shares,
    best_of,
    lexicographic_order,
    make_algorithm,
    share_costs,
)
from evoprune.spaces import AllocationSpace, MixtureSpace, Space, WeightSpace, unpack_bits
from evoprune.surgery import set_weights

__all__ = ["Scored", "Search", "make_search"]

PRIORITY_STREAM = 0xFFFF
"""Place of the guidance's random stream beside those of the generations."""
LOWEST_SHARE = 0.3
"""Of the average density: what a layer keeps below it, in one stage, has no evolved order (guidance `none`)."""
SCREENING_NORM_SAMPLES = 64
"""Samples, or a batch more, that a candidate's batch norms are measured on to screen it."""


@dataclass
class Scored:
    """What one generation scored; a candidate that was stopped early has no score."""

    sparsity: list[float] = field(default_factory=list)
    score: list[float | None] = field(default_factory=list)
    evaluations: int = 0
    samples: int = 0


@dataclass(frozen=True)
class Search:
    """The parts of a search, joined.

    Attributes:
        space: genomes to plans.
        algorithm: genomes to better genomes.
        evaluator: plans to scores.
        screeners: evaluators on a share of the samples, and how many candidates each leaves.
        fitness: scores and (P,) sparsities to (P, K) fitness.
        target: sparsity of the stage.
        front: whether the population is a front of score against sparsity rather than candidates for the target.
    """

    space: Space
    algorithm: Algorithm
    evaluator: Evaluator
    screeners: tuple[tuple[Evaluator, int], ...]
    fitness: Callable[[Scores, Tensor], Tensor]
    target: float
    front: bool = False

    @property
    def peak_bytes(self) -> int:
        """Highest memory of its evaluators together, as they estimate it."""
        return self.evaluator.peak_bytes + sum(evaluator.peak_bytes for evaluator, _ in self.screeners)

    def generation(self, population: Population | None, rng: torch.Generator) -> tuple[Population, Scored]:
        """Ask, screen, evaluate, tell."""
        scored = Scored()
        for _ in range(1 if population is None else self.algorithm.asks_per_generation):
            genomes, traits = self.algorithm.ask(population, rng)
            scored.evaluations += len(genomes)
            if self.algorithm.screens(population):
                genomes, traits = self._screened(genomes, traits, scored)
            scores = self.evaluator(self.space.plans(genomes), self.algorithm.floor(population))
            sparsity = self.space.sparsity(genomes)
            traits = {**traits, "score": scores.score, "sparsity": sparsity}
            candidates = Population(genomes, self.fitness(scores, sparsity), traits)
            population = self.algorithm.tell(population, candidates)
            scored.samples += scores.samples
            scored.sparsity += sparsity.tolist()
            complete = zip(scores.score.tolist(), scores.complete.tolist(), strict=True)
            scored.score += [score if whole else None for score, whole in complete]
        assert population is not None
        return population, scored

    def best(self, population: Population) -> int:
        """Position of the genome that the stage ends with: the fittest, or of a front the best at the target."""
        if not self.front:
            return best_of(population)
        near = population.traits["sparsity"] >= self.target - slack(self.target)
        if not near.any():
            return int(population.traits["sparsity"].argmax())
        return int(torch.where(near, population.fitness[:, 0], -float("inf")).argmax())

    def _screened(self, genomes: Tensor, traits: Mapping[str, Tensor], scored: Scored) -> Proposal:
        """The candidates that come through the rounds on a share of the samples."""
        for evaluator, kept in self.screeners:
            scores = evaluator(self.space.plans(genomes))
            scored.samples += scores.samples
            best = lexicographic_order(score_fitness(scores))[:kept].sort().values
            genomes, traits = genomes[best], {name: values[best] for name, values in traits.items()}
        return genomes, traits


def make_search(
    task: Task,
    settings: Settings,
    state: RunState,
    stage: Stage,
    floor: float | None,
    costs: Costs,
    on_layer: Callable[[int], None],
    norm_batches: Sequence[Tensor] = (),
) -> Search:
    """The search of `stage`.

    The default preset leaves the last values that all weights had in `task.model`, those pruned at present included:
    a candidate may bring a weight back with the value it had. (The reference brings zeros back.)
    What guidance says is kept in `state.advice`, and not asked for again where it is there.
    `on_layer` is told for how many layers the guidance has spoken, where that takes long.
    With `norm_batches` candidates are scored with batch norms measured on them, and screened on the first ones.
    """
    layers = resolve_layers(task.layers, stage.layers)
    if settings.preset == "original":
        space, algorithm = _original(layers, settings, state.warm.get(stage.name))
    else:
        counts = torch.stack([state.now.masks[layer.name].count_nonzero() for layer in layers])
        present, keep = int(counts.sum()), _kept_at(stage, layers, costs, counts)
        smallest, place = LOWEST_SHARE * keep / max(present, 1), (settings.seed, stage.index, PRIORITY_STREAM)
        # Guidance looks at the pruned model.
        now = state.now
        advice = state.advice = state.advice or advise(
            settings.guidance, task.model, layers, now.masks, now.left, task.samples, smallest, place, on_layer,
            task.loss, settings.memory_mb, bool(norm_batches),
        )  # fmt: skip
        space, algorithm = _default(layers, settings, state, keep, advice, generator(*place), costs, stage.target)
        set_weights(task.model, {name: state.now.values[name] for name in stage.layers})
    front = settings.algorithm == "nsga2"

    so_far = accumulate(map(len, norm_batches), initial=0)
    few = [batch for batch, before in zip(norm_batches, so_far, strict=False) if before < SCREENING_NORM_SAMPLES]
    memory_mb = settings.memory_mb // (1 + len(algorithm.screening))  # all keep what they have computed

    def evaluator(score: Callable[..., float], norm_batches: Sequence[Tensor]) -> Evaluator:
        return make_evaluator(
            task.model, score, [layer.name for layer in layers], memory_mb=memory_mb, ways=settings.scoring,
            norm_batches=norm_batches,
        )  # fmt: skip

    screeners: tuple[tuple[Evaluator, int], ...] = ()
    if isinstance(task.val_score, DataScore):
        screeners = tuple((evaluator(task.val_score.part(share), few), kept) for share, kept in algorithm.screening)

    def fitness(scores: Scores, sparsity: Tensor) -> Tensor:
        if settings.preset == "original":
            return mixed_fitness(scores, sparsity, settings.alpha, -float("inf") if floor is None else floor)
        if front:
            return torch.stack([scores.score, sparsity], dim=1)
        return score_fitness(scores)

    return Search(space, algorithm, evaluator(task.val_score, norm_batches), screeners, fitness, stage.target, front)


def _kept_at(stage: Stage, layers: Sequence[Layer], costs: Costs, counts: Tensor) -> int:
    """Weights that stay at the stage's target; of a budget in another quantity, if all layers thin out alike."""
    sizes = [layer.size for layer in layers]
    if costs.kind == "weights":
        return stage.keep(sizes)
    even, base = torch.zeros(1, len(layers)), counts.clamp(min=1)
    shared = share_costs(even, base, torch.tensor(sizes), torch.tensor(costs.units), costs.allowance(stage.target))
    return int(shared.sum())


def _original(layers: Sequence[Layer], settings: Settings, warm: Tensor | None) -> tuple[Space, Algorithm]:
    space = WeightSpace(layers)
    return space, OriginalGA(
        space.length, settings.population, settings.crossover_rate, settings.mutation_rate,
        settings.initial_sparsity, None if warm is None else unpack_bits(warm, space.length),
    )  # fmt: skip


def _default(
    layers: Sequence[Layer], settings: Settings, state: RunState, keep: int, advice: Advice | None,
    rng: torch.Generator, costs: Costs, target: float,
) -> tuple[Space, Algorithm]:  # fmt: skip
    weights, front = WeightSpace(layers), settings.algorithm == "nsga2"
    present = weights.join(state.now.masks)
    first = None if advice is None else advice.first_mask(weights.sizes, min(keep, int(present.sum())))
    start = present if first is None or front else first
    priority = None if advice is None else advice.order
    crosses = "crossover_rate" in ALGORITHMS[settings.algorithm].rates
    rates = {"crossover_rate": settings.crossover_rate} if crosses else {}
    if settings.space == "weights":
        bits = BudgetedBits(weights.sizes, keep, start, priority, mutation_rate=settings.mutation_rate)
        return weights, make_algorithm(settings.algorithm, bits, settings.population, **rates)
    if priority is None:  # nothing is known of the weights: any order
        priority = torch.rand(weights.length, generator=rng)
    base = torch.stack([part.count_nonzero() for part in start.split(weights.sizes)])
    shares = Shares(len(layers), free_total=front, lowest=min(0.99, keep / max(1, int(base.sum()))))
    if costs.kind == "weights":
        allocation = AllocationSpace(layers, priority, base, keep, front)
    else:
        allocation = AllocationSpace(layers, priority, base, costs.allowance(target), unit=torch.tensor(costs.units))
    by_shares = make_algorithm(settings.algorithm, shares, settings.population, **rates)
    if settings.space == "allocation":
        return allocation, by_shares
    mixture, ranks = MixtureSpace(allocation, weights), weights.join(allocation.ranks)

    def by_swaps(genome: Tensor) -> Algorithm:
        swaps = BoundarySwaps(weights.sizes, ranks, mixture.bits(genome))
        return make_algorithm(settings.algorithm, swaps, settings.population, **rates)

    turn = 1 + (settings.generations - 1) // 2 * by_shares.asks_per_generation  # the first population is told at once
    return mixture, InTurn(by_shares, by_swaps, turn)
