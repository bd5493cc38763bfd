"""bfloat16 is used only where the hardware has it, the model is heavy, and the scores agree."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from evoprune.core import prunable_layers
from evoprune.evaluation import SampledEvaluator, make_evaluator, precision
from evoprune.scoring import Accuracy, NegativeLoss

from .conftest import Branching, make_case


@pytest.mark.parametrize(
    ("hardware", "flops", "difference", "taken"),
    [(True, 1e9, 0.0, True), (True, 1e4, 0.0, False), (True, 1e9, 0.1, False), (False, 1e9, 0.0, False)],
)
def test_hardware_weight_and_agreement_decide(
    monkeypatch: pytest.MonkeyPatch, hardware: bool, flops: float, difference: float, taken: bool
) -> None:
    def scores(evaluator: SampledEvaluator, plans: dict[str, Tensor], dtype: torch.dtype) -> Tensor:
        assert evaluator.sample_flops > 0
        return torch.full((len(plans["9"]),), 0.9 + difference * (dtype == torch.bfloat16))

    monkeypatch.setattr(SampledEvaluator, "sample_scores", scores)
    monkeypatch.setattr(precision, "_computes_in_bfloat16", lambda _: hardware)
    monkeypatch.setattr(precision, "LEAST_FLOPS", 1.0 if flops > 1e6 else 1e12)
    model, inputs, targets = make_case("lenet")
    evaluator = make_evaluator(model, Accuracy(inputs, targets), ["9"])
    assert isinstance(evaluator, SampledEvaluator)
    assert (evaluator.dtype == torch.bfloat16) is taken


def test_operations_are_counted() -> None:
    model, inputs, targets = make_case("lenet")
    evaluator = make_evaluator(model, Accuracy(inputs, targets), ["7"])
    assert isinstance(evaluator, SampledEvaluator)
    assert evaluator.sample_flops == 2 * (24 * 16 + 16 * 4)  # the layer itself and the one behind it


@pytest.mark.parametrize("name", ["lenet", "residual", "attention"])
def test_bfloat16_scores_are_near(name: str) -> None:
    model, inputs, targets = make_case(name)
    layers = [layer.name for layer in prunable_layers(model)]
    evaluator = make_evaluator(model, Accuracy(inputs, targets), layers)
    assert isinstance(evaluator, SampledEvaluator)
    plans = {layer.name: torch.ones(2, *layer.shape, dtype=torch.bool) for layer in prunable_layers(model)}
    exact = evaluator(plans).loss
    evaluator.dtype = torch.bfloat16
    evaluator.cache.clear()
    rounded = evaluator(plans).loss
    torch.testing.assert_close(rounded, exact, rtol=0, atol=0.02)
    assert not torch.equal(rounded, exact)


class OwnConv(nn.Conv2d):
    """A layer of the user's, called as it is."""


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda: nn.Sequential(OwnConv(2, 4, 3), nn.Flatten(), nn.Linear(16, 4)), (2, 4, 4)),
        (lambda: nn.Sequential(nn.ConvTranspose2d(2, 4, 3), nn.Flatten(), nn.Linear(64, 4)), (2, 2, 2)),
        (Branching, (8,)),  # the whole model is called for each candidate
    ],
    ids=["own layer", "transposed", "untraceable"],
)
def test_each_candidate_has_its_own_weights_in_bfloat16(make: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    model = make()
    inputs = torch.randn(64, *shape)
    name = prunable_layers(model)[0].name
    evaluator = make_evaluator(model, NegativeLoss(inputs, torch.randint(4, (64,))), [name])
    assert isinstance(evaluator, SampledEvaluator)
    plans = {name: torch.rand(4, *model.get_submodule(name).weight.shape) < 0.5}
    exact = evaluator(plans).score
    assert exact.unique().numel() == 4
    evaluator.dtype = torch.bfloat16
    evaluator.cache.clear()
    torch.testing.assert_close(evaluator(plans).score, exact, rtol=0, atol=0.1 * float(exact.std()))


class Adding(nn.Linear):
    """Adds tensors of two kinds."""

    def forward(self, x: Tensor) -> Tensor:
        hidden = super().forward(x)
        return torch.zeros(x.shape[0], 4).index_add(1, torch.arange(4), hidden)


class Leaving(nn.Linear):
    """NumPy has no bfloat16."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.from_numpy(super().forward(x).detach().numpy())


@pytest.mark.parametrize("last", [Adding, Leaving])
def test_a_model_that_autocast_cannot_run_stays_in_float32(
    last: type[nn.Linear], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "_computes_in_bfloat16", lambda _: True)
    monkeypatch.setattr(precision, "LEAST_FLOPS", 1.0)
    model = nn.Sequential(nn.Linear(8, 8), last(8, 4))
    evaluator = make_evaluator(model, Accuracy(torch.randn(40, 8), torch.zeros(40).long()), ["0"])
    assert isinstance(evaluator, SampledEvaluator)
    assert evaluator.dtype == torch.float32


def test_agreement_is_judged_by_samples_from_all_over_the_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hardest ones, with which racing begins, are wrong in any arithmetic."""
    model, inputs, targets = make_case("lenet", 1000)
    evaluator = make_evaluator(model, Accuracy(inputs, targets), ["9"])
    assert isinstance(evaluator, SampledEvaluator)
    shared, seen = evaluator._shared, []

    def watched(rows: Tensor) -> object:
        seen.append(rows)
        return shared(rows)

    monkeypatch.setattr(evaluator, "_shared", watched)
    evaluator.sample_scores({"9": torch.ones(1, 4, 16, dtype=torch.bool)}, torch.float32)
    assert max(map(len, seen)) <= evaluator.chunk
    rows = torch.cat(seen)
    assert (len(rows), set(rows.diff().tolist())) == (512, {1, 2})
