"""Masks as images: which weights of a layer stay."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from evoprune.report.style import Theme, figure, style

__all__ = ["MaskImage", "draw_mask", "mask_image"]

MOST_CHANNELS = 32
MOST_PIXELS = 400
FILTERS_A_ROW = 8


@dataclass(frozen=True)
class MaskImage:
    """A mask laid out on a plane.

    Attributes:
        pixels: (height, width) share of the weights under a pixel that stay, 0 or 1 unless a pixel stands
            for several; NaN between kernels.
        xlabel, ylabel: what the two directions are.
        xticks, yticks: (pixel, label) of channels, for convolutions.
        note: how to read it, and what was left out.
    """

    pixels: NDArray[np.float32]
    xlabel: str
    ylabel: str
    xticks: list[tuple[float, str]]
    yticks: list[tuple[float, str]]
    note: str


def mask_image(mask: Tensor) -> MaskImage:
    """Lay out the mask of a layer with a weight of two dimensions or more.

    Args:
        mask: (out, in) of a linear layer or (out, in, *kernel) of a convolution, True where a weight stays.
    """
    bits = mask.numpy()
    if bits[0, 0].size == 1:
        return _matrix(bits.reshape(bits.shape[:2]))
    kernels = bits.reshape(*bits.shape[:2], -1, bits.shape[-1])
    return _row_of_filters(kernels[:, 0]) if kernels.shape[1] == 1 else _kernels(kernels)


def _matrix(bits: NDArray[np.bool_]) -> MaskImage:
    """(out, in): a pixel is a weight, or the mean of a block of them in a large matrix."""
    steps = [-(-length // MOST_PIXELS) for length in bits.shape]
    pixels = bits.astype(np.float32)
    for axis, step in enumerate(steps):
        starts = np.arange(0, bits.shape[axis], step)
        lengths = np.diff([*starts, bits.shape[axis]])
        sums = np.add.reduceat(pixels, starts, axis=axis)
        pixels = (sums / (lengths[:, None] if axis == 0 else lengths)).astype(np.float32)
    whole = "Each pixel is one weight."
    block = f"Each pixel is the share kept in a block of {steps[0]} x {steps[1]} weights."
    return MaskImage(pixels, "input", "output", [], [], whole if max(steps) == 1 else block)


def _kernels(bits: NDArray[np.bool_]) -> MaskImage:
    """(out, in, kernel height, kernel width): rows are output channels, columns input channels."""
    outs, ins, height, width = bits.shape
    rows, columns = _evenly(outs), _evenly(ins)
    tiles = bits[np.ix_(rows, columns)].astype(np.float32)
    pixels = _tile(tiles)
    note = f"Each tile is a {height} x {width} kernel."
    if len(rows) < outs or len(columns) < ins:
        note += f" Shown: {_part(rows, outs)} output and {_part(columns, ins)} input channels, evenly spaced."
    return MaskImage(
        pixels, "input channel", "output channel", _ticks(columns, width + 1), _ticks(rows, height + 1), note
    )


def _row_of_filters(bits: NDArray[np.bool_]) -> MaskImage:
    """(out, kernel height, kernel width), one input channel: filters side by side, wrapped like text."""
    outs, height, width = bits.shape
    shown = _evenly(outs, FILTERS_A_ROW * MOST_CHANNELS)
    a_row = min(len(shown), FILTERS_A_ROW)
    rows = -(-len(shown) // a_row)
    tiles = np.full((rows * a_row, height, width), np.nan, np.float32)
    tiles[: len(shown)] = bits[shown]
    note = f"Each tile is the {height} x {width} filter of one output channel, in reading order."
    if len(shown) < outs:
        note += f" Shown: {len(shown)} of {outs} filters, evenly spaced."
    return MaskImage(_tile(tiles.reshape(rows, a_row, height, width)), "output channel", "", [], [], note)


def _tile(tiles: NDArray[np.float32]) -> NDArray[np.float32]:
    """(rows, columns, height, width) to one plane, with a line of NaN between tiles."""
    rows, columns, height, width = tiles.shape
    padded = np.pad(tiles, ((0, 0), (0, 0), (0, 1), (0, 1)), constant_values=np.nan)
    plane = padded.transpose(0, 2, 1, 3).reshape(rows * (height + 1), columns * (width + 1))
    return plane[:-1, :-1]


def _evenly(channels: int, most: int = MOST_CHANNELS) -> list[int]:
    return [int(index) for index in np.linspace(0, channels - 1, min(channels, most)).round()]


def _part(shown: list[int], channels: int) -> str:
    return f"{len(shown)} of {channels}" if len(shown) < channels else f"all {channels}"


def _ticks(channels: list[int], pitch: int) -> list[tuple[float, str]]:
    every = -(-len(channels) // 8)
    middle = (pitch - 2) / 2
    return [(place * pitch + middle, str(channels[place])) for place in range(0, len(channels), every)]


def draw_mask(image: MaskImage, theme: Theme) -> Figure:
    height, width = image.pixels.shape
    inch = min(3.5 / width, 4.2 / height)
    drawing = figure(theme, max(1.2, inch * width + 0.6), inch * height + 0.6)
    axes = drawing.subplots()
    style(axes, theme, image.xlabel, image.ylabel, grid=None)
    for spine in axes.spines.values():
        spine.set_visible(False)
    if image.xticks or "channel" in image.xlabel:
        axes.set_xticks([place for place, _ in image.xticks], [label for _, label in image.xticks])
        axes.set_yticks([place for place, _ in image.yticks], [label for _, label in image.yticks])
    # From "pruned" to "kept", scaled so that the fullest pixel is as dark as a kept weight.
    pruned, kept = np.array(to_rgb(theme.line)), np.array(to_rgb(theme.palette[0]))
    shares = image.pixels / max(float(np.nanmax(image.pixels)), 1e-6)
    colors = pruned + (kept - pruned) * shares[:, :, None]
    axes.imshow(np.where(np.isnan(colors), to_rgb(theme.paper), colors), interpolation="nearest")
    return drawing
