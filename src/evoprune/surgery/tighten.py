"""Prune while training: masks tighten every few steps, by the importance that training itself shows.

What a weight adds to the loss, (w g)^2 (Molchanov et al., CVPR 2019), is averaged over the steps as they come, so it
costs no pass of its own. Every cut takes the same share of what is left. One threshold cuts all layers; a genome of
log-shares, which evolution proposes, says where to deviate from it.
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
        self.step = 0

    @torch.no_grad()
    def watch(self) -> None:
        """Take in the gradients of the next step."""
        self.step += 1
        for name, weight in self.weights.items():
            if weight.grad is not None:
                self.importance[name].lerp_((weight * weight.grad).square(), 1 - MEMORY)

    @property
    def is_due(self) -> bool:
        """Whether masks change after the present step."""
        return self.step == self.steps or (self.step < self.steps and self.step % EVERY == 0)

    @torch.no_grad()
    def tightened(self) -> Masks:
        """The masks after the present step; also kept in `masks`."""
        done = min(1.0, self.step / self.steps)
        keep = round(self.start ** (1 - done) * self.keep**done)
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

    def state(self) -> dict[str, Tensor]:
        """What it remembers besides the masks."""
        return self.importance | {"": torch.tensor([self.start, self.step])}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from what `state` gave, with the masks of then."""
        self.start, self.step = tensors[""].tolist()
        self.importance = {name: tensors[name].clone() for name in self.importance}
