"""Batch norms measured anew: the statistics of the inputs given, and nothing else changes."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from evoprune.core import EvopruneError
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
    batches = given.tensor_split(3)
    recalibrate(net, batches)
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
    recalibrate(net, [inputs()])
    assert torch.equal(random_state, torch.get_rng_state())
    torch.manual_seed(9)
    recalibrate(twin, [inputs()])
    recalibrate(twin, [inputs()])
    for name, value in net.state_dict().items():
        assert torch.equal(value, twin.state_dict()[name]), name
        assert torch.equal(value, before[name]) == ("running" not in name and "tracked" not in name), name
    assert [norm.momentum for norm in batch_norms(net)] == [0.1, 0.1, 0.3]
    assert [module.training for module in net] == [True, True, True, False, True, True, True, True]


def test_a_model_that_breaks_keeps_its_momentum_and_its_statistics() -> None:
    net = model()
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(EvopruneError, match=r"cannot be measured.*RuntimeError.*--no-recalibrate"):
        recalibrate(net, [inputs(), torch.zeros(4, 2, 5, 5)])
    assert [norm.momentum for norm in batch_norms(net)] == [0.1, 0.1, 0.3]
    assert net.training
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_norms_that_nothing_reaches_keep_their_statistics() -> None:
    """Those of another domain, say."""

    class Domains(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.here, self.there = nn.BatchNorm2d(1), nn.BatchNorm2d(1)

        def forward(self, x: Tensor) -> Tensor:
            return self.here(x)

    net = Domains()
    with torch.no_grad():
        net.there.running_mean.fill_(7)
        net.here.running_mean.fill_(7)
    recalibrate(net, [inputs()])
    assert float(net.there.running_mean) == 7
    assert float(net.here.running_mean) == pytest.approx(float(inputs().mean()))


def test_inside_autocast_weights_that_changed_are_seen() -> None:
    """Its cache would keep what it made of them before."""
    net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3))
    with torch.autocast("cpu", torch.bfloat16):
        recalibrate(net, [inputs()], torch.bfloat16)
        first = net[1].running_mean.clone()
        with torch.no_grad():
            net[0].weight.mul_(5)
        recalibrate(net, [inputs()], torch.bfloat16)
    assert not torch.allclose(net[1].running_mean, first, rtol=0.1)


def test_the_inputs_stay_as_they_are_where_the_model_changes_its_own() -> None:
    given = inputs()
    before = given.clone()
    recalibrate(nn.Sequential(nn.ReLU(inplace=True), nn.BatchNorm2d(1)), [given])
    assert torch.equal(given, before)


class Fixed(nn.BatchNorm2d):
    """As in detection models: in eval mode whatever is asked."""

    def train(self, mode: bool = True) -> Fixed:  # noqa: ARG002
        return super().train(False)


@pytest.mark.parametrize("kind", ["module", "model", "flag"])
def test_norms_that_training_keeps_fixed_are_left_alone_and_work_as_ever(kind: str) -> None:
    torch.manual_seed(0)
    norm = Fixed(1) if kind == "module" else nn.BatchNorm2d(1)
    norm.running_mean.fill_(5.0)  # type: ignore[union-attr]
    norm.running_var.fill_(4.0)  # type: ignore[union-attr]

    class Net(nn.Sequential):
        def train(self, mode: bool = True) -> Net:
            super().train(mode)
            if kind == "model":
                norm.eval()
            return self

    net = Net(norm, nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3))
    norm.track_running_stats = kind != "flag"  # set late: its statistics are used, and never move
    assert batch_norms(net) == [net[2]]
    recalibrate(net, [inputs()])
    assert float(norm.running_mean) == 5.0  # type: ignore[arg-type]
    expected = net[1]((inputs() - 5) / 2).mean((0, 2, 3))
    torch.testing.assert_close(net[2].running_mean, expected.detach(), rtol=1e-4, atol=1e-4)
