"""Guidance: each rule against its definition, and how good an order learned from scores alone is."""

from __future__ import annotations

import copy
import itertools
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import evoprune
from evoprune.core import EvopruneError, Layer, prunable_layers, weight_of
from evoprune.evaluation.moments import layer_moments
from evoprune.guidance import NEED_SAMPLES, Advice, advise, choose, evolved, learned
from evoprune.guidance.evolved import _prices, evolved_order
from evoprune.guidance.gradient import gradient_effects
from evoprune.guidance.learned import eliminate
from evoprune.guidance.magnitude import lamp_scores, magnitudes
from evoprune.guidance.wanda import input_powers, wanda_scores
from evoprune.scoring import Fidelity, watching

KINDS = ["none", "magnitude", "gradient", "wanda", "learned"]


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Net(nn.Module):
    """Two convolutions, one of them grouped, and two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 4, 3, padding=1)
        self.grouped = nn.Conv2d(4, 6, 3, stride=2, groups=2)
        self.norm = nn.BatchNorm1d(24)
        self.hidden = nn.Linear(24, 8)
        self.last = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.grouped(torch.relu(self.first(x))).flatten(1)
        return self.last(torch.relu(self.hidden(self.norm(x))))


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net()


@pytest.fixture
def samples() -> tuple[Tensor, Tensor]:
    return torch.randn(40, 2, 6, 6, generator=rng(1)), torch.arange(40) % 3


def half(layers: list[Layer]) -> dict[str, Tensor]:
    return {layer.name: torch.rand(layer.shape, generator=rng(2)) < 0.5 for layer in layers}


def nothing_left(masks: dict[str, Tensor]) -> dict[str, Tensor]:
    """All pruned weights left in the first stage."""
    return {name: torch.where(mask, 0, 1).short() for name, mask in masks.items()}


def test_lamp_scores_a_weight_by_what_its_layer_has_besides() -> None:
    found = lamp_scores({"a": torch.tensor([[1.0, 2.0], [4.0, 2.0]]), "b": torch.tensor([0.0, 0.1])})
    # Squares 1, 4, 16, 4; of equals, each has those before it in the order.
    assert found["a"].flatten().tolist() == pytest.approx([1 / 25, 4 / 20, 1, 4 / 24])
    assert found["b"].tolist() == pytest.approx([0, 1]), "the highest of each layer is worth 1"


def test_weights_that_left_last_come_back_first(net: Net, samples: tuple[Tensor, Tensor]) -> None:
    layers = prunable_layers(net)
    masks = half(layers)
    stage = {name: torch.randint(1, 4, mask.shape, generator=rng(6)).short() for name, mask in masks.items()}
    left = {name: torch.where(mask, 0, stage[name]).short() for name, mask in masks.items()}
    advice = advise("magnitude", net, layers, masks, left, samples, 0.1, (0,))
    assert advice is not None
    for layer, part in zip(layers, advice.order.split([layer.size for layer in layers]), strict=True):
        groups = [part[left[layer.name].flatten() == number] for number in (1, 2, 3, 0)]
        assert all(a.max() < b.min() for a, b in itertools.pairwise(groups) if len(a) and len(b))


@pytest.mark.parametrize("kind", KINDS)
def test_priorities_are_an_order_inside_each_layer(kind: str, net: Net, samples: tuple[Tensor, Tensor]) -> None:
    layers = prunable_layers(net)
    masks = half(layers)
    advice = advise(kind, net, layers, masks, nothing_left(masks), samples, 0.1, (0, 3))
    assert advice is not None
    found = advice.order
    assert found.dtype == torch.float32
    for layer, part in zip(layers, found.split([layer.size for layer in layers]), strict=True):
        assert torch.equal(part.sort().values, torch.arange(layer.size) / layer.size)
        kept = masks[layer.name].flatten()
        assert float(part[kept].min()) > float(part[~kept].max())


@pytest.mark.parametrize("kind", KINDS)
def test_the_model_and_the_random_state_are_left_as_found(kind: str, net: Net, samples: tuple[Tensor, Tensor]) -> None:
    net.train()
    net.norm.eval()
    net.hidden.weight.requires_grad_(False)
    before, random = copy.deepcopy(net.state_dict()), torch.get_rng_state()
    layers = prunable_layers(net)
    advise(kind, net, layers, half(layers), nothing_left(half(layers)), samples, 0.1, (0,))
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert net.training
    assert kind == "none" or not net.norm.training
    assert [n for n, p in net.named_parameters() if not p.requires_grad] == ["hidden.weight"]
    assert all(p.grad is None for p in net.parameters())
    assert not any(module._forward_pre_hooks for module in net.modules())


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_place_in_a_run_gives_the_same_order(kind: str, net: Net, samples: tuple[Tensor, Tensor]) -> None:
    layers = prunable_layers(net)
    found = [
        advise(kind, net, layers, half(layers), nothing_left(half(layers)), samples, 0.1, path)
        for path in ((0, 1), (0, 1), (0, 2))
    ]
    one, same, other = (advice.order for advice in found if advice is not None)
    assert torch.equal(one, same)
    kept = torch.cat([mask.flatten() for mask in half(layers).values()])
    assert torch.equal(one[kept], other[kept]) == (kind in ("magnitude", "gradient", "wanda"))
    assert not torch.equal(one[~kept], other[~kept]), "of what is pruned nothing is known"


@pytest.mark.parametrize("kind", KINDS)
def test_without_samples_only_magnitudes_are_known(kind: str, net: Net) -> None:
    layers = prunable_layers(net)
    arguments = (kind, net, layers, half(layers), nothing_left(half(layers)), None, 0.1, (0,))
    if kind in NEED_SAMPLES:
        with pytest.raises(EvopruneError, match=f"'{kind}' looks at data"):
            advise(*arguments)
    else:
        assert (advise(*arguments) is None) == (kind == "none")


@pytest.mark.parametrize("kind", ["magnitude", "gradient"])
def test_global_threshold_cuts_all_layers_and_leaves_each_its_best(
    kind: str, net: Net, samples: tuple[Tensor, Tensor]
) -> None:
    layers = prunable_layers(net)
    masks, sizes = half(layers), [layer.size for layer in layers]
    advice = advise(kind, net, layers, masks, nothing_left(masks), samples, 0.1, (0,))
    assert advice is not None
    first = advice.first_mask(sizes, 40)
    assert first is not None
    assert int(first.sum()) == 40
    values = lamp_scores(magnitudes(net, layers)) if kind == "magnitude" else gradient_effects(net, layers, *samples)
    flat = torch.cat([torch.where(masks[name], value, -1.0).flatten() for name, value in values.items()])
    best = flat.topk(40).indices
    assert int(first[best].sum()) >= 40 - len(layers)  # a layer may hold its best one below the threshold
    assert not first[flat < 0].any()
    assert all(bool(part.any()) for part in first.split(sizes))


def test_every_layer_keeps_its_most_important_weight() -> None:
    advice = Advice(torch.zeros(7), torch.tensor([0.0, 0.1, 5.0, 6.0, 7.0, 8.0, 0.0]))
    first = advice.first_mask([2, 4, 1], 4)
    assert first is not None
    assert first.tolist() == [False, True, False, False, True, True, True]
    assert Advice(torch.zeros(7)).first_mask([2, 4, 1], 4) is None


@pytest.mark.parametrize("kind", ["wanda", "learned"])
def test_an_order_inside_layers_cuts_nothing(kind: str, net: Net, samples: tuple[Tensor, Tensor]) -> None:
    layers = prunable_layers(net)
    advice = advise(kind, net, layers, half(layers), nothing_left(half(layers)), samples, 0.1, (0,))
    assert advice is not None
    assert advice.importance is None


def test_gradient_is_the_squared_first_order_change_of_the_loss(net: Net, samples: tuple[Tensor, Tensor]) -> None:
    net.eval()
    found = gradient_effects(net, prunable_layers(net), *samples)
    shrunk = 1e-3
    for name, index in (("last", (1, 4)), ("hidden", (0, 3)), ("grouped", (2, 1, 0, 2))):
        losses = []
        for factor in (1 + shrunk, 1 - shrunk):
            changed = copy.deepcopy(net).double()
            with torch.no_grad():
                weight_of(changed, name)[index] *= factor
                losses.append(float(F.cross_entropy(changed(samples[0].double()), samples[1])))
        change = (losses[0] - losses[1]) / (2 * shrunk)  # 40 samples are one batch
        assert float(found[name][index]) == pytest.approx(change**2, rel=2e-2, abs=1e-10)


def test_every_batch_of_gradient_counts_alike(net: Net) -> None:
    """Two of 26 and 25 samples; one of a single sample would drown the 50 others."""
    inputs, targets, layers = torch.randn(51, 2, 6, 6, generator=rng(1)), torch.arange(51) % 3, prunable_layers(net)
    found = gradient_effects(net, layers, inputs, targets)
    parts = [gradient_effects(net, layers, inputs[part], targets[part]) for part in (slice(26), slice(26, 51))]
    for name, effect in found.items():
        torch.testing.assert_close(effect, (parts[0][name] + parts[1][name]) / 2)


class Tied(nn.Module):
    """Twice the same weight, the second time on what the first gave; the first feature is zero in the data."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)
        self.b.weight = self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x))


