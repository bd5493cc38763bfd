"""A training recipe: the settings of one training, as plain data."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Literal, get_args

import torch
from torch import nn, optim

from evoprune.core import EvopruneError

__all__ = ["Optimizer", "Precision", "Recipe"]

Optimizer = Literal["adamw", "adam", "sgd"]
Schedule = Literal["one-cycle", "cosine", "constant"]
Precision = Literal["float32", "bfloat16"]

GROWTH = 4
"""Pixels by which images grow, where a training begins with smaller ones."""


@dataclass(frozen=True)
class Recipe:
    """Settings of one training.

    Attributes:
        epochs: passes over the training split.
        batch_size: samples a step at most; an epoch is cut into steps of equal size.
        optimizer: `adamw`, `adam`, or `sgd` with Nesterov momentum 0.9.
        learning_rate: the highest of the schedule.
        weight_decay: applied to tensors of two dimensions or more only, not to biases and norm scales.
        schedule: `one-cycle` rises linearly over the first tenth of the steps and falls to zero along a
            cosine (Smith & Topin 2017); `cosine` only falls (Loshchilov & Hutter 2017); `constant` stays.
        label_smoothing: share of the target spread evenly over all classes (Szegedy et al. 2016).
        shift: each image is moved by up to this many pixels both ways; what comes in at the edge is black,
            or zero where evoprune did not read the images.
        flip: mirror each image with probability 1/2; for photographs, not for digits.
        cutout: a square of this many pixels a side is made black in each image, anywhere, even partly outside
            (DeVries & Taylor 2017).
        first_size: pixels a side that images are scaled down to in the first epoch; they grow by 4 at a time and
            have their full size in the last quarter of the epochs, the last at least (progressive resizing: Howard
            2018). 0 trains at full size throughout. Needs a model that takes images of any size.
        precision: of the model's passes; the weights are float32 either way (autocast).
        distill: share of the loss that asks for the teacher's outputs instead of the labels, when there is
            a teacher (knowledge distillation: Hinton et al. 2015).
        temperature: by which both models' logits are divided for that share.

    Raises:
        EvopruneError: a setting is out of its range.
    """

    epochs: int = 20
    batch_size: int = 128
    optimizer: Optimizer = "adamw"
    learning_rate: float = 3e-3
    weight_decay: float = 1e-2
    schedule: Schedule = "one-cycle"
    label_smoothing: float = 0.0
    shift: int = 0
    flip: bool = False
    cutout: int = 0
    first_size: int = 0
    precision: Precision = "float32"
    distill: float = 0.5
    temperature: float = 2.0

    def __post_init__(self) -> None:
        ranges: dict[str, tuple[bool, str]] = {
            "epochs": (self.epochs >= 1, "at least 1"),
            "batch_size": (self.batch_size >= 1, "at least 1"),
            "optimizer": (self.optimizer in get_args(Optimizer), "one of " + ", ".join(get_args(Optimizer))),
            "learning_rate": (0 < self.learning_rate < math.inf, "above 0"),
            "weight_decay": (0 <= self.weight_decay < math.inf, "0 or more"),
            "schedule": (self.schedule in get_args(Schedule), "one of " + ", ".join(get_args(Schedule))),
            "label_smoothing": (0 <= self.label_smoothing < 1, "from 0 to below 1"),
            "shift": (self.shift >= 0, "0 or more pixels"),
            "cutout": (self.cutout >= 0, "0 or more pixels"),
            "first_size": (self.first_size >= 0, "0 or more pixels"),
            "precision": (self.precision in get_args(Precision), "one of " + ", ".join(get_args(Precision))),
            "distill": (0 <= self.distill <= 1, "from 0 to 1"),
            "temperature": (0 < self.temperature < math.inf, "above 0"),
        }
        for name, (fits, expected) in ranges.items():
            if not fits:
                raise EvopruneError(f"{name} is {asdict(self)[name]!r} but must be {expected}")

    def make_optimizer(self, model: nn.Module) -> optim.Optimizer:
        """The optimizer over the parameters of `model` that are trained.

        Raises:
            EvopruneError: there are none.
        """
        parameters = [p for p in model.parameters() if p.requires_grad]
        if not parameters:
            raise EvopruneError("no parameter of the model can be trained; call model.requires_grad_(True)")
        groups = [
            {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": self.weight_decay},
            {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
        ]
        if self.optimizer == "sgd":
            return optim.SGD(groups, lr=self.learning_rate, momentum=0.9, nesterov=True)
        fused = all(p.is_floating_point() for p in parameters)  # for complex ones there is no fused step
        if self.optimizer == "adam":
            return optim.Adam(groups, lr=self.learning_rate, fused=fused)
        return optim.AdamW(groups, lr=self.learning_rate, fused=fused)

    def autocast(self, device: torch.device) -> torch.autocast:
        """A context in which a model's passes run in `precision`; in float32 on GPUs that only emulate bfloat16."""
        wanted = self.precision == "bfloat16"
        if device.type == "cuda":
            wanted = wanted and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.autocast(device.type, torch.bfloat16, enabled=wanted)

    def learning_rate_at(self, progress: float) -> float:
        """The learning rate when the share `progress` (0 to 1) of all steps is done."""
        if self.schedule == "constant":
            return self.learning_rate
        warmup = 0.1 if self.schedule == "one-cycle" else 0.0
        if progress < warmup:
            return self.learning_rate * max(progress / warmup, 0.04)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))

    def sizes(self, full: int) -> set[int]:
        """Pixels a side that the images have in some epoch."""
        return {self.size_at(epoch, full) for epoch in range(self.epochs)}

    def size_at(self, epoch: int, full: int) -> int:
        """Pixels a side of the images of `epoch`, counted from 0, where `full` is what they have."""
        if not 0 < self.first_size < full or epoch == self.epochs - 1:
            return full
        stages = math.ceil((full - self.first_size) / GROWTH)  # smaller than full, all of them equally long
        stage = math.floor(epoch / (0.75 * self.epochs) * stages)
        return min(full, self.first_size + GROWTH * stage)
