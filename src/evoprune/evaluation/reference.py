"""One candidate at a time: the truth that every faster way is compared with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from evoprune.core import EvopruneError, Plans, Scores, weight_of
from evoprune.scoring import DataScore, as_score

__all__ = ["ReferenceEvaluator", "check_plans", "masked"]


class ReferenceEvaluator:
    """Multiply the masks in, run the model over the data, put the weights back.

    Args:
        model: holds the dense values of its weights; as found after every call.
        score: any callable model -> float, or a score built from data.
    """

    peak_bytes = 0

    def __init__(self, model: nn.Module, score: Callable[[nn.Module], Any]) -> None:
        self.model, self.score = model, as_score(score)
        if isinstance(self.score, DataScore):
            self.score.bind(model)

    @property
    def samples(self) -> int:
        """N for a score built from data, else 1."""
        return self.score.samples

    def __call__(self, plans: Plans, floor: float = -float("inf")) -> Scores:  # noqa: ARG002
        """Score P candidates; all are scored in full.

        Raises:
            EvopruneError: a plan does not fit the model, or the score gives no number.
        """
        candidates = check_plans(self.model, plans)
        scores, losses = [], []
        for candidate in range(candidates):
            with masked(self.model, {name: masks[candidate] for name, masks in plans.items()}):
                if isinstance(self.score, DataScore):
                    score, loss = self.score.measure(self.model)
                    losses.append(loss)
                else:
                    score = self.score(self.model)
            scores.append(score)
        return Scores(
            score=torch.tensor(scores, dtype=torch.float64),
            loss=torch.tensor(losses, dtype=torch.float64) if isinstance(self.score, DataScore) else None,
            complete=torch.ones(candidates, dtype=torch.bool),
            samples=candidates * self.samples,
        )


@contextmanager
def masked(model: nn.Module, masks: Mapping[str, Tensor]) -> Iterator[None]:
    """The model with its weights multiplied by one candidate's masks; afterwards bit for bit as before."""
    weights = {name: weight_of(model, name) for name in masks}
    kept = {name: weight.detach().clone() for name, weight in weights.items()}
    try:
        with torch.no_grad():
            for name, weight in weights.items():
                weight.mul_(masks[name].to(weight.device))
        yield
    finally:
        with torch.no_grad():
            for name, weight in weights.items():
                weight.copy_(kept[name])


def check_plans(model: nn.Module, plans: Plans) -> int:
    """P, after checking that each layer's masks are (P, *weight shape) bool.

    Raises:
        EvopruneError: they are not, or a layer is unknown.
    """
    if not plans:
        raise EvopruneError("plans is empty; expected layer name -> masks (P, *weight shape)")
    candidates = len(next(iter(plans.values())))
    for name, masks in plans.items():
        expected = (candidates, *weight_of(model, name).shape)
        if tuple(masks.shape) != expected or masks.dtype != torch.bool:
            raise EvopruneError(
                f"the masks of {name!r} are {masks.dtype} {tuple(masks.shape)}; expected torch.bool {expected}"
            )
    return candidates
