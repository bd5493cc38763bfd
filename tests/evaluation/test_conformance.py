"""Every way of scoring gives the reference's scores, and leaves the model as it was."""

import copy
import random
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from evoprune.core import EvopruneError, prunable_layers
from evoprune.evaluation import WAYS, ReferenceEvaluator, SampledEvaluator, make_evaluator
from evoprune.evaluation.graph_runner import GraphRunner
from evoprune.scoring import Accuracy, DataScore, Fidelity, NegativeLoss

from .conftest import BatchMaximum, BatchStatistics, make_case

EXACT = WAYS[:3]
"""The ways that keep float32; bfloat16 has a tolerance of its own, see test_precision.py."""
METHODS = [(), *((way,) for way in EXACT), EXACT[:2], EXACT]


def random_plans(model: nn.Module, names: list[str], candidates: int = 5, keep: float = 0.7) -> dict[str, Tensor]:
    """Random masks; the first candidate is dense."""
    rng = torch.Generator().manual_seed(7)
    shapes = {layer.name: layer.shape for layer in prunable_layers(model)}
    plans = {name: torch.rand(candidates, *shapes[name], generator=rng) < keep for name in names}
    for masks in plans.values():
        masks[0] = True
    return plans


@pytest.mark.parametrize("ways", METHODS, ids="+".join)
@pytest.mark.parametrize("score_class", [Accuracy, NegativeLoss, Fidelity])
def test_scores_are_the_references(
    case: tuple[nn.Module, Tensor, Tensor], score_class: type[DataScore], ways: tuple[str, ...]
) -> None:
    model, inputs, targets = case
    names = [layer.name for layer in prunable_layers(model)]
    score = score_class(inputs, targets)
    score.bind(model)
    reference = ReferenceEvaluator(model, score)
    for layers in ([names[0]], [names[-1]], names):
        plans = random_plans(model, layers)
        wanted = reference(plans)
        evaluator = make_evaluator(model, score, layers, ways=ways)
        for _ in range(2):  # the second time from kept values
            found = evaluator(plans)
            if score_class is Accuracy:
                assert torch.equal(found.score, wanted.score)
            torch.testing.assert_close(found.score, wanted.score, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(found.loss, wanted.loss, rtol=1e-4, atol=1e-5)
            assert found.complete.all()
            assert found.samples == 5 * 150


@pytest.mark.parametrize("name", ["lenet", "residual", "attention", "parallel"])
def test_real_models_are_split(name: str) -> None:
    model, inputs, targets = make_case(name)
    for layer in prunable_layers(model):
        evaluator = make_evaluator(model, Accuracy(inputs, targets), [layer.name])
        assert isinstance(evaluator, SampledEvaluator)
        assert isinstance(evaluator.runner, GraphRunner)


@settings(max_examples=25)
@given(floor=st.floats(0.0, 1.0), seed=st.integers(0, 99), score_class=st.sampled_from([Accuracy, NegativeLoss]))
def test_racing_never_changes_who_reaches_the_floor(floor: float, seed: int, score_class: type[DataScore]) -> None:
    model, inputs, targets = make_case("lenet", 300)
    score = score_class(inputs, targets)
    rng = torch.Generator().manual_seed(seed)
    plans = {"0": torch.rand(8, 4, 1, 3, 3, generator=rng) < 0.8, "9": torch.rand(8, 4, 16, generator=rng) < 0.8}
    full = make_evaluator(model, score, list(plans), ways=("prefix", "batched"))(plans)
    if score_class is NegativeLoss:
        floor = -3 * floor
    raced = make_evaluator(model, score, list(plans))(plans, floor)
    close = {"rtol": 1e-6, "atol": 0.0 if score_class is Accuracy else 1e-6}
    torch.testing.assert_close(raced.score[raced.complete], full.score[raced.complete], **close)
    assert (raced.score >= full.score - 1e-6).all()
    assert (raced.score[~raced.complete] < floor).all()
    assert raced.complete[full.score >= floor + 1e-6].all()


def test_racing_stops_early_and_counts_it() -> None:
    model, inputs, targets = make_case("lenet", 1000)
    plans = {"9": torch.zeros(6, 4, 16, dtype=torch.bool)}
    plans["9"][0] = True
    scores = make_evaluator(model, Accuracy(inputs, targets), ["9"])(plans, floor=0.9)
    assert scores.complete.tolist() == [True] + [False] * 5
    assert 1000 < scores.samples < 3000


def test_everything_stops_below_an_unreachable_floor() -> None:
    model, inputs, targets = make_case("lenet")
    scores = make_evaluator(model, Accuracy(inputs, targets), ["9"])({"9": torch.ones(2, 4, 16, dtype=torch.bool)}, 2.0)
    assert not scores.complete.any()
    assert (scores.score < 2).all()


@pytest.mark.parametrize("ways", [(), ("prefix", "batched", "racing"), ("racing",)])
def test_the_model_is_left_as_found(case: tuple[nn.Module, Tensor, Tensor], ways: tuple[str, ...]) -> None:
    model, inputs, targets = case
    list(model.modules())[-1].eval()
    before = copy.deepcopy(model.state_dict())
    modes, random = [m.training for m in model.modules()], torch.random.get_rng_state()
    kept_inputs = inputs.clone()
    names = [layer.name for layer in prunable_layers(model)]
    make_evaluator(model, Accuracy(inputs, targets), names, ways=ways)(random_plans(model, names))
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert [m.training for m in model.modules()] == modes
    assert torch.equal(torch.random.get_rng_state(), random)
    assert torch.equal(inputs, kept_inputs)
    assert not any(m._forward_hooks for m in model.modules())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


@pytest.mark.parametrize("make", [BatchStatistics, BatchMaximum])
def test_a_model_that_mixes_samples_is_not_batched(make: type[nn.Module], caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    model, inputs = make(), torch.randn(40, 8)
    evaluator = make_evaluator(model, Accuracy(inputs, torch.zeros(40).long()), ["a"])
    assert isinstance(evaluator, ReferenceEvaluator), "batches of another size would give other scores"
    assert [record.name for record in caplog.records] == ["evoprune"]
    assert "depends on the others of its batch" in caplog.text


class AlwaysDropout(nn.Module):
    """Random in eval mode, too."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 8) to (B, 4)."""
        return self.a(nn.functional.dropout(x, 0.5))


def test_a_random_model_is_not_said_to_mix_samples(caplog: pytest.LogCaptureFixture) -> None:
    make_evaluator(AlwaysDropout(), Accuracy(torch.randn(40, 8), torch.zeros(40).long()), ["a"])
    assert "depends on the others" not in caplog.text


class OwnConstant(nn.Module):
    """Makes a tensor in `forward`, for which tracing puts an attribute on the model."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 8) to (B, 4)."""
        return self.a(x) * torch.tensor([1.0, 2.0, 0.5, 1.5])


def test_tracing_leaves_nothing_on_the_model() -> None:
    torch.manual_seed(0)
    model, inputs = OwnConstant(), torch.randn(40, 8)
    score, before = Accuracy(inputs, model(inputs).argmax(1)), set(vars(model))
    evaluator = make_evaluator(model, score, ["a"])
    assert isinstance(evaluator, SampledEvaluator)
    assert isinstance(evaluator.runner, GraphRunner)
    assert set(vars(model)) == before
    plans = random_plans(model, ["a"])
    assert torch.equal(evaluator(plans).score, ReferenceEvaluator(model, score)(plans).score)


def test_an_untraceable_model_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    model, inputs, targets = make_case("branching")
    evaluator = make_evaluator(model, Accuracy(inputs, targets), ["a"])
    for _ in range(3):
        evaluator(random_plans(model, ["a"]))
    assert len(caplog.records) == 1
    assert "one by one" in caplog.text


def test_a_user_function_is_called_on_each_masked_model() -> None:
    model, _, _ = make_case("lenet")
    plans = random_plans(model, ["9"])
    evaluator = make_evaluator(model, lambda m: float((m[9].weight != 0).sum()), ["9"])
    scores = evaluator(plans, floor=1e9)
    assert scores.score.tolist() == plans["9"].flatten(1).sum(1).tolist()
    assert scores.loss is None
    assert evaluator.samples == 1
    assert scores.samples == 5


def test_weights_come_back_when_a_score_raises() -> None:
    model, _, _ = make_case("lenet")
    before = copy.deepcopy(model.state_dict())

    def broken(_: nn.Module) -> float:
        raise KeyError("no such thing")

    with pytest.raises(EvopruneError, match="broken raised KeyError") as caught:
        make_evaluator(model, broken, ["9"])(random_plans(model, ["9"]))
    assert isinstance(caught.value.__cause__, KeyError)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("plans", "message"),
    [
        ({}, "plans is empty"),
        ({"9": torch.ones(2, 4, 15, dtype=torch.bool)}, "masks of '9'"),
        ({"9": torch.ones(2, 4, 16)}, "torch.bool"),
        ({"nine": torch.ones(2, 4, 16, dtype=torch.bool)}, "no layer 'nine'"),
    ],
)
@pytest.mark.parametrize("ways", [(), ("batched",)])
def test_plans_that_do_not_fit(plans: dict[str, Tensor], message: str, ways: tuple[str, ...]) -> None:
    model, inputs, targets = make_case("lenet")
    evaluator = make_evaluator(model, Accuracy(inputs, targets), ["9"], ways=ways)
    with pytest.raises(EvopruneError, match=message):
        evaluator(plans)


def test_layers_without_a_plan_stay_as_they_are() -> None:
    model, inputs, targets = make_case("lenet")
    score, plans = Accuracy(inputs, targets), random_plans(model, ["9"])
    found = make_evaluator(model, score, ["0", "3", "9"])(plans)
    assert torch.equal(found.score, ReferenceEvaluator(model, score)(plans).score)


def test_plans_must_name_the_layers_the_evaluator_was_made_for() -> None:
    model, inputs, targets = make_case("lenet")
    evaluator = make_evaluator(model, Accuracy(inputs, targets), ["9"])
    with pytest.raises(EvopruneError, match="made for"):
        evaluator({"7": torch.ones(2, 16, 24, dtype=torch.bool)})


def test_settings_are_checked() -> None:
    model, inputs, targets = make_case("lenet")
    score = Accuracy(inputs, targets)
    with pytest.raises(EvopruneError, match="unknown scoring method 'fast'"):
        make_evaluator(model, score, ["9"], ways=["fast"])
    with pytest.raises(EvopruneError, match="memory_mb"):
        make_evaluator(model, score, ["9"], memory_mb=0)
    with pytest.raises(EvopruneError, match="class 3"):
        make_evaluator(nn.Linear(8, 3), Accuracy(torch.randn(4, 8), torch.tensor([0, 1, 2, 3])), [""])


class Masked(nn.Module):
    """A varied layer that is called with a mask; the first samples have nothing to mask."""

    class Layer(nn.Linear):
        """Of the user's own."""

        def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
            """(B, 8) to (B, 4)."""
            return super().forward(x if mask is None else x * mask)

    def __init__(self) -> None:
        super().__init__()
        self.a = Masked.Layer(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 8) to (B, 4)."""
        return self.a(x, mask=(x < 2).float())


class Aliased(nn.Module):
    """Holds its weight a second time, where nothing can take its place."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(8, 4)
        self.weights = [self.a.weight]

    def forward(self, x: Tensor) -> Tensor:
        """(B, 8) to (B, 4)."""
        return nn.functional.linear(x, self.weights[0])


class Routed(nn.Module):
    """An expert sees those samples that a gate sends to it."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.expert, self.out = nn.Linear(8, 2), nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 8) to (B, 4)."""
        index = self.a(x).argmax(1).nonzero().squeeze(1)
        return self.out(x.index_add(0, index, self.expert(x[index])))


class RoutedByPlaces(Routed):
    """Which ones are sent is found by `where`."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, 8) to (B, 4)."""
        index = torch.where(self.a(x).argmax(1) == 1)[0]
        return self.out(x.index_add(0, index, self.expert(x[index])))


class RoutedByMask(Routed):
    """They are picked by a mask."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, 8) to (B, 4)."""
        sent = self.a(x).argmax(1) == 1
        return self.out(x.masked_scatter(sent[:, None], self.expert(x[sent])))


class Picking(nn.Module):
    """The same inputs of every sample, by a mask that is part of the model."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 8), nn.Linear(5, 4)
        self.register_buffer("kept", torch.arange(8) < 5)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 8) to (B, 4)."""
        return self.b(self.a(x)[:, self.kept])


class Squeezing(nn.Module):
    """Takes no batch of one sample."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.pool = nn.Linear(8, 4), nn.AdaptiveAvgPool1d(8)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 8) to (B, 4)."""
        return self.a(self.pool(x[:, None]).squeeze())


@pytest.mark.parametrize("make", [Masked, Aliased, Routed, RoutedByPlaces, RoutedByMask, Picking, Squeezing])
def test_models_that_ask_for_trouble(make: type[nn.Module], caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    model, inputs = make().eval(), torch.randn(129, 8)
    inputs[100:, 0] = 5
    score = NegativeLoss(inputs, torch.randint(4, (129,)))
    layers = [layer.name for layer in prunable_layers(model)]
    plans = random_plans(model, layers, keep=0.5)
    found, wanted = make_evaluator(model, score, layers)(plans), ReferenceEvaluator(model, score)(plans)
    torch.testing.assert_close(found.score, wanted.score, rtol=1e-4, atol=1e-5)
    assert len(caplog.records) == (make not in (Picking, Squeezing))


@pytest.mark.parametrize("make", [Routed, RoutedByPlaces, RoutedByMask])
def test_candidates_that_pick_their_samples_are_no_batch(
    make: type[nn.Module], caplog: pytest.LogCaptureFixture
) -> None:
    """Also where those that are tried pick equally many, so that nothing shows it."""
    model, inputs = make().eval(), torch.randn(40, 8)
    with torch.no_grad():
        model.a.weight.zero_()
    make_evaluator(model, NegativeLoss(inputs, torch.zeros(40).long()), ["a"])
    assert "depends on the data" in caplog.text


def test_the_reference_knows_the_dense_model() -> None:
    model, inputs, targets = make_case("lenet")
    plans = random_plans(model, ["9"])
    assert float(ReferenceEvaluator(model, Fidelity(inputs, targets))(plans).score[0]) == pytest.approx(0, abs=1e-6)
    sparse = {name: masks[1:] for name, masks in plans.items()}
    assert ReferenceEvaluator(model, Fidelity(inputs, targets))(sparse).score.max() < -1e-3


def test_who_just_reaches_the_floor_is_scored_to_the_end() -> None:
    """Its loss may be the lowest of all that score the same."""
    model, inputs, targets = make_case("lenet", 1000)
    score, plans = Accuracy(inputs, targets), {"9": torch.ones(1, 4, 16, dtype=torch.bool)}
    found = make_evaluator(model, score, ["9"])(plans, floor=score(model))
    assert found.complete.all()
    assert found.samples == 1000


def test_racing_begins_with_what_the_dense_model_finds_hardest() -> None:
    model, inputs, targets = make_case("lenet", 300)
    evaluator = make_evaluator(model, Accuracy(inputs, targets), ["9"])
    assert isinstance(evaluator, SampledEvaluator)
    losses = nn.functional.cross_entropy(model(inputs), targets, reduction="none")[evaluator.order]
    assert bool((losses.diff() <= 1e-5).all())


class Follows(nn.Module):
    """Moves what it needs to where its inputs are, in one of the ways that are usual."""

    def __init__(self, way: str, registered: bool) -> None:
        super().__init__()
        self.way, self.net = way, nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 2))
        if registered:
            self.register_buffer("mean", torch.full((1, 8), 0.5))
        else:
            self.mean = torch.full((1, 8), 0.5)
        self.temperature = torch.tensor(1.5)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 8) to (B, 2)."""
        moved = {"device": lambda t: t.to(x.device), "like": lambda t: t.to(x), "type": lambda t: t.type_as(x)}
        self.mean = moved[self.way](self.mean)
        return self.net(x - self.mean) / moved[self.way](self.temperature)


@pytest.mark.parametrize("registered", [False, True], ids=["attribute", "buffer"])
@pytest.mark.parametrize("way", ["device", "like", "type"])
def test_a_model_that_assigns_to_itself_is_split_and_left_as_found(
    way: str, registered: bool, caplog: pytest.LogCaptureFixture
) -> None:
    torch.manual_seed(0)
    model, inputs = Follows(way, registered).eval(), torch.randn(129, 8)
    mean, names = model.mean, set(vars(model))
    score = NegativeLoss(inputs, torch.randint(2, (129,)))
    layers = [layer.name for layer in prunable_layers(model)]
    evaluator = make_evaluator(model, score, layers)
    assert isinstance(evaluator, SampledEvaluator)
    assert isinstance(evaluator.runner, GraphRunner)
    plans = random_plans(model, layers, 7, keep=0.5)
    wanted = ReferenceEvaluator(model, score)(plans)
    torch.testing.assert_close(evaluator(plans).score, wanted.score, rtol=1e-4, atol=1e-5)
    assert isinstance(model.mean, Tensor)
    assert not isinstance(model.mean, torch.fx.Proxy)
    assert torch.equal(model.mean, mean)
    assert set(vars(model)) == names
    assert not caplog.records


class AssignsAndBranches(Follows):
    """What it assigned stays where tracing ends."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, 8) to (B, 2)."""
        out = super().forward(x)
        return out if bool(out.isfinite().all()) else -out


