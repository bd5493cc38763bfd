"""The same scores on a GPU, where there is one."""

import pytest
import torch

from evoprune.core import prunable_layers
from evoprune.evaluation import ReferenceEvaluator, SampledEvaluator, make_evaluator
from evoprune.scoring import Accuracy

from .conftest import make_case

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="this PyTorch sees no GPU")


@pytest.mark.parametrize("name", ["lenet", "residual", "attention"])
def test_scores_on_a_gpu_are_the_references(name: str) -> None:
    model, inputs, targets = make_case(name)
    layers = prunable_layers(model)
    plans = {
        layer.name: torch.rand(5, *layer.shape, generator=torch.Generator().manual_seed(1)) < 0.7 for layer in layers
    }
    wanted = ReferenceEvaluator(model, Accuracy(inputs, targets))(plans)
    model = model.cuda()
    score = Accuracy(inputs.cuda(), targets.cuda())
    evaluator = make_evaluator(model, score, [layer.name for layer in layers])
    assert isinstance(evaluator, SampledEvaluator)
    found = evaluator({name: masks.cuda() for name, masks in plans.items()})
    torch.testing.assert_close(found.score, wanted.score, rtol=0, atol=1.5 / len(targets))  # one sample
    torch.testing.assert_close(found.loss, wanted.loss, rtol=1e-3, atol=1e-3)
