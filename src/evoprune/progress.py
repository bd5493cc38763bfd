"""Show a run's events: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.table import Column
from rich.text import Text

__all__ = ["ProgressView"]

PLAIN_SECONDS = 5.0
PLAIN_STEP_SECONDS = 60.0
"""Without a terminal: between lines within an epoch."""
BAR_SECONDS = 0.2
"""Between two looks at the steps of an epoch."""


class ProgressView:
    """Renders journal events on stderr; call it with each one, inside a `with` block.

    Args:
        quiet: show nothing.
        console: where to; stderr by default.
        doing: what its epochs are called.
    """

    def __init__(self, quiet: bool = False, console: Console | None = None, doing: str = "fine-tuning") -> None:
        self.console = console or Console(stderr=True)
        self.quiet, self.doing = quiet, doing
        self.bar = _Bar(console=self.console) if not quiet and self.console.is_terminal else None
        self.stage = ""
        self.generations = 0
        self.epochs = 0
        self.trains = False
        self.task: Any = None
        self.last_line = 0.0
        self.last_step = 0.0
        self.last_event = time.perf_counter()
        self.since: tuple[float, float] = self.last_event, 0
        """When, and after how many steps, the pace of the present part was last taken up."""

    def __enter__(self) -> ProgressView:
        if self.bar is not None:
            self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.stop()

    def __call__(self, event: dict[str, Any]) -> None:
        """Show one event."""
        show = getattr(self, f"_{event['event']}", None)
        if show is not None and not self.quiet:
            show(event)
        if event["event"] != "step":
            self.last_event = time.perf_counter()

    def _run_start(self, event: dict[str, Any]) -> None:
        self._line(f"dense model: validation score {event['dense_val_score']:.4f}")

    def _stage_start(self, event: dict[str, Any]) -> None:
        self.stage, self.generations, self.epochs = event["name"], event.get("generations", 0), event.get("epochs", 0)
        self.trains = False
        if self.generations:
            self._begin(None, "preparing: ordering the weights, scoring the first candidates")
        else:
            self._begin(None, f"{self.doing}: first epoch")

    def _ordered(self, event: dict[str, Any]) -> None:
        self._busy(f"preparing: weights ordered in {event['layers']} of {event['of']} layers")

    def _generation(self, event: dict[str, Any]) -> None:
        best, number = event["best"], event["generation"]
        known = f"/{self.generations}" if self.generations else ""  # a resumed run goes on within a stage
        text = (
            f"generation {number}{known}  best sparsity {best['sparsity']:.2%}"
            f"  val {best['score']:.4f}  {event['evaluations']:,} evaluations"
        )
        # Generation 0 is a step too: the time it took is the first estimate of those to come.
        self._advance(number + 1, self.generations + 1 if self.generations else None, text)
        if self.epochs and number == self.generations:
            self._begin(None, f"{self.doing}: first epoch")

    def _epoch(self, event: dict[str, Any]) -> None:
        done, total = event["epoch"] + 1, event["epochs"]
        text = f"{self.doing} epoch {done}/{total}  loss {event['loss']:.4f}  val {event['val_score']:.4f}"
        self._train(done, total, text)

    def _step(self, event: dict[str, Any]) -> None:
        now, done, total = time.perf_counter(), event["epochs_done"], event["epochs"]
        if self.bar is not None:
            if now - self.last_step >= BAR_SECONDS:
                self.last_step = now
                self._train(done, total)
        elif now - max(self.last_line, self.last_event) >= PLAIN_STEP_SECONDS:
            self._train(done, total, f"{self.doing}: {done:.2f} of {total} epochs")

    def _train(self, done: float, total: int, text: str = "") -> None:
        if not self.trains:
            self.trains = True
            self._begin(total, text or f"{self.doing}: first epoch")
        self._advance(done, total, text)

    def _stage_end(self, event: dict[str, Any]) -> None:
        verdict = "" if event["accepted"] else "  below the floor: going back"
        self._line(self._named(f"sparsity {event['model_sparsity']:.2%}  val {event['val_score']:.4f}{verdict}"))

    def _begin(self, total: int | None, text: str) -> None:
        """A new part of the run; without a total the bar only says that something moves."""
        self.since = self.last_event, 0
        if self.bar is not None:
            if self.task is not None:
                self.bar.remove_task(self.task)
            self.task = self.bar.add_task(self.stage or self.doing, total=total, text=text, ends=None)

    def _advance(self, done: float, total: int | None, text: str) -> None:
        """So much of the part is done; without a text the bar keeps its own."""
        now, (began, before) = time.perf_counter(), self.since
        left = None if total is None or done == before else (now - began) * (total - done) / (done - before)
        if before == 0:  # what comes first prepares what the others find ready: it says little of their pace
            self.since = now, done
            left = left if 1 <= done < 2 else None  # nor does a part that a resumed run goes on with
        if self.bar is not None:
            if self.task is None:
                self._begin(total, text)
            ends = time.monotonic() + left if left else None
            text = text or self.bar.tasks[0].fields["text"]
            self.bar.update(self.task, completed=done, total=total, text=text, ends=ends)
        elif now - self.last_line >= PLAIN_SECONDS or done == total:
            self._line(self._named(text) + (f"  {left:.0f} s left" if left else ""))

    def _busy(self, text: str) -> None:
        """Something moves, at no known pace."""
        if self.bar is not None and self.task is not None:
            self.bar.update(self.task, text=text)
        elif time.perf_counter() - self.last_line >= PLAIN_SECONDS:
            self._line(self._named(text))

    def _named(self, text: str) -> str:
        return f"{self.stage}: {text}" if self.stage else text

    def _line(self, text: str) -> None:
        self.last_line = time.perf_counter()
        if self.bar is not None:
            self.bar.console.print(text, highlight=False, markup=False)
        else:
            print(text, file=sys.stderr, flush=True)


class _Bar(Progress):
    """Two lines, so that 80 columns hold everything: bar, time and stage; under them the numbers."""

    def __init__(self, console: Console) -> None:
        stage = TextColumn(
            "{task.description}", markup=False, table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")
        )
        super().__init__(BarColumn(bar_width=24), _Time(), stage, console=console, transient=True, expand=True)

    def get_renderables(self) -> Iterable[RenderableType]:
        for task in self.tasks:
            yield self.make_tasks_table([task])
            yield Text(task.fields["text"], no_wrap=True, overflow="ellipsis")


class _Time(ProgressColumn):
    """The time that is left by the pace so far, or the time since the part began while no pace is known."""

    def render(self, task: Task) -> Text:
        ends = task.fields["ends"]
        seconds = task.elapsed or 0.0 if ends is None else max(0.0, ends - time.monotonic())
        return Text(f"{timedelta(seconds=round(seconds))} {'so far' if ends is None else 'left'}", no_wrap=True)
