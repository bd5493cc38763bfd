"""Prune while training: masks tighten step by step, by the importance that training itself shows.

What a weight adds to the loss, (w g)^2 (Molchanov et al., CVPR 2019), is averaged over the steps as they come, so it
costs no pass of its own. One threshold cuts all layers, in small steps where there is time for them.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from evoprune.core import Masks
from evoprune.surgery.threshold import global_threshold

__all__ = ["Tightening"]

SHARE = 0.1
"""A cut waits until this share of the weights that are left is due."""
MEMORY = 0.98
"""Share of the average that a step keeps of the steps before it."""
IMPORTANCE = "importance/"
"""Prefix of the names of layers in what is remembered."""


class Tightening:
    """From some masks down to an exact number of weights.

    Args:
        weights: layer name -> its weight, as it is trained.
        masks: what stays at the start.
        keep: weights of these layers that stay at the end, at least one a layer.
        steps: over which the masks tighten.
    """

    def __init__(self, weights: Mapping[str, nn.Parameter], masks: Masks, keep: int, steps: int) -> None:
        self.weights, self.masks = dict(weights), {name: masks[name] for name in weights}
        self.start = self.present = sum(int(mask.sum()) for mask in self.masks.values())
        self.keep, self.steps = keep, steps
        self.importance = {name: torch.zeros_like(weight, dtype=torch.float32) for name, weight in weights.items()}
        self.step = 0

    @torch.no_grad()
    def watch(self) -> None:
        """Take in the gradients of the next step."""
        self.step += 1
        for name, weight in self.weights.items():
            if weight.grad is not None:
                self.importance[name].lerp_((weight.float() * weight.grad.float()).square(), 1 - MEMORY)

    @property
    def is_due(self) -> bool:
        """Whether masks change after the present step."""
        return self.step == self.steps or (self.step < self.steps and self._due() <= (1 - SHARE) * self.present)

    @property
    def is_done(self) -> bool:
        """Whether the last step was taken."""
        return self.step >= self.steps

    def end(self) -> Masks:
        """The masks of the last step, though fewer were taken."""
        self.step = self.steps
        return self.tightened()

    @torch.no_grad()
    def tightened(self) -> Masks:
        """The masks after the present step; also kept in `masks`."""
        self.present = self._due()
        values = [torch.where(mask, self.importance[name].cpu(), -1.0).flatten() for name, mask in self.masks.items()]
        sizes = [len(value) for value in values]
        parts = global_threshold(torch.cat(values), sizes, self.present).split(sizes)
        self.masks = {name: part.view_as(self.masks[name]) for name, part in zip(self.masks, parts, strict=True)}
        return self.masks

    def _due(self) -> int:
        """Weights that should be left after the present step; the same share of them goes in every step."""
        done = min(1.0, self.step / self.steps)
        left: float = self.start ** (1 - done) * self.keep**done
        return round(left)

    def state(self) -> dict[str, Tensor]:
        """What it remembers besides the masks."""
        importance = {IMPORTANCE + name: value for name, value in self.importance.items()}
        return importance | {"place": torch.tensor([self.start, self.step])}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from what `state` gave, with the masks of then."""
        self.start, self.step = tensors["place"].tolist()
        for name, weight in self.weights.items():
            self.importance[name] = tensors[IMPORTANCE + name].to(weight.device, copy=True)
