"""How a stage trains: when its masks tighten, along which schedule, and when it gives up."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import evoprune
from evoprune.core import weight_of
from evoprune.run import runner
from evoprune.surgery import FineTuner

from .conftest import data, net

QUICK = {"threads": 1, "batch_size": 50}


def search(**options: Any) -> dict[str, Any]:
    return {"population": 2, "generations": 1, "guidance": "magnitude"} | options


@pytest.fixture
def epochs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, float, int]]:
    """Of every epoch: its schedule, the highest learning rate at its end, and the weights that are left."""
    seen, epoch = [], FineTuner.epoch

    def watched(tuner: FineTuner, number: int, *place: Any, **options: Any) -> float:
        loss = epoch(tuner, number, *place, **options)
        left = sum(int(mask.sum()) for mask in tuner.masks.values())
        seen.append((tuner.recipe.schedule, tuner.recipe.learning_rate_at((number + 1) / tuner.recipe.epochs), left))
        return loss

    monkeypatch.setattr(FineTuner, "epoch", watched)
    return seen


def test_masks_tighten_in_all_epochs_of_a_stage_but_the_final_ones(epochs: list[tuple[str, float, int]]) -> None:
    evoprune.prune(
        net(), evoprune.accuracy(data()), train=data(), passes=[0.8], guidance="gradient", finetune_epochs=4,
        final_epochs=2, **QUICK,
    )  # fmt: skip
    left = [left for _, _, left in epochs]
    assert 200 > left[0] > left[1] > left[2] > left[3] == left[4] == left[5] == 40


def test_short_epochs_follow_one_schedule_and_final_ones_the_other(epochs: list[tuple[str, float, int]]) -> None:
    evoprune.prune(
        net(), evoprune.accuracy(data()), train=data(), passes=[0.5], finetune_epochs=2, final_epochs=2,
        learning_rate=0.01, finetune_schedule="constant", final_schedule="cosine", **QUICK, **search(),
    )  # fmt: skip
    assert [schedule for schedule, _, _ in epochs] == ["constant", "constant", "cosine", "cosine"]
    assert [rate for _, rate, _ in epochs] == pytest.approx([0.01, 0.01, 0.005, 0.0])


@pytest.mark.parametrize(("floor", "second"), [(0.75, "constant"), (0.7500001, "cosine")])
def test_final_epochs_are_for_what_is_below_the_floor_not_at_it(
    floor: float, second: str, epochs: list[tuple[str, float, int]]
) -> None:
    """All but the last of several passes."""

    def score(model: nn.Module) -> float:
        return 0.75 if bool((weight_of(model, "0") == 0).any()) else 0.8

    evoprune.prune(
        net(), score, train=data(), passes=[0.3, 0.6], finetune_epochs=1, final_epochs=4, floor=floor, **QUICK,
        **search(),
    )  # fmt: skip
    assert [schedule for schedule, _, _ in epochs][:2] == ["constant", second]


def test_half_way_the_scores_since_the_last_short_epoch_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[list[float], float | None, float]] = []

    def hopeless(scores: list[float], floor: float | None, dense: float) -> bool:
        asked.append((list(scores), floor, dense))
        return True

    monkeypatch.setattr(runner, "is_hopeless", hopeless)
    events: list[dict[str, Any]] = []
    scores = iter(0.9 - 0.01 * number for number in range(100))
    evoprune.prune(
        net(), lambda _: next(scores), train=data(), passes=[0.3, 0.6], finetune_epochs=2, final_epochs=4, floor=0.89,
        listener=events.append, **QUICK, **search(),
    )  # fmt: skip
    first = [event["val_score"] for event in events if event["event"] == "epoch" and event["stage"] == 0]
    assert len(first) == 4
    assert asked[0] == (first[1:], 0.89, 0.9)


def test_a_search_sees_one_memory_layout_before_and_after_training() -> None:
    """Else a resumed run would compute in another one than a run in one go, where the model came in another one."""
    seen: list[bool] = []
    searches: list[bool] = []

    def listen(event: dict[str, Any]) -> None:
        if event["event"] == "generation":
            searches.extend(seen)
        seen.clear()

    def score(model: nn.Module) -> float:
        seen.append(weight_of(model, "0").is_contiguous())
        return 1.0

    net = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Flatten(), nn.Linear(64, 2)).to(memory_format=torch.channels_last)
    train = torch.rand(20, 2, 6, 6), torch.arange(20) % 2
    result = evoprune.prune(
        net, score, train=train, passes=[0.3, 0.6], finetune_epochs=1, final_epochs=0, listener=listen, **QUICK,
        **search(),
    )  # fmt: skip
    assert searches == [True] * 8
    assert weight_of(result.model, "0").is_contiguous(memory_format=torch.channels_last)


def test_half_way_the_scores_of_earlier_stages_play_no_part(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[float]] = []
    epochs = 0

    def hopeless(scores: list[float], *_: Any) -> bool:
        asked.append(list(scores))
        return False

    def listen(event: dict[str, Any]) -> None:
        nonlocal epochs
        epochs = epochs + 1 if event["event"] == "epoch" else 0 if event["event"].startswith("stage") else epochs

    def score(model: nn.Module) -> float:
        return (0.5, 0.6, 0.7, 0.95)[epochs] if bool((weight_of(model, "0") == 0).any()) else 1.0

    monkeypatch.setattr(runner, "is_hopeless", hopeless)
    evoprune.prune(
        net(), score, train=data(), passes=[0.3, 0.5, 0.9], finetune_epochs=1, final_epochs=2, floor=0.9,
        listener=listen, **QUICK, **search(),
    )  # fmt: skip
    assert asked == [[0.5, 0.6]] * 2
