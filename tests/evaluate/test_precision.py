"""bfloat16 is used only where it is faster and agrees."""

import pytest
import torch
from torch import Tensor

from evoprune.core import prunable_layers
from evoprune.evaluate import SampledEvaluator, make_evaluator, precision
from evoprune.scoring import Accuracy

from .conftest import make_case


@pytest.mark.parametrize(("seconds", "difference", "taken"), [(0.5, 0.0, True), (0.95, 0.0, False), (0.5, 0.1, False)])
def test_both_speed_and_agreement_decide(
    monkeypatch: pytest.MonkeyPatch, seconds: float, difference: float, taken: bool
) -> None:
    clock = [0.0]

    def scores(_: SampledEvaluator, plans: dict[str, Tensor], dtype: torch.dtype) -> Tensor:
        clock[0] += seconds if dtype == torch.bfloat16 else 1.0
        return torch.full((len(plans["9"]),), 0.9 + difference * (dtype == torch.bfloat16))

    monkeypatch.setattr(SampledEvaluator, "sample_scores", scores)
    monkeypatch.setattr(precision.time, "perf_counter", lambda: clock[0])
    model, inputs, targets = make_case("lenet")
    evaluator = make_evaluator(model, Accuracy(inputs, targets), ["9"], methods=["batched", "precision"])
    assert isinstance(evaluator, SampledEvaluator)
    assert (evaluator.dtype == torch.bfloat16) is taken


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
    torch.testing.assert_close(evaluator(plans).loss, exact, rtol=0, atol=0.02)