def test_a_shared_weight_is_judged_by_all_that_it_is_used_for() -> None:
    torch.manual_seed(0)
    tied, inputs = Tied(), torch.randn(20, 6, generator=rng(1))
    inputs[:, 0] = 0
    with torch.no_grad():
        middle = tied.a(inputs)
    moment = (inputs.T @ inputs + middle.T @ middle) / 20
    torch.testing.assert_close(layer_moments(tied, ["a"], inputs)["a"], moment)
    torch.testing.assert_close(input_powers(tied, ["a"], inputs)["a"], moment.diagonal())


def test_a_tied_embedding_is_judged_by_its_decoder() -> None:
    model = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 9, bias=False))
    model[1].weight = model[0].weight
    tokens = torch.arange(9)
    embedded = model[0](tokens).detach()
    torch.testing.assert_close(layer_moments(model, ["0"], tokens)["0"], embedded.T @ embedded / 9)


def test_learned_looks_at_samples_from_all_over(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(learned, "SAMPLES", 4)
    monkeypatch.setattr(learned, "Fidelity", lambda inputs, targets: seen.append(inputs) or Fidelity(inputs, targets))
    inputs, layers = torch.randn(40, 2, 6, 6, generator=rng(1)), prunable_layers(net)[-1:]
    net.eval()
    learned.learned_ranks(net, layers, half(layers), inputs, 0.2, (0,), 64)
    assert torch.equal(seen[0], inputs[[0, 10, 20, 30]])


def output_change(module: nn.Module, given: Tensor, index: tuple[int, ...]) -> float:
    """Root of the mean over samples of the squared change of a layer's output when one weight goes."""
    changed = copy.deepcopy(module)
    with torch.no_grad():
        changed.weight[index] = 0
        return float((module(given) - changed(given)).square().sum().div(len(given)).sqrt())


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (nn.Linear(5, 4), (5,)),
        (nn.Linear(5, 4), (3, 5)),
        (nn.Conv1d(2, 4, 3, padding=2, dilation=2), (2, 9)),
        (nn.Conv2d(4, 6, 3), (4, 7, 6)),
        (nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(1, 0), groups=2), (4, 7, 6)),
        (nn.Conv2d(4, 8, 3, padding="same", groups=4, padding_mode="reflect"), (4, 7, 6)),
        (nn.Conv2d(4, 4, 3, stride=2, padding=2, dilation=2, groups=4), (4, 8, 9)),
        (nn.Conv3d(2, 4, 2, stride=2, groups=2), (2, 4, 5, 4)),
    ],
    ids=str,
)
def test_wanda_is_what_a_weight_adds_to_the_layers_output(module: nn.Module, shape: tuple[int, ...]) -> None:
    given = torch.randn(7, *shape, generator=rng(0)) + 0.5
    torch.manual_seed(0)
    module.reset_parameters()  # type: ignore[operator]  # it was made while tests were collected, with no seed
    model = nn.Sequential(module)
    layers = prunable_layers(model)
    found = wanda_scores(model, layers, given)["0"]
    assert found.shape == module.weight.shape
    for flat in torch.randperm(found.numel(), generator=rng(1))[:12].tolist():
        index = tuple(int(i) for i in torch.unravel_index(torch.tensor(flat), found.shape))
        assert float(found[index]) == pytest.approx(output_change(module, given, index), rel=1e-3)


