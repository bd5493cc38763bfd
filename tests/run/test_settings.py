"""Settings: presets, ranges, contradictions; every mistake is one line."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evoprune.core import EvopruneError
from evoprune.run import Settings, make_settings, parse_duration
from evoprune.training import Recipe


def test_the_default_keeps_a_drop_unless_another_goal_is_given() -> None:
    assert make_settings(model="m").max_drop == 0.75
    for goal in ({"floor": 0.5}, {"sparsity": 0.9}, {"passes": [0.5]}):
        assert make_settings(model="m", **goal).max_drop is None
    assert make_settings(model="m", sparsity=0.9).floor is None


def test_the_original_is_the_reference_in_figures() -> None:
    """SEED.md: all layers of LeNet-5."""
    found = make_settings(model="m", preset="original")
    assert (found.population, found.generations, found.crossover_rate, found.mutation_rate) == (10, 25, 1.0, 0.1)
    assert (found.initial_sparsity, found.alpha, found.floor, found.passes) == (0.1, 0.8, 0.6, [1.0])
    assert (found.finetune_epochs, found.final_epochs, found.batch_size) == (3, 10, 32)
    assert (found.optimizer, found.learning_rate, found.final_schedule, found.distill) == ("adam", 1e-3, "constant", 0)
    assert "precision" not in found.scoring, "its floor is judged in float32"
    assert make_settings(model="m", preset="original", scoring=["precision"]).scoring == ["precision"]


def test_the_original_for_one_layer() -> None:
    found = make_settings(model="m", preset="original", layers=["a"])
    assert (found.generations, found.mutation_rate) == (20, 0.05)
    two = make_settings(model="m", preset="original", layers=["a", "b"])
    assert (two.generations, two.mutation_rate) == (25, 0.1)


def test_resnet18_is_fine_tuned_as_it_was_trained() -> None:
    found = make_settings(model="resnet18")
    assert (found.optimizer, found.learning_rate, found.weight_decay, found.batch_size) == ("sgd", 0.05, 5e-4, 128)
    assert (found.shift, found.flip, found.cutout, found.train_precision) == (4, True, 12, "bfloat16")
    assert (found.finetune_schedule, found.final_schedule, found.distill) == ("cosine", "cosine", 0.5)
    assert (found.finetune_epochs, found.final_epochs, found.max_drop) == (1, 10, 0.75)
    other = make_settings(model="resnet18", flip=False, shift=0, train_precision="float32", finetune_epochs=3)
    assert (other.flip, other.shift, other.train_precision, other.finetune_epochs) == (False, 0, "float32", 3)
    for model in ("m", "lenet5", "lenet5-caffe"):
        plain = make_settings(model=model)
        assert (plain.optimizer, plain.population, plain.train_precision) == ("adam", 12, "float32")
        assert plain.augmentation == {}


def test_the_original_of_resnet18_is_the_reference_in_figures() -> None:
    """SEED.md."""
    found = make_settings(model="resnet18", preset="original")
    assert (found.population, found.generations, found.crossover_rate, found.mutation_rate) == (10, 15, 1.0, 0.1)
    assert (found.initial_sparsity, found.alpha, found.floor, found.passes) == (0.1, 0.8, 0.88, [0.6, 1.0])
    assert (found.finetune_epochs, found.final_epochs, found.batch_size) == (5, 20, 128)
    assert (found.optimizer, found.learning_rate, found.weight_decay) == ("sgd", 1e-5, 5e-4)
    assert (found.finetune_schedule, found.final_schedule, found.distill) == ("constant", "constant", 0)
    assert (found.augmentation, found.train_precision, found.include_norm) == ({}, "float32", False)
    one = make_settings(model="resnet18", preset="original", layers=["layer4.0.conv2"])
    assert (one.generations, one.mutation_rate, one.passes, one.finetune_epochs) == (20, 0.05, [1.0], 5)
    dropped = make_settings(model="resnet18", preset="original", max_drop=1.0, passes=[0.5])
    assert (dropped.floor, dropped.passes) == (None, [0.5])


def test_a_recipe_has_all_that_the_settings_say() -> None:
    chosen: dict[str, Any] = {
        "optimizer": "sgd", "learning_rate": 0.02, "weight_decay": 0.1, "batch_size": 7, "distill": 0.3,
        "label_smoothing": 0.2, "shift": 3, "flip": True, "cutout": 5,
        "first_size": 16,
    }  # fmt: skip
    found = make_settings(model="m", train_precision="bfloat16", **chosen)
    expected = Recipe(epochs=4, schedule="cosine", precision="bfloat16", **chosen)
    assert found.recipe(4, "cosine") == expected
    assert found.recipe(4, "cosine", 0.5) == replace(expected, learning_rate=0.5)
    assert make_settings(model="m").recipe(1, "constant").flip is False


def test_what_is_given_wins_and_none_is_not_given() -> None:
    found = make_settings(model="m", preset="original", population=4, floor=0.3, passes=[0.5, 1.0], generations=None)
    assert (found.population, found.floor, found.passes, found.generations) == (4, 0.3, [0.5, 1.0], 25)
    dropped = make_settings(model="m", preset="original", max_drop=1.0)
    assert (dropped.max_drop, dropped.floor) == (1.0, None)


@pytest.mark.parametrize(
    ("field", "value"),
    [("population", 1), ("generations", 0), ("crossover_rate", 1.1), ("crossover_rate", -0.1), ("mutation_rate", 2),
     ("initial_sparsity", 1.0), ("alpha", -1), ("sparsity", 0.0), ("sparsity", 1.0), ("sparsity", float("nan")),
     ("floor", float("nan")), ("floor", float("inf")), ("floor", "high"), ("max_drop", -1), ("max_drop", float("nan")),
     ("passes", []), ("passes", [0.9, 0.5]), ("passes", [0.0]), ("passes", [1.1]), ("passes", [float("nan")]),
     ("finetune_epochs", -1), ("learning_rate", 0), ("learning_rate", float("inf")), ("batch_size", 0),
     ("distill", 1.5), ("time_limit_seconds", 0), ("memory_mb", 1), ("seed", -1), ("seed", 1.5), ("device", "tpu"),
     ("workers", 0), ("threads", 0), ("preset", "best"), ("space", "channels?"), ("algorithm", "annealing"),
     ("guidance", "oracle"), ("nonsense", 1), ("weight_decay", -1), ("optimizer", "lion"),
     ("shift", -1), ("cutout", -1), ("first_size", -1), ("label_smoothing", 1.0), ("flip", "up"),
     ("train_precision", "float16"),
     ("finetune_schedule", "one-cycle"), ("recalibrate", "often")],
)  # fmt: skip
def test_out_of_range_is_one_line_that_names_the_option(field: str, value: Any) -> None:
    preset = {"preset": "original"} if field in ("alpha", "initial_sparsity") else {}
    with pytest.raises(EvopruneError) as error:
        make_settings(**({"model": "m"} | preset | {field: value}))
    assert "\n" not in str(error.value)
    assert "--" + field.replace("_", "-") in str(error.value)
    assert isinstance(value, list) or repr(value) in str(error.value)


@pytest.mark.parametrize(
    ("given", "says"),
    [({"preset": "original", "sparsity": 0.9}, "--sparsity"), ({"sparsity": 0.9, "passes": [0.5]}, "--passes"),
     ({"algorithm": "cmaes", "space": "allocation", "crossover_rate": 0.5}, "--crossover-rate"),
     ({"space": "allocation", "mutation_rate": 0.5}, "--mutation-rate"), ({"alpha": 0.5}, "--alpha"),
     ({"space": "channels"}, "--space channels is not there yet"),
     ({"space": "training", "guidance": "gradient", "budget": "flops", "sparsity": 0.5}, "--space allocation"),
     ({"mutation_rate": 1.0}, "--mutation-rate 1"), ({"algorithm": "original"}, "'steady'"),
     ({"algorithm": ["ga"]}, "--algorithm"), ({"space": ["weights"]}, "--space"),
     ({"initial_sparsity": 0.2}, "--initial-sparsity"), ({"layers": []}, "layers")],
)  # fmt: skip
def test_options_that_would_be_ignored_are_refused(given: dict[str, Any], says: str) -> None:
    with pytest.raises(EvopruneError, match=says):
        make_settings(model="m", **given)


def test_lists_may_be_written_as_on_the_command_line() -> None:
    found = make_settings(model="m", passes="0.6,1.0", scoring="prefix, racing")
    assert (found.passes, found.max_drop, found.scoring) == ([0.6, 1.0], 0.75, ["prefix", "racing"])
    assert make_settings(model="m", scoring="reference").scoring == []
    for wrong in ({"passes": "0.6;1.0"}, {"scoring": "prefix,fast"}):
        with pytest.raises(EvopruneError, match=f"--{next(iter(wrong))} '.*': expected"):
            make_settings(model="m", **wrong)


def test_passes_that_end_with_one_stop_at_a_floor() -> None:
    assert make_settings(model="m", passes=[0.6, 1.0]).max_drop == 0.75
    assert make_settings(model="m", passes=[0.6, 0.9]).max_drop is None


def test_contradictions_are_refused() -> None:
    with pytest.raises(EvopruneError, match="--floor and --max-drop"):
        make_settings(model="m", floor=0.5, max_drop=1.0)
    with pytest.raises(EvopruneError, match=r"--guidance magnitude does not go with --preset original"):
        make_settings(model="m", preset="original", guidance="magnitude")


def test_settings_survive_json_and_cannot_be_changed() -> None:
    found = make_settings(model="m", preset="original", layers=["a"], seed=5, time_limit_seconds=3.5)
    assert Settings(**json.loads(json.dumps(found.model_dump(), allow_nan=False))) == found
    with pytest.raises(ValueError, match="frozen"):
        found.seed = 6  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("90s", 90), ("10m", 600), ("1.5h", 5400), (" 2 m ", 120), ("0.5", 0.5), ("100000h", 3.6e8)],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "0s", "0.0m", "-1", "ten", "10d", "m", "1h30m", "nan", "inf", "1e3", "5,5"])
def test_what_is_no_duration_is_one_line(text: str) -> None:
    with pytest.raises(EvopruneError, match=r"--time-limit .*such as 90s, 10m or 1\.5h"):
        parse_duration(text)


@given(st.text(max_size=8))
@settings(max_examples=100)
def test_any_text_is_a_positive_duration_or_an_error(text: str) -> None:
    with suppress(EvopruneError):
        assert parse_duration(text) > 0


@pytest.mark.parametrize(
    ("given", "space"),
    [({}, "weights"), ({"algorithm": "pbil"}, "weights"), ({"algorithm": "nsga2"}, "allocation"),
     ({"algorithm": "cmaes"}, "allocation"), ({"algorithm": "cmaes", "guidance": "gradient"}, "allocation"),
     ({"budget": "flops"}, "allocation"), ({"budget": "bytes", "guidance": "gradient"}, "allocation"),
     ({"budget": "flops", "space": "mixture"}, "mixture"), ({"guidance": "gradient"}, "training"),
     ({"guidance": "gradient", "finetune_epochs": 0}, "allocation")],
)  # fmt: skip
def test_the_space_is_one_that_goes_with_the_other_options(given: dict[str, str], space: str) -> None:
    assert make_settings(model="m", sparsity=0.5, **given).space == space


@pytest.mark.parametrize("given", [{"algorithm": "nsga2"}, {"space": "allocation"}])
def test_the_original_has_one_algorithm_and_one_space(given: dict[str, str]) -> None:
    assert make_settings(model="m", preset="original").algorithm == "ga"
    with pytest.raises(EvopruneError, match="use --preset default"):
        make_settings(model="m", preset="original", **given)


def test_the_default_in_figures() -> None:
    """As the command's help says."""
    found = make_settings(model="m")
    assert (found.population, found.generations, found.crossover_rate, found.mutation_rate) == (12, 5, 0.8, 0.002)
    assert (found.finetune_epochs, found.final_epochs, found.batch_size, found.distill) == (2, 8, 128, 0.5)
    assert (found.optimizer, found.learning_rate, found.weight_decay) == ("adam", 3e-3, 0)
    assert (found.finetune_schedule, found.final_schedule) == ("constant", "cosine")
    assert (found.algorithm, found.guidance, found.space, found.memory_mb) == ("steady", "none", "weights", 1024)
    assert found.scoring == ["prefix", "batched", "racing", "precision"]
