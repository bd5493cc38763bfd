"""Scoring stays within its memory, and goes on when an allocation fails."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from evoprune.core import EvopruneError
from evoprune.evaluation import ReferenceEvaluator, SampledEvaluator, make_evaluator
from evoprune.evaluation.cache import SharedCache
from evoprune.evaluation.memory import bytes_of
from evoprune.evaluation.sampled import Needs
from evoprune.scoring import Accuracy

from .conftest import make_case


def evaluator_and_plans(memory_mb: int = 64) -> tuple[SampledEvaluator, dict[str, Tensor], Tensor]:
    model, inputs, targets = make_case("lenet", 200)
    score = Accuracy(inputs, targets)
    plans = {"3": torch.rand(7, 6, 4, 3, 3, generator=torch.Generator().manual_seed(1)) < 0.8}
    evaluator = make_evaluator(model, score, ["3"], memory_mb=memory_mb)
    assert isinstance(evaluator, SampledEvaluator)
    return evaluator, plans, ReferenceEvaluator(model, score)(plans).score


class Scarce:
    """A runner that cannot run more than so many candidates times samples at once."""

    def __init__(self, runner: Any, limit: int) -> None:
        self.runner, self.limit, self.failures = runner, limit, 0

    def shared(self, inputs: Tensor) -> Any:
        return [len(inputs), self.runner.shared(inputs)]

    def outputs(self, weights: dict[int, Tensor], shared: Any) -> Tensor:
        if len(next(iter(weights.values()))) * shared[0] > self.limit:
            self.failures += 1
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate")
        return self.runner.outputs(weights, shared[1])


@pytest.mark.parametrize("limit", [150, 64, 10, 1])
def test_a_failed_allocation_halves_the_batch_and_goes_on(limit: int) -> None:
    evaluator, plans, wanted = evaluator_and_plans()
    evaluator.runner = scarce = Scarce(evaluator.runner, limit)
    for _ in range(8):
        scarce.failures = 0
        assert torch.equal(evaluator(plans).score, wanted)
    assert scarce.failures == 0  # it has learned what fits
    assert evaluator.chunk <= max(64, limit)


def test_too_little_memory_for_anything_is_an_error() -> None:
    evaluator, plans, _ = evaluator_and_plans()
    evaluator.runner = Scarce(evaluator.runner, 0)
    with pytest.raises(EvopruneError, match="not enough memory"):
        evaluator(plans)


def test_other_errors_are_not_taken_for_lack_of_memory() -> None:
    evaluator, plans, _ = evaluator_and_plans()
    evaluator.runner.outputs = lambda *_: (_ for _ in ()).throw(RuntimeError("shape mismatch"))  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="shape mismatch"):
        evaluator(plans)


def test_kept_values_stay_within_the_limit_and_are_computed_once() -> None:
    calls = []

    def compute(size: int) -> list[Tensor]:
        calls.append(size)
        return [torch.zeros(size, dtype=torch.uint8)]

    cache = SharedCache(100)
    for _ in range(3):
        assert cache.get(0, lambda: compute(60))[0].numel() == 60
        assert cache.get(1, lambda: compute(50))[0].numel() == 50
    assert calls == [60, 50, 50, 50]
    assert cache.bytes == 60


def test_what_is_not_kept_counts_beside_what_is() -> None:
    peaks = []
    for fitting in (0, 1):
        evaluator, plans, _ = evaluator_and_plans()
        size = bytes_of(evaluator.runner.shared(evaluator.score.inputs[:50]))  # of each of four chunks
        evaluator.cache = SharedCache(fitting * size)
        evaluator(plans)
        peaks.append(evaluator.peak_bytes)
    assert peaks[1] - peaks[0] == size


def test_the_prefix_runs_once_for_all_generations(monkeypatch: pytest.MonkeyPatch) -> None:
    evaluator, plans, _ = evaluator_and_plans()
    calls = []
    shared = evaluator.runner.shared
    monkeypatch.setattr(evaluator.runner, "shared", lambda inputs: calls.append(len(inputs)) or shared(inputs))
    for _ in range(3):
        evaluator(plans)
    assert sum(calls) == 200
    assert 0 < evaluator.cache.bytes <= evaluator.peak_bytes <= 64 << 20


def test_a_small_memory_gives_the_same_scores() -> None:
    evaluator, plans, wanted = evaluator_and_plans(memory_mb=1)
    assert torch.equal(evaluator(plans).score, wanted)
    assert evaluator.cache.bytes <= 1 << 19


def test_large_candidates_are_scored_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model, inputs = nn.Sequential(nn.Linear(8, 9000), nn.ReLU(), nn.Linear(9000, 3)).eval(), torch.randn(100, 8)
    score = Accuracy(inputs, torch.arange(100) % 3)
    evaluator = make_evaluator(model, score, ["0"], memory_mb=4)
    assert isinstance(evaluator, SampledEvaluator)
    sizes, part = [], evaluator._score
    monkeypatch.setattr(evaluator, "_score", lambda plans, floor: sizes.append(len(plans["0"])) or part(plans, floor))
    plans = {"0": torch.rand(7, 9000, 8) < 0.5}  # 288 kB each
    found, wanted = evaluator(plans), ReferenceEvaluator(model, score)(plans)
    assert sizes == [3, 3, 1]
    assert torch.equal(found.score, wanted.score)
    torch.testing.assert_close(found.loss, wanted.loss)
    assert found.samples == 700


def test_results_do_not_depend_on_what_was_scored_before() -> None:
    evaluator, plans, _ = evaluator_and_plans()
    first = evaluator(plans, 0.5)
    evaluator({"3": ~plans["3"]})
    again = evaluator(plans, 0.5)
    assert torch.equal(first.score, again.score)
    assert torch.equal(first.loss, again.loss)


def test_few_samples_at_a_time_where_each_takes_much_memory() -> None:
    small, _, _ = evaluator_and_plans()
    options = {"keep_shared": True, "racing": False, "together": True, "memory_mb": 64}
    evaluator = SampledEvaluator(small.model, small.score, ["3"], small.runner, Needs(1 << 20, 1, 0.0), **options)
    assert evaluator.chunk == 4  # four values of 4 MB for each sample


def test_what_candidates_share_is_not_all_alive_at_once_and_bounds_the_samples_of_a_chunk() -> None:
    torch.manual_seed(0)
    wide: list[torch.nn.Module] = [torch.nn.Linear(8, 4096)]
    wide += [layer for _ in range(9) for layer in (torch.nn.Tanh(), torch.nn.Threshold(0.0, 0.0))]
    model = torch.nn.Sequential(*wide, torch.nn.Linear(4096, 4)).eval()
    score = Accuracy(torch.randn(8000, 8), torch.arange(8000) % 4)
    evaluator = make_evaluator(model, score, [str(len(model) - 1)], memory_mb=16)
    assert isinstance(evaluator, SampledEvaluator)
    assert evaluator.shared_bytes == 4 * 2 * 4096, "what an operation reads, and what it gives"
    assert evaluator.chunk == (16 << 20) // (4 * evaluator.shared_bytes)
    plans = {str(len(model) - 1): torch.ones(1, 4, 4096, dtype=torch.bool)}
    scores = evaluator(plans)
    assert scores.score.item() == score(model)
    assert evaluator.peak_bytes < 16 << 20


def test_candidates_outputs_are_not_kept_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """With many classes they would take more than all else."""
    model = torch.nn.Sequential(torch.nn.Linear(8, 1 << 14)).eval()
    score = Accuracy(torch.randn(300, 8), torch.arange(300))
    evaluator = make_evaluator(model, score, ["0"], memory_mb=64)
    assert isinstance(evaluator, SampledEvaluator)
    sizes: list[int] = []
    values = score.values

    def watched(outputs: Tensor, expected: Tensor) -> Tensor:
        sizes.append(outputs.nbytes)
        return values(outputs, expected)

    monkeypatch.setattr(score, "values", watched)
    evaluator({"0": torch.ones(20, 1 << 14, 8, dtype=torch.bool)})
    assert max(sizes) <= 8 << 20