def test_a_trace_that_fails_leaves_the_model_as_found() -> None:
    torch.manual_seed(0)
    model, inputs = AssignsAndBranches("device", True).eval(), torch.randn(129, 8)
    score = NegativeLoss(inputs, torch.randint(2, (129,)))
    layers = [layer.name for layer in prunable_layers(model)]
    plans = random_plans(model, layers, keep=0.5)
    found = make_evaluator(model, score, layers)(plans)
    torch.testing.assert_close(found.score, ReferenceEvaluator(model, score)(plans).score, rtol=1e-4, atol=1e-5)
    assert torch.equal(model.mean, torch.full((1, 8), 0.5))


def test_a_scripted_part_is_run_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # scripting itself
        part = torch.jit.script(nn.Sequential(nn.Linear(8, 8), nn.Tanh()))
    model, inputs = nn.Sequential(nn.Linear(8, 8), part, nn.Linear(8, 4)).eval(), torch.randn(129, 8)
    score = NegativeLoss(inputs, torch.randint(4, (129,)))
    plans = random_plans(model, ["0", "2"], keep=0.5)
    evaluator = make_evaluator(model, score, ["0", "2"])
    assert isinstance(evaluator, SampledEvaluator)
    assert isinstance(evaluator.runner, GraphRunner)
    wanted = ReferenceEvaluator(model, score)(plans)
    torch.testing.assert_close(evaluator(plans).score, wanted.score, rtol=1e-4, atol=1e-5)
    assert not caplog.records


