"""How P candidates' outputs on a batch are computed: the protocol, and the plain way, one by one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from evoprune.core import Plans, weight_of
from evoprune.evaluation.kernels import Weights, call_with

__all__ = ["BatchRunner", "OneByOne", "Shared", "Watch", "candidate_weights"]

Shared = list[Any]
"""What candidates have in common on one batch."""
Watch = Callable[[list[Any]], None]
"""Told after every operation which values are alive."""


class BatchRunner(Protocol):
    """Outputs of P candidates on one batch of samples.

    Attributes:
        peak_numel: elements of the largest value of the last batch, all candidates together.
    """

    peak_numel: int

    def shared(self, inputs: Tensor, watch: Watch = lambda _: None) -> Shared:
        """What all candidates have in common on (B, ...) inputs; it may be kept for later calls."""
        ...

    def outputs(self, weights: Weights, shared: Shared) -> Tensor:
        """(P, B, C) outputs."""
        ...


def candidate_weights(model: nn.Module, plans: Plans) -> dict[int, Tensor]:
    """id of each parameter in `plans` -> (P, *shape) weights with the masks multiplied in."""
    weights: dict[int, Tensor] = {}
    for name, masks in plans.items():
        parameter = weight_of(model, name)
        # A weight that two names share is multiplied by both masks, as the reference does.
        weights[id(parameter)] = weights.get(id(parameter), parameter.detach()) * masks.to(parameter.device)
    return weights


class OneByOne:
    """Run the whole model for each candidate, with its weights in place of the model's own."""

    def __init__(self, model: nn.Module, largest: int) -> None:
        self.model, self.largest = model, largest  # numbers of the largest value for one sample
        self.peak_numel = 0

    def shared(self, inputs: Tensor, watch: Watch = lambda _: None) -> Shared:
        """The inputs themselves."""
        watch([inputs])
        return [inputs]

    def outputs(self, weights: Weights, shared: Shared) -> Tensor:
        """(P, B, C) outputs."""
        candidates = range(len(next(iter(weights.values()))))
        self.peak_numel = len(candidates) * len(shared[0]) * self.largest
        return torch.stack([call_with(self.model, weights, number, shared[0].clone()) for number in candidates])
