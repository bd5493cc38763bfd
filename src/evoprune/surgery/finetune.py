"""Train a pruned model without letting one pruned weight come back."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from evoprune.core import Masks, generator, weight_of
from evoprune.storage import under
from evoprune.surgery.masks import apply_masks
from evoprune.surgery.tighten import Tightening
from evoprune.training import (
    BatchSource,
    Loss,
    Recipe,
    optimizer_from_tensors,
    optimizer_to_tensors,
    set_memory_format,
    train_epoch,
)

__all__ = ["FineTuner"]

TIGHTENING = "tightening/"
"""Prefix of the names of what the tightening remembers."""


class FineTuner:
    """Fine-tunes a model under masks, an epoch at a time.

    After every step the pruned weights are set to zero again, so that momentum, weight decay or Adam's moments
    cannot move them; their gradients are cleared too, so that they take no part in the optimizer's state.

    Args:
        model: changed in place.
        masks: layer name -> bool tensor of the weight's shape.
        source: training batches.
        recipe: settings; `recipe.epochs` is the length of the learning-rate schedule.
        teacher: in eval mode; its outputs are matched where given.
        tightening: prunes further while the epochs run.
        loss: as of `train_epoch`.

    Attributes:
        masks: as they are now.
    """

    def __init__(
        self,
        model: nn.Module,
        masks: Masks,
        source: BatchSource,
        recipe: Recipe,
        teacher: nn.Module | None = None,
        tightening: Tightening | None = None,
        loss: Loss | None = None,
    ) -> None:
        self.model, self.source, self.recipe, self.teacher, self.loss = model, source, recipe, teacher, loss
        self.tightening = tightening
        self.weights = [(weight_of(model, name), name) for name in masks]
        self._set(masks)
        self.optimizer = recipe.make_optimizer(model)
        self.hook = self.optimizer.register_step_pre_hook(lambda *_: self._clear_gradients())
        apply_masks(model, masks)
        # Convolutions are faster so, by a fifth for LeNet-5 on a CPU; `close` puts the usual layout back.
        set_memory_format(model, torch.channels_last)

    def close(self) -> None:
        """Give the weights their usual memory layout back, so that what is computed next does not depend on it.

        Gradients and the optimizer's state are let go of.
        """
        self.hook.remove()  # else optimizer and tuner hold each other
        self.optimizer.zero_grad()
        set_memory_format(self.model, torch.contiguous_format)

    def epoch(self, epoch: int, seed: int, *path: int, on_step: Callable[[float], None] | None = None) -> float:
        """One epoch, counted from 0; `seed` and `path` name its random stream. Returns the mean loss.

        `on_step` is told after every step how many epochs are done, as in `train_epoch`.
        """

        def after_step(done: float) -> None:
            if self.tightening is not None and self.tightening.is_due:
                self._set(self.masks | self.tightening.tightened())
            self._restore_zeros()
            if on_step is not None:
                on_step(done)

        rng = generator(seed, *path, epoch)
        return train_epoch(
            self.model, self.source, self.recipe, self.optimizer, epoch, rng, self.teacher, self.loss, after_step
        )

    def _set(self, masks: Masks) -> None:
        self.masks = dict(masks)
        self.pruned = {name: ~masks[name].to(weight.device) for weight, name in self.weights}

    @torch.no_grad()
    def _restore_zeros(self) -> None:
        for weight, name in self.weights:
            weight.masked_fill_(self.pruned[name], 0.0)

    @torch.no_grad()
    def _clear_gradients(self) -> None:
        if self.tightening is not None:
            self.tightening.watch()
        for weight, name in self.weights:
            if weight.grad is not None:
                weight.grad.masked_fill_(self.pruned[name], 0.0)

    def tighten_to_the_end(self) -> None:
        """What still has to go goes at once: a loader may give fewer batches than its length or first epoch said."""
        if self.tightening is not None and not self.tightening.is_done:
            self._set(self.masks | self.tightening.end())
            self._restore_zeros()

    def state(self) -> dict[str, Tensor]:
        """What the optimizer and the tightening remember."""
        tightening = {} if self.tightening is None else self.tightening.state()
        return optimizer_to_tensors(self.optimizer) | {TIGHTENING + name: value for name, value in tightening.items()}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from what `state` gave."""
        rest = {name: tensor for name, tensor in tensors.items() if not name.startswith(TIGHTENING)}
        optimizer_from_tensors(self.optimizer, rest)
        if self.tightening is not None:
            self.tightening.load_state(under(tensors, TIGHTENING))
