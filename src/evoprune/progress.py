"""Show a run's events: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

__all__ = ["ProgressView"]

PLAIN_SECONDS = 5.0


class ProgressView:
    """Renders journal events on stderr; call it with each one, inside a `with` block.

    Args:
        quiet: show nothing.
    """

    def __init__(self, quiet: bool = False) -> None:
        self.console = Console(stderr=True)
        self.quiet = quiet
        self.bar: Progress | None = None
        if not quiet and self.console.is_terminal:
            self.bar = Progress(
                TextColumn("{task.description}"), BarColumn(bar_width=24), TextColumn("{task.fields[text]}"),
                TimeRemainingColumn(), console=self.console, transient=True,
            )  # fmt: skip
        self.stage = ""
        self.generations = 0
        self.task: Any = None
        self.last_line = 0.0
        self.last_event = time.perf_counter()
        self.stage_began = 0.0

    def __enter__(self) -> ProgressView:
        if self.bar is not None:
            self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar is not None:
            self.bar.stop()

    def __call__(self, event: dict[str, Any]) -> None:
        """Show one event."""
        show = getattr(self, f"_{event['event']}", None)
        if show is not None and not self.quiet:
            show(event)
        self.last_event = time.perf_counter()

    def _run_start(self, event: dict[str, Any]) -> None:
        self._line(f"dense model: validation score {event['dense_val_score']:.4f}")

    def _stage_start(self, event: dict[str, Any]) -> None:
        self.stage, self.generations = event["name"], event["generations"]
        self._begin(self.generations if event["layers"] else 1)

    def _generation(self, event: dict[str, Any]) -> None:
        best = event["best"]
        text = (
            f"generation {event['generation']}/{self.generations}  best sparsity {best['sparsity']:.2%}"
            f"  val {best['score']:.4f}  {event['evaluations']} evaluations"
        )
        self._step(event["generation"], self.generations, text)

    def _epoch(self, event: dict[str, Any]) -> None:
        done, total = event["epoch"] + 1, event["epochs"]
        if done == 1:
            self._begin(total)
        self._step(
            done,
            total,
            f"fine-tuning epoch {done}/{total}  loss {event['loss']:.4f}  val {event['val_score']:.4f}",
        )

    def _stage_end(self, event: dict[str, Any]) -> None:
        verdict = "" if event["accepted"] else "  below the floor: going back"
        self._line(f"{self.stage}: sparsity {event['model_sparsity']:.2%}  val {event['val_score']:.4f}{verdict}")

    def _begin(self, total: int) -> None:
        self.stage_began = self.last_event
        if self.bar is not None:
            if self.task is not None:
                self.bar.remove_task(self.task)
            self.task = self.bar.add_task(self.stage, total=total, text="")

    def _step(self, done: int, total: int, text: str) -> None:
        if self.bar is not None and self.task is not None:
            self.bar.update(self.task, completed=done, total=total, text=text)
        elif time.perf_counter() - self.last_line >= PLAIN_SECONDS or done >= total:
            left = (time.perf_counter() - self.stage_began) * (total - done) / max(done, 1)
            self._line(f"{self.stage}: {text}" + (f"  {left:.0f} s left" if 0 < done < total else ""))

    def _line(self, text: str) -> None:
        self.last_line = time.perf_counter()
        if self.bar is not None:
            self.bar.console.print(text, highlight=False)
        else:
            print(text, file=sys.stderr, flush=True)