class Noisy(nn.Module):
    """Draws random numbers in eval mode, too, from all of three global states."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 8) to (B, 4)."""
        return self.a(nn.functional.dropout(x, 0.5)) * np.random.rand() + random.random()  # noqa: NPY002


@pytest.mark.filterwarnings("ignore")
def test_the_random_states_outside_play_no_part_in_a_score() -> None:
    model, inputs = Noisy().eval(), torch.randn(129, 8)
    score = NegativeLoss(inputs, torch.randint(4, (129,)))
    plans, found = random_plans(model, ["a"]), []
    for seed in (1, 2):
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        random.seed(seed)
        before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
        found += [make_evaluator(model, score, ["a"])(plans).score, torch.tensor(score(model))]
        assert torch.equal(torch.get_rng_state(), before[0])
        assert (np.random.get_state()[1] == before[1]).all()  # noqa: NPY002
        assert random.getstate() == before[2]
    assert torch.equal(found[0], found[2])
    assert torch.equal(found[1], found[3])


def test_the_default_type_of_torch_plays_no_part_in_a_first_convolution() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)).eval()
    score = Accuracy(torch.randn(40, 1, 6, 6), torch.arange(40) % 3)
    plans = {"0": torch.rand(3, 4, 1, 3, 3) < 0.5}
    wanted = ReferenceEvaluator(net, score)(plans).score
    torch.set_default_dtype(torch.float64)
    try:
        evaluator = make_evaluator(net, score, ["0"])
        assert isinstance(evaluator, SampledEvaluator)
        assert isinstance(evaluator.runner, GraphRunner)
        assert evaluator.runner.first
        assert torch.equal(evaluator(plans).score, wanted)
    finally:
        torch.set_default_dtype(torch.float32)