def test_wanda_sums_over_batches(net: Net, samples: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    whole = input_powers(net, ["grouped", "last"], samples[0])
    monkeypatch.setattr(watching, "BATCH", 7)
    parts = input_powers(net, ["grouped", "last"], samples[0])
    assert whole.keys() == parts.keys() == {"grouped", "last"}
    for name, power in whole.items():
        torch.testing.assert_close(parts[name], power)


def test_wanda_takes_other_layers_by_magnitude() -> None:
    model = nn.Sequential(nn.Embedding(5, 4), nn.Flatten(), nn.Linear(12, 2))
    given = torch.randint(5, (6, 3), generator=rng(0))
    found = wanda_scores(model, prunable_layers(model), given)
    assert torch.equal(found["0"], model[0].weight.detach().abs())


def test_the_number_of_threads_is_as_before_and_makes_no_difference(net: Net, samples: tuple[Tensor, Tensor]) -> None:
    layers, before, orders = prunable_layers(net), torch.get_num_threads(), []
    masks = half(layers)
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            advice = advise("none", net, layers, masks, nothing_left(masks), samples, 0.1, (0,))
            assert advice is not None
            with ThreadPoolExecutor(1) as later:
                assert torch.get_num_threads() == later.submit(torch.get_num_threads).result() == threads
            orders.append(advice.order)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*orders)


