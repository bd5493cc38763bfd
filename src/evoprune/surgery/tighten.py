"""Prune while training: masks tighten every few steps, by the importance that training itself shows.

What a weight adds to the loss, (w g)^2 (Molchanov et al., CVPR 2019), is averaged over the steps as they come, so it
costs no pass of its own. What is kept in all falls along a cubic (Zhu and Gupta, "To prune, or not to prune", 2017).
One threshold cuts all layers; a genome of log-shares, which evolution proposes, says where to deviate from it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from evoprune.core import Masks
from evoprune.search import share_budget

__all__ = ["Tightening"]

EVERY = 50
"""Steps between two cuts."""
MEMORY = 0.98
"""Share of the average that a step keeps of the steps before it."""


class Tightening:
    """From some masks down to an exact number of weights.

    Args:
        weights: layer name -> its weight, as it is trained.
        masks: what stays at the start.
        keep: weights of these layers that stay at the end, at least one a layer.
        steps: over which the masks tighten.
        log_share: (L,) float, how much more of the budget than one threshold gives each layer shall get; zeros for
            the threshold itself.
    """

    def __init__(
        self, weights: Mapping[str, nn.Parameter], masks: Masks, keep: int, steps: int, log_share: Tensor
    ) -> None:
        self.weights, self.masks = dict(weights), {name: masks[name] for name in weights}
        self.start, self.keep, self.steps = sum(int(mask.sum()) for mask in self.masks.values()), keep, steps
        self.log_share = log_share
        self.importance = {name: torch.zeros_like(weight) for name, weight in weights.items()}

    @torch.no_grad()
    def watch(self) -> None:
        """Take in the gradients of the present step."""
        for name, weight in self.weights.items():
            if weight.grad is not None:
                self.importance[name].lerp_((weight * weight.grad).square(), 1 - MEMORY)

    def is_due(self, step: int) -> bool:
        """Whether masks change after `step`, counted from 1."""
        return step == self.steps or (step < self.steps and step % EVERY == 0)

    @torch.no_grad()
    def tightened(self, step: int) -> Masks:
        """The masks after `step`; also kept in `masks`."""
        left = (1 - min(1.0, step / self.steps)) ** 3
        keep = round(self.keep + left * (self.start - self.keep))
        values = [
            torch.where(self.masks[name], importance.cpu(), -1.0).flatten()
            for name, importance in self.importance.items()
        ]
        counts = self._counts(values, keep)
        for (name, mask), value, count in zip(list(self.masks.items()), values, counts, strict=True):
            smaller = torch.zeros(mask.numel(), dtype=torch.bool)
            smaller[value.topk(count).indices] = True
            self.masks[name] = smaller.view(mask.shape)
        return self.masks

    def _counts(self, values: Sequence[Tensor], keep: int) -> list[int]:
        """Weights of each layer: those above one threshold, moved by the shares."""
        joined = torch.cat(list(values))
        above = torch.zeros(len(joined), dtype=torch.bool)
        above[joined.topk(keep).indices] = True
        base = torch.stack([part.count_nonzero() for part in above.split([len(value) for value in values])])
        room = torch.stack([(value >= 0).count_nonzero() for value in values])
        counts: list[int] = share_budget(self.log_share[None], base.clamp(min=1), room, keep)[0].tolist()
        return counts
