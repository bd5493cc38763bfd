"""The progress view: what a terminal of a given width shows, and plain lines elsewhere."""

import io
from typing import Any

import pytest
from rich.console import Console

from evoprune import progress
from evoprune.progress import ProgressView

START = {"event": "stage_start", "name": "all layers to 65.00%", "layers": ["a", "b"], "generations": 8, "epochs": 2}
EPOCH = {"event": "epoch", "stage": 0, "loss": 0.0258, "val_score": 0.996}


def generation(number: int, evaluations: int = 1_234_567) -> dict[str, Any]:
    best = {"sparsity": 0.65, "score": 0.882, "loss": 0.1, "fitness": 0.882}
    return {"event": "generation", "stage": 0, "generation": number, "evaluations": evaluations, "best": best}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time; a test sets it."""
    now = [100.0]
    for name in ("perf_counter", "monotonic"):
        monkeypatch.setattr(progress.time, name, lambda: now[0])
    return now


def terminal(width: int = 80) -> ProgressView:
    return ProgressView(console=Console(file=io.StringIO(), force_terminal=True, width=width))


def shown(view: ProgressView) -> list[str]:
    """What the bar looks like now."""
    assert view.bar is not None
    paper = Console(file=io.StringIO(), width=view.console.width)
    paper.print(view.bar.get_renderable())
    assert isinstance(paper.file, io.StringIO)
    return paper.file.getvalue().splitlines()


@pytest.mark.parametrize("width", [80, 120])
def test_everything_is_visible_at_80_columns(width: int, clock: list[float]) -> None:
    view = terminal(width)
    for event in (START, generation(0), generation(1)):
        clock[0] += 10
        view(event)
    clock[0] += 20
    view(generation(2))
    top, bottom = shown(view)
    # Generations 1 and 2 took 10 and 20 s, six are to come; generation 0 prepared and does not count.
    assert "━" * 5 in top
    assert "0:01:30 left" in top
    assert "all layers to 65.00%" in top
    assert bottom.rstrip() == "generation 2/8  best sparsity 65.00%  val 0.8820  1,234,567 evaluations"


def test_a_long_stage_name_takes_room_from_nothing_else(clock: list[float]) -> None:
    view = terminal()
    for event in (START | {"name": "module.encoder.layers.0.attention." * 3}, generation(0)):
        clock[0] += 1
        view(event)
    top, _ = shown(view)
    assert "0:00:16 left" in top
    assert "module.encoder" in top
    assert "…" in top


def test_what_takes_long_before_the_first_generation_is_named() -> None:
    view = terminal()
    view(START)
    top, bottom = shown(view)
    assert "so far" in top
    assert "ordering the weights" in bottom
    view(generation(8))
    assert "fine-tuning" in shown(view)[1]  # the search is over: what runs now


def test_the_layers_whose_weights_are_ordered_are_counted(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    view, plain = terminal(), ProgressView(console=Console(file=io.StringIO()))
    for event in (START, {"event": "ordered", "layers": 1, "of": 2}):
        clock[0] += 10
        view(event)
        plain(event)
    assert shown(view)[1].rstrip() == "preparing: weights ordered in 1 of 2 layers"
    assert "weights ordered in 1 of 2 layers" in capsys.readouterr().err
    plain({"event": "ordered", "layers": 2, "of": 2})
    assert capsys.readouterr().err == "", "not more than a line in five seconds"


def test_where_training_itself_prunes_no_search_is_announced() -> None:
    view = terminal()
    view(START | {"generations": 0})
    assert any("fine-tuning: first epoch" in line for line in shown(view))


def test_fine_tuning(clock: list[float]) -> None:
    view = terminal()
    view(START)
    for epoch in range(2):
        clock[0] += 7
        view(EPOCH | {"epoch": epoch, "epochs": 4})
    top, bottom = shown(view)
    assert "0:00:14 left" in top
    assert bottom.rstrip() == "fine-tuning epoch 2/4  loss 0.0258  val 0.9960"


def test_steps_move_the_bar_within_an_epoch(clock: list[float]) -> None:
    view = terminal()
    view(START | {"generations": 0})
    for done in (0.1, 0.2, 0.3):
        clock[0] += 6
        view({"event": "step", "epochs_done": done, "epochs": 4})
    top, bottom = shown(view)
    assert "0:03:42 left" in top, "a minute an epoch"
    assert bottom.rstrip() == "fine-tuning: first epoch"
    clock[0] += 42
    view(EPOCH | {"epoch": 0, "epochs": 4})
    clock[0] += 30
    view({"event": "step", "epochs_done": 1.5, "epochs": 4})
    top, bottom = shown(view)
    assert "0:02:30 left" in top
    assert bottom.rstrip() == "fine-tuning epoch 1/4  loss 0.0258  val 0.9960"


def test_an_epoch_of_one_step_gives_no_absurd_time(clock: list[float]) -> None:
    view = terminal()
    view(START | {"generations": 0})
    clock[0] += 5
    view({"event": "step", "epochs_done": 1.0, "epochs": 4})
    clock[0] += 1
    view(EPOCH | {"epoch": 0, "epochs": 4})
    assert "so far" in shown(view)[0], "nothing was done since the pace was taken up"


def test_steps_are_a_line_a_minute_where_there_is_no_terminal(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    view = ProgressView(console=Console(file=io.StringIO(), force_terminal=False), doing="training")
    view({"event": "stage_start", "name": "resnet18"})
    for second in range(1, 120):
        clock[0] += 1
        view({"event": "step", "epochs_done": second / 100, "epochs": 3})
    assert capsys.readouterr().err == "resnet18: training: 0.60 of 3 epochs\n"


def test_a_run_resumed_within_a_stage_has_a_bar_but_no_wrong_total() -> None:
    view = terminal()
    view(generation(5))
    top, bottom = shown(view)
    assert "left" not in top
    assert bottom.startswith("generation 5  best")


def test_plain_lines_where_there_is_no_terminal(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    view = ProgressView(console=Console(file=io.StringIO(), force_terminal=False))
    for event in (START, generation(0, 12), generation(1, 24)):
        view(event)
        clock[0] += 3
    clock[0] += 3
    view(generation(2, 36))
    view({"event": "stage_end", "model_sparsity": 0.65, "val_score": 0.9, "accepted": False})
    assert capsys.readouterr().err.splitlines() == [
        "all layers to 65.00%: generation 0/8  best sparsity 65.00%  val 0.8820  12 evaluations  24 s left",
        "all layers to 65.00%: generation 2/8  best sparsity 65.00%  val 0.8820  36 evaluations  27 s left",
        "all layers to 65.00%: sparsity 65.00%  val 0.9000  below the floor: going back",
    ]


def test_fine_tuning_alone_has_no_empty_name(capsys: pytest.CaptureFixture[str]) -> None:
    view = ProgressView(console=Console(file=io.StringIO(), force_terminal=False))
    view(EPOCH | {"epoch": 0, "epochs": 1})
    assert capsys.readouterr().err == "fine-tuning epoch 1/1  loss 0.0258  val 0.9960\n"


def test_quiet_shows_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressView(quiet=True) as view:
        view(START)
        view(generation(8))
    assert capsys.readouterr() == ("", "")
