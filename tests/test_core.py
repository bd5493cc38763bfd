"""The shared types: layers, names, sparsity, random streams."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from evoprune.core import (
    EvopruneError,
    Layer,
    equal_parts,
    generator,
    prunable_layers,
    resolve_layers,
    sparsity_of,
    spread,
    strip_module_prefix,
    weight_of,
)  # fmt: skip


def model() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3), nn.LayerNorm(3))


def test_layers_are_the_modules_with_a_weight_matrix_in_order() -> None:
    assert prunable_layers(model()) == [Layer("0", "Conv2d", (2, 1, 3, 3)), Layer("3", "Linear", (3, 8))]
    assert prunable_layers(model())[0].size == 18


def test_the_scales_of_norms_come_on_demand() -> None:
    assert [layer.name for layer in prunable_layers(model(), include_norm=True)] == ["0", "1", "3", "4"]


class ChannelNorm(nn.Module):
    """A normalization as many models write their own."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(shape))


class NormalizedLinear(ChannelNorm):
    """A matrix, whatever it is called."""


def test_a_norm_of_ones_own_has_a_scale_however_many_dimensions_and_a_matrix_is_none() -> None:
    net = nn.Sequential(ChannelNorm(1, 4, 1, 1), NormalizedLinear(4, 3))
    assert [layer.name for layer in prunable_layers(net)] == ["1"]
    assert [layer.name for layer in prunable_layers(net, include_norm=True)] == ["0", "1"]


def test_a_shared_weight_is_listed_once() -> None:
    tied = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 5, bias=False))
    tied[1].weight = tied[0].weight
    assert [layer.name for layer in prunable_layers(tied)] == ["0"]


def test_norms_without_a_scale_and_modules_without_a_weight_are_no_layers() -> None:
    others = nn.Sequential(nn.BatchNorm2d(3, affine=False), nn.ReLU(), nn.PReLU(4))
    assert prunable_layers(others, include_norm=True) == []


def test_data_parallels_prefix_is_no_part_of_a_name() -> None:
    wrapped = nn.DataParallel(model())
    assert [layer.name for layer in prunable_layers(wrapped)] == ["0", "3"]
    assert weight_of(wrapped, "3") is wrapped.module[3].weight
    assert weight_of(wrapped, "module.3") is wrapped.module[3].weight
    assert strip_module_prefix("module.conv.module.x") == "conv.module.x"


def test_scripted_modules_are_no_layers() -> None:
    with pytest.warns(DeprecationWarning, match="torch.jit.script"):
        scripted = torch.jit.script(nn.Linear(2, 2))  # type: ignore[no-untyped-call]
    assert [layer.name for layer in prunable_layers(nn.Sequential(scripted, nn.Linear(2, 2)))] == ["1"]


def test_a_part_called_module_keeps_its_name() -> None:
    net = nn.ModuleDict({"module": nn.ModuleDict({"fc": nn.Linear(2, 3)}), "fc": nn.Linear(4, 5)})
    layers = prunable_layers(net)
    assert [layer.name for layer in layers] == ["module.fc", "fc"]
    assert [weight_of(net, layer.name).shape for layer in layers] == [(3, 2), (5, 4)]
    assert resolve_layers(layers, ["module.fc"]) == layers[:1]
    wrapped = nn.DataParallel(net)
    assert prunable_layers(wrapped) == layers
    assert all(weight_of(wrapped, layer.name) is weight_of(net, layer.name) for layer in layers)


@pytest.mark.parametrize("name", ["2", "9", "", "3.weight"])
def test_no_such_weight(name: str) -> None:
    with pytest.raises(EvopruneError, match="no layer"):
        weight_of(model(), name)


LAYERS = [Layer("feature.0", "Conv2d", (2, 2)), Layer("classifier.1", "Linear", (3, 2))]


def test_names_resolve_in_the_models_order() -> None:
    assert resolve_layers(LAYERS, ["module.classifier.1", "feature.0", "feature.0"]) == LAYERS
    assert resolve_layers(LAYERS, ["classifier.1"]) == LAYERS[1:]


def test_an_unknown_name_is_answered_with_near_ones() -> None:
    with pytest.raises(EvopruneError, match=r"unknown layer 'clasifier.1'; did you mean classifier\.1\?") as error:
        resolve_layers(LAYERS, ["clasifier.1"])
    assert "\n" not in str(error.value)
    with pytest.raises(EvopruneError, match=r"feature\.0, classifier\.1"):
        resolve_layers(LAYERS, ["xyz"])


def test_sparsity_counts_weights_and_a_missing_mask_is_dense() -> None:
    masks = {"feature.0": torch.tensor([[True, False], [False, False]])}
    assert sparsity_of(masks, LAYERS) == pytest.approx(0.3)
    assert sparsity_of(masks, LAYERS[:1]) == pytest.approx(0.75)
    assert sparsity_of({}, LAYERS) == 0


def test_streams_are_reproducible_and_differ_by_place() -> None:
    def draws(*place: int) -> tuple[float, ...]:
        return tuple(torch.rand(4, generator=generator(*place)).tolist())

    assert draws(3, 1, 2) == draws(3, 1, 2)
    places = [(seed, stage, step) for seed in range(4) for stage in range(4) for step in range(6)]
    assert len({draws(*place) for place in places}) == len(places)
    draws(2**63, 1)


def test_streams_leave_the_global_one_alone() -> None:
    before = torch.get_rng_state()
    generator(1, 2).initial_seed()
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(("total", "count", "found"), [(7, 3, [0, 2, 4]), (3, 5, [0, 1, 2]), (4, 4, [0, 1, 2, 3])])
def test_some_of_all_are_spread_evenly(total: int, count: int, found: list[int]) -> None:
    assert spread(total, count).tolist() == found


@pytest.mark.parametrize(("total", "most"), [(101, 100), (100, 100), (7, 3), (2, 5), (1, 1), (1000, 1)])
def test_parts_are_as_torchs_equal_ones(total: int, most: int) -> None:
    numbers, parts = torch.arange(total), equal_parts(total, most)
    expected = numbers.tensor_split(-(-total // most))
    assert [numbers[part].tolist() for part in parts] == [part.tolist() for part in expected]
    assert max(part.stop - part.start for part in parts) <= most
