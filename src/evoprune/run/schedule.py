"""Which stage comes next: a pure function of the settings and of what the stages so far gave."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from evoprune.core import Layer
from evoprune.evaluation import Costs
from evoprune.run.settings import Settings

__all__ = ["Outcome", "Stage", "is_hopeless", "next_stage"]

FIRST_STEPS, LATER_STEPS = 0.35, 0.7
"""Shares of the present weights that a pass of the default ladder keeps: few while much is left, more later."""
LATER = 0.15
"""Share of all weights below which the later steps begin."""
TRIES_AT_FLOOR = 2
"""Failed targets before the ladder ends at the last one that held the floor; while none has held, it tries on."""
NEAR = 0.8
"""The ladder also ends where the density that failed is more than this share of the one that held."""
GRADUAL_STAGES = 8
"""Stages to a given sparsity where training itself prunes: along a cubic (Zhu and Gupta, "To prune, or not to prune",
2017)."""
FRONT_STAGES_BELOW = 2
"""Stages below the floor after which the ladder of a front ends."""


@dataclass(frozen=True)
class Stage:
    """One search and the fine-tuning after it.

    Attributes:
        index: position in the run.
        name: shown to the user.
        layers: the layers searched; none for a stage that only fine-tunes.
        round: which pass over the model.
        target: sparsity of the stage's layers, or the share that goes of what the budget counts; a threshold that
            ends the search early for the original preset, met exactly by the default one.
        epochs: of fine-tuning after the search, with a constant learning rate.
        final_epochs: of fine-tuning after that, along the final schedule; with `only_below_floor` they are
            spent only where the floor is not held without them.
    """

    index: int
    name: str
    layers: tuple[str, ...]
    round: int
    target: float
    epochs: int
    final_epochs: int = 0
    only_below_floor: bool = False

    def keep(self, sizes: Sequence[int]) -> int:
        """Weights that stay at the target, of layers of these sizes: one a layer at least."""
        return max(len(sizes), round((1 - self.target) * sum(sizes)))


@dataclass(frozen=True)
class Outcome:
    """What a stage gave.

    Attributes:
        target: as of the stage.
        sparsity: of the model, over all its layers.
        val_score: of the model after the stage.
        accepted: whether it was kept; a stage of a front is below the floor, too.
        polished: whether it had final epochs.
        below_floor: whether its score was below the floor.
    """

    target: float
    sparsity: float
    val_score: float
    accepted: bool
    polished: bool
    below_floor: bool = False


def next_stage(
    settings: Settings,
    layers: Sequence[Layer],
    history: Sequence[Outcome],
    trainable: bool,
    out_of_time: bool,
    costs: Costs | None = None,
) -> Stage | None:
    """The next stage, or None when the run is done.

    Args:
        settings: of the run.
        layers: the layers the run prunes.
        history: outcomes of the stages so far, in order.
        trainable: whether there is training data; without it nothing is fine-tuned.
        out_of_time: end as soon as the result is valid and fine-tuned.
        costs: what the budget counts; None for the weights of the layers.
    """
    if settings.preset == "original":
        return _original(settings, layers, history, trainable, out_of_time)
    costs = costs or Costs.of_weights([layer.size for layer in layers])
    return _ladder(settings, layers, history, trainable, out_of_time, costs)


def is_hopeless(scores: Sequence[float], floor: float | None, dense: float) -> bool:
    """Half-way through the final epochs, whether much more is missing to the floor than they have brought so far.

    Args:
        scores: validation scores before the final epochs, then after each of them.
        floor: to be reached; without one there is always hope.
        dense: the dense model's score.
    """
    if floor is None:
        return False
    missing, gained = floor - scores[-1], scores[-1] - scores[0]
    return missing > 2 * gained and missing > (dense - floor) / 3


def _original(
    settings: Settings, layers: Sequence[Layer], history: Sequence[Outcome], trainable: bool, out_of_time: bool
) -> Stage | None:
    """Layer after layer, fine-tuning after each, and a longer fine-tuning after each pass."""
    stages: list[Stage] = []
    passes = settings.passes or [1.0]
    for number, threshold in enumerate(passes):
        for layer in layers:
            epochs = settings.finetune_epochs if trainable else 0
            stages.append(Stage(len(stages), layer.name, (layer.name,), number, threshold, epochs))
        if trainable and settings.final_epochs:
            stages.append(
                Stage(len(stages), "fine-tuning", (), number, threshold, 0, final_epochs=settings.final_epochs)
            )
    done = len(history)
    if done >= len(stages):
        return None
    if not out_of_time or not history:  # the search of a first stage ends after one generation
        return stages[done]
    tuned = history[-1].polished or stages[-1].layers
    return None if tuned else replace(stages[-1], index=done)


def _ladder(
    settings: Settings,
    layers: Sequence[Layer],
    history: Sequence[Outcome],
    trainable: bool,
    out_of_time: bool,
    costs: Costs,
) -> Stage | None:
    """All layers at once, sparser in every pass, until the goal is met or the floor no longer holds."""
    index = len(history)
    names = tuple(layer.name for layer in layers)
    short, long = (settings.finetune_epochs, settings.final_epochs) if trainable else (0, 0)
    accepted = [outcome for outcome in history if outcome.accepted]
    failed = [outcome for outcome in history if not outcome.accepted]
    if settings.front and sum(outcome.below_floor for outcome in history) >= FRONT_STAGES_BELOW:
        return None
    if (target := _next_target(settings, accepted, failed, costs)) is None or (out_of_time and history):
        tuned = accepted and any(o.polished and o.target == accepted[-1].target for o in history)  # even in vain
        if long and accepted and not tuned:
            return Stage(index, "fine-tuning", (), index, accepted[-1].target, 0, final_epochs=long)
        return None
    several = f"{len(names)} layers" if settings.layers else "all layers"
    name = f"{several if len(names) > 1 else names[0]} to {target:.2%}"
    if costs.kind != "weights":
        name += f" fewer {costs.kind}"
    if target <= costs.free - LATER * costs.free and not settings.passes:
        short = (short + 1) // 2  # while much is left to prune, little is lost
    goal = target in (settings.sparsity, *(settings.passes or [])[-1:])
    return Stage(index, name, names, index, target, short, long, only_below_floor=not goal and not settings.front)


def _next_target(
    settings: Settings, accepted: Sequence[Outcome], failed: Sequence[Outcome], costs: Costs
) -> float | None:
    """The next target, or None. A density is what stays, without the constant part, as a share of the dense model."""
    given = [target for target in settings.passes or [] if target < 1]
    if len(accepted) < len(given) and not failed:
        return given[len(accepted)]
    if given and (settings.passes == given or len(accepted) < len(given)):
        return None
    free = costs.free
    density = free - accepted[-1].target if accepted else free
    if failed:
        too_few = free - min(outcome.target for outcome in failed)
        if (accepted and len(failed) >= TRIES_AT_FLOOR) or too_few > NEAR * density:
            return None
        return free - math.sqrt(density * too_few)
    if settings.tightens and settings.sparsity is not None:
        left = 1 - (len(accepted) + 1) / GRADUAL_STAGES
        return settings.sparsity * (1 - left**3) if left >= 0 else None
    density *= FIRST_STEPS if density > LATER * free else LATER_STEPS
    target = round(free - density, 12)
    if settings.sparsity is not None and density < 1.15 * (free - settings.sparsity):
        target = settings.sparsity
    target = min(costs.most, target)
    return None if accepted and accepted[-1].target >= target else target
