"""The schedule as a pure function, played against made-up models."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from evoprune.core import Layer, prunable_layers
from evoprune.evaluation import Costs
from evoprune.run import make_settings
from evoprune.run.schedule import Outcome, Stage, is_hopeless, next_stage
from evoprune.zoo import load_model

LAYERS = [Layer("a", "Linear", (40, 50)), Layer("b", "Linear", (10, 40))]
TOO_MANY = 200
MOST = Costs.of_weights([layer.size for layer in LAYERS]).most


def play(
    holds: Callable[[float], bool] = lambda _: True,
    *,
    layers: list[Layer] = LAYERS,
    trainable: bool = True,
    time_for: int = TOO_MANY,
    spoils: bool = False,
    **options: Any,
) -> tuple[list[Stage], list[Outcome]]:
    """Stages until the end: a target is kept when `holds` says so; after `time_for` stages the time is up.

    With `spoils` the closing fine-tuning leads below the floor.
    """
    chosen = make_settings(**({"model": "m"} | options))
    stages: list[Stage] = []
    history: list[Outcome] = []
    while True:
        arguments = (chosen, layers, tuple(history), trainable, len(stages) >= time_for)
        stage = next_stage(*arguments)
        assert stage == next_stage(*arguments)
        if stage is None:
            return stages, history
        stages.append(stage)
        assert len(stages) < TOO_MANY, [s.target for s in stages]
        held = chosen.preset == "original" or (holds(stage.target) if stage.layers else not spoils)
        spent = stage.final_epochs > 0 and not (stage.only_below_floor and held)
        history.append(Outcome(stage.target, stage.target, 1.0, held, spent))


def targets(stages: list[Stage]) -> list[float]:
    return [stage.target for stage in stages if stage.layers]


def test_the_original_goes_layer_after_layer_and_tunes_after_each_pass() -> None:
    stages, _ = play(preset="original", passes=[0.6, 1.0])
    assert [stage.layers for stage in stages] == [("a",), ("b",), (), ("a",), ("b",), ()]
    assert [stage.target for stage in stages] == [0.6, 0.6, 0.6, 1.0, 1.0, 1.0]
    assert [stage.round for stage in stages] == [0, 0, 0, 1, 1, 1]
    assert [(stage.epochs, stage.final_epochs) for stage in stages] == [(3, 0), (3, 0), (0, 10)] * 2
    assert [stage.index for stage in stages] == list(range(6))


def test_the_original_without_data_only_searches() -> None:
    stages, _ = play(preset="original", trainable=False)
    assert [(stage.layers, stage.epochs, stage.final_epochs) for stage in stages] == [(("a",), 0, 0), (("b",), 0, 0)]


@pytest.mark.parametrize("time_for", range(8))
def test_the_original_out_of_time_tunes_once_and_ends(time_for: int) -> None:
    stages, history = play(preset="original", passes=[0.6, 1.0], time_for=time_for)
    assert len(stages) <= max(2, time_for + 1), "one layer is searched at least"
    assert stages[-1].layers == ()
    assert history[-1].polished
    assert [stage.index for stage in stages] == list(range(len(stages)))


def test_the_ladder_rises_to_exactly_the_sparsity_asked_for() -> None:
    for sparsity in (0.1, 0.5, 0.51, 2 / 3, 0.9, 0.965, 0.99):
        stages, history = play(sparsity=sparsity)
        assert targets(stages)[-1] == sparsity
        assert targets(stages) == sorted(set(targets(stages)))
        assert all(stage.layers == ("a", "b") for stage in stages)
        assert not stages[-1].only_below_floor
        assert all(stage.only_below_floor for stage in stages[:-1])
        assert history[-1].polished


def test_a_floor_that_fails_is_tried_between_and_ends() -> None:
    stages, history = play(lambda target: target <= 0.9, max_drop=0.5)
    accepted = [outcome.target for outcome in history if outcome.accepted]
    failed = [outcome.target for outcome in history if not outcome.accepted]
    assert failed
    assert max(accepted) <= 0.9 < min(failed)
    first_failure = history.index(next(outcome for outcome in history if not outcome.accepted))
    assert len(targets(stages)) > first_failure + 1
    for outcome in history[first_failure + 1 : len(targets(stages))]:
        assert history[first_failure - 1].target < outcome.target < history[first_failure].target
    assert stages[-1].layers == ()
    assert stages[-1].final_epochs == make_settings(model="m").final_epochs
    assert stages[-1].target == accepted[-1] == max(accepted)
    assert sum(stage.layers == () for stage in stages) == 1


@given(st.floats(0, 1), st.sampled_from([None, 0.3, 0.8, 0.97, 0.9999]), st.booleans())
@example(1.0, 0.9999, False)  # more than can go: each layer keeps one weight
@settings(max_examples=80)
def test_the_ladder_always_ends_near_what_the_model_can_bear(
    limit: float, sparsity: float | None, trainable: bool
) -> None:
    stages, history = play(lambda target: target <= limit, trainable=trainable, max_drop=1.0, sparsity=sparsity)
    accepted = [outcome.target for outcome in history if outcome.accepted]
    assert all(outcome.target <= limit for outcome in history if outcome.accepted and stages)
    assert all(0 <= stage.target <= 1 for stage in stages)
    assert len(targets(stages)) == len(set(targets(stages)))
    if len(accepted) == len(history):
        assert accepted[-1] == (MOST if sparsity is None else min(sparsity, MOST))
    elif accepted:
        assert 1 - limit >= 0.5 * (1 - accepted[-1])
    else:
        assert limit < 0.2
    if trainable and accepted:
        assert history[-1].polished or any(o.polished and o.target == accepted[-1] for o in history)
    if not trainable:
        assert all(stage.layers and not stage.epochs + stage.final_epochs for stage in stages)


def test_a_score_that_only_fails_once_does_not_hold_the_run_forever() -> None:
    """The first target that fails does so by bad luck, all later ones hold."""
    failures = iter([False, False, True])
    stages, history = play(lambda _: not next(failures, False), max_drop=1.0)
    assert [outcome.accepted for outcome in history].count(False) == 1
    assert len(stages) < 12


@pytest.mark.parametrize("shape", [(1, 1), (3, 4), (100, 40), (3000, 2000), (60_000, 20_000)])
def test_a_model_that_bears_anything_ends_at_one_weight_a_layer(shape: tuple[int, int]) -> None:
    layers = [Layer("a", "Linear", shape)]
    stages, _ = play(max_drop=1.0, layers=layers, trainable=False)
    found = targets(stages)
    assert found == sorted(set(found))
    assert round((1 - found[-1]) * layers[0].size) == 1


@pytest.mark.parametrize("options", [{"max_drop": 0.5}, {"passes": [0.3, 0.95]}, {"sparsity": 0.97}])
@pytest.mark.parametrize("time_for", [2, TOO_MANY])
def test_a_closing_fine_tuning_that_leads_below_the_floor_is_not_tried_again(
    options: dict[str, Any], time_for: int
) -> None:
    stages, history = play(lambda target: target <= 0.9, time_for=time_for, spoils=True, **options)
    assert [stage.layers for stage in stages].count(()) == 1
    assert stages[-1].layers == ()
    assert not history[-1].accepted


def test_passes_are_taken_as_given_and_end_where_the_floor_fails() -> None:
    stages, _ = play(passes=[0.3, 0.7, 0.9])
    assert targets(stages) == [0.3, 0.7, 0.9]
    assert [stage.only_below_floor for stage in stages] == [True, True, False]
    stages, history = play(lambda target: target < 0.8, passes=[0.3, 0.7, 0.9], floor=0.1)
    assert targets(stages) == [0.3, 0.7, 0.9]
    assert stages[-1].layers == ()
    assert stages[-1].target == 0.7
    assert history[-1].polished


@pytest.mark.parametrize("time_for", [0, 1, 2, 3])
def test_the_ladder_out_of_time_ends_tuned(time_for: int) -> None:
    stages, history = play(max_drop=1.0, time_for=time_for)
    assert len(targets(stages)) == max(1, time_for)
    assert history[-1].polished
    assert len(stages) == max(1, time_for) + 1


def test_out_of_time_after_nothing_held_ends_with_the_dense_model() -> None:
    stages, history = play(lambda _: False, max_drop=1.0, time_for=1)
    assert len(stages) == 1
    assert not history[0].accepted


def test_without_epochs_nothing_is_tuned() -> None:
    for options in ({"sparsity": 0.9}, {"preset": "original"}):
        stages, _ = play(finetune_epochs=0, final_epochs=0, **options)
        assert all(stage.layers and stage.epochs == stage.final_epochs == 0 for stage in stages)


def test_one_layer_alone() -> None:
    stages, _ = play(sparsity=0.9, layers=LAYERS[:1])
    assert {stage.layers for stage in stages} == {("a",)}
    assert all(stage.name.startswith("a to ") for stage in stages)


@pytest.mark.parametrize("limit", [0.8, 0.95, 0.99, 0.999])
def test_a_default_run_of_resnet18_is_below_a_thousand_evaluations(limit: float) -> None:
    layers = prunable_layers(load_model("resnet18"))
    stages, history = play(lambda target: target <= limit, layers=layers, model="resnet18")
    chosen = make_settings(model="resnet18")
    assert max(outcome.target for outcome in history if outcome.accepted) > limit - 0.1
    assert len(targets(stages)) * (chosen.generations + 1) * chosen.population <= 1000
    assert {stage.epochs for stage in stages if stage.layers} == {1}


def test_a_stage_of_some_layers_is_not_called_all() -> None:
    for layers, name in ((["a", "b"], "2 layers to 50.00%"), (None, "all layers to 50.00%")):
        stage = next_stage(make_settings(model="m", sparsity=0.5, layers=layers), LAYERS, (), True, False)
        assert stage is not None
        assert stage.name == name


@pytest.mark.parametrize(
    ("scores", "floor", "hopeless"),
    [
        ([0.90, 0.95], 0.98, False),  # 3 points are missing, 5 were gained
        ([0.90, 0.91], 0.98, True),  # 7 are missing, 1 was gained
        ([0.979, 0.9785], 0.98, False),  # nothing was gained, but next to nothing is missing
        ([0.90, 0.99], 0.98, False),
        ([0.10, 0.10], None, False),
    ],
)
def test_final_epochs_end_half_way_where_the_floor_is_out_of_reach(
    scores: list[float], floor: float | None, hopeless: bool
) -> None:
    assert is_hopeless(scores, floor, dense=0.99) is hopeless


def test_while_much_is_left_a_stage_is_tuned_half_as_long() -> None:
    stages, _ = play(sparsity=0.99, finetune_epochs=3)
    assert [stage.epochs for stage in stages] == [2 if stage.target <= 0.85 else 3 for stage in stages]
    assert {stage.epochs for stage in stages} == {2, 3}


@given(st.floats(0.3, 0.999))
@settings(max_examples=60)
def test_the_ladder_ends_nearer_to_a_floor_than_its_steps_are_wide(limit: float) -> None:
    _, history = play(lambda target: target <= limit, max_drop=1.0)
    accepted = [1 - outcome.target for outcome in history if outcome.accepted]
    failed = [1 - outcome.target for outcome in history if not outcome.accepted]
    if accepted and failed:
        assert min(accepted) < 1.7 * max(failed)


def test_every_stage_of_a_front_is_polished() -> None:
    stages, _ = play(sparsity=0.9, front=True)
    assert len(stages) > 1
    assert not any(stage.only_below_floor for stage in stages)
    assert all(stage.final_epochs for stage in stages)


def test_steps_are_wide_while_much_is_left_and_narrow_later() -> None:
    left = [1.0, *(1 - target for target in targets(play(sparsity=0.98)[0]))]
    steps = [after / before for before, after in pairwise(left)]
    assert steps[:-1] == pytest.approx([0.35 if before > 0.15 else 0.7 for before in left[:-2]])
    assert len(steps) == 7


def test_a_front_goes_on_for_two_stages_below_the_floor() -> None:
    front = make_settings(model="m", front=True, max_drop=1.0)
    history = [Outcome(0.65, 0.65, 0.9, accepted=True, polished=True, below_floor=True)]
    assert next_stage(front, LAYERS, history, True, False) is not None
    history.append(Outcome(0.8, 0.8, 0.8, accepted=True, polished=True, below_floor=True))
    assert next_stage(front, LAYERS, history, True, False) is None
