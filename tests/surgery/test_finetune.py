"""Fine-tuning under masks: zeros stay zeros, the rest learns, and it can be interrupted."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from evoprune.core import Masks
from evoprune.surgery import FineTuner
from evoprune.training import Recipe, TensorSource, set_memory_format

OPTIMIZERS = ("sgd", "adam", "adamw")


def data(samples: int = 48) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(0)
    inputs = torch.randn(samples, 1, 6, 6, generator=rng)
    return inputs, (inputs[:, 0, :3].mean((1, 2)) > inputs[:, 0, 3:].mean((1, 2))).long()


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.2), nn.Flatten(), nn.Linear(64, 2)
    )


def masks() -> Masks:
    rng = torch.Generator().manual_seed(1)
    return {"0": torch.rand(4, 1, 3, 3, generator=rng) < 0.5, "5": torch.rand(2, 64, generator=rng) < 0.2}


def recipe(optimizer: str = "adam", **options: Any) -> Recipe:
    chosen: dict[str, Any] = {"epochs": 3, "learning_rate": 0.05, "weight_decay": 0.1, "schedule": "constant"}
    return Recipe(optimizer=optimizer, batch_size=8, **(chosen | options))  # type: ignore[arg-type]


def tuner(net: nn.Module, optimizer: str = "adam", teacher: nn.Module | None = None, **options: Any) -> FineTuner:
    chosen = recipe(optimizer, **options)
    return FineTuner(net, masks(), TensorSource(*data(), chosen.batch_size), chosen, teacher)


def weights_of(net: nn.Module) -> Iterator[tuple[Tensor, Tensor]]:
    for name, mask in masks().items():
        yield net.get_parameter(f"{name}.weight").detach(), mask


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_pruned_weights_are_plus_zero_whenever_the_model_runs(optimizer: str) -> None:
    net = model()
    tune = tuner(net, optimizer)
    looks = []

    def look(*_: object) -> None:
        for weight, mask in weights_of(net):
            looks.append(bool((weight[~mask] == 0).all()) and not bool(torch.signbit(weight[~mask]).any()))

    net.register_forward_pre_hook(look)
    for epoch in range(3):
        tune.epoch(epoch, 0)
    look()
    assert len(looks) == 2 * (3 * 6 + 1)
    assert all(looks)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_kept_weight_is_trained_and_pruned_ones_leave_no_trace(optimizer: str) -> None:
    net, dense = model(), model()
    tune = tuner(net, optimizer)
    tune.epoch(0, 0)
    for (weight, mask), (before, _) in zip(weights_of(net), weights_of(dense), strict=True):
        assert bool((weight[mask] != before[mask]).all())
    state = tune.state()
    moments = {name: tensor for name, tensor in state.items() if not name.endswith("step")}
    assert moments
    for weight, mask in weights_of(net):
        like = [tensor for tensor in moments.values() if tensor.shape == weight.shape]
        assert like
        # What was pruned before the first step never enters the optimizer's memory.
        assert all(bool((tensor[~mask] == 0).all()) for tensor in like)


def test_zeros_are_set_at_once_and_other_parameters_are_trained_too() -> None:
    net, dense = model(), model()
    tune = tuner(net)
    assert all(bool((weight[~mask] == 0).all()) for weight, mask in weights_of(net))
    tune.epoch(0, 0)
    for name in ("0.bias", "1.weight", "1.bias", "5.bias"):
        assert not torch.equal(net.get_parameter(name), dense.get_parameter(name))


def test_a_mask_of_ones_trains_like_no_mask() -> None:
    chosen, results = recipe("adamw"), []
    for given in ({name: torch.ones_like(mask) for name, mask in masks().items()}, {}):
        net = model()
        FineTuner(net, given, TensorSource(*data(), 8), chosen).epoch(0, 0)
        results.append(net.state_dict())
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("stop", [1, 2])
def test_going_on_from_a_state_gives_the_same_bits(optimizer: str, stop: int) -> None:
    unbroken = model()
    tune = tuner(unbroken, optimizer, schedule="cosine")
    losses = [tune.epoch(epoch, 7, 3) for epoch in range(3)]

    first = model()
    broken = tuner(first, optimizer, schedule="cosine")
    for epoch in range(stop):
        broken.epoch(epoch, 7, 3)
    state = {name: tensor.clone() for name, tensor in broken.state().items()}
    second = model()
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    torch.manual_seed(99)  # wherever the global random state is
    resumed = tuner(second, optimizer, schedule="cosine")
    resumed.load_state(state)
    assert [resumed.epoch(epoch, 7, 3) for epoch in range(stop, 3)] == losses[stop:]
    for name, tensor in unbroken.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name
    assert all(torch.equal(tensor, resumed.state()[name]) for name, tensor in tune.state().items())


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_moments_from_before_a_weight_was_pruned_cannot_move_it(optimizer: str) -> None:
    net = model()
    everything = {name: torch.ones_like(mask) for name, mask in masks().items()}
    before = FineTuner(net, everything, TensorSource(*data(), 8), recipe(optimizer))
    before.epoch(0, 0)
    tune = tuner(net, optimizer)
    tune.load_state(before.state())
    tune.epoch(1, 0)
    assert all(bool((weight[~mask] == 0).all()) for weight, mask in weights_of(net))


def test_the_place_in_the_run_decides_the_order() -> None:
    nets = [model() for _ in range(3)]
    for net, place in zip(nets, ((0, 1), (0, 1), (0, 2)), strict=True):
        tuner(net).epoch(0, *place)
    assert torch.equal(nets[0][5].weight, nets[1][5].weight)
    assert not torch.equal(nets[0][5].weight, nets[2][5].weight)


def test_a_teacher_is_followed_and_not_changed() -> None:
    teacher = model().eval()
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    alone, taught = model(), model()
    tuner(alone, distill=0.0).epoch(0, 0)
    tune = tuner(taught, teacher=teacher, distill=1.0, learning_rate=0.01)
    losses = [tune.epoch(epoch, 0) for epoch in range(6)]
    assert losses[-1] < losses[0]
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())
    assert not teacher.training
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert not torch.equal(alone[5].weight, taught[5].weight)


def test_the_global_random_state_is_left_alone() -> None:
    net = model()
    tune = tuner(net)
    before = torch.get_rng_state()
    tune.epoch(0, 0)
    assert torch.equal(before, torch.get_rng_state())


def test_a_half_frozen_model_is_tuned_where_it_may_be() -> None:
    net = model()
    net[0].requires_grad_(False)
    bias = net[0].bias.detach().clone()
    tuner(net).epoch(0, 0)
    assert torch.equal(net[0].bias, bias)
    assert all(bool((weight[~mask] == 0).all()) for weight, mask in weights_of(net))


def test_a_mask_under_data_parallel_names() -> None:
    net = nn.DataParallel(model())
    tune = tuner(net)
    tune.epoch(0, 0)
    assert all(bool((weight[~mask] == 0).all()) for weight, mask in weights_of(net.module))


@pytest.mark.parametrize("channels", [1, 3])
def test_weights_are_laid_out_as_torch_does(channels: int) -> None:
    ours, theirs = (nn.Sequential(nn.Conv2d(channels, 2, 3), nn.Linear(2, 2)) for _ in range(2))
    for memory_format in (torch.channels_last, torch.contiguous_format):
        set_memory_format(ours, memory_format)
        theirs.to(memory_format=memory_format)
        assert [p.stride() for p in ours.parameters()] == [p.stride() for p in theirs.parameters()]


def test_parameters_of_five_dimensions_keep_their_layout() -> None:
    net = nn.Sequential(nn.Unflatten(1, (1, 1)), nn.Conv3d(1, 2, (1, 3, 3)), nn.Flatten(), nn.Linear(32, 2))
    inputs = torch.randn(8, 1, 6, 6)
    source = TensorSource(inputs, torch.arange(8) % 2, 4)
    FineTuner(net, {"1": torch.ones(2, 1, 1, 3, 3, dtype=torch.bool)}, source, recipe()).epoch(0, 0)
    assert net[1].weight.is_contiguous()
