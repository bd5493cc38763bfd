"""One epoch, recipes and optimizer states."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from evoprune.core import EvopruneError
from evoprune.training import (
    LoaderSource,
    Recipe,
    TensorSource,
    as_source,
    optimizer_from_tensors,
    optimizer_to_tensors,
    train_epoch,
)  # fmt: skip
from evoprune.training.epoch import _loss


def data() -> tuple[torch.Tensor, torch.Tensor]:
    inputs = torch.randn(40, 5, generator=torch.Generator().manual_seed(0))
    return inputs, (inputs.sum(1) > 0).long()


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.Dropout(0.3), nn.ReLU(), nn.Linear(8, 2))


def epochs(net: nn.Module, recipe: Recipe, source: Any = None) -> list[float]:
    optimizer = recipe.make_optimizer(net)
    source = TensorSource(*data(), recipe.batch_size) if source is None else source
    rngs = [torch.Generator().manual_seed(epoch) for epoch in range(recipe.epochs)]
    return [train_epoch(net, source, recipe, optimizer, epoch, rng) for epoch, rng in enumerate(rngs)]


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_training_learns_and_is_repeatable(optimizer: Any) -> None:
    recipe = Recipe(epochs=8, batch_size=8, learning_rate=0.03, optimizer=optimizer)
    first, second = model(), model()
    losses = epochs(first, recipe)
    torch.manual_seed(123)
    assert epochs(second, recipe) == losses
    assert losses[-1] < 0.6 * losses[0]
    assert torch.equal(first[0].weight, second[0].weight)
    assert first.training


def test_a_loader_is_as_good_as_tensors() -> None:
    recipe = Recipe(epochs=8, batch_size=8, learning_rate=0.03)
    losses = epochs(model(), recipe, LoaderSource(list(zip(*(part.split(8) for part in data()), strict=True))))
    assert losses[-1] < 0.6 * losses[0]


def test_the_learning_rate_rises_falls_and_stays_as_its_name_says() -> None:
    rates = {
        name: [Recipe(schedule=name, learning_rate=2.0).learning_rate_at(step / 100) for step in range(101)]  # type: ignore[arg-type]
        for name in ("one-cycle", "cosine", "constant")
    }
    assert set(rates["constant"]) == {2.0}
    assert rates["cosine"] == sorted(rates["cosine"], reverse=True)
    assert rates["cosine"][0] == 2.0
    assert rates["cosine"][-1] == pytest.approx(0, abs=1e-9)
    peak = rates["one-cycle"].index(max(rates["one-cycle"]))
    assert peak == 10
    assert rates["one-cycle"][:10] == sorted(rates["one-cycle"][:10])
    assert rates["one-cycle"][-1] == pytest.approx(0, abs=1e-9)


def test_weight_decay_spares_biases_and_scales() -> None:
    net = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    groups = Recipe(weight_decay=0.5).make_optimizer(net).param_groups
    decayed = {id(p) for group in groups if group["weight_decay"] for p in group["params"]}
    assert decayed == {id(net[0].weight)}
    assert sum(len(group["params"]) for group in groups) == 4


def test_a_loss_that_is_not_finite_says_what_to_do() -> None:
    net = model()
    with torch.no_grad():
        net[0].weight[0, 0] = float("nan")
    with pytest.raises(EvopruneError, match="loss is nan in epoch 1; try a lower learning rate") as error:
        epochs(net, Recipe(epochs=1))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [("epochs", 0), ("batch_size", 0), ("optimizer", "lion"), ("learning_rate", float("nan")), ("learning_rate", 0),
     ("weight_decay", -1), ("schedule", "step"), ("label_smoothing", 1), ("shift", -1), ("distill", 2),
     ("temperature", 0)],
)  # fmt: skip
def test_settings_out_of_range_are_one_line(field: str, value: Any) -> None:
    with pytest.raises(EvopruneError, match=f"{field} is .* but must be") as error:
        Recipe(**{field: value})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_an_optimizers_state_round_trips(optimizer: Any) -> None:
    recipe, net = Recipe(epochs=2, batch_size=8, optimizer=optimizer), model()
    first = recipe.make_optimizer(net)
    assert optimizer_to_tensors(first) == {}
    train_epoch(net, TensorSource(*data(), 8), recipe, first, 0, torch.Generator().manual_seed(0))
    tensors = optimizer_to_tensors(first)
    assert tensors
    second = recipe.make_optimizer(net)
    optimizer_from_tensors(second, tensors)
    again = optimizer_to_tensors(second)
    assert again.keys() == tensors.keys()
    assert all(torch.equal(again[name], tensor) for name, tensor in tensors.items())


def test_images_grow_to_their_full_size() -> None:
    recipe = Recipe(epochs=8, first_size=16)
    assert [recipe.size_at(epoch, 32) for epoch in range(8)] == [16, 16, 20, 24, 24, 28, 32, 32]
    assert [Recipe(epochs=3, first_size=20).size_at(epoch, 32) for epoch in range(3)] == [20, 24, 32]
    assert Recipe(epochs=1, first_size=20).size_at(0, 32) == 32, "what is scored afterwards has seen full size"
    assert [Recipe(epochs=2).size_at(epoch, 32) for epoch in range(2)] == [32, 32]
    assert Recipe(epochs=2, first_size=32).size_at(0, 28) == 28, "never larger than they are"


def test_an_epoch_of_smaller_images_in_bfloat16() -> None:
    seen: list[tuple[int, ...]] = []

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 2, 3)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.conv(images)
            assert logits.dtype == torch.bfloat16
            seen.append(tuple(images.shape))
            return logits.mean((2, 3))

    net, recipe = Net(), Recipe(epochs=4, first_size=8, precision="bfloat16")
    source = TensorSource(torch.rand(8, 1, 12, 12), torch.arange(8) % 2, 4)
    optimizer = recipe.make_optimizer(net)
    for epoch in range(4):
        train_epoch(net, source, recipe, optimizer, epoch, torch.Generator().manual_seed(0))
    assert seen == [(4, 1, 8, 8)] * 6 + [(4, 1, 12, 12)] * 2
    assert net.conv.weight.dtype == torch.float32


def test_a_last_batch_of_one_sample_beside_batch_norm_says_what_to_do() -> None:
    net = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    source = as_source([(torch.randn(2, 4), torch.tensor([0, 1])), (torch.randn(1, 4), torch.tensor([2]))], 2)
    recipe = Recipe(epochs=1)
    with pytest.raises(EvopruneError, match=r"batch of one sample.*drop_last"):
        train_epoch(net, source, recipe, recipe.make_optimizer(net), 0, torch.Generator().manual_seed(0))


def test_the_teacher_sees_full_size() -> None:
    seen: list[tuple[int, ...]] = []

    class Teacher(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            seen.append(tuple(images.shape))
            return images.mean((2, 3)).expand(-1, 2)

    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    source, recipe = TensorSource(torch.rand(8, 1, 12, 12), torch.arange(8) % 2, 4), Recipe(epochs=4, first_size=8)
    optimizer = recipe.make_optimizer(net)
    train_epoch(net, source, recipe, optimizer, 0, torch.Generator().manual_seed(0), Teacher())
    assert seen == [(4, 1, 12, 12)] * 2


def test_the_loss_is_smoothed_and_shared_with_the_teacher_as_the_recipe_says() -> None:
    """Hinton et al. 2015: T^2 times KL(teacher || model) of the logits divided by T."""
    rng = torch.Generator().manual_seed(0)
    logits, teacher = torch.randn(6, 3, generator=rng), 3 * torch.randn(6, 3, generator=rng)
    targets, recipe = torch.arange(6) % 3, Recipe(label_smoothing=0.1, distill=0.25, temperature=4.0)
    smoothed = (-logits.log_softmax(1) * (0.9 * F.one_hot(targets, 3) + 0.1 / 3)).sum(1).mean()
    p, q = (teacher / 4).softmax(1), (logits / 4).softmax(1)
    apart = (p * (p / q).log()).sum(1).mean()
    torch.testing.assert_close(_loss(logits, targets, None, recipe), smoothed)
    torch.testing.assert_close(_loss(logits, targets, teacher, recipe), 0.75 * smoothed + 0.25 * 16 * apart)


def test_a_teacher_has_the_same_share_where_each_pixel_is_classified() -> None:
    rng, recipe = torch.Generator().manual_seed(0), Recipe(distill=0.5)
    logits, teacher = torch.randn(2, 3, 4, 5, generator=rng), torch.randn(2, 3, 4, 5, generator=rng)
    targets = torch.randint(3, (2, 4, 5), generator=rng)
    flat, flat_teacher = (values.movedim(1, 3).reshape(-1, 3) for values in (logits, teacher))
    expected = _loss(flat, targets.flatten(), flat_teacher, recipe)
    torch.testing.assert_close(_loss(logits, targets, teacher, recipe), expected)


def test_the_schedule_runs_through_the_steps_of_all_epochs() -> None:
    net, rates = model(), []
    recipe, source = Recipe(epochs=3, schedule="cosine"), TensorSource(*data(), 10)
    optimizer = recipe.make_optimizer(net)
    for epoch in range(3):
        rng = torch.Generator().manual_seed(epoch)
        train_epoch(
            net, source, recipe, optimizer, epoch, rng,
            after_step=lambda _: rates.append(optimizer.param_groups[0]["lr"]),
        )  # fmt: skip
    assert rates == pytest.approx([recipe.learning_rate_at(step / 12) for step in range(12)])


def test_the_loss_of_an_epoch_is_the_mean_over_samples() -> None:
    inputs, targets = data()
    net, recipe = nn.Linear(5, 2), Recipe(epochs=1, learning_rate=1e-9)
    source = as_source([(inputs[:30], targets[:30]), (inputs[30:], targets[30:])], 30)
    loss = train_epoch(net, source, recipe, recipe.make_optimizer(net), 0, torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert loss == pytest.approx(float(F.cross_entropy(net(inputs), targets)), rel=1e-5)


def test_a_model_in_eval_mode_is_trained_in_train_mode() -> None:
    net = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).eval()
    epochs(net, Recipe(epochs=1, batch_size=8))
    assert all(module.training for module in net)
    assert int(net[1].num_batches_tracked) == 5


def test_each_step_follows_the_gradient_of_its_own_batch() -> None:
    inputs, targets = data()
    net, recipe = nn.Linear(5, 2), Recipe(epochs=1, learning_rate=1e-9)
    source = as_source([(inputs, targets)] * 3, 40)
    train_epoch(net, source, recipe, recipe.make_optimizer(net), 0, torch.Generator().manual_seed(0))
    (expected,) = torch.autograd.grad(F.cross_entropy(net(inputs), targets), [net.weight])
    torch.testing.assert_close(net.weight.grad, expected)


def test_a_teacher_that_changes_its_inputs_changes_none_of_the_models() -> None:
    class Erasing(nn.Module):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return inputs.zero_()[:, :2]

    seen: list[bool] = []
    net, recipe, source = model(), Recipe(epochs=1), TensorSource(*data(), 40)
    net.register_forward_pre_hook(lambda _, given: seen.append(bool(given[0].any())))
    train_epoch(net, source, recipe, recipe.make_optimizer(net), 0, torch.Generator().manual_seed(0), Erasing())
    assert seen == [True]


def test_what_a_model_says_of_a_whole_batch_is_not_taken_for_a_batch_of_one() -> None:
    class Refusing(nn.Linear):
        def forward(self, _: torch.Tensor) -> torch.Tensor:
            raise ValueError("mine")

    with pytest.raises(ValueError, match=r"^mine$"):
        epochs(Refusing(5, 2), Recipe(epochs=1))
