"""Batch norms measured anew: the statistics of the inputs given, and nothing else changes."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from evoprune.surgery import batch_norms, recalibrate


def inputs(samples: int = 40) -> Tensor:
    return 3 + 2 * torch.randn(samples, 1, 6, 6, generator=torch.Generator().manual_seed(0))


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.BatchNorm2d(1, affine=False), nn.Dropout(0.5), nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Flatten(),
        nn.Linear(48, 4), nn.BatchNorm1d(4, track_running_stats=False), nn.BatchNorm1d(4, momentum=0.3),
    )  # fmt: skip


def test_only_batch_norms_with_running_statistics_count() -> None:
    net = model()
    assert batch_norms(net) == [net[0], net[3], net[7]]
    assert batch_norms(nn.Sequential(nn.Linear(2, 2), nn.InstanceNorm1d(2, track_running_stats=True))) == []


def test_statistics_are_the_averages_over_batches() -> None:
    net, given = model(), inputs()
    recalibrate(net, given, batch_size=16)
    batches = given.tensor_split(3)
    assert float(net[0].running_mean) == pytest.approx(float(torch.stack([b.mean() for b in batches]).mean()))
    assert float(net[0].running_var) == pytest.approx(float(torch.stack([b.var() for b in batches]).mean()))
    # The second norm sees what the first makes of its own batch; dropout is off.
    normed = [net[2]((b - b.mean()) / (b.var(correction=0) + net[0].eps).sqrt()) for b in batches]
    expected = torch.stack([b.mean((0, 2, 3)) for b in normed]).mean(0)
    torch.testing.assert_close(net[3].running_mean, expected.detach(), rtol=1e-4, atol=1e-5)


def test_nothing_else_changes_and_nothing_is_random() -> None:
    net = model()
    net[3].eval()
    before, twin, random_state = copy.deepcopy(net.state_dict()), copy.deepcopy(net), torch.get_rng_state()
    recalibrate(net, inputs())
    assert torch.equal(random_state, torch.get_rng_state())
    torch.manual_seed(9)
    recalibrate(twin, inputs())
    recalibrate(twin, inputs())
    for name, value in net.state_dict().items():
        assert torch.equal(value, twin.state_dict()[name]), name
        assert torch.equal(value, before[name]) == ("running" not in name and "tracked" not in name), name
    assert [norm.momentum for norm in batch_norms(net)] == [0.1, 0.1, 0.3]
    assert [module.training for module in net] == [True, True, True, False, True, True, True, True]


def test_a_model_that_breaks_keeps_its_momentum() -> None:
    net = model()
    with pytest.raises(RuntimeError):
        recalibrate(net, torch.zeros(4, 2, 5, 5))
    assert [norm.momentum for norm in batch_norms(net)] == [0.1, 0.1, 0.3]
    assert net.training


def test_the_inputs_stay_as_they_are_where_the_model_changes_its_own() -> None:
    given = inputs()
    before = given.clone()
    recalibrate(nn.Sequential(nn.ReLU(inplace=True), nn.BatchNorm2d(1)), given)
    assert torch.equal(given, before)
