"""The benchmarks' baselines: exact totals, no empty layer, and each rule against its definition."""

from __future__ import annotations

from itertools import pairwise

import baselines
import pytest
import torch
from torch import Tensor, nn

from evoprune.core import Layer, Masks, prunable_layers, weight_of
from evoprune.zoo import load_trained

SPARSITIES = [0.0, 0.5, 0.9, 0.98, 0.995, 0.9999]
RULES = ["global_magnitude", "uniform", "erk", "lamp"]


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def lenet() -> nn.Module:
    return load_trained("lenet5")


@pytest.fixture(scope="module")
def layers(lenet: nn.Module) -> list[Layer]:
    return prunable_layers(lenet)


def masks_of(rule: str, model: nn.Module, layers: list[Layer], sparsity: float) -> Masks:
    if rule == "random_uniform":
        return baselines.random_uniform(layers, sparsity, rng(0))
    return getattr(baselines, rule)(model, layers, sparsity)


def counts_of(masks: Masks) -> list[int]:
    return [int(mask.sum()) for mask in masks.values()]


@pytest.mark.parametrize("sparsity", SPARSITIES)
@pytest.mark.parametrize("rule", [*RULES, "random_uniform"])
def test_totals_are_exact_and_no_layer_is_empty(
    rule: str, sparsity: float, lenet: nn.Module, layers: list[Layer]
) -> None:
    masks = masks_of(rule, lenet, layers, sparsity)
    assert {name: (mask.shape, mask.dtype) for name, mask in masks.items()} == {
        layer.name: (torch.Size(layer.shape), torch.bool) for layer in layers
    }
    counts = counts_of(masks)
    assert sum(counts) == max(5, round((1 - sparsity) * 61_470))
    assert min(counts) >= 1


@pytest.mark.parametrize("rule", RULES)
def test_inside_a_layer_the_largest_weights_stay(rule: str, lenet: nn.Module, layers: list[Layer]) -> None:
    for name, mask in masks_of(rule, lenet, layers, 0.95).items():
        magnitude = weight_of(lenet, name).detach().abs()
        assert mask.all() or float(magnitude[mask].min()) >= float(magnitude[~mask].max())


def test_global_magnitude_has_global_threshold(lenet: nn.Module, layers: list[Layer]) -> None:
    masks = baselines.global_magnitude(lenet, layers, 0.9)
    weights = {name: weight_of(lenet, name).detach().abs() for name in masks}
    smallest = min(float(weights[name][mask].min()) for name, mask in masks.items())
    assert all(float(weights[name][~mask].max()) <= smallest for name, mask in masks.items())


def test_uniform_densities_are_equal(lenet: nn.Module, layers: list[Layer]) -> None:
    for masks in (baselines.uniform(lenet, layers, 0.9), baselines.random_uniform(layers, 0.9, rng(0))):
        for layer, count in zip(layers, counts_of(masks), strict=True):
            assert count == pytest.approx(0.1 * layer.size, abs=1)


def test_erk_densities_are_those_of_the_paper(lenet: nn.Module, layers: list[Layer]) -> None:
    """In a fresh calculation, but for rounding: epsilon from the layers that are not dense."""
    masks = baselines.erk(lenet, layers, 0.9)
    counts = dict(zip(masks, counts_of(masks), strict=True))
    assert counts["feature.0"] < 150
    raw = {layer.name: sum(layer.shape) / layer.size for layer in layers}
    epsilon = 0.1 * 61_470 / sum(raw[layer.name] * layer.size for layer in layers)
    dense = [layer for layer in layers if epsilon * raw[layer.name] > 1]
    assert not dense
    for layer in layers:
        assert counts[layer.name] == pytest.approx(epsilon * raw[layer.name] * layer.size, abs=2)
    # At half the weights the small layers are dense and the others share what is left.
    masks = baselines.erk(lenet, layers, 0.5)
    full = [layer for layer in layers if masks[layer.name].all()]
    rest = [layer for layer in layers if not masks[layer.name].all()]
    assert {layer.name for layer in full} >= {"feature.0", "classifier.5"}
    left = round(0.5 * 61_470) - sum(layer.size for layer in full)
    for layer in rest:
        share = sum(layer.shape) / sum(sum(other.shape) for other in rest)
        assert int(masks[layer.name].sum()) == pytest.approx(share * left, abs=2)


def test_lamp_on_paper() -> None:
    """Squares 1, 4, 16 score 1/21, 4/20, 1; squares 9, 9.61, 36 score 9/54.61 = 0.165, 9.61/45.61 = 0.211, 1."""
    model = nn.ModuleDict({"a": nn.Linear(3, 1, bias=False), "b": nn.Linear(3, 1, bias=False)})
    with torch.no_grad():
        model["a"].weight.copy_(torch.tensor([[-1.0, 2.0, 4.0]]))
        model["b"].weight.copy_(torch.tensor([[3.0, -3.1, 6.0]]))
    layers = prunable_layers(model)
    kept = [baselines.lamp(model, layers, 1 - keep / 6) for keep in range(2, 7)]
    order = []
    for before, after in pairwise(kept):
        order += [(name, i) for name in "ab" for i in range(3) if (after[name] & ~before[name])[0, i]]
    assert counts_of(kept[0]) == [1, 1]
    assert order == [("b", 1), ("a", 1), ("b", 0), ("a", 0)]


def test_lamp_bears_a_layer_of_zeros() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    nn.init.zeros_(model[0].weight)
    masks = baselines.lamp(model, prunable_layers(model), 0.5)
    assert counts_of(masks) == [4, 8]


def test_shuffling_keeps_counts_and_nothing_else(lenet: nn.Module, layers: list[Layer]) -> None:
    masks = baselines.global_magnitude(lenet, layers, 0.9)
    before = {name: mask.clone() for name, mask in masks.items()}
    shuffled, same = (baselines.shuffled(masks, rng(3)) for _ in range(2))
    assert counts_of(shuffled) == counts_of(masks)
    for name, mask in masks.items():
        assert torch.equal(mask, before[name])
        assert torch.equal(shuffled[name], same[name])
        assert not torch.equal(shuffled[name], mask)
    kept = [int((shuffled[name] & masks[name]).sum()) for name in masks]
    expected = [int(mask.sum()) ** 2 / mask.numel() for mask in masks.values()]
    assert sum(kept) == pytest.approx(sum(expected), rel=0.2)


def test_weights_are_not_touched(lenet: nn.Module, layers: list[Layer]) -> None:
    before: dict[str, Tensor] = {name: value.clone() for name, value in lenet.state_dict().items()}
    for rule in RULES:
        masks_of(rule, lenet, layers, 0.9)
    assert all(torch.equal(value, before[name]) for name, value in lenet.state_dict().items())
