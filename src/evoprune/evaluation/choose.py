"""Choose how candidates are scored."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from evoprune.core import Evaluator, EvopruneError, said, spread, weight_of
from evoprune.evaluation.graph import UnsplittableError, split_model
from evoprune.evaluation.graph_runner import GraphRunner
from evoprune.evaluation.memory import bytes_of
from evoprune.evaluation.precision import bfloat16_suits
from evoprune.evaluation.recalibrated import RecalibratedEvaluator
from evoprune.evaluation.reference import ReferenceEvaluator, masked
from evoprune.evaluation.runners import BatchRunner, OneByOne, candidate_weights
from evoprune.evaluation.sampled import Needs, SampledEvaluator
from evoprune.scoring import CallableScore, DataScore, as_score, device_of, evaluating, largest_numel, unwrapped

__all__ = ["WAYS", "Way", "make_evaluator"]

Way = Literal["prefix", "batched", "racing", "precision"]
WAYS: tuple[Way, ...] = get_args(Way)
CHECKED_SAMPLES = 32

log = logging.getLogger("evoprune")


def make_evaluator(
    model: nn.Module,
    score: Callable[[nn.Module], Any],
    layers: Sequence[str],
    *,
    memory_mb: int = 1024,
    ways: Sequence[str] = WAYS,
    norm_batches: Sequence[Tensor] = (),
) -> Evaluator:
    """The fastest evaluator that fits model and score.

    Args:
        model: holds the dense values of its weights; they must not change while the evaluator is in use.
        score: model -> float, or a score built from data.
        layers: the layers that plans will name.
        memory_mb: limit for kept activations, candidates' weights and the values of a batch.
        ways: ways to be faster, any of `WAYS`. Without any, or for a score that is the user's own
            function, the reference is used:
            prefix: values before the first changed layer are computed once and kept;
            batched: many candidates run as one batch;
            racing: a candidate stops when it can no longer reach the floor;
            precision: bfloat16, on hardware that computes in it and for models that are heavy, if it agrees
            with float32 on some samples; convolutions then run channels-last.
        norm_batches: (B, ...) training inputs; where given, each candidate's batch norms are first measured on them,
            and ways that candidates have in common are not taken.

    Raises:
        EvopruneError: an unknown method or layer, or a score that does not fit the model.
    """
    unknown = set(ways) - set(WAYS)
    if unknown:
        raise EvopruneError(f"unknown scoring method {min(unknown)!r}; choose from {', '.join(WAYS)}")
    if memory_mb < 1:
        raise EvopruneError(f"memory_mb is {memory_mb}; expected 1 or more")
    taken = [way for way in ways if not (norm_batches and way in ("prefix", "batched"))]
    if ways and not taken and isinstance(score, DataScore):
        log.warning(
            "candidates are scored one by one, which is slower: with batch norms measured for each they share nothing,"
            " and the scoring is %s alone",
            ",".join(ways),
        )
    plain = _plain_evaluator(model, as_score(score), layers, memory_mb, taken)
    evaluator = RecalibratedEvaluator(model, plain, norm_batches) if norm_batches else plain
    if "precision" in ways and isinstance(plain, SampledEvaluator):
        scores = evaluator.sample_scores if isinstance(evaluator, RecalibratedEvaluator) else plain.sample_scores
        if bfloat16_suits(plain, scores, model, layers):
            plain.dtype = torch.bfloat16
    return evaluator


def _plain_evaluator(
    model: nn.Module, score: DataScore | CallableScore, layers: Sequence[str], memory_mb: int, ways: Sequence[str]
) -> ReferenceEvaluator | SampledEvaluator:
    """The fastest that computes in float32, with the batch norms that the model has."""
    weights = {id(weight_of(model, name)) for name in layers}
    if not isinstance(score, DataScore) or not ways or not layers:
        return ReferenceEvaluator(model, score)
    model = unwrapped(model)
    score.bind(model)
    if _mixes_samples(model, score):
        log.warning(
            "candidates are scored one by one, which is slower: the model's output for a sample depends on the others"
            " of its batch, or it takes whole batches alone"
        )
        return ReferenceEvaluator(model, score)
    reasons: list[UnsplittableError] = []
    makers: list[Callable[[], BatchRunner]] = []
    if {"prefix", "batched"} & set(ways):
        makers.append(lambda: GraphRunner(split_model(model, weights), weights))
    makers.append(lambda: OneByOne(model, largest_numel(model, _some_inputs(score))))
    for make in makers:
        try:
            runner = make()
            needs = _compared(model, score, layers, runner)
            break
        except UnsplittableError as error:
            reasons.append(error)
    if reasons:
        log.warning("candidates are scored one by one, which is slower: the model cannot be split: %s", reasons[0])
    if len(reasons) == len(makers):
        return ReferenceEvaluator(model, score)
    return SampledEvaluator(
        model, score, layers, runner, needs, memory_mb=memory_mb,
        keep_shared="prefix" in ways, racing="racing" in ways, together="batched" in ways,
    )  # fmt: skip


def _some_inputs(score: DataScore) -> Tensor:
    """A few inputs, evenly spread, since the first ones may all be of a kind: unpadded, say, or of one class."""
    return score.inputs[spread(score.samples, CHECKED_SAMPLES)]


def _mixes_samples(model: nn.Module, score: DataScore) -> bool:
    """Whether the two halves of a batch have other outputs alone: a maximum, say, is missing in one of them.

    Where they are random, or of low precision, that cannot be told; `_compared` is left to see whether they agree.
    """
    inputs = _some_inputs(score).to(device_of(model))
    if len(inputs) < 4:
        return False

    def outputs(batch: Tensor) -> Tensor:
        found = model(batch.clone())
        score.check_outputs(found, len(batch))
        return cast(Tensor, found)

    with evaluating(model):
        try:
            whole, again = outputs(inputs), outputs(inputs)
            halves = torch.cat([outputs(half) for half in inputs.tensor_split(2)])
        except (EvopruneError, torch.OutOfMemoryError):
            raise
        except Exception:  # whatever a model says to a part of its samples
            return True
    tells = whole.dtype in (torch.float32, torch.float64) and torch.equal(whole, again)
    return tells and not torch.allclose(whole, halves, rtol=1e-3, atol=1e-4, equal_nan=True)


def _compared(model: nn.Module, score: DataScore, layers: Sequence[str], runner: BatchRunner) -> Needs:
    """What a runner needs, once it has scored three candidates, one of them dense, as the model itself does.

    And two of them, since what is right for one number may fit by chance.

    Raises:
        UnsplittableError: they differ.
    """
    rng = torch.Generator().manual_seed(0)
    masks: dict[str, Tensor] = {}
    for name in layers:
        shape = weight_of(model, name).shape
        masks[name] = torch.ones(3, *shape, dtype=torch.bool)
        masks[name][1:] = torch.rand(2, *shape, generator=rng) < 0.7
    inputs, alive = _some_inputs(score).to(device_of(model)), list[int]()
    with evaluating(model):
        wanted = []
        for candidate in range(3):
            with masked(model, {name: mask[candidate] for name, mask in masks.items()}):
                wanted.append(model(inputs.clone()))
                score.check_outputs(wanted[-1], len(inputs))
        try:
            shared = runner.shared(inputs.clone(), lambda values: alive.append(bytes_of(values)))
            weights = candidate_weights(model, masks)
            two = {key: weight[:2] for key, weight in weights.items()}
            # Both from the same kept values: an operation in place must not have changed them.
            with FlopCounterMode(display=False) as counter:
                got = [runner.outputs(some, shared) for some in (weights, two)]
        except UnsplittableError:
            raise
        except Exception as error:
            raise UnsplittableError(said(error)) from error
    for outputs, count in zip(got, (3, 2), strict=True):
        if outputs.shape != (count, *wanted[0].shape):
            raise UnsplittableError(f"its outputs became {tuple(outputs.shape)}")
        if not torch.allclose(outputs, torch.stack(wanted[:count]), rtol=1e-3, atol=1e-4, equal_nan=True):
            raise UnsplittableError("its outputs changed; does it mix the samples of a batch?")
    samples = len(inputs)
    flops = counter.get_total_flops() / ((3 + 2) * samples)
    peak, kept = max(1, runner.peak_numel // (2 * samples)), bytes_of(shared) // 4 // samples
    return Needs(peak, kept, flops, max(alive) // 4 // samples)
