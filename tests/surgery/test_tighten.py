"""Masks that tighten while a model trains."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from evoprune.core import prunable_layers, weight_of
from evoprune.surgery import FineTuner, Tightening
from evoprune.surgery.tighten import SHARE
from evoprune.training import Recipe, TensorSource


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 30), nn.ReLU(), nn.Linear(30, 20), nn.ReLU(), nn.Linear(20, 3))


def tightening(net: nn.Module, keep: int, steps: int) -> Tightening:
    layers = prunable_layers(net)
    masks = {layer.name: torch.ones(layer.shape, dtype=torch.bool) for layer in layers}
    weights = {layer.name: weight_of(net, layer.name) for layer in layers}
    return Tightening(weights, masks, keep, steps)


def shown(tight: Tightening) -> Tightening:
    """With importances as after a few steps."""
    rng = torch.Generator().manual_seed(1)
    for name, value in tight.importance.items():
        tight.importance[name] = torch.rand(value.shape, generator=rng)
    return tight


def after(tight: Tightening, step: int) -> dict[str, torch.Tensor]:
    tight.step = step
    assert tight.is_due
    return dict(tight.tightened())


def test_cuts_follow_a_geometric_way_down_to_the_exact_budget() -> None:
    tight = shown(tightening(model(), 60, 200))
    before = {name: mask.clone() for name, mask in tight.masks.items()}
    for step, kept in ((50, round(900**0.75 * 60**0.25)), (100, round((900 * 60) ** 0.5)), (200, 60)):
        smaller = after(tight, step)
        assert sum(int(mask.sum()) for mask in smaller.values()) == kept
        assert not any((smaller[name] & ~before[name]).any() for name in smaller), "nothing comes back"
        before = smaller


def test_it_goes_on_where_it_stopped() -> None:
    whole = shown(tightening(model(), 60, 200))
    half = after(whole, 100)
    masks = {name: mask.clone() for name, mask in half.items()}
    again = tightening(model(), 60, 200)
    again.masks = masks
    again.load_state({name: value.clone() for name, value in whole.state().items()})
    assert again.step == 100
    ends = after(whole, 200), after(again, 200)
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in masks)


def test_global_threshold_cuts_all_layers() -> None:
    net = model()
    plain = after(shown(tightening(net, 90, 100)), 100)
    values = torch.cat([v.flatten() for v in shown(tightening(net, 90, 100)).importance.values()])
    kept = torch.cat([mask.flatten() for mask in plain.values()])
    assert values[kept].min() > values[~kept].max()


def test_no_layer_is_emptied() -> None:
    tight = shown(tightening(model(), 5, 100))
    tight.importance["2"].zero_()
    assert [int(mask.sum()) for mask in after(tight, 100).values()][1] == 1


@pytest.mark.parametrize(("keep", "steps"), [(60, 30), (60, 500), (890, 100), (5, 2)])
def test_a_cut_waits_until_a_tenth_is_due_and_the_last_comes_at_the_end(keep: int, steps: int) -> None:
    tight, cuts = shown(tightening(model(), keep, steps)), []
    left = [tight.start]
    for step in range(1, steps + 20):
        tight.step = step
        if tight.is_due:
            cuts.append(step)
            left.append(sum(int(mask.sum()) for mask in tight.tightened().values()))
    assert left[-1] == keep
    assert cuts[-1] == steps
    a_step = (keep / tight.start) ** (1 / steps)
    for before, after_cut in itertools.pairwise(left[:-1]):
        assert round(before * (1 - SHARE) * a_step) - 1 <= after_cut <= before * (1 - SHARE)


def test_importance_is_an_average_of_the_squared_effect() -> None:
    net = model()
    tight = tightening(net, 60, 100)
    weight = net[0].weight
    weight.grad = torch.full_like(weight, 2.0)
    tight.watch()
    torch.testing.assert_close(tight.importance["0"], 0.02 * (2 * weight.detach()).square())
    assert not tight.importance["2"].any(), "no gradient, no news"


def test_small_effects_of_half_precision_weights_are_told_apart() -> None:
    """(w g)^2 of 0.05 and 0.001 is zero in float16."""
    net = model().half()
    tight = tightening(net, 60, 100)
    net[0].weight.data.fill_(0.05)
    net[0].weight.grad = torch.full_like(net[0].weight, 1e-3)
    tight.watch()
    torch.testing.assert_close(tight.importance["0"], torch.full((30, 8), 0.02 * 25e-10), rtol=1e-2, atol=0)


def test_an_epoch_of_fine_tuning_ends_at_the_budget_with_zeros_exact() -> None:
    net, rng = model(), torch.Generator().manual_seed(2)
    inputs = torch.randn(1200, 8, generator=rng)
    source = TensorSource(inputs, (inputs[:, 0] > 0).long() + (inputs[:, 1] > 1).long(), 10)
    tight = tightening(net, 50, source.steps)
    masks = {name: mask.clone() for name, mask in tight.masks.items()}
    tuner = FineTuner(net, masks, source, Recipe(epochs=2, optimizer="adam", learning_rate=1e-2), tightening=tight)
    losses = [tuner.epoch(epoch, 0) for epoch in range(2)]
    tuner.close()
    assert sum(int(mask.sum()) for mask in tuner.masks.values()) == 50
    assert all(mask.any() for mask in tuner.masks.values())
    for name, mask in tuner.masks.items():
        assert not weight_of(net, name)[~mask].any()
        assert weight_of(net, name)[mask].all()
    assert losses[1] < losses[0]
    used = tuner.masks["0"].any(0)
    assert used[:2].all(), "the inputs that the labels depend on"


def test_a_model_that_is_one_layer_goes_on_too() -> None:
    whole = shown(tightening(nn.Linear(8, 4), 6, 20))
    masks = after(whole, 10)
    again = tightening(nn.Linear(8, 4), 6, 20)
    again.masks = dict(masks)
    again.load_state(whole.state())
    assert again.step == 10
    assert torch.equal(after(again, 20)[""], after(whole, 20)[""])


def test_a_tenth_of_what_is_left_goes_at_a_time() -> None:
    tight = shown(tightening(model(), 60, 500))
    while not tight.is_due:
        tight.step += 1
    assert tight.step == 20
    assert sum(int(mask.sum()) for mask in tight.tightened().values()) == 808
