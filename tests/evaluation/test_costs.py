"""What is counted, against counts by hand and by torch itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from evoprune import EvopruneError
from evoprune.core import prunable_layers
from evoprune.evaluation import Costs, measure_costs


def net() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, stride=2, bias=True), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 6, 2, groups=3),
        nn.ConvTranspose2d(6, 4, 2), nn.Flatten(), nn.Linear(64, 300), nn.Linear(300, 5, bias=False),
    )  # fmt: skip


def costs(kind: str, model: nn.Module, sample: Tensor | None = None, names: Any = None) -> Costs:
    layers = prunable_layers(model)
    return measure_costs(kind, model, [la for la in layers if names is None or la.name in names], layers, sample)


SAMPLE = torch.zeros(1, 2, 9, 9)
CONV, GROUPED, BACK, WIDE, LAST = 108, 72, 96, 19_200, 1_500  # weights: 6*2*9, 6*2*4, 6*4*4, 64*300, 300*5


def test_multiply_adds_are_those_that_torch_counts() -> None:
    model = net().eval()
    found = costs("flops", model, SAMPLE)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(SAMPLE)
    assert found.units == (16, 9, 9, 1, 1)
    assert found.constant == 0
    assert found.dense == counter.get_total_flops() // 2
    assert found.of([la.size for la in prunable_layers(model)]) == found.dense


def test_a_linear_layer_is_used_once_a_token_and_a_shared_weight_wherever_it_runs() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)
            self.b.weight = self.a.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.c(self.b(self.a(self.a(x))).mean(1))  # type: ignore[no-any-return]

    assert costs("flops", Tied(), torch.zeros(1, 7, 4)).units == (21, 1)
    assert costs("parameters", Tied()) == Costs("parameters", (1, 1), 10, 34)


def test_layers_that_are_not_pruned_are_constant() -> None:
    model = net().eval()
    everything = costs("flops", model, SAMPLE)
    some = costs("flops", model, SAMPLE, ["0", "6"])
    assert some.units == (16, 1)
    assert some.dense == everything.dense
    assert some.of([108, 19_200]) == everything.dense


def test_parameters_count_biases_and_norms_as_a_constant() -> None:
    model = net()
    found = costs("parameters", model)
    assert found.dense == sum(p.numel() for p in model.parameters())
    assert found.constant == 6 + 12 + 6 + 4 + 300
    assert found.of([1, 2, 3, 4, 5]) == found.constant + 15


@pytest.mark.filterwarnings("ignore:Sparse CSR")
def test_bytes_are_compressed_sparse_rows_and_everything_else_as_it_is() -> None:
    model = nn.Sequential(nn.Linear(256, 3), nn.BatchNorm1d(3), nn.Linear(3, 2), nn.Conv1d(200, 4, 2)).double()
    found = costs("bytes", model)
    assert found.units == (8 + 1, 8 + 1, 8 + 2)
    others = 8 * (3 + 4 * 3 + 2 + 4) + 8  # biases, scales and statistics of the norm, its int64 counter
    assert found.constant == others + 4 * (4 + 3 + 5)
    assert found.dense == others + 8 * (768 + 6 + 1600)
    kept = [torch.randn(3, 256) < 0, torch.ones(2, 3).bool(), torch.zeros(4, 400).bool()]
    rows = [mask.double().to_sparse_csr() for mask in kept]
    values = sum(unit * row.values().numel() for unit, row in zip((9, 9, 10), rows, strict=True))
    pointers = sum(4 * row.crow_indices().numel() for row in rows)
    assert found.of([int(mask.sum()) for mask in kept]) == others + values + pointers


@pytest.mark.parametrize("gone", [0.1, 0.5, 0.9])
def test_the_allowance_is_what_is_left_beside_the_constant(gone: float) -> None:
    found = Costs("parameters", (1, 1), 50, 1000)
    assert found.allowance(gone) == round(1000 * (1 - gone)) - 50
    assert found.allowance(1.0) == 2
    assert found.most == pytest.approx(0.948)


@pytest.mark.parametrize(
    ("model", "sample", "words"),
    [
        (nn.Linear(2, 2), None, "one input"),
        (nn.Sequential(nn.Embedding(3, 2), nn.Linear(2, 2)), torch.zeros(1, 1).long(), "'0' .Embedding."),
    ],
)
def test_what_cannot_be_counted_is_said(model: nn.Module, sample: Tensor | None, words: str) -> None:
    with pytest.raises(EvopruneError, match=words):
        costs("flops", nn.Sequential(model) if isinstance(model, nn.Linear) else model, sample)


def test_counting_leaves_the_model_as_it_was() -> None:
    model = net().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    costs("flops", model, SAMPLE)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


def test_buffers_that_no_file_holds_are_no_bytes() -> None:
    model = nn.Sequential(nn.Linear(100, 100))
    before = costs("bytes", model)
    model[0].register_buffer("mask", torch.ones(1, 1, 256, 256), persistent=False)
    assert costs("bytes", model).dense == before.dense == 4 * 10_100


def test_a_layer_that_gives_more_than_a_tensor_is_said_to_be_uncounted() -> None:
    class WithBias(nn.Linear):
        def forward(self, x: Tensor) -> Any:
            return super().forward(x), self.bias

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = WithBias(6, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(x)[0])

    with pytest.raises(EvopruneError, match="cannot count how often 'a'"):
        costs("flops", Model(), torch.randn(1, 6))