def test_learned_refuses_a_model_that_gives_no_logits() -> None:
    model = nn.Conv2d(1, 2, 3)
    data = torch.zeros(4, 1, 5, 5), torch.zeros(4, dtype=torch.int64)
    layers = prunable_layers(nn.Sequential(model))
    with pytest.raises(EvopruneError, match=r"guidance learned needs a model whose outputs are \(B, C\)"):
        advise("learned", nn.Sequential(model), layers, half(layers), nothing_left(half(layers)), data, 0.1, (0,))


def test_learned_keeps_the_outputs_closer_than_chance(net: Net, samples: tuple[Tensor, Tensor]) -> None:
    """Half of a grouped convolution is kept; nothing but outputs was looked at."""
    net.eval()
    layer = next(layer for layer in prunable_layers(net) if layer.name == "grouped")
    masks = {layer.name: torch.ones(layer.shape, dtype=torch.bool)}
    dense = net(samples[0]).detach()

    def distance(order: Tensor) -> float:
        pruned = copy.deepcopy(net)
        with torch.no_grad():
            weight_of(pruned, layer.name).flatten()[order.argsort()[: layer.size // 2]] = 0
            return float((pruned(samples[0]) - dense).square().mean())

    chance = [distance(torch.rand(layer.size, generator=rng(seed))) for seed in range(20)]
    for seed in range(3):
        advice = advise("learned", net, [layer], masks, nothing_left(masks), samples, 0.1, (seed,))
        assert advice is not None
        assert distance(advice.order) < 0.8 * min(chance)


def test_eliminate_finds_the_bits_that_matter() -> None:
    """A distance that is a sum over bits, of which eight count."""
    value = torch.full((10, 20), 0.01)
    important = torch.randperm(200, generator=rng(3))[:8]
    value.view(-1)[important] = 1.0
    allowed = torch.rand(10, 20, generator=rng(4)) < 0.8
    allowed.view(-1)[important] = True
    asked = []

    def distances(masks: Tensor) -> Tensor:
        assert masks.shape == (10, 10, 20)
        assert not (masks & ~allowed).any()
        asked.append(masks)
        return (value * ~masks).flatten(1).sum(1).double()

    rank = eliminate(distances, allowed, 0.1, rng(0))
    assert set(rank.flatten().topk(8).indices.tolist()) == set(important.tolist())
    assert torch.equal(rank == -1, ~allowed)
    assert len(rank[allowed].unique()) == int(allowed.sum())
    assert 0 <= float(rank[allowed].min()) < 1
    assert 39 <= float(rank.max()) < 40
    for masks in asked:  # each round drops every remaining weight once
        left = masks.any(0)
        assert torch.equal((left & ~masks).sum(0), left.long())


@pytest.mark.parametrize("bits", [0, 1, 3])
def test_eliminate_with_fewer_bits_than_candidates(bits: int) -> None:
    allowed = torch.arange(6).view(2, 3) < bits
    rank = eliminate(lambda masks: (~masks).flatten(1).sum(1).double(), allowed, 0.5, rng(0))
    assert int((rank >= 0).sum()) == bits


def test_eliminate_bears_distances_that_are_infinite() -> None:
    allowed = torch.ones(30, dtype=torch.bool)
    rank = eliminate(lambda masks: torch.where(masks[:, 7], masks[:, 8] * -1.0, float("inf")), allowed, 0.1, rng(0))
    assert int(rank.argmax()) == 7


@pytest.mark.parametrize("kind", ["wanda", "learned"])
def test_a_run_with_the_guidance_reaches_its_sparsity(kind: str, net: Net, samples: tuple[Tensor, Tensor]) -> None:
    result = evoprune.prune(
        net, evoprune.accuracy(samples), train=samples, sparsity=0.5, guidance=kind,
        population=4, generations=1, finetune_epochs=0, final_epochs=1, threads=1,
    )  # fmt: skip
    assert result.sparsity == pytest.approx(0.5, abs=0.01)
    assert result.summary["guidance"] == kind


@pytest.mark.parametrize("kind", KINDS)
def test_samples_are_left_as_found_by_a_model_that_changes_its_inputs(
    kind: str, net: Net, samples: tuple[Tensor, Tensor]
) -> None:
    model, before = nn.Sequential(nn.ReLU(inplace=True), net), samples[0].clone()
    masks = half(prunable_layers(model))
    advise(kind, model, prunable_layers(model), masks, nothing_left(masks), samples, 0.1, (0,))
    assert torch.equal(samples[0], before)


def test_what_is_pruned_has_no_evolved_rank(net: Net, samples: tuple[Tensor, Tensor]) -> None:
    layers = prunable_layers(net)
    order, prices = evolved_order(net, layers, half(layers), samples[0], 0.1, (0,), lambda _: None)
    for name in ("first", "hidden", "last"):
        assert torch.equal(order[name] == -1, ~half(layers)[name])
        assert torch.equal(prices[name] == -1, ~half(layers)[name])
    assert "grouped" not in prices


def test_evolved_prices_share_out_weights_by_what_outputs_lose() -> None:
    """Of two layers the one whose weights say little loses more, whatever its size, and a price grows with the rank."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(40, 40), nn.Linear(40, 40))
    with torch.no_grad():
        model[1].weight.mul_(torch.rand(40, 40) ** 4)  # few of its weights make its outputs
    layers = prunable_layers(model)
    masks = {name: torch.ones(40, 40, dtype=torch.bool) for name in ("0", "1")}
    inputs = torch.randn(500, 40)
    advice = advise("none", model, layers, masks, nothing_left(masks), (inputs, torch.zeros(500)), 0.05, (0,))
    assert advice is not None
    assert advice.importance is not None
    mask = advice.first_mask([1600, 1600], 800)
    assert mask is not None
    first, second = (int(part.sum()) for part in mask.split(1600))
    assert first > 1.5 * second
    for order, price in zip(advice.order.split(1600), advice.importance.split(1600), strict=True):
        assert bool((price[order.argsort()].diff() >= 0).all())
        assert float(price.min()) > 0


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ((0.05, 0.1, 0.25), [0.05, (0.05 * 0.1) ** 0.5, 0.1, 0.25, (0.25 * 0.625) ** 0.5, -1]),
        ((0.1, 0.05, 0.15), [0.1, 0.1, 0.1, 0.15, (0.15 * 0.225) ** 0.5, -1]),  # 0.05 would be less than before
        ((0.0, 0.0, 0.0), [0, 0, 0, 0, 0, -1]),
    ],
)
def test_a_price_is_what_is_lost_a_weight_and_rises(steps: tuple[float, ...], expected: list[float]) -> None:
    price = _prices(torch.tensor([[0.0, 0.5, 1.0, 2.0, 2.5, -1.0]]), steps)[0]
    assert price.tolist() == pytest.approx(expected, rel=4e-3, abs=1e-20)
    assert bool((price[:-1].diff() > 0).all())


def test_where_a_step_is_cheaper_than_the_one_before_weights_go_in_the_evolved_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ranks = torch.tensor([[0.5, 2.25], [1.75, 0.25]])
    monkeypatch.setattr("evoprune.guidance.evolved.nested_ranks", lambda *_: (ranks, [0.3, 0.05, 0.15]))
    layers = prunable_layers(nn.Sequential(nn.Linear(2, 2)))
    masks = {"0": torch.ones(2, 2, dtype=torch.bool)}
    model = nn.Sequential(nn.Linear(2, 2))
    advice = advise("none", model, layers, masks, nothing_left(masks), (torch.randn(9, 2), torch.zeros(9)), 0.1, (0,))
    assert advice is not None
    assert advice.order.argsort().tolist() == [3, 0, 2, 1]
    assert [int(mask.sum()) for keep in (1, 2, 3) if (mask := advice.first_mask([4], keep)) is not None] == [1, 2, 3]
    assert advice.first_mask([4], 2).tolist() == [False, True, True, False]  # type: ignore[union-attr]


def test_a_layer_that_cannot_be_watched_begins_as_dense_as_the_others_together() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 8), nn.Unflatten(1, (1, 8)), nn.Conv1d(1, 20, 3))
    layers = prunable_layers(model)
    masks = {layer.name: torch.ones(layer.shape, dtype=torch.bool) for layer in layers}
    masks["3"][0] = False
    samples = torch.randn(50, 8), torch.zeros(50)
    advice = advise("none", model, layers, masks, nothing_left(masks), samples, 0.1, (0,))
    assert advice is not None
    sizes = [layer.size for layer in layers]
    mask = advice.first_mask(sizes, 100)
    assert mask is not None
    kept = [int(part.sum()) for part in mask.split(sizes)]
    assert kept[2] == pytest.approx(57 * 100 / 313, abs=1)
    order, there = advice.order.split(sizes)[2], mask.split(sizes)[2]
    assert float(order[there].min()) > float(order[~there].max())
    assert not bool(there.view(20, 3)[0].any()), "what is pruned stays pruned"


def test_where_no_layer_can_be_watched_nothing_is_compared() -> None:
    model = nn.Sequential(nn.Unflatten(1, (1, 8)), nn.Conv1d(1, 2, 3))
    masks = {"1": torch.ones(2, 1, 3, dtype=torch.bool)}
    samples = torch.randn(50, 8), torch.zeros(50)
    advice = advise("none", model, prunable_layers(model), masks, nothing_left(masks), samples, 0.1, (0,))
    assert advice is not None
    assert advice.importance is None


def test_advice_of_wanda_is_wandas(net: Net, samples: tuple[Tensor, Tensor]) -> None:
    layers = prunable_layers(net)
    masks = {layer.name: torch.ones(layer.shape, dtype=torch.bool) for layer in layers}
    advice = advise("wanda", net, layers, masks, nothing_left(masks), samples, 0.1, (0,))
    assert advice is not None
    scores = wanda_scores(net, layers, samples[0])
    for layer, part in zip(layers, advice.order.split([layer.size for layer in layers]), strict=True):
        assert torch.equal(part.argsort(), scores[layer.name].flatten().argsort(stable=True))


def test_evolved_orders_keep_a_layers_output_closer_than_magnitudes() -> None:
    """Where inputs are correlated it is not the size of a weight that counts."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 16))
    inputs = torch.randn(400, 32, generator=rng(1)) @ (torch.eye(32) + torch.randn(32, 32, generator=rng(2)))
    layers, distances = prunable_layers(model), {}
    masks = {"0": torch.ones(16, 32, dtype=torch.bool)}
    for kind in ("none", "magnitude"):
        advice = advise(kind, model, layers, masks, nothing_left(masks), (inputs, torch.zeros(400)), 0.1, (0,))
        assert advice is not None
        gone = torch.zeros(16 * 32).scatter(0, advice.order.argsort()[:256], 1.0).view(16, 32)
        distances[kind] = float((inputs @ (model[0].weight.detach() * gone).T).square().sum())
    assert distances["none"] < 0.8 * distances["magnitude"]


@pytest.mark.parametrize(("most", "each"), [(500, 40), (10, 10)])
def test_what_learned_scored_is_told(
    most: int, each: int, net: Net, samples: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(learned, "SAMPLES", most)
    monkeypatch.setattr(choose, "LEARNED_SAMPLES", most)
    layers = prunable_layers(net)[-1:]
    advice = advise("learned", net, layers, half(layers), nothing_left(half(layers)), samples, 0.1, (0,))
    assert advice is not None
    assert (advice.candidates, advice.samples) == (400, 400 * each)


@pytest.mark.parametrize(("kind", "module", "name", "place"), [
    ("none", evolved, "nested_ranks", 3), ("learned", learned, "eliminate", 2),
])  # fmt: skip
def test_guidance_goes_as_far_down_as_a_layer_may_thin(
    kind: str, module: Any, name: str, place: int, net: Net, samples: tuple[Tensor, Tensor],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    seen, original = [], getattr(module, name)

    def watched(*given: Any, **options: Any) -> Any:
        seen.append(given[place])
        return original(*given, **options)

    monkeypatch.setattr(module, name, watched)
    layers = prunable_layers(net)[-1:]
    advise(kind, net, layers, half(layers), nothing_left(half(layers)), samples, 0.37, (0,))
    assert seen == [0.37]


def test_credit_of_denser_company_counts_less(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learned, "ROUNDS", 2)
    values = iter([torch.arange(10.0), torch.arange(10.0).flip(0)])
    found = eliminate(lambda m: (next(values) * ~m).sum(1), torch.ones(10, dtype=torch.bool), 1.0, rng(0))
    torch.testing.assert_close(found, 1 + (9 - torch.arange(10.0)) / 10)


@pytest.mark.parametrize("anew", [False, True])
def test_where_a_norm_takes_the_mean_out_it_counts_for_nothing(anew: bool) -> None:
    """Half of the inputs are far from zero and hardly move."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 30, bias=False), nn.BatchNorm1d(30), nn.Linear(30, 2))
    inputs = torch.randn(500, 20)
    inputs[:, :10] = 5 + 0.1 * inputs[:, :10]
    layers = prunable_layers(model)[:1]
    masks = {"0": torch.ones(30, 20, dtype=torch.bool)}
    given = inputs, torch.zeros(500)
    advice = advise("none", model, layers, masks, nothing_left(masks), given, 0.1, (0,), norms_anew=anew)
    assert advice is not None
    kept = advice.first_mask([600], 200).view(30, 20)  # type: ignore[union-attr]
    assert (int(kept[:, :10].sum()) < 20) == anew
