"""Score candidates chunk by chunk of samples, many at a time, stopping those that cannot reach the floor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from evoprune.core import EvopruneError, Plans, Scores, equal_parts, spread, weight_of
from evoprune.evaluation.cache import SharedCache
from evoprune.evaluation.memory import bytes_of, is_out_of_memory
from evoprune.evaluation.reference import check_plans
from evoprune.evaluation.runners import BatchRunner, candidate_weights
from evoprune.scoring import DataScore, device_of, evaluating
from evoprune.training import reuse_freed_memory

__all__ = ["Needs", "SampledEvaluator"]

CPU_BLOCK_BYTES = 16 << 20
"""Largest value of a block of candidates times samples, so that it stays in the caches (docs/LOG.md)."""
SMALLEST_CHUNK, LARGEST_CHUNK, CHUNKS = 64, 1024, 8
"""Samples of a chunk, and how many chunks there should at least be, so that candidates can stop early."""

COMPARED_SAMPLES = 512
"""By which two kinds of arithmetic are compared."""


@dataclass(frozen=True)
class Needs:
    """What one candidate needs for one sample.

    Attributes:
        peak_numel: numbers in the largest value on the way.
        kept_numel: numbers that candidates share.
        flops: floating-point operations; 0 when not known.
        shared_numel: numbers alive at once while what candidates share is computed.
    """

    peak_numel: int
    kept_numel: int
    flops: float
    shared_numel: int = 0


class SampledEvaluator:
    """Chunks of samples outside, blocks of candidates inside.

    What candidates share on a chunk is computed once and kept (see `SharedCache`). With racing, the samples
    that the dense model finds hardest come first, and a candidate stops once
    (its sum so far + the highest possible value * samples left) / N is below the floor: the bound is exact, so
    whoever reaches the floor gets the same score as without racing.

    Args:
        model: as found after every call.
        score: a mean over samples.
        layers: the layers whose weights may differ between candidates.
        runner: how P candidates' outputs on a batch are computed.
        needs: of one candidate for one sample.
        memory_mb: limit for kept values, candidates' weights and the values of a block together.
        keep_shared: keep what candidates share between calls.
        racing: stop candidates early.
        together: run many candidates as one batch.

    Attributes:
        cache: the kept values; `cache.bytes` of memory.
        peak_bytes: highest memory so far of kept values, candidates' weights and a block's values, estimated.
        dtype: of the arithmetic; float32, or bfloat16 by autocast.
        block_rows: candidates times samples that run at once; smaller once an allocation has failed.
        sample_flops: floating-point operations that one candidate needs for one sample.
    """

    def __init__(
        self,
        model: nn.Module,
        score: DataScore,
        layers: Sequence[str],
        runner: BatchRunner,
        needs: Needs,
        *,
        memory_mb: int,
        keep_shared: bool,
        racing: bool,
        together: bool,
    ) -> None:
        self.model, self.score, self.layers, self.runner = model, score, list(layers), runner
        self.device = device_of(model)
        self.racing, self.together = racing, together
        self.memory = memory_mb << 20
        block = self.memory // 8
        if self.device.type == "cpu":
            block = min(CPU_BLOCK_BYTES, block)
            reuse_freed_memory()
        self.cache = SharedCache(self.memory // 2 if keep_shared else 0)
        self.sample_bytes = 4 * max(1, needs.peak_numel)
        self.sample_flops = needs.flops
        fitting = max(1, block // max(self.sample_bytes, 4 * needs.kept_numel))
        largest = min(LARGEST_CHUNK, max(SMALLEST_CHUNK, -(-score.samples // CHUNKS)))
        self.shared_bytes = 4 * needs.shared_numel
        most = self.memory // (4 * max(self.sample_bytes, self.shared_bytes))
        self.chunk = max(1, min(max(fitting, SMALLEST_CHUNK), largest, most, score.samples))
        self.block_rows = max(block // self.sample_bytes, self.chunk)
        self.dtype = torch.float32
        self.peak_bytes, self._too_large = 0, False
        self.order = self._hardest_first() if racing else torch.arange(score.samples)

    @property
    def samples(self) -> int:
        """N."""
        return self.score.samples

    def __call__(self, plans: Plans, floor: float = -float("inf")) -> Scores:
        """Score P candidates, see `evoprune.core.Evaluator`."""
        candidates = check_plans(self.model, plans)
        plans = self._complete(plans, candidates)
        if self._too_large:
            self._shrink()
        weight_bytes = 4 * sum(masks[0].numel() for masks in plans.values())
        at_once = max(1, self.memory // 4 // max(1, weight_bytes))
        parts = []
        with evaluating(self.model), self._arithmetic():
            for first in range(0, candidates, at_once):
                part = {name: masks[first : first + at_once] for name, masks in plans.items()}
                parts.append(self._score(part, floor))
        return Scores(
            score=torch.cat([part.score for part in parts]),
            loss=torch.cat([part.loss for part in parts if part.loss is not None]),
            complete=torch.cat([part.complete for part in parts]),
            samples=sum(part.samples for part in parts),
        )

    def _complete(self, plans: Plans, candidates: int) -> Plans:
        """Plans for exactly the layers that the evaluator was made for; those not named stay as they are."""
        for name in plans:
            if name not in self.layers:
                raise EvopruneError(f"layer {name!r}: the evaluator was made for {', '.join(self.layers)} only")
        missing = [name for name in self.layers if name not in plans]
        shapes = {name: weight_of(self.model, name).shape for name in missing}
        return {**plans, **{n: torch.ones(1, dtype=torch.bool).expand(candidates, *s) for n, s in shapes.items()}}

    def sample_scores(self, plans: Plans, dtype: torch.dtype) -> Tensor:
        """(P,) scores on some samples from all over the data, in another arithmetic; nothing is kept."""
        before, self.dtype = self.dtype, dtype
        values = []
        try:
            with evaluating(self.model), self._arithmetic():
                weights = candidate_weights(self.model, plans)
                # Not the hardest ones, which would be wrong in any arithmetic.
                some = spread(self.samples, COMPARED_SAMPLES)
                for rows in (some[part] for part in equal_parts(len(some), self.chunk)):
                    outputs = self._outputs(weights, self._shared(rows), rows).float()
                    values.append(self.score.values(outputs, self.score.expected[rows].to(self.device)))
            return torch.cat(values, dim=-1).double().mean(-1).cpu()
        finally:
            self.dtype = before

    def _arithmetic(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.dtype == torch.bfloat16)

    def _score(self, plans: Plans, floor: float) -> Scores:
        weights = candidate_weights(self.model, plans)
        candidates = len(next(iter(weights.values())))
        value, loss = (torch.zeros(candidates, dtype=torch.float64, device=self.device) for _ in range(2))
        seen = torch.zeros(candidates, dtype=torch.int64)
        alive = torch.arange(candidates)
        for index, part in enumerate(equal_parts(self.samples, self.chunk)):
            rows = self.order[part]
            values, losses = self._chunk(weights, index, rows)
            where = alive.to(self.device)
            value.index_add_(0, where, values)
            loss.index_add_(0, where, losses)
            seen[alive] += len(rows)
            if self.racing and floor > -float("inf"):
                still = (self._bound(value.cpu(), seen) >= floor)[alive]
                if not still.all():
                    alive = alive[still]
                    if not len(alive):
                        break
                    weights = {key: weight[still.to(self.device)] for key, weight in weights.items()}
        value, loss = value.cpu(), loss.cpu()
        return Scores(self._bound(value, seen), loss / seen, seen == self.samples, int(seen.sum()))

    def _bound(self, value: Tensor, seen: Tensor) -> Tensor:
        """(P,) the highest score that is still possible; the score itself once every sample is seen."""
        rest = self.samples - seen
        return torch.where(rest > 0, value + self.score.upper_bound * rest, value) / self.samples

    def _chunk(self, weights: dict[int, Tensor], index: int, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Sums of values and losses over the samples `rows`, (P,) float64 each."""
        expected = self.score.expected[rows].to(self.device)
        shared = self.cache.get(index, lambda: self._shared(rows))
        candidates, sums, first = len(next(iter(weights.values()))), [], 0
        while first < candidates:
            block = max(1, self.block_rows // len(rows)) if self.together else 1
            part = {key: weight[first : first + block] for key, weight in weights.items()}
            outputs = self._outputs(part, shared, rows).float()
            each = self.score.values(outputs, expected), self.score.losses(outputs, expected)
            sums.append(torch.stack([found.sum(-1, dtype=torch.float64) for found in each]))
            first += block
        self._note_memory(weights, None if index in self.cache else shared, len(rows))
        values, losses = torch.cat(sums, dim=1)
        return values, losses

    def _shared(self, rows: Tensor) -> Any:
        """What candidates share on these samples; None when memory does not allow to have it for all at once."""
        inputs = self.score.inputs[rows].to(self.device)
        if self.dtype == torch.bfloat16 and inputs.dim() == 4:
            inputs = inputs.to(memory_format=torch.channels_last)
        try:
            return self.runner.shared(inputs)
        except RuntimeError as error:
            if len(rows) == 1 or not is_out_of_memory(error):
                raise
        return None

    def _outputs(self, weights: dict[int, Tensor], shared: Any, rows: Tensor) -> Tensor:
        """(P, B, C) outputs; an allocation that fails halves the candidates, then the samples, and goes on."""
        candidates = len(next(iter(weights.values())))
        if shared is not None:
            try:
                return self.runner.outputs(weights, shared)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                if candidates == 1 and len(rows) == 1:
                    raise EvopruneError(
                        "not enough memory to run one candidate on one sample; use a smaller model or a larger machine"
                    ) from error
        if candidates > 1:
            self.block_rows = max(1, candidates // 2 * len(rows))
            halves = [{key: weight.chunk(2)[half] for key, weight in weights.items()} for half in (0, 1)]
            return torch.cat([self._outputs(half, shared, rows) for half in halves])
        self._too_large = True
        return torch.cat([self._outputs(weights, self._shared(half), half) for half in rows.chunk(2)], dim=1)

    def _shrink(self) -> None:
        """Smaller chunks from now on, after samples had to be halved."""
        self._too_large = False
        self.chunk = max(1, self.chunk // 2)
        self.cache.clear()

    def _note_memory(self, weights: dict[int, Tensor], beside: Any, samples: int) -> None:
        """`beside` is what candidates share now and the cache does not keep."""
        # A value, what it is made of, and a scratch copy; or all that was alive before the candidates came.
        block = max(3 * self.sample_bytes * self.block_rows, self.shared_bytes * samples)
        used = self.cache.bytes + bytes_of(beside) + bytes_of(list(weights.values())) + block
        self.peak_bytes = max(self.peak_bytes, used)

    def _hardest_first(self) -> Tensor:
        """Order of the samples by the dense model's falling loss; equal ones stay in place."""
        losses = [
            self.score.losses(outputs, self.score.expected[part].to(outputs.device)).cpu()
            for outputs, part in self.score.outputs(self.model)
        ]
        return torch.argsort(torch.cat(losses), descending=True, stable=True)
