"""How figures look: two themes (paper white, screen dark) and the axes every figure starts from.

The palette is Okabe and Ito's, which readers with any colour vision can tell apart
(https://jfly.uni-koeln.de/color/); nothing here touches matplotlib's global state.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

__all__ = [
    "DARK", "LIGHT", "Theme", "figure", "legend_below", "legend_name", "png", "share_axis", "stage_colors", "style",
    "write",
]  # fmt: skip


@dataclass(frozen=True)
class Theme:
    """The colours of one figure."""

    paper: str
    ink: str
    muted: str
    line: str
    palette: tuple[str, ...]
    ramp: tuple[float, float]

    @property
    def colormap(self) -> ListedColormap:
        """Viridis without the end that vanishes in the paper."""
        viridis = matplotlib.colormaps["viridis"]
        low, high = self.ramp
        return ListedColormap([viridis(low + (high - low) * step / 255) for step in range(256)])


LIGHT = Theme(
    paper="#ffffff", ink="#1c2024", muted="#60666d", line="#e3e6e9",
    palette=("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"), ramp=(0.0, 0.9),
)  # fmt: skip
DARK = Theme(
    paper="#1a1d21", ink="#e6e8ea", muted="#9aa1a8", line="#31363c",
    palette=("#56b4e9", "#e69f00", "#20b890", "#cc79a7", "#f0e442", "#4f8fe0"), ramp=(0.25, 1.0),
)  # fmt: skip


def figure(theme: Theme, width: float = 8.2, height: float = 3.6) -> Figure:
    """An empty figure, `width` x `height` inches."""
    return Figure(figsize=(width, height), dpi=160, layout="constrained", facecolor=theme.paper)


def style(axes: Axes, theme: Theme, xlabel: str = "", ylabel: str = "", grid: str | None = "both") -> None:
    """Labels, quiet spines and a faint grid behind the data."""
    axes.set_facecolor(theme.paper)
    axes.set_xlabel(xlabel, color=theme.muted, fontsize=9)
    axes.set_ylabel(ylabel, color=theme.muted, fontsize=9)
    axes.tick_params(colors=theme.muted, labelsize=8, length=0)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(theme.line)
    axes.set_axisbelow(True)
    if grid is not None:
        axes.grid(True, axis=grid, color=theme.line, linewidth=0.8)  # type: ignore[arg-type]


def write(
    axes: Axes, text: str, at: tuple[float, float], offset: tuple[float, float], color: str, **options: Any
) -> None:
    """Small text `offset` points from a place, also outside the axes; no mathematics in it."""
    axes.annotate(
        text,
        at,
        xytext=offset,
        textcoords="offset points",
        color=color,
        annotation_clip=False,
        parse_math=False,
        **({"fontsize": 8} | options),
    )


def share_axis(axes: Axes, theme: Theme, name: Literal["x", "y"] = "x") -> None:
    """A logarithmic axis for the share of weights that stays, in percent; across, the dense model is at the left."""
    axis = axes.xaxis if name == "x" else axes.yaxis
    (axes.set_xscale if name == "x" else axes.set_yscale)("log")
    if name == "x" and not axes.xaxis_inverted():  # panels may share it
        axes.invert_xaxis()
    axis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:g}"[0] in "25" else "")
    axes.tick_params(axis=name, which="minor", colors=theme.muted, labelsize=8, length=0)


def legend_below(drawing: Figure, panels: Sequence[Axes], theme: Theme, columns: int = 3, **options: Any) -> None:
    """One frameless legend for all panels, under the figure, where it covers no data."""
    named = {name: handle for axes in panels for handle, name in zip(*axes.get_legend_handles_labels(), strict=True)}
    box = drawing.legend(
        list(named.values()), list(named), loc="outside lower center", ncols=min(columns, len(named)),
        frameon=False, fontsize=8, labelcolor=theme.ink, **options,
    )  # fmt: skip
    for text in box.get_texts():
        text.set_parse_math(False)


def legend_name(name: str) -> str:
    """A name of the user's as a legend shows it: matplotlib leaves out what begins with an underscore."""
    return f" {name}" if name.startswith("_") else name


def stage_colors(theme: Theme, numbers: Sequence[int]) -> list[Any]:
    """A colour for each of these stages of the run: distinct ones for a few, a ramp from first to last for many."""
    if len(numbers) <= len(theme.palette):
        return list(theme.palette[: len(numbers)])
    first, last = numbers[0], numbers[-1]
    return [theme.colormap((number - first) / (last - first)) for number in numbers]


def png(drawing: Figure) -> bytes:
    """The figure as a PNG file's content."""
    buffer = io.BytesIO()
    # No creation date or version inside: the same run gives the same file.
    drawing.savefig(buffer, format="png", facecolor=drawing.get_facecolor(), metadata={"Software": None})
    return buffer.getvalue()
