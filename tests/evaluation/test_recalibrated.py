"""Candidates scored with batch norms of their own: what a copy of the model, pruned and measured anew, would score."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from evoprune.evaluation import RecalibratedEvaluator, SampledEvaluator, make_evaluator
from evoprune.scoring import Accuracy, NegativeLoss
from evoprune.surgery import apply_masks, batch_norms, recalibrate


def a_model() -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6),
        nn.ReLU(), nn.Flatten(), nn.Dropout(0.5), nn.Linear(24, 3),
    )  # fmt: skip
    recalibrate(net, [images(64)])
    return net


def images(samples: int, seed: int = 0) -> Tensor:
    return 1 + torch.randn(samples, 1, 6, 6, generator=torch.Generator().manual_seed(seed))


def plans(candidates: int = 4) -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(1)
    shapes = {"0": (4, 1, 3, 3), "3": (6, 4, 3, 3)}
    return {name: torch.rand(candidates, *shape, generator=rng) < 0.4 for name, shape in shapes.items()}


def by_hand(net: nn.Module, score: Callable[[nn.Module], float], given: dict[str, Tensor], inputs: Tensor) -> Tensor:
    scores = []
    for candidate in range(len(given["0"])):
        pruned = copy.deepcopy(net)
        apply_masks(pruned, {name: masks[candidate] for name, masks in given.items()})
        recalibrate(pruned, inputs.split(20))
        scores.append(score(pruned))
    return torch.tensor(scores, dtype=torch.float64)


@pytest.mark.parametrize("ways", [(), ("racing",), ("prefix", "batched", "racing")])
def test_each_candidate_has_statistics_of_its_own(ways: tuple[str, ...]) -> None:
    net, inputs = a_model(), images(40, seed=2)
    score = NegativeLoss(images(150, seed=3), torch.arange(150) % 3)
    evaluator = make_evaluator(net, score, ["0", "3"], ways=ways, norm_batches=inputs.split(20))
    before, modes, random = copy.deepcopy(net.state_dict()), [m.training for m in net.modules()], torch.get_rng_state()
    found = evaluator(plans())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert [m.training for m in net.modules()] == modes
    assert torch.equal(torch.get_rng_state(), random)
    wanted = by_hand(net, score, plans(), inputs)
    torch.testing.assert_close(found.score, wanted, rtol=1e-5, atol=1e-6)
    as_it_is = make_evaluator(net, score, ["0", "3"], ways=ways)(plans()).score
    assert ((wanted - as_it_is).abs() > 0.01).all(), "else nothing is shown"
    assert found.complete.all()
    assert found.samples == 4 * (150 + 40)
    assert evaluator.samples == 150


def test_a_function_of_the_users_own_sees_them_too_and_is_counted_by_its_calls() -> None:
    net, inputs, score = a_model(), images(40, seed=2), Accuracy(images(150, seed=3), torch.arange(150) % 3)
    evaluator = make_evaluator(net, lambda model: 2 * score(model), ["0", "3"], norm_batches=inputs.split(20))
    found = evaluator(plans())
    assert torch.equal(found.score, 2 * by_hand(net, score, plans(), inputs))
    assert found.loss is None
    assert found.samples == 4


@pytest.mark.parametrize("ways", [("prefix", "batched"), ("prefix", "racing"), ()])
def test_ways_that_cannot_be_taken_are_named_where_no_other_is_left(
    ways: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    score = Accuracy(images(40), torch.arange(40) % 3)
    make_evaluator(a_model(), lambda model: 2 * score(model), ["0"], ways=ways, norm_batches=[images(40)])
    assert not caplog.text
    make_evaluator(a_model(), score, ["0"], ways=ways, norm_batches=[images(40)])
    assert ("the scoring is prefix,batched alone" in caplog.text) == (ways == ("prefix", "batched"))


def test_candidates_still_stop_early() -> None:
    net, score = a_model(), Accuracy(images(1000, seed=3), torch.arange(1000) % 3)
    scores = make_evaluator(net, score, ["0", "3"], norm_batches=[images(40)])(plans(), floor=0.9)
    assert not scores.complete.any()
    assert 4 * 40 < scores.samples < 4 * 1000


def test_in_bfloat16_statistics_are_measured_so_as_well() -> None:
    net, inputs = a_model(), images(40, seed=2)
    score = NegativeLoss(images(150, seed=3), torch.arange(150) % 3)
    evaluator = make_evaluator(net, score, ["0", "3"], norm_batches=inputs.split(20))
    assert isinstance(evaluator, RecalibratedEvaluator)
    assert isinstance(evaluator.evaluator, SampledEvaluator)
    exact = evaluator(plans()).score
    evaluator.evaluator.dtype = torch.bfloat16
    rounded = evaluator(plans()).score
    assert not torch.equal(rounded, exact)
    torch.testing.assert_close(rounded, exact, rtol=0.03, atol=0.03)
    seen: list[torch.dtype] = []
    hook = net[1].register_forward_pre_hook(lambda _, given: seen.append(given[0].dtype))
    recalibrate(net, [inputs], torch.bfloat16)
    hook.remove()
    assert seen == [torch.bfloat16]
    assert all(buffer.dtype != torch.bfloat16 for norm in batch_norms(net) for buffer in norm.buffers())


def test_a_score_that_breaks_leaves_the_statistics_as_they_were() -> None:
    net = a_model()
    before = copy.deepcopy(net.state_dict())

    def broken(_: nn.Module) -> float:
        raise ValueError("no")

    with pytest.raises(Exception, match="no"):
        make_evaluator(net, broken, ["0", "3"], norm_batches=[images(40)])(plans())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
