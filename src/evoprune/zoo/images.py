"""Decoded images with their labels, before they are split and normalized."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

__all__ = ["Images"]


@dataclass(frozen=True)
class Images:
    """One split as it was read.

    Attributes:
        pixels: (N, C, H, W) uint8, C 1 or 3.
        labels: (N,) int64, from 0 to classes - 1.
        classes: number of classes.
    """

    pixels: Tensor
    labels: Tensor
    classes: int

    def take(self, index: Tensor) -> Images:
        """The samples at `index`."""
        return Images(self.pixels[index], self.labels[index], self.classes)
