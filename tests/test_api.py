"""prune and resume as a Python user calls them."""

from __future__ import annotations

import copy
import itertools
import json
import logging
import random
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import evoprune
from evoprune import EvopruneError, api, tasks
from evoprune.core import generator
from evoprune.evaluation import make_evaluator
from evoprune.evaluation.moments import layer_moments
from evoprune.report import write_report
from evoprune.run import Runner, searching, time_limit
from evoprune.run.state import load_state, save_state
from evoprune.run.time_limit import TimeLimit
from evoprune.surgery import FineTuner

QUICK = {
    "threads": 1, "population": 3, "generations": 1, "finetune_epochs": 1, "final_epochs": 1, "batch_size": 16,
    "recalibrate": False,
}  # fmt: skip


@pytest.fixture(autouse=True)
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than all the rest."""
    monkeypatch.setattr(api, "write_report", lambda _: None)


def data(samples: int = 64) -> tuple[Tensor, Tensor]:
    inputs = torch.randn(samples, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    return inputs, (inputs[:, 0, :3].mean((1, 2)) > inputs[:, 0, 3:].mean((1, 2))).long()


@cache
def _trained() -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Dropout(0.1), nn.Flatten(), nn.Linear(48, 2)
    )
    optimizer, (inputs, targets) = torch.optim.Adam(net.parameters(), 0.03), data()
    for _ in range(20):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(inputs), targets).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return net.eval()


def model() -> nn.Sequential:
    return copy.deepcopy(_trained())


def quick(net: nn.Module, score: Any = None, train: Any = "given", **options: Any) -> evoprune.Result:
    score = evoprune.accuracy(data()) if score is None else score
    train = data() if isinstance(train, str) else train
    if not {"sparsity", "preset", "max_drop", "floor", "passes"} & options.keys():
        options["sparsity"] = 0.6
    return evoprune.prune(net, score, train=train, **(QUICK | options))


def margin(net: nn.Module) -> float:
    """A plain function as the score."""
    inputs, targets = data()
    with torch.no_grad():
        return float(net(inputs).log_softmax(1).gather(1, targets[:, None]).mean())


def consistent(result: evoprune.Result, layers: int = 2) -> None:
    """Masks, weights and numbers say the same, and no layer is empty."""
    assert len(result.masks) == layers
    zeros = total = 0
    modules: dict[str, nn.Module] = dict(result.model.named_modules())
    for name, mask in result.masks.items():
        weight = (modules.get(name) or modules[f"module.{name}"]).get_parameter("weight").detach().cpu()
        assert mask.dtype == torch.bool
        assert mask.shape == weight.shape
        assert bool(mask.any())
        assert bool((weight[~mask] == 0).all())
        assert not bool(torch.signbit(weight[~mask]).any())
        zeros, total = zeros + int((~mask).sum()), total + mask.numel()
    pruned = result.summary["pruned"]
    assert result.sparsity == pytest.approx(zeros / total)
    assert pruned["nonzero_weights"] == total - zeros
    assert pruned["weights"] == total
    assert pruned["sparsity"] == pytest.approx(result.sparsity)
    assert pruned["val_score"] == result.score
    assert [row["kept"] for row in result.summary["layers"]] == [int(mask.sum()) for mask in result.masks.values()]
    json.dumps(result.summary, allow_nan=False)


@pytest.mark.parametrize("sparsity", [0.3, 0.5, 0.8, 0.95])
def test_the_sparsity_asked_for_is_the_sparsity_reached(sparsity: float) -> None:
    result = quick(model(), sparsity=sparsity)
    consistent(result)
    assert result.summary["pruned"]["nonzero_weights"] == round((1 - sparsity) * (27 + 96))
    assert result.score == evoprune.accuracy(data())(result.model)


def test_no_sparsity_empties_a_layer() -> None:
    result = quick(model(), sparsity=0.999)
    consistent(result)
    assert [int(mask.sum()) for mask in result.masks.values()] == [1, 1]


@pytest.mark.parametrize("options", [{}, {"preset": "original", "floor": 0.1}])
@pytest.mark.parametrize("mode", ["train", "eval", "mixed"])
def test_the_given_model_is_left_as_found(options: dict[str, Any], mode: str) -> None:
    net = model().train(mode != "eval")
    if mode == "mixed":
        net[1].eval()
    calls: list[int] = []
    handle = net[0].register_forward_hook(lambda *_: calls.append(1))
    net[5].weight.requires_grad_(False)
    net[5].bias.grad = torch.ones(2)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    modes, parameters = [module.training for module in net.modules()], list(net.parameters())
    result = quick(net, **options)
    consistent(result)
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert [module.training for module in net.modules()] == modes
    assert [module.training for module in result.model.modules()] == modes
    assert all(a is b for a, b in zip(net.parameters(), parameters, strict=True))
    assert not net[5].weight.requires_grad
    assert torch.equal(net[5].bias.grad, torch.ones(2))
    assert len(net[0]._forward_hooks) == 1
    assert all(not module._forward_pre_hooks for module in net.modules())
    handle.remove()
    assert result.model is not net
    assert not set(map(id, result.model.parameters())) & set(map(id, parameters))


def test_inplace_is_the_given_model_itself() -> None:
    net, apart = model(), quick(model())
    result = quick(net, inplace=True)
    assert result.model is net
    assert not net.training
    consistent(result)
    assert all(torch.equal(tensor, apart.model.state_dict()[name]) for name, tensor in net.state_dict().items())


@pytest.mark.parametrize("step", ["generation", "epoch"])
def test_a_model_that_was_to_be_changed_in_place_is_usable_after_an_interruption(step: str, tmp_path: Path) -> None:
    net = model().eval()
    net[0].to(memory_format=torch.channels_last)
    gradients = [torch.ones_like(parameter) for parameter in net.parameters()]
    for parameter, gradient in zip(net.parameters(), gradients, strict=True):
        parameter.grad = gradient

    def stop(event: dict[str, Any]) -> None:
        if event["event"] == step:
            raise KeyboardInterrupt

    def as_before() -> None:
        assert not any(module.training for module in net.modules())
        assert all(p.grad is gradient for p, gradient in zip(net.parameters(), gradients, strict=True))
        assert net[0].weight.is_contiguous(memory_format=torch.channels_last)

    with pytest.raises(KeyboardInterrupt):
        quick(net, inplace=True, out=tmp_path / "run", listener=stop)
    as_before()
    given = {"model": net, "score": evoprune.accuracy(data()), "train": data(), "inplace": True}
    if step == "epoch":
        with pytest.raises(KeyboardInterrupt):
            evoprune.resume(tmp_path / "run", **given, listener=stop)
        as_before()
    consistent(evoprune.resume(tmp_path / "run", **given))
    as_before()


class Skips(nn.Module):
    """Draws from numpy and from Python in training, as LayerDrop and SpecAugment of many models do."""

    def __init__(self) -> None:
        super().__init__()
        self.net = model()

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1, 6, 6) to (B, 2)."""
        if self.training:
            x = x * (random.random() + np.random.rand())  # noqa: NPY002
        return self.net(x)


def test_what_a_model_draws_from_numpy_and_python_is_the_same_each_time() -> None:
    first = quick(Skips(), guidance="magnitude")
    random.seed(5)
    np.random.seed(5)  # noqa: NPY002
    before = random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    second = quick(Skips(), guidance="magnitude")
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before  # noqa: NPY002
    assert all(torch.equal(first.model.state_dict()[name], t) for name, t in second.model.state_dict().items())


def test_a_test_score_that_does_not_fit_is_found_before_the_run() -> None:
    events: list[Any] = []
    for test in (evoprune.accuracy((data()[0], data()[1] + 7)), evoprune.accuracy((data()[0][:, :, :3], data()[1]))):
        with pytest.raises(EvopruneError, match=r"target is class 8|cannot take the scoring data"):
            quick(model(), test=test, listener=events.append)
    assert not events


def test_a_test_function_that_breaks_loses_no_model(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    def broken(_: nn.Module) -> float:
        raise KeyError("images")

    def broken_later(net: nn.Module) -> float:
        return float("nan") if any(bool((p == 0).any()) for p in net.parameters() if p.dim() > 1) else 1.0

    result = quick(model(), test=broken_later)
    assert result.summary["dense"]["test_score"] is result.summary["pruned"]["test_score"] is None
    result = quick(model(), test=broken)
    consistent(result)
    assert result.summary["dense"]["test_score"] is result.summary["pruned"]["test_score"] is None
    assert "no test score: the score function broken raised KeyError" in caplog.text
    with pytest.raises(EvopruneError, match="broken raised"):
        quick(model(), test=broken, out=tmp_path / "run")
    given = {"model": model(), "score": evoprune.accuracy(data()), "train": data()}
    assert evoprune.resume(tmp_path / "run", **given, test=margin).summary["pruned"]["test_score"] is not None


def test_a_score_that_converts_the_model_is_one_line() -> None:
    def score(net: nn.Module) -> float:
        return -float(net.double()[5].weight.detach().abs().sum())  # type: ignore[index]

    with pytest.raises(EvopruneError, match=r"score changed the model: .*float32 on cpu, and are torch.float64 on cpu"):
        quick(model(), score)


def test_a_score_may_say_that_it_needs_no_gradients() -> None:
    net = model()
    net[0].bias.requires_grad_(False)
    result = quick(net, lambda pruned: margin(pruned.requires_grad_(False)))
    assert result.summary["finetune"]["epochs"] > 0
    assert [p.requires_grad for p in result.model.parameters()] == [p.requires_grad for p in net.parameters()]
    assert any(p.requires_grad for p in net.parameters())


@pytest.mark.parametrize(
    ("options", "words"),
    [({}, "--recalibrate measures"), ({"recalibrate": None}, "smaller steps"), ({"train": None}, "smaller steps")],
)
def test_a_search_that_only_guesses_says_so(
    options: dict[str, Any], words: str, caplog: pytest.LogCaptureFixture
) -> None:
    quick(model(), passes=[0.99], **options)
    assert "no candidate does better than guessing (0." in caplog.text
    assert words in caplog.text
    caplog.clear()
    quick(model(), passes=[0.3], **options)
    assert "guessing" not in caplog.text


def test_a_late_label_out_of_range_is_one_line() -> None:
    inputs, targets = data(4000)
    targets[-1] = 9
    with pytest.raises(EvopruneError, match="a label that is no class number from 0 to 1"):
        quick(model(), train=DataLoader(TensorDataset(inputs, targets), 100))


@pytest.mark.parametrize("train", ["tensors", "loader", None])
def test_random_states_are_left_as_found_and_play_no_part(train: str | None) -> None:
    def states() -> tuple[Any, ...]:
        return torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002

    given = {"tensors": data(), "loader": DataLoader(TensorDataset(*data()), 16, shuffle=True), None: None}[train]
    before = states()
    first = quick(model(), train=given)
    assert states() == before
    torch.manual_seed(77)
    second = quick(model(), train=given)
    assert all(torch.equal(first.masks[name], mask) for name, mask in second.masks.items())
    assert all(torch.equal(first.model.state_dict()[name], t) for name, t in second.model.state_dict().items())
    other = quick(model(), train=given, seed=1)
    assert any(not torch.equal(first.masks[name], mask) for name, mask in other.masks.items())


def test_without_training_data_the_kept_weights_are_the_dense_ones(caplog: pytest.LogCaptureFixture) -> None:
    dense = model()
    result = quick(dense, train=None)
    consistent(result)
    for name, mask in result.masks.items():
        weight = dense.get_parameter(f"{name}.weight")
        assert torch.equal(result.model.get_parameter(f"{name}.weight"), weight * mask)
    assert result.summary["finetune"]["epochs"] == 0
    assert "this means nothing: batch_size, final_epochs, finetune_epochs" in caplog.text


def test_fine_tuned_weights_survive_the_next_search(monkeypatch: pytest.MonkeyPatch) -> None:
    take_best, found = Runner._take_best, []

    def watched(self: Runner, stage: Any, space: Any) -> None:
        before = {name: tensor.clone() for name, tensor in self.state.now.model.items()}
        masks = dict(self.state.now.masks)
        take_best(self, stage, space)
        for name, mask in self.state.now.masks.items():
            both = mask & masks[name]
            found.append(torch.equal(before[f"{name}.weight"][both], self.state.now.model[f"{name}.weight"][both]))

    monkeypatch.setattr(Runner, "_take_best", watched)
    quick(model(), sparsity=0.9)
    assert len(found) >= 4
    assert all(found)


def test_a_plain_function_is_a_score() -> None:
    calls: list[bool] = []

    def score(net: nn.Module) -> float:
        calls.append(net.training)
        return margin(net)

    result = quick(model(), score)
    consistent(result)
    assert result.summary["search"]["evaluations"] <= len(calls)
    assert result.summary["score_name"] == "score"
    assert not any(calls), "after fine-tuning, too, it sees the model in eval mode"


def test_what_only_the_command_knows_is_refused() -> None:
    with pytest.raises(EvopruneError, match="checkpoint is nothing that `prune` takes"):
        quick(model(), checkpoint="weights.safetensors")
    quick(model(), checkpoint=None)


def test_an_own_function_called_accuracy_may_have_any_unit() -> None:
    def accuracy(net: nn.Module) -> float:
        return 97.5 + margin(net)

    result = quick(model(), accuracy)
    assert result.summary["score_name"] == "own accuracy"
    assert "97" in str(result)
    assert "97.5 %" not in str(result)
    assert "9750" not in str(result)


def test_a_score_may_return_a_tensor_or_an_int() -> None:
    for kind in (torch.tensor, int, np.float32):
        consistent(quick(model(), lambda net, kind=kind: kind(margin(net))))


def test_a_data_loader_trains_like_any_data() -> None:
    consistent(quick(model(), train=DataLoader(TensorDataset(*data()), 16, shuffle=True)))
    consistent(quick(model(), train=list(zip(*(part.split(16) for part in data()), strict=True))))


def test_test_scores_are_read_for_both_models() -> None:
    result = quick(model(), test=evoprune.accuracy(data(32)))
    assert result.summary["dense"]["test_score"] == evoprune.accuracy(data(32))(model())
    assert result.summary["pruned"]["test_score"] == evoprune.accuracy(data(32))(result.model)


@pytest.mark.parametrize("after", [0, 1, 6])
@pytest.mark.parametrize("kind", ["nan", "raises", "text"])
def test_a_score_that_breaks_is_one_line_and_nothing_is_lost(after: int, kind: str, tmp_path: Path) -> None:
    def score(net: nn.Module) -> Any:
        calls.append(1)
        if len(calls) <= after or not broken:
            return margin(net)
        if kind == "raises":
            raise RuntimeError("out of\nmemory")
        return float("nan") if kind == "nan" else "high"

    calls: list[int] = []
    broken = True
    net, out = model(), tmp_path / "run"
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    with pytest.raises(EvopruneError, match="score") as error:
        quick(net, score, train=None, out=out)
    assert "\n" not in str(error.value)
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    broken = False
    if after == 0:  # the dense model is scored before a folder is made, so the corrected call just works
        assert not out.exists()
        return
    resumed = evoprune.resume(out, net, score)
    whole = quick(model(), score, train=None)
    assert all(torch.equal(whole.masks[name], mask) for name, mask in resumed.masks.items())


def test_a_score_of_minus_infinity_is_a_bad_candidate_not_an_error(tmp_path: Path) -> None:
    dense = margin(model())

    def score(net: nn.Module) -> float:
        found = margin(net)
        return found if found > 1.5 * dense - 0.3 else -float("inf")

    result = quick(model(), score, out=tmp_path, floor=-1e9, sparsity=0.9, train=None)
    events = [json.loads(line) for line in (tmp_path / "journal.jsonl").read_text().splitlines()]
    scores = [s for event in events if event["event"] == "generation" for s in event["candidates"]["score"]]
    assert None in scores
    consistent(result)
    assert all(point["score"] is not None for point in json.loads((tmp_path / "result.json").read_text())["front"])


@pytest.mark.parametrize("guidance", ["wanda", "learned", "gradient"])
def test_a_guidance_without_anything_to_look_at_is_an_error(guidance: str, tmp_path: Path) -> None:
    with pytest.raises(EvopruneError, match=f"--guidance {guidance} looks at samples: pass `train`"):
        quick(model(), margin, train=None, guidance=guidance, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    quick(model(), margin, train=None, guidance="none")


def test_stages_of_no_score_are_in_no_front(tmp_path: Path) -> None:
    """Whatever a stage prunes here is worth nothing, and the next as little."""
    dense = margin(model())
    result = quick(
        model(), lambda net: 0.5 if margin(net) == dense else -float("inf"), out=tmp_path, sparsity=0.9, train=None
    )
    assert result.front == []
    assert write_report(tmp_path).exists()


def test_a_model_that_held_the_floor_is_not_given_up_for_one_that_final_fine_tuning_spoiled() -> None:
    """Every epoch of a stage costs a little here; the final ones together cost more than the floor allows."""
    ends: list[tuple[float, bool]] = []
    epochs = 0

    def listener(event: dict[str, Any]) -> None:
        nonlocal epochs
        epochs = epochs + 1 if event["event"] == "epoch" else 0 if event["event"].startswith("stage") else epochs
        if event["event"] == "stage_end":
            ends.append((event["model_sparsity"], event["accepted"]))

    result = quick(
        model(), lambda _: 1 - 0.01 * epochs, listener=listener, max_drop=5, passes=[0.5, 0.9], finetune_epochs=1,
        final_epochs=10,
    )  # fmt: skip
    assert [accepted for _, accepted in ends] == [True, False, False]
    assert ends[0][0] == ends[2][0] == result.sparsity
    assert result.score == 1.0


def test_a_floor_above_the_dense_score_says_what_that_is() -> None:
    with pytest.raises(EvopruneError, match=r"floor 1\.5 is above the dense model's own validation score") as error:
        quick(model(), margin, floor=1.5)
    assert "\n" not in str(error.value)


def test_a_floor_nothing_holds_gives_the_dense_model() -> None:
    dense = margin(model())
    result = quick(model(), margin, floor=dense, train=None)
    assert result.sparsity == 0
    assert result.score == pytest.approx(dense)
    assert "nothing could be pruned" in result.summary["status"]
    assert all(torch.equal(tensor, model().state_dict()[name]) for name, tensor in result.model.state_dict().items())


def test_the_floor_is_held() -> None:
    result = quick(model(), max_drop=10, learning_rate=0.01)
    dense = result.summary["dense"]["val_score"]
    assert result.score >= dense - 0.1
    assert 0 < result.sparsity < 1
    assert result.front
    assert [point["sparsity"] for point in result.front] == sorted(point["sparsity"] for point in result.front)


def test_a_score_that_never_falls_ends_at_one_weight_a_layer() -> None:
    result = quick(model(), lambda _: 1.0, train=None, max_drop=1.0)
    assert [int(mask.sum()) for mask in result.masks.values()] == [1, 1]


def test_one_layer_or_several_by_name() -> None:
    result = quick(model(), layers=["module.5"], sparsity=0.5)
    assert list(result.masks) == ["5"]
    assert int(result.masks["5"].sum()) == 48
    assert result.sparsity == pytest.approx(48 / 123)
    with pytest.raises(EvopruneError, match="unknown layer 'fc'"):
        quick(model(), layers=["5", "fc"])


@pytest.mark.parametrize(
    ("call", "words"),
    [(lambda: evoprune.prune("lenet5", margin), "model is a str"), (lambda: quick(model(), 5), "score is a int"),
     (lambda: quick(model(), train=5), "training data is a int"), (lambda: quick(nn.ReLU()), "no layer"),
     (lambda: quick(model(), populaton=5), "populaton"), (lambda: quick(model(), population=1), "population"),
     (lambda: quick(model(), train=(data()[0], data()[1][:5])), "5 targets")],
)  # fmt: skip
def test_unusable_arguments_are_one_line(call: Callable[[], Any], words: str) -> None:
    with pytest.raises(EvopruneError, match=words) as error:
        call()
    assert "\n" not in str(error.value)


class TwoHeaded(nn.Module):
    """Gives a second output in train mode, as GoogLeNet does."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = model()

    def forward(self, x: Tensor) -> Any:
        out = self.inner(x)
        return (out, out) if self.training else out


class Tied(nn.Module):
    """Words in, words out, one weight for both; its linear layers see (B, T, D)."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.words, self.out = nn.Linear(6, 6), nn.Embedding(9, 6), nn.Linear(6, 9, bias=False)
        self.out.weight = self.words.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.out(torch.tanh(self.inner(self.words(tokens)))).mean(1)  # type: ignore[no-any-return]


def tokens() -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(0)
    inputs = torch.randint(9, (48, 5), generator=rng)
    return inputs, inputs[:, 0]


@pytest.mark.parametrize("preset", ["default", "original"])
def test_shared_weights_and_inputs_of_three_dimensions(preset: str) -> None:
    torch.manual_seed(0)
    goal = {"sparsity": 0.5} if preset == "default" else {"floor": 0.0}
    result = quick(Tied(), evoprune.accuracy(tokens()), train=tokens(), preset=preset, **goal)
    consistent(result)
    assert result.model.out.weight is result.model.words.weight  # type: ignore[union-attr]


def test_what_cannot_be_copied_kept_or_pruned_is_said(caplog: pytest.LogCaptureFixture) -> None:
    class Extra(nn.Sequential):
        def get_extra_state(self) -> dict[str, int]:
            return {"version": 1}

    net = model()
    with pytest.raises(EvopruneError, match="_extra_state, a dict"):
        quick(Extra(*net))
    nn.utils.parametrizations.weight_norm(net[0])
    consistent(quick(net), layers=1)
    assert "left out, for their weights are computed from other parameters" in caplog.text
    with pytest.warns(FutureWarning, match="weight_norm"):
        old = nn.utils.weight_norm(model()[5])
    old(torch.zeros(2, 48))
    with pytest.raises(EvopruneError, match="cannot be copied"):
        quick(nn.Sequential(nn.Flatten(), old))


def test_matrices_of_recurrent_and_attention_layers_are_said_to_stay(caplog: pytest.LogCaptureFixture) -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.read, self.out = nn.LSTM(6, 8, batch_first=True), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.read(x[:, 0])[0][:, -1])

    consistent(quick(Recurrent()), layers=1)
    assert "85 % of the parameters stay as they are" in caplog.text  # 448 of 530
    assert "read.weight_ih_l0, read.weight_hh_l0" in caplog.text
    with pytest.raises(EvopruneError, match="cannot count how often LSTM uses"):
        quick(Recurrent(), guidance="magnitude", space="allocation", budget="flops")


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("guidance", ["none", "gradient"])
def test_models_of_other_precision(dtype: torch.dtype, guidance: str) -> None:
    inputs, targets = data()
    pair = (inputs.to(dtype), targets)
    options = {} if guidance == "none" else {"guidance": guidance, "population": None, "generations": None}
    net = quick(model().to(dtype), evoprune.accuracy(pair), train=pair, shift=1, cutout=2, **options).model
    assert all(parameter.dtype == dtype for parameter in net.parameters())


def test_a_batch_that_cannot_be_trained_on_is_found_before_the_search() -> None:
    events: list[dict[str, Any]] = []
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    with pytest.raises(EvopruneError, match=r"cannot train on a batch of one sample: .* use larger batches"):
        quick(net, batch_size=1, recalibrate=False, listener=events.append)
    assert not events


def test_what_a_model_keeps_while_it_is_looked_at_can_be_trained_with() -> None:
    class Growing(nn.Module):
        """Its table grows with the longest input, as those of rotary embeddings do."""

        def __init__(self) -> None:
            super().__init__()
            self.scale, self.out = torch.empty(0), nn.Linear(6, 2)
            self.first = nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            if x.shape[2] > len(self.scale):
                self.scale = torch.arange(1.0, x.shape[2] + 1).rsqrt() + 0
            return self.out((self.first(x[:, 0]) * self.scale[:, None]).mean(1))

    consistent(quick(Growing()))


def test_layers_may_be_called_by_keyword() -> None:
    class Keywords(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv2d(1, 3, 3), nn.Linear(48, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(input=self.conv(input=x).flatten(1))

    for guidance in ("none", "wanda"):
        consistent(quick(Keywords(), guidance=guidance))
    consistent(quick(Keywords(), guidance="magnitude", space="allocation", budget="flops"))


@pytest.mark.parametrize("options", [{"sparsity": 0.5}, {"preset": "original", "floor": 0.0}])
def test_a_layer_of_one_weight_stays(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, 1), nn.Linear(1, 1), nn.Linear(1, 2))
    result = quick(net, **options)
    consistent(result, layers=3)
    assert bool(result.masks["2"].all())


def test_data_parallel_is_pruned_under_the_plain_names() -> None:
    wrapped, plain = quick(nn.DataParallel(model())), quick(model())
    assert isinstance(wrapped.model, nn.DataParallel)
    consistent(wrapped)
    assert all(torch.equal(plain.masks[name], mask) for name, mask in wrapped.masks.items())


def test_grouped_and_one_dimensional_convolutions() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding="same"), nn.Conv2d(4, 4, 3, groups=2), nn.Flatten(2), nn.Conv1d(4, 2, 3),
        nn.Flatten(), nn.Linear(28, 2),
    )  # fmt: skip
    consistent(quick(net), layers=4)


def test_norm_scales_on_demand() -> None:
    consistent(quick(model(), include_norm=True), layers=3)


@pytest.mark.parametrize("space", ["weights", "allocation"])
@pytest.mark.parametrize("guidance", ["none", "magnitude", "gradient"])
def test_guidance(guidance: str, space: str) -> None:
    result = quick(model(), guidance=guidance, space=space)
    consistent(result)
    assert (result.summary["guidance"], result.summary["space"]) == (guidance, space)


def test_by_magnitude_the_largest_weights_of_a_layer_stay() -> None:
    result = quick(model(), train=None, guidance="magnitude", space="allocation")
    for name, mask in result.masks.items():
        size = model().get_parameter(f"{name}.weight").abs()
        assert size[mask].min() > size[~mask].max()


def test_guidance_gradient_prunes_while_training_where_it_can() -> None:
    options: dict[str, Any] = {"guidance": "gradient", "population": None, "generations": None}
    trained = quick(model(), **options)
    consistent(trained)
    assert (trained.summary["space"], trained.summary["algorithm"]) == ("training", "none")
    assert trained.summary["search"]["evaluations"] == 0
    assert quick(model(), train=None, guidance="gradient").summary["space"] == "allocation"
    with pytest.raises(EvopruneError, match="belongs to a search"):
        quick(model(), guidance="gradient", generations=2)
    with pytest.raises(EvopruneError, match="pass `train`"):
        quick(model(), train=None, space="training", **options)


def test_a_saved_result_loads_everywhere(tmp_path: Path) -> None:
    result = quick(model())
    assert result.path is None
    assert result.save(tmp_path / "a" / "b") == tmp_path / "a" / "b"
    fresh = model()
    fresh.load_state_dict(load_file(tmp_path / "a" / "b" / "model.safetensors"))
    assert all(torch.equal(t, fresh.state_dict()[name]) for name, t in result.model.state_dict().items())
    masks = load_file(tmp_path / "a" / "b" / "masks.safetensors")
    assert all(torch.equal(mask, masks[name]) for name, mask in result.masks.items())
    assert json.loads((tmp_path / "a" / "b" / "result.json").read_text()) == result.summary
    (tmp_path / "file").write_text("")
    with pytest.raises(EvopruneError, match="cannot make the folder"):
        result.save(tmp_path / "file" / "inside")


def test_a_run_folder_holds_what_the_result_says(tmp_path: Path) -> None:
    result = quick(model(), out=tmp_path / "run")
    assert result.path == tmp_path / "run"
    assert json.loads((tmp_path / "run" / "result.json").read_text()) == result.summary
    saved = load_file(tmp_path / "run" / "model.safetensors")
    assert all(torch.equal(t, saved[name]) for name, t in result.model.state_dict().items())
    events = [json.loads(line) for line in (tmp_path / "run" / "journal.jsonl").read_text().splitlines()]
    assert events[0]["event"] == "run_start"
    assert events[-1]["event"] == "stage_end"
    with pytest.raises(EvopruneError, match="already holds a run"):
        quick(model(), out=tmp_path / "run")
    quick(model(), out=tmp_path / "run", overwrite=True)


def test_a_run_from_python_is_resumed_with_its_model(tmp_path: Path) -> None:
    result = quick(model(), out=tmp_path)
    with pytest.raises(EvopruneError, match=r"evoprune\.resume\(folder, model, score"):
        evoprune.resume(tmp_path)
    resumed = evoprune.resume(tmp_path, model(), evoprune.accuracy(data()), train=data())
    assert all(torch.equal(mask, resumed.masks[name]) for name, mask in result.masks.items())
    with pytest.raises(EvopruneError, match="not a run folder"):
        evoprune.resume(tmp_path / "nowhere")


class Stopped(Exception):
    pass


@pytest.mark.parametrize("training", [False, True])
def test_the_resumed_model_is_in_the_mode_of_the_given_one(training: bool, tmp_path: Path) -> None:
    def stop(_: dict[str, Any]) -> None:
        raise Stopped

    with pytest.raises(Stopped):
        quick(model(), out=tmp_path, listener=stop)
    resumed = evoprune.resume(tmp_path, model().train(training), evoprune.accuracy(data()), train=data())
    assert {module.training for module in resumed.model.modules()} == {training}


def test_resuming_with_another_model_is_one_line(tmp_path: Path) -> None:
    quick(model(), out=tmp_path)
    other = nn.Sequential(nn.Flatten(), nn.Linear(36, 2))
    for _ in range(2):  # the folder is not left locked while the first error is still at hand
        with pytest.raises(EvopruneError, match="model") as error:
            evoprune.resume(tmp_path, other, evoprune.accuracy(data()), train=data())
        assert "\n" not in str(error.value)


def test_the_threads_are_those_of_the_settings_and_left_as_found() -> None:
    before, inside = torch.get_num_threads(), set()
    quick(model(), threads=before + 1, listener=lambda _: inside.add(torch.get_num_threads()))
    after = torch.get_num_threads()
    torch.set_num_threads(before)
    assert (inside, after) == ({before + 1}, before)


def test_gradient_guidance_with_a_frozen_layer() -> None:
    """While it trains a frozen weight shows no effect: all of it would go."""
    net, none = model(), {"population": None, "generations": None}
    net[0].requires_grad_(False)
    consistent(quick(net, guidance="gradient", space="weights"))
    with pytest.raises(EvopruneError, match=r"the weight of 0 is frozen \(1 of 2 layers are\)"):
        quick(net, guidance="gradient", **none)
    assert list(quick(net, guidance="gradient", layers="5", **none).masks) == ["5"]


def test_a_run_goes_on_with_what_it_began_with(tmp_path: Path) -> None:
    """Without the training data it would end in another result, in silence."""

    def stop(_: dict[str, Any]) -> None:
        raise Stopped

    with pytest.raises(Stopped):
        quick(model(), out=tmp_path, listener=stop)
    with pytest.raises(EvopruneError, match=r"began with `train`; pass it"):
        evoprune.resume(tmp_path, model(), evoprune.accuracy(data()))
    with pytest.raises(EvopruneError, match=r"began without `test`; leave it out"):
        evoprune.resume(tmp_path, model(), evoprune.accuracy(data()), train=data(), test=margin)
    evoprune.resume(tmp_path, model(), evoprune.accuracy(data()), train=data())


@pytest.mark.parametrize("lost", ["dense", "state", "journal line"])
def test_what_a_run_goes_on_from_is_missed_at_once(lost: str, tmp_path: Path) -> None:
    quick(model(), out=tmp_path)
    (tmp_path / "result.json").unlink()
    if lost == "dense":
        (tmp_path / "state" / "dense.safetensors").unlink()
    elif lost == "state":
        for entry in (tmp_path / "state").iterdir():
            entry.unlink()
        (tmp_path / "state").rmdir()
    else:
        lines = (tmp_path / "journal.jsonl").read_bytes().split(b"\n")
        lines[1] = b"#" * len(lines[1])
        (tmp_path / "journal.jsonl").write_bytes(b"\n".join(lines))
    told: list[Any] = []
    with pytest.raises(EvopruneError, match="--overwrite"):
        evoprune.resume(tmp_path, model(), evoprune.accuracy(data()), train=data(), listener=told.append)
    assert told == []
    quick(model(), out=tmp_path, overwrite=True)


def test_a_snapshot_of_another_model_is_one_line(tmp_path: Path) -> None:
    """Its own tensors are whole, but the model has other layers."""
    quick(model(), out=tmp_path / "a", layers=["5"])
    quick(model(), out=tmp_path / "b")
    snapshot = Path("state") / "snapshot.safetensors"
    (tmp_path / "a" / snapshot).write_bytes((tmp_path / "b" / snapshot).read_bytes())
    (tmp_path / "a" / "result.json").unlink()
    with pytest.raises(EvopruneError, match=r"snapshot.*does not fit the model"):
        evoprune.resume(tmp_path / "a", model(), evoprune.accuracy(data()), train=data())


def test_the_points_of_a_front_are_there_after_resume(tmp_path: Path) -> None:
    result = quick(model(), out=tmp_path, front=True, max_drop=30)
    again = evoprune.resume(tmp_path, model(), evoprune.accuracy(data()), train=data())
    assert (again.front, again.summary) == (result.front, result.summary)
    for index in range(len(result.front)):
        (net, masks), (same, same_masks) = result.point(index), again.point(index)
        assert all(torch.equal(t, same.state_dict()[name]) for name, t in net.state_dict().items())
        assert all(torch.equal(mask, same_masks[name]) for name, mask in masks.items())


def test_the_threads_are_those_that_pytorch_was_told_to_use() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(before + 2)
    try:
        assert api.make_settings(model="m").threads == before + 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("sparsity", [None, 0.999])
def test_a_run_cut_short_by_the_clock_says_so(sparsity: float | None) -> None:
    goal = {"max_drop": 99.0} if sparsity is None else {"sparsity": sparsity}
    late = quick(model(), time_limit_seconds=1e-6, **goal)
    assert "the time was up" in late.summary["status"]
    assert "keeps a weight" in quick(model(), sparsity=0.999).summary["status"]


def test_a_time_limit_counts_the_epochs_before_one_has_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Final fine-tuning that cannot fit ends the search after a generation, and is shortened to what is left."""
    monkeypatch.setattr(TimeLimit, "_epoch_seconds", lambda _: 30.0)
    result = quick(model(), preset="original", floor=0.1, time_limit_seconds=100, final_epochs=10, generations=5)
    assert result.summary["search"]["generations"] == 0
    assert 1 <= result.summary["finetune"]["epochs"] <= 3


def test_a_further_stage_begins_only_if_its_first_population_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    """It took 60 seconds in the first stage, and 10 of 70 are left."""
    monkeypatch.setattr(TimeLimit, "_epoch_seconds", lambda _: 0.1)
    monkeypatch.setattr(Runner, "elapsed", lambda runner: 60.0 * (runner.state.first_scores_seconds > 0))

    class Clock:
        """A minute passes with every look at it."""

        now = 0.0

        def perf_counter(self) -> float:
            self.now += 60
            return self.now

    for limit, stages in ((70, 1), (1000, 2)):
        monkeypatch.setattr("evoprune.run.runner.time", Clock())
        events: list[dict[str, Any]] = []
        quick(model(), passes=[0.5, 0.7], time_limit_seconds=limit, listener=events.append)
        assert sum(event["event"] == "stage_start" and bool(event["layers"]) for event in events) == stages


def test_a_time_limit_shortens_the_final_epochs_of_the_only_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TimeLimit, "_epoch_seconds", lambda _: 30.0)
    limited = quick(model(), passes=[0.5], finetune_epochs=1, final_epochs=10, time_limit_seconds=100)
    assert 1 <= limited.summary["finetune"]["epochs"] <= 3
    assert "the time was up" in limited.summary["status"]
    assert quick(model(), passes=[0.5], finetune_epochs=1, final_epochs=10).summary["finetune"]["epochs"] == 11


def test_the_first_stage_is_trained_out_where_the_floor_needs_it_however_short_the_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else a tight limit would give the dense model back."""
    monkeypatch.setattr(TimeLimit, "_epoch_seconds", lambda _: 30.0)
    epochs: list[Any] = []

    def score(net: nn.Module) -> float:
        dense = all(bool((module.weight != 0).all()) for module in (net[0], net[5]))  # type: ignore[index]
        return 1.0 if dense or len(epochs) >= 2 else 0.5

    limited = quick(
        model(), score, max_drop=0.5, time_limit_seconds=100, final_epochs=10,
        listener=lambda event: epochs.append(event) if event["event"] == "epoch" else None,
    )  # fmt: skip
    assert limited.sparsity > 0
    assert 1 <= limited.summary["finetune"]["epochs"] <= 3


def test_an_epoch_is_timed_by_a_few_steps_and_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds_go_by = itertools.count()  # one at every look at the clock
    monkeypatch.setattr(time_limit, "time", SimpleNamespace(perf_counter=lambda: next(seconds_go_by)))
    settings = api.make_settings(model="m", time_limit_seconds=60, batch_size=4)
    net = model()
    task = api.given_task(net, evoprune.accuracy(data()), data(), None, settings)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    runner = Runner(task, settings, None, 0.9, 0.0)
    seconds = runner.limit._epoch_seconds()
    assert seconds == 1 + 16, "scoring, and 16 steps"
    runner.state.finetune_epochs, runner.state.finetune_seconds = 2, seconds
    assert runner.limit._epoch_seconds() == seconds / 2, "measured is better than estimated"
    runner.limit.settings = api.make_settings(model="m", time_limit_seconds=60, batch_size=4, first_size=3)
    assert runner.limit._epoch_seconds() == seconds, "but those so far were of small images"
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def test_the_clock_counts_what_comes_before_the_run_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    now, events = [0.0], list[dict[str, Any]]()

    def score(net: nn.Module) -> float:
        now[0] += 100
        return margin(net)

    for module in ("evoprune.api", "evoprune.run.runner"):
        monkeypatch.setattr(f"{module}.time", SimpleNamespace(perf_counter=lambda: now[0]))
    quick(model(), score, listener=events.append)
    assert events[0]["seconds"] == 100, "scoring the dense model"


def test_the_journals_clock_counts_later_fine_tuning_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quick(model(), out=tmp_path)
    now, epoch = [0.0], FineTuner.epoch

    def slow(*parts: Any, **named: Any) -> float:
        now[0] += 100
        return epoch(*parts, **named)

    monkeypatch.setattr("evoprune.run.later.time", SimpleNamespace(perf_counter=lambda: now[0]))
    monkeypatch.setattr(FineTuner, "epoch", slow)
    evoprune.finetune(tmp_path, 1, model=model(), score=evoprune.accuracy(data()), train=data())
    start, _, end = [json.loads(line) for line in (tmp_path / "journal.jsonl").read_text().splitlines()][-3:]
    assert end["seconds"] - start["seconds"] == pytest.approx(100)


def test_the_dense_model_is_checked(caplog: pytest.LogCaptureFixture) -> None:
    broken = model()
    with torch.no_grad():
        broken[5].weight[0, 0] = float("nan")
    with pytest.raises(EvopruneError, match=r"5\.weight has NaN"):
        quick(broken, lambda _: 0.5)
    with pytest.raises(EvopruneError, match=r"dense model is -inf"):
        quick(model(), lambda _: -float("inf"))
    with pytest.raises(EvopruneError, match="infinity"):
        quick(model(), lambda _: float("inf"))

    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * float("nan")

    with pytest.raises(EvopruneError, match=r"dense model is -inf.*Does the model give NaN"):
        quick(nn.Sequential(model(), Broken()), evoprune.loss(data()))
    with caplog.at_level(logging.WARNING, "evoprune"):
        quick(model())
        assert not caplog.records
        inputs, targets = data()
        quick(model(), evoprune.accuracy((inputs, 1 - targets)))
    assert "guessing" in caplog.text


def test_a_score_that_draws_leaves_the_random_state() -> None:
    before = torch.get_rng_state()
    quick(model(), lambda _: (torch.rand(1), 0.5)[1], train=None)
    assert torch.equal(torch.get_rng_state(), before)


def test_under_no_grad_it_is_trained_all_the_same() -> None:
    plain = quick(model())
    with torch.no_grad():
        result = quick(model())
        assert not torch.is_grad_enabled()
    assert all(torch.equal(t, plain.model.state_dict()[name]) for name, t in result.model.state_dict().items())


def test_training_data_that_does_not_fit_is_found_before_the_search() -> None:
    told: list[Any] = []
    inputs, targets = data()
    wrong = targets.clone()
    wrong[-1] = 44
    for train, words in (
        ((inputs, wrong), "label 44"), ((inputs[..., :5], targets), "does not fit"),
        (list(zip(inputs.split(32), (targets * 44).split(32), strict=True)), "label 44"),
    ):  # fmt: skip
        with pytest.raises(EvopruneError, match=words) as error:
            quick(model(), train=train, listener=told.append)
        assert "\n" not in str(error.value)
    for floats in (targets.float(), targets[:, None].float(), torch.rand(len(targets), 2)):
        with pytest.raises(EvopruneError, match=r"fine-tuning is by cross-entropy.* or a loss of your own"):
            quick(model(), train=(inputs, floats), listener=told.append)
    consistent(quick(model(), train=(inputs, torch.rand(len(targets), 2).softmax(1))))
    consistent(quick(model(), train=(inputs, targets[:, None].float()), finetune_epochs=0, final_epochs=0))
    with pytest.raises(EvopruneError, match="does not fit the model"):
        quick(model(), train=(inputs[..., :5], targets), finetune_epochs=0, final_epochs=0)
    with pytest.raises(EvopruneError, match=r"the model gives a tuple, and cross-entropy needs"):
        quick(TwoHeaded(), listener=told.append)
    sparse = nn.Sequential(nn.EmbeddingBag(9, 4, sparse=True), nn.Linear(4, 2))
    words = torch.randint(9, (64, 5), generator=torch.Generator().manual_seed(0))
    with pytest.raises(EvopruneError, match="sparse gradients"):
        quick(sparse, evoprune.accuracy((words, targets)), train=(words, targets), listener=told.append)
    with pytest.raises(EvopruneError, match="samples one by one"):
        quick(model(), train=DataLoader(TensorDataset(*data()), batch_size=None), listener=told.append)
    with pytest.raises(EvopruneError, match="requires_grad_"):
        quick(model().requires_grad_(False), listener=told.append)
    with pytest.raises(EvopruneError, match=r"cannot take the scoring data, torch\.float64"):
        quick(model(), evoprune.accuracy((inputs.double(), targets)), listener=told.append)
    assert told == []


def test_near_misses_of_arguments() -> None:
    assert list(quick(model(), layers="5", sparsity=0.5).masks) == ["5"]
    assert quick(model(), passes=0.5).sparsity == pytest.approx(0.5, abs=0.01)
    with pytest.raises(EvopruneError, match="did you mean generations"):
        quick(model(), genrations=3)


def test_inplace_keeps_memory_layout_and_gradients() -> None:
    net = model().to(memory_format=torch.channels_last)
    net[0].weight = nn.Parameter(
        torch.randn(3, 1, 3, 3).expand(3, 2, 3, 3).contiguous(memory_format=torch.channels_last)
    )
    twice = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), net)
    twice[0].to(memory_format=torch.channels_last)
    gradient = torch.ones(2)
    twice[1][5].bias.grad = gradient
    quick(twice, inplace=True)
    weight = twice[1][0].weight
    assert not weight.is_contiguous()
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert twice[1][5].bias.grad is gradient
    assert weight.grad is None


def test_a_snapshot_that_cannot_be_written_says_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise EvopruneError("cannot write it: no space; free space or choose another place")

    monkeypatch.setattr("evoprune.run.runner.save_state", full)
    with pytest.raises(EvopruneError, match=r"no space.*then `evoprune\.resume"):
        quick(model(), out=tmp_path)


def test_without_epochs_recalibrated_norms_are_all_that_changes() -> None:
    """Where the search has nothing to choose by; else it may choose others."""
    plain, anew = (
        quick(model(), lambda _: 1.0, sparsity=0.6, finetune_epochs=0, final_epochs=0, recalibrate=recalibrate)
        for recalibrate in (False, True)
    )
    before, after = plain.model.state_dict(), anew.model.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"1.running_mean", "1.running_var", "1.num_batches_tracked"}
    found = anew.model[0](data()[0]).mean((0, 2, 3))  # type: ignore[index]
    torch.testing.assert_close(after["1.running_mean"], found.detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("net", "options", "anew"),
    [
        (model, {}, True),
        (model, {"recalibrate": False}, False),
        (model, {"layers": "5"}, False),
        (model, {"layers": "5", "recalibrate": True}, True),
        (model, {"train": data(40)}, False),
        (model, {"train": data(40), "recalibrate": True}, True),
        (model, {"preset": "original"}, False),
        (model, {"train": None}, False),
        (model, {"guidance": "gradient", "population": None, "generations": None}, False),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.Linear(8, 2)), {}, False),
    ],
)
def test_batch_norms_are_measured_anew_where_several_layers_are_searched_at_once(
    net: Callable[[], nn.Module], options: dict[str, Any], anew: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: list[bool] = []

    def watched(*parts: Any, norm_batches: Any = (), **rest: Any) -> Any:
        seen.append(bool(norm_batches))
        return make_evaluator(*parts, norm_batches=norm_batches, **rest)

    monkeypatch.setattr("evoprune.run.searching.make_evaluator", watched)
    quick(net(), out=tmp_path / "run", **({"recalibrate": None} | options))
    assert set(seen) <= {anew}
    assert json.loads((tmp_path / "run/config.json").read_text())["recalibrate"] is anew


class Whole(nn.Module):
    """A graph, say: it takes all samples at once, or one."""

    def __init__(self) -> None:
        super().__init__()
        self.net = model()

    def forward(self, x: Tensor) -> Tensor:
        """(64, 1, 6, 6) to (64, 2)."""
        assert len(x) == 64, "not all samples"
        return self.net(x)


def test_batch_norms_are_measured_on_batches_as_they_are_trained_on() -> None:
    given = {"guidance": "magnitude", "train": [data()], "recalibrate": None}
    assert quick(Whole(), margin, **given).summary["finetune"]["epochs"] == 2


def test_a_model_that_takes_whole_batches_alone_is_left_to_the_reference(caplog: pytest.LogCaptureFixture) -> None:
    result = quick(Whole(), train=[data()], guidance="magnitude")
    assert result.sparsity == pytest.approx(0.6, abs=0.01)
    assert "or it takes whole batches alone" in caplog.text
    with pytest.raises(EvopruneError, match="does not run on one input: AssertionError: not all samples"):
        quick(Whole(), train=[data()], guidance="magnitude", space="allocation", budget="flops")


def test_where_batch_norms_cannot_be_measured_it_is_said_and_they_are_not(caplog: pytest.LogCaptureFixture) -> None:
    class Odd(Whole):
        def forward(self, x: Tensor) -> Tensor:
            mixed = any(part.training for part in self.net) and not self.net.training
            assert not mixed, "norms alone in train mode"
            return self.net(x)

    quick(Odd(), recalibrate=None)
    assert "cannot be measured on a batch of the training data (AssertionError: norms alone" in caplog.text
    with pytest.raises(EvopruneError, match=r"batch norms cannot be measured.*--no-recalibrate leaves that out$"):
        quick(Odd(), recalibrate=True)


@pytest.mark.parametrize(
    ("net", "options", "words"),
    [
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(36, 2)), {"recalibrate": True}, "no batch norm"),
        (model, {"recalibrate": True, "train": None}, "measures on training data"),
        (model, {"flip": True, "train": DataLoader(TensorDataset(*data()), 16)}, "let the loader augment"),
        (
            lambda: nn.Sequential(nn.Linear(36, 2)),
            {"shift": 1, "train": (data()[0].flatten(1), data()[1]), "score": lambda _: 1.0},
            "need images",
        ),
    ],
)
def test_what_would_have_no_effect_is_refused(
    net: Callable[[], nn.Module], options: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(EvopruneError, match=words):
        quick(net(), sparsity=0.5, out=tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def test_a_default_device_other_than_the_cpu_is_refused() -> None:
    net, score = model(), evoprune.accuracy(data())
    with torch.device("meta"), pytest.raises(EvopruneError, match=r"default device is meta.*set_default_device"):
        quick(net, score, None)


def test_cudnn_is_made_repeatable_for_the_run_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    cudnn, seen = torch.backends.cudnn, set()

    def score(_: nn.Module) -> float:
        seen.add((cudnn.deterministic, cudnn.benchmark))
        return 1.0

    monkeypatch.setattr(cudnn, "benchmark", True)
    quick(model(), score)
    assert seen == {(True, False)}
    assert (cudnn.deterministic, cudnn.benchmark) == (False, True)


def test_a_run_begun_on_another_kind_of_device_does_not_go_on(tmp_path: Path) -> None:
    def stop(_: dict[str, Any]) -> None:
        raise Stopped

    with pytest.raises(Stopped):
        quick(model(), out=tmp_path / "run", listener=stop)
    config = json.loads((tmp_path / "run/config.json").read_text())
    assert config["device"] == "auto"
    assert config["device_used"] == "cpu"
    (tmp_path / "run/config.json").write_text(json.dumps(config | {"device_used": "cuda"}))
    with pytest.raises(EvopruneError, match="the run began on cuda, and would go on on cpu"):
        evoprune.resume(tmp_path / "run", model(), evoprune.accuracy(data()), train=data())


def test_a_result_is_not_saved_over_another_run(tmp_path: Path) -> None:
    quick(model(), out=tmp_path / "a", seed=1)
    before = (tmp_path / "a/masks.safetensors").read_bytes()
    other = quick(model(), out=tmp_path / "b")
    with pytest.raises(EvopruneError, match="holds another run"):
        other.save(tmp_path / "a")
    assert (tmp_path / "a/masks.safetensors").read_bytes() == before
    other.save(tmp_path / "b")
    other.save(tmp_path / "c")
    other.save(tmp_path / "c")


def test_of_weights_that_are_zero_already_it_is_said_so(caplog: pytest.LogCaptureFixture) -> None:
    result = quick(quick(model(), sparsity=0.8).model, sparsity=0.5)
    assert "of the weights are zero already" in caplog.text
    assert any("zero already" in text for text in result.summary["warnings"])
    assert quick(model()).summary["warnings"] == []


def test_lost_files_of_a_result_come_back_from_the_snapshot(tmp_path: Path) -> None:
    quick(model(), out=tmp_path)
    given = evoprune.accuracy(data())
    for name in ("masks.safetensors", "model.safetensors"):
        before = (tmp_path / name).read_bytes()
        (tmp_path / name).unlink()
        with pytest.raises(EvopruneError, match=r"delete .*result\.json and run `evoprune\.resume"):
            evoprune.resume(tmp_path, model(), given, train=data())
        (tmp_path / "result.json").unlink()
        evoprune.resume(tmp_path, model(), given, train=data())
        assert (tmp_path / name).read_bytes() == before


def test_what_a_function_as_the_score_does_without_is_said(caplog: pytest.LogCaptureFixture) -> None:
    quick(model(), margin, None, sparsity=0.3)
    assert "begins with random weights" in caplog.text
    assert "no goal was given" not in caplog.text
    evoprune.prune(model(), margin, guidance="magnitude", **(QUICK | {"finetune_epochs": None, "final_epochs": None}))
    assert "until the score has lost 0.0075, in its own unit" in caplog.text
    caplog.clear()
    evoprune.prune(model(), evoprune.accuracy(data()), train=data(), **QUICK)
    assert not caplog.text


def test_a_batch_size_beside_batches_is_said_to_mean_nothing(caplog: pytest.LogCaptureFixture) -> None:
    quick(model(), train=[data()], batch_size=7)
    assert "batch_size means nothing" in caplog.text


def test_a_lazy_model(tmp_path: Path) -> None:
    lazy = nn.Sequential(nn.Flatten(), nn.LazyLinear(2))
    with pytest.raises(EvopruneError, match=r"1\.weight has no shape yet \(a lazy layer\); run the model on one batch"):
        quick(lazy, out=tmp_path / "run")
    lazy(data()[0])
    consistent(quick(lazy), layers=1)


def test_a_run_from_python_is_fine_tuned_and_evaluated_with_its_model(tmp_path: Path) -> None:
    score, net = evoprune.accuracy(data()), model()
    first = quick(net, out=tmp_path, test=score)
    with pytest.raises(EvopruneError, match="pass it, too"):
        evoprune.finetune(tmp_path, 2, model=net, score=score, train=data())
    with pytest.raises(EvopruneError, match="needs training data"):
        evoprune.finetune(tmp_path, 2, model=net, score=score, test=score)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    tuned = evoprune.finetune(tmp_path, 2, model=net, score=score, train=data(), test=score)
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert tuned.summary["finetune"]["epochs"] == first.summary["finetune"]["epochs"] + 2
    longer = tuned.summary["seconds"] - first.summary["seconds"]
    assert tuned.summary["finetune"]["seconds"] - first.summary["finetune"]["seconds"] == pytest.approx(longer)
    assert longer > 0
    assert all(torch.equal(mask, first.masks[name]) for name, mask in tuned.masks.items())
    consistent(tuned)
    found = evoprune.evaluate(tmp_path, model=net, score=score, test=score)
    for name in ("sparsity", "nonzero_weights", "val_score", "test_score"):
        assert found[name] == found["recorded"][name] == tuned.summary["pruned"][name]


class Pair(nn.Module):
    """Gives a tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = model()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.inner(x), x


def test_a_model_that_gives_a_tuple_cannot_be_trained() -> None:
    with pytest.raises(EvopruneError, match=r"gives a tuple, and cross-entropy needs logits \(N, C\)"):
        quick(Pair(), lambda _: 1.0)


def test_a_floor_in_percent() -> None:
    with pytest.raises(EvopruneError, match=r"--floor 98: expected an accuracy from 0 to 1; did you mean 0\.98\?"):
        quick(model(), floor=98)
    with pytest.raises(EvopruneError, match=r"--floor -1: expected an accuracy from 0 to 1$"):
        quick(model(), floor=-1)


def test_a_device_as_torch_has_it_and_layers_that_are_none() -> None:
    consistent(quick(model(), device=torch.device("cpu")))
    with pytest.raises(EvopruneError, match="layers is 0; expected names"):
        quick(model(), layers=0)
    with pytest.raises(EvopruneError, match=r"--epochs 1\.5"):
        evoprune.finetune("nowhere", 1.5)  # type: ignore[arg-type]


# -- a loss of one's own -----------------------------------------------------------------------------------


def regression() -> tuple[nn.Module, Callable[[nn.Module], float], tuple[Tensor, Tensor]]:
    """A network that adds its first two inputs, how well it does, and its training data."""
    inputs = torch.randn(256, 6, generator=torch.Generator().manual_seed(0))
    targets = inputs[:, :1] + inputs[:, 1:2]
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 1))
    optimizer = torch.optim.Adam(net.parameters(), 0.02)
    for _ in range(200):
        optimizer.zero_grad()
        nn.functional.mse_loss(net(inputs), targets).backward()
        optimizer.step()

    def score(candidate: nn.Module) -> float:
        with torch.no_grad():
            return float(-nn.functional.mse_loss(candidate(inputs), targets))

    return net, score, (inputs, targets)


@pytest.mark.parametrize("guidance", ["none", "gradient"])
def test_a_regression_is_fine_tuned_by_its_loss(guidance: str, tmp_path: Path) -> None:
    net, score, train = regression()
    options = {"guidance": guidance, "sparsity": 0.6, "finetune_epochs": 3, "final_epochs": 6}
    options |= {"population": None, "generations": None} if guidance == "gradient" else {}
    given = {"train": train, "loss": nn.functional.mse_loss}
    untuned = quick(net, score, None, guidance="none", sparsity=0.6)
    whole = quick(net, score, out=tmp_path / "whole", **given, **options)
    consistent(whole)
    assert whole.score > untuned.score

    def stop(event: dict[str, Any]) -> None:
        if event["event"] == "epoch" and event["epoch"] == 4:
            raise Stopped

    with pytest.raises(Stopped):
        quick(net, score, out=tmp_path / "stopped", listener=stop, **given, **options)
    with pytest.raises(EvopruneError, match="the run began with `loss`; pass it, too"):
        evoprune.resume(tmp_path / "stopped", net, score, train=train)
    resumed = evoprune.resume(tmp_path / "stopped", net, score, **given)  # type: ignore[arg-type]
    weights = whole.model.state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in resumed.model.state_dict().items())
    tuned = evoprune.finetune(tmp_path / "whole", 5, 1e-3, model=net, score=score, **given)  # type: ignore[arg-type]
    assert tuned.score > whole.score


def test_gradient_guidance_of_a_search_follows_the_own_loss() -> None:
    net, score, train = regression()
    result = quick(net, score, train, guidance="gradient", space="weights", sparsity=0.7, loss=nn.functional.mse_loss)
    kept = result.masks["0"].sum(0)
    assert kept[:2].min() > kept[2:].max(), "the inputs that matter keep most"


def test_a_loss_that_cannot_be_used() -> None:
    net, score, train = regression()
    for loss, words in (
        (
            lambda outputs, targets: (outputs - targets) ** 2,
            r"gives a tensor \(\d+, \d\); expected a tensor without",
        ),
        (lambda *_: 1.0, "the loss gives a float"),
        (lambda outputs, _: outputs.detach().mean(), "the loss has no gradients"),
        (lambda outputs, targets: outputs @ targets, "the loss raised RuntimeError"),
        (nn.MSELoss, "expected a function"),
        ("mse", "loss is 'mse'; expected a function"),
    ):
        with pytest.raises(EvopruneError, match=words):
            quick(net, score, train, loss=loss)
        with pytest.raises(EvopruneError, match=words):  # also where only guidance looks at it
            quick(net, evoprune.accuracy((train[0], torch.zeros(256).long())), None, loss=loss, guidance="gradient")
    with pytest.raises(EvopruneError, match="distill belongs to cross-entropy"):
        quick(net, score, train, loss=nn.functional.mse_loss, distill=0.5)
    with pytest.raises(EvopruneError, match="has_loss is nothing that `prune` takes"):
        quick(net, score, train, has_loss=True)


class Named(nn.Module):
    """The network of `regression`; its outputs have a name."""

    def __init__(self, last: nn.Module) -> None:
        super().__init__()
        self.inner, self.last = regression()[0], last

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"out": self.last(self.inner(x))}


def test_outputs_of_any_kind_go_to_an_own_loss() -> None:
    _, _, (inputs, targets) = regression()

    def loss(outputs: dict[str, Tensor], wanted: Tensor) -> Tensor:
        return nn.functional.mse_loss(outputs["out"], wanted)

    def score(candidate: nn.Module) -> float:
        with torch.no_grad():
            return -float(loss(candidate(inputs), targets))

    consistent(quick(Named(nn.Identity()), score, (inputs, targets), loss=loss, sparsity=0.5))


def test_outputs_come_to_an_own_loss_in_float32() -> None:
    _, _, (inputs, targets) = regression()
    positive, seen = (targets > 0).float(), set()

    def loss(outputs: dict[str, Tensor], wanted: Tensor) -> Tensor:
        seen.add(outputs["out"].dtype)
        return nn.functional.binary_cross_entropy(outputs["out"], wanted)

    def score(candidate: nn.Module) -> float:
        with torch.no_grad():
            return float(((candidate(inputs)["out"] > 0.5) == positive.bool()).float().mean())

    consistent(quick(Named(nn.Sigmoid()), score, (inputs, positive), loss=loss, train_precision="bfloat16"))
    assert seen == {torch.float32}


def test_a_model_in_double_precision_has_a_loss_in_it() -> None:
    """The gradients of this one PyTorch computes between tensors of one kind only."""
    net, _, train = regression()
    inputs, targets = (tensor.double() for tensor in train)

    def score(candidate: nn.Module) -> float:
        with torch.no_grad():
            return -float(nn.functional.huber_loss(candidate(inputs), targets))

    for guidance in ("magnitude", "gradient"):
        options = {"loss": nn.functional.huber_loss, "guidance": guidance, "space": "weights"}
        consistent(quick(net.double(), score, (inputs, targets), **options))


def test_a_loss_that_changes_its_targets_changes_no_data() -> None:
    net, score, train = regression()
    batches = [(inputs.clone(), targets.clone()) for inputs, targets in zip(*(t.split(64) for t in train), strict=True)]

    def halving(outputs: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.mse_loss(outputs, targets.mul_(0.5))

    for guidance in ("none", "gradient"):
        quick(net, score, batches, loss=halving, guidance=guidance, space="weights")
    assert torch.equal(torch.cat([targets for _, targets in batches]), train[1])


def test_images_as_targets_are_not_augmented_on_one_side_alone() -> None:
    images = data()[0]
    net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 1, 3, padding=1))

    def score(candidate: nn.Module) -> float:
        with torch.no_grad():
            return -float(nn.functional.mse_loss(candidate(images), images))

    given = {"train": (images, images), "loss": nn.functional.mse_loss}
    consistent(quick(net, score, **given))
    for options in ({"flip": True}, {"first_size": 4}):
        with pytest.raises(EvopruneError, match="change inputs alone"):
            quick(net, score, **given, **options)


def test_a_loss_for_a_run_that_had_no_training(tmp_path: Path) -> None:
    net, score, train = regression()
    first = quick(net, score, None, out=tmp_path, guidance="magnitude")
    tuned = evoprune.finetune(tmp_path, 5, model=net, score=score, train=train, loss=nn.functional.mse_loss)
    assert tuned.score > first.score


def test_scores_relative_to_the_dense_model_stay_so(tmp_path: Path) -> None:
    net = model()
    first = quick(net, evoprune.fidelity(data()), out=tmp_path)
    found = evoprune.evaluate(tmp_path, model=net, score=evoprune.fidelity(data()))
    assert found["val_score"] == found["recorded"]["val_score"] == first.score < 0
    tuned = evoprune.finetune(tmp_path, 1, model=net, score=evoprune.fidelity(data()), train=data())
    scored = evoprune.fidelity(data())
    scored.bind(net)
    assert tuned.score == pytest.approx(scored(tuned.model))


def test_model_and_score_are_given_together(tmp_path: Path) -> None:
    quick(model(), out=tmp_path)
    for call in (evoprune.finetune, evoprune.evaluate):
        with pytest.raises(EvopruneError, match="pass `model` and `score`, both"):
            call(tmp_path, model=model())  # type: ignore[operator]
        with pytest.raises(EvopruneError, match=r"started from Python with a model of its own.*model=\.\.\., score="):
            call(tmp_path)  # type: ignore[operator]
        with pytest.raises(EvopruneError, match=r"has no shape yet"):
            call(tmp_path, model=nn.LazyLinear(2), score=margin)  # type: ignore[operator]


def test_one_score_for_two_models_is_relative_to_each() -> None:
    score, other = evoprune.fidelity(data()), model()
    with torch.no_grad():
        other[5].get_parameter("weight").mul_(-3)
    alone = [quick(net, evoprune.fidelity(data())).summary["dense"]["val_score"] for net in (model(), other)]
    assert [quick(net, score).summary["dense"]["val_score"] for net in (model(), other)] == alone == [0, 0]
    tuned = quick(model(), score)
    assert score(tuned.model) == pytest.approx(tuned.score)  # not zero: what a call sees is not what a run began with


def test_compiled_models_are_watched_like_others() -> None:
    net = model()
    plain = quick(net, finetune_epochs=0, final_epochs=0)
    compiled = quick(torch.compile(net, backend="eager"), finetune_epochs=0, final_epochs=0)  # type: ignore[arg-type]
    assert compiled.score == plain.score
    found = {name.removeprefix("_orig_mod."): mask for name, mask in compiled.masks.items()}
    assert all(torch.equal(found[name], mask) for name, mask in plain.masks.items())


class FlatLinear(nn.Linear):
    """Takes other inputs than its kind does."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flatten(1))


@pytest.mark.parametrize("guidance", ["none", "wanda", "magnitude", "learned"])
def test_layers_with_a_forward_of_their_own(guidance: str) -> None:
    net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), FlatLinear(48, 2))
    consistent(quick(net, guidance=guidance))


def test_layers_whose_order_is_random_are_named(caplog: pytest.LogCaptureFixture) -> None:
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 8, 3, groups=2), nn.Flatten(), nn.Linear(32, 2))
    quick(net)
    assert "random, not evolved" in caplog.text
    assert "59 % of the weights: 2; guidance magnitude" in caplog.text
    caplog.clear()
    quick(net, guidance="magnitude")
    quick(net, layers=["0", "4"])
    assert "random" not in caplog.text


def test_layers_that_are_not_called_as_their_kind_are_named(caplog: pytest.LogCaptureFixture) -> None:
    class Attends(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(36, 16), nn.Linear(16, 2)
            self.attention = nn.MultiheadAttention(16, 2, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x.flatten(1))[:, None]
            out: Tensor = self.last(self.attention(x, x, x, need_weights=False)[0][:, 0])
            return out

    quick(Attends())
    assert "30 % of the weights: attention.out_proj;" in caplog.text


class Shrinking:
    """Batches that grow, and so get fewer, after the first epoch."""

    def __init__(self) -> None:
        self.epochs = 0

    def __iter__(self):
        self.epochs += 1
        size = 8 if self.epochs == 1 else 32
        return zip(*(tensor.split(size) for tensor in data()), strict=True)


def test_masks_tighten_to_the_end_though_there_are_fewer_batches() -> None:
    options = {"guidance": "gradient", "population": None, "generations": None, "batch_size": None}
    result = quick(model(), train=Shrinking(), sparsity=0.8, **options)
    assert (round(result.sparsity, 2), result.summary["status"]) == (0.8, "complete")
    consistent(result)


def test_a_sparsity_between_whole_weights_is_reached() -> None:
    result = quick(model(), layers="0", sparsity=0.6)  # 27 weights
    assert result.summary["status"] == "complete"


def test_a_loss_of_ones_own_has_no_teacher_later_either(tmp_path: Path) -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model()

        def forward(self, inputs: Tensor) -> dict[str, Tensor]:
            return {"out": self.inner(inputs)}

    def loss(outputs: dict[str, Tensor], targets: Tensor) -> Tensor:
        return nn.functional.cross_entropy(outputs["out"], targets)

    def score(net: nn.Module) -> float:
        with torch.no_grad():
            return float((net(data()[0])["out"].argmax(1) == data()[1]).float().mean())

    quick(Named(), score, None, guidance="magnitude", out=tmp_path)
    consistent(evoprune.finetune(tmp_path, 1, model=Named(), score=score, train=data(), loss=loss))


DRAWN: dict[str, Callable[[], list[int]]] = {
    "torch": lambda: torch.randint(64, (16,)).tolist(),
    "numpy": lambda: np.random.randint(64, size=16).tolist(),  # noqa: NPY002
    "Python": lambda: random.choices(range(64), k=16),
}


@pytest.mark.parametrize("draw", DRAWN.values(), ids=DRAWN)
def test_a_score_that_draws_numbers_draws_the_same_for_everyone(draw: Callable[[], list[int]]) -> None:
    def noisy(net: nn.Module) -> float:
        some = draw()
        with torch.no_grad():
            return float((net(data()[0][some]).argmax(1) == data()[1][some]).float().mean())

    def seed() -> None:
        torch.manual_seed(0), np.random.seed(0), random.seed(0)  # noqa: NPY002

    seed()
    expected = draw()
    seed()
    first, second = (quick(model(), noisy, guidance="magnitude") for _ in range(2))
    assert draw() == expected, "the global states are left as they were"
    seed()
    assert first.score == noisy(first.model) == second.score


@pytest.mark.parametrize("floor", [None, 0.0])
def test_a_goal_that_one_weight_a_layer_misses_is_said_to_be_missed(floor: float | None) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, 1, bias=False), nn.Linear(1, 1), nn.Linear(1, 1), nn.Linear(1, 2))
    status = quick(net, sparsity=0.95, floor=floor, finetune_epochs=0, final_epochs=0).summary["status"]
    assert status == "ended at sparsity 0.9000, below the 0.95 asked for, because every layer keeps a weight"
    status = quick(model(), layers="0", sparsity=0.99, finetune_epochs=0, final_epochs=0).summary["status"]
    assert status == "ended at sparsity 0.9630, below the 0.99 asked for, because every layer keeps a weight"


def test_models_that_cannot_be_copied_are_told_so() -> None:
    net = model()
    net.lock = threading.Lock()  # type: ignore[assignment]
    with pytest.raises(EvopruneError, match=r"cannot be copied.*a lock.*__deepcopy__"):
        quick(net)


def test_train_need_not_return_the_model() -> None:
    class Silent(nn.Sequential):
        def train(self, mode: bool = True) -> None:  # type: ignore[override]
            super().train(mode)

    consistent(quick(Silent(*model())))


def test_a_default_type_that_is_too_coarse_is_refused() -> None:
    torch.set_default_dtype(torch.bfloat16)
    try:
        with pytest.raises(EvopruneError, match=r"torch.bfloat16, too coarse.*torch.set_default_dtype\(torch.float32"):
            quick(model())
    finally:
        torch.set_default_dtype(torch.float32)


def epochs_of_first_stage(**options: Any) -> int:
    events: list[dict[str, Any]] = []
    quick(model(), sparsity=None, max_drop=0, learning_rate=1e-7, listener=events.append, **options)
    return sum(event["event"] == "epoch" and event["stage"] == 0 for event in events)


def test_a_single_final_epoch_is_run_before_it_is_judged() -> None:
    assert [epochs_of_first_stage(final_epochs=epochs) for epochs in (0, 1, 2, 6)] == [1, 2, 2, 4]


def test_epochs_of_small_images_are_not_judged() -> None:
    net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))
    given = {"sparsity": None, "floor": 0.5, "learning_rate": 1e-7, "train": data(), "final_epochs": 6}
    for options, expected in (({}, 4), ({"first_size": 3}, 7)):
        events: list[dict[str, Any]] = []
        stalled = scored_first(0.6)
        quick(net, stalled, listener=events.append, **given, **options)
        assert sum(event["event"] == "epoch" and event["stage"] == 0 for event in events) == expected


def scored_first(value: float) -> Callable[[nn.Module], float]:
    """That value for the dense model, and ever less afterwards."""
    left = [value]

    def score(_: nn.Module) -> float:
        left.append(left[-1] * 0.99)
        return left[-2] if len(left) <= 3 else 0.0

    return score


@pytest.mark.parametrize("guidance", ["none", "magnitude"])
def test_every_size_that_images_will_have_is_tried_first(guidance: str) -> None:
    inputs = torch.rand(8, 1, 16, 16)
    net = nn.Sequential(nn.PixelUnshuffle(4), nn.Conv2d(16, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    train = inputs, torch.arange(8) % 2
    quick(net, evoprune.accuracy(train), train, first_size=8, final_epochs=4, guidance=guidance)
    bad = nn.Sequential(nn.PixelUnshuffle(8), nn.Conv2d(64, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    quick(bad, evoprune.accuracy(train), train, first_size=8, final_epochs=3, guidance=guidance)  # 8, 8, 16
    with pytest.raises(EvopruneError, match="--first-size 8: the model does not take images of 12 pixels a side"):
        quick(bad, evoprune.accuracy(train), train, first_size=8, final_epochs=4, guidance=guidance)


def test_every_size_of_a_later_fine_tuning_is_tried_first(tmp_path: Path) -> None:
    inputs = torch.rand(8, 1, 16, 16)
    train = inputs, torch.arange(8) % 2
    bad = nn.Sequential(nn.PixelUnshuffle(8), nn.Conv2d(64, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    quick(bad, evoprune.accuracy(train), train, first_size=8, final_epochs=3, out=tmp_path)
    before = (tmp_path / "journal.jsonl").read_bytes()
    with pytest.raises(EvopruneError, match="--first-size 8: the model does not take images of 12 pixels a side"):
        evoprune.finetune(tmp_path, 4, model=bad, score=evoprune.accuracy(train), train=train)
    assert (tmp_path / "journal.jsonl").read_bytes() == before


WARNS = """
import torch, evoprune
net = torch.nn.Linear(4, 2)
evoprune.prune(net, lambda m: 1.0, sparsity=0.5, flip=True, population=3, generations=1)
"""


def test_warnings_are_seen_where_no_logging_was_set_up() -> None:
    done = subprocess.run([sys.executable, "-c", WARNS], capture_output=True, text=True, check=True)
    assert "without `train` nothing is fine-tuned, and this means nothing: flip" in done.stderr
    assert "begins with random weights" in done.stderr


# -- what a run may look at, and what it draws ----------------------------------------------------------------


def test_a_weight_that_comes_back_has_the_last_value_that_it_had(monkeypatch: pytest.MonkeyPatch) -> None:
    dense, take_best, back = model(), Runner._take_best, []

    def watched(self: Runner, stage: Any, search: Any) -> None:
        before = self.state.now.masks
        take_best(self, stage, search)
        back.append(sum(int((mask & ~before[name]).sum()) for name, mask in self.state.now.masks.items()))

    monkeypatch.setattr(Runner, "_take_best", watched)
    result = quick(dense, train=None, sparsity=0.9, generations=3, mutation_rate=0.2)
    assert sum(back) > 0
    for name, mask in result.masks.items():
        assert torch.equal(result.model.get_parameter(f"{name}.weight"), dense.get_parameter(f"{name}.weight") * mask)


def test_the_test_set_is_read_once_for_each_model_and_decides_nothing() -> None:
    read: list[nn.Module] = []
    events: list[dict[str, Any]] = []
    result = quick(model(), test=lambda net: read.append(net) or -7.0, sparsity=0.9, listener=events.append)
    assert len(read) == 2
    assert result.summary["dense"]["test_score"] == result.summary["pruned"]["test_score"] == -7
    assert -7 not in [event["val_score"] for event in events if "val_score" in event]


def test_a_stage_that_just_holds_the_floor_is_kept() -> None:
    dense = margin(model())
    result = quick(model(), lambda net: 1.0 if margin(net) == dense else 0.9, train=None, floor=0.9, passes=[0.5])
    assert result.sparsity == pytest.approx(0.5, abs=0.01)


def test_the_teacher_is_the_dense_model_in_eval_mode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net, epoch, teachers = model().train(), FineTuner.epoch, []

    def watched(tuner: FineTuner, *place: Any, **options: Any) -> float:
        teachers.append(copy.deepcopy(tuner.teacher))
        return epoch(tuner, *place, **options)

    monkeypatch.setattr(FineTuner, "epoch", watched)
    quick(net, out=tmp_path)
    evoprune.finetune(tmp_path, 1, model=net, score=evoprune.accuracy(data()), train=data())
    assert len(teachers) >= 3
    for teacher in teachers:
        assert not any(module.training for module in teacher.modules())
        assert all(torch.equal(tensor, net.state_dict()[name]) for name, tensor in teacher.state_dict().items())


def test_every_fine_tuning_runs_through_its_schedule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    epoch, seen = FineTuner.epoch, []

    def watched(tuner: FineTuner, number: int, *place: Any, **options: Any) -> float:
        if not seen or seen[-1][0] is not tuner:
            seen.append((tuner, []))
        seen[-1][1].append(number)
        return epoch(tuner, number, *place, **options)

    monkeypatch.setattr(FineTuner, "epoch", watched)
    quick(model(), sparsity=0.9, finetune_epochs=2, final_epochs=3, out=tmp_path)
    evoprune.finetune(tmp_path, 2, 0.0123, model=model(), score=evoprune.accuracy(data()), train=data())
    assert [epochs for _, epochs in seen][-2:] == [[0, 1, 2], [0, 1]]
    assert all(epochs == list(range(tuner.recipe.epochs)) for tuner, epochs in seen)
    assert [tuner.recipe.schedule for tuner, _ in seen[-2:]] == ["cosine"] * 2
    assert (seen[0][0].recipe.learning_rate, seen[-1][0].recipe.learning_rate) == (0.003, 0.0123)


def test_a_later_fine_tuning_has_the_schedule_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    epoch, schedules = FineTuner.epoch, []

    def watched(tuner: FineTuner, *place: Any, **options: Any) -> float:
        schedules.append(tuner.recipe.schedule)
        return epoch(tuner, *place, **options)

    monkeypatch.setattr(FineTuner, "epoch", watched)
    quick(model(), sparsity=0.5, finetune_epochs=1, final_epochs=1, final_schedule="constant", out=tmp_path)
    evoprune.finetune(tmp_path, 1, model=model(), score=evoprune.accuracy(data()), train=data())
    assert schedules == ["constant"] * 3


def test_no_two_steps_of_a_run_draw_the_same_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[int] = []

    def watched(*place: int) -> torch.Generator:
        made = generator(*place)
        seeds.append(made.initial_seed())
        return made

    for module in ("evoprune.run.runner", "evoprune.surgery.finetune", "evoprune.guidance.evolved"):
        monkeypatch.setattr(f"{module}.generator", watched)
    quick(model(), sparsity=0.9, generations=2, finetune_epochs=2, final_epochs=2, out=tmp_path)
    for _ in range(2):
        evoprune.finetune(tmp_path, 2, model=model(), score=evoprune.accuracy(data()), train=data())
    assert len(seeds) > 20
    assert len(seeds) == len(set(seeds))


def test_norms_are_measured_on_images_augmented_as_in_training() -> None:
    options = {"finetune_epochs": 0, "final_epochs": 0, "recalibrate": True, "guidance": "magnitude", "layers": "5"}
    plain, moved = (quick(model(), shift=shift, **options).model[1].running_mean for shift in (0, 2))
    assert not torch.allclose(plain, moved, rtol=1e-3)


def test_a_run_is_resumed_in_the_given_model_itself_where_asked(tmp_path: Path) -> None:
    def stop(_: dict[str, Any]) -> None:
        raise Stopped

    with pytest.raises(Stopped):
        quick(model(), out=tmp_path, listener=stop)
    net = model()
    resumed = evoprune.resume(tmp_path, net, evoprune.accuracy(data()), train=data(), inplace=True)
    assert resumed.model is net
    consistent(resumed)


@pytest.mark.parametrize("unset", [{}, {"generations": None, "preset": None, "space": None}])
def test_without_training_the_search_has_more_generations(unset: dict[str, None]) -> None:
    events: list[dict[str, Any]] = []
    given: dict[str, Any] = {"passes": [0.5], "guidance": "magnitude", "population": 2, "threads": 1, **unset}
    evoprune.prune(model(), evoprune.accuracy(data()), listener=events.append, **given)
    assert sum(event["event"] == "generation" for event in events) == 1 + api.UNTUNED_GENERATIONS


def test_a_weight_that_comes_back_in_the_original_is_zero() -> None:
    """As in the reference."""
    options = {"preset": "original", "passes": [0.9, 1.0], "floor": 0.0, "population": 6, "generations": 4}
    result = quick(model(), train=None, **options)
    weights = {name: result.model.get_parameter(f"{name}.weight") for name in result.masks}
    assert any(bool((weights[name][mask] == 0).any()) for name, mask in result.masks.items())


def test_without_stopping_early_a_candidate_is_one_full_evaluation() -> None:
    search = quick(model(), scoring=[], guidance="magnitude").summary["search"]
    assert search["full_evaluations"] == search["evaluations"] > 0


@pytest.mark.parametrize("preset", ["default", "original"])
def test_a_run_that_is_out_of_time_at_once_scores_one_population_and_is_tuned(preset: str) -> None:
    result = quick(model(), preset=preset, time_limit_seconds=1e-6, max_drop=50)
    assert result.summary["search"]["generations"] == 0
    assert result.summary["finetune"]["epochs"] == 1
    assert result.sparsity > 0


TIGHTENS = {"guidance": "gradient", "population": None, "generations": None}


@pytest.mark.parametrize(
    ("options", "epochs"), [({}, 0 + 3), (TIGHTENS, 1 + 2), ({"final_epochs": 0}, 3), ({"final_epochs": 1}, 2 + 1)]
)
def test_the_first_stage_is_not_trained_past_the_time(
    options: dict[str, Any], epochs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Final epochs before short ones; where training itself prunes, or nothing else trains, one of these at least."""
    monkeypatch.setattr(TimeLimit, "_epoch_seconds", lambda _: 30.0)
    given: dict[str, Any] = {"finetune_epochs": 5, "final_epochs": 10} | options
    monkeypatch.setattr(Runner, "elapsed", lambda runner: 30.0 * runner.state.finetune_epochs)
    result = quick(model(), passes=[0.5], time_limit_seconds=105, **given)
    assert result.summary["finetune"]["epochs"] == epochs
    assert result.sparsity == pytest.approx(0.5, abs=0.05)
    assert "the time was up" in result.summary["status"]


def test_in_inference_mode_it_is_trained_all_the_same() -> None:
    net, score, train = model(), evoprune.accuracy(data()), data()
    plain = quick(net, score, train)
    with torch.inference_mode():
        result = quick(net, score, train)
        assert torch.is_inference_mode_enabled()
    assert all(torch.equal(t, plain.model.state_dict()[name]) for name, t in result.model.state_dict().items())


def test_the_size_on_disk_is_that_of_the_file(tmp_path: Path) -> None:
    summary = quick(model(), out=tmp_path / "run").summary
    size = (tmp_path / "run/model.safetensors").stat().st_size
    assert summary["dense"]["file_bytes"] == summary["pruned"]["file_bytes"] == size
    assert size >= sum(tensor.nbytes for tensor in model().state_dict().values())
    again = evoprune.evaluate(tmp_path / "run", model=model(), score=evoprune.accuracy(data()))
    assert again["file_bytes"] == size
    evoprune.finetune(tmp_path / "run", 1, model=model(), score=evoprune.accuracy(data()), train=data())
    assert json.loads((tmp_path / "run/result.json").read_text())["pruned"]["file_bytes"] == size


def test_guidance_looks_at_samples_of_all_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without training data, at those of the score, which may be in the order of their classes."""
    monkeypatch.setattr(tasks, "SAMPLES", 10)
    inputs = torch.arange(25.0)[:, None]
    score = evoprune.accuracy((inputs, torch.arange(25) // 5))
    task = tasks.given_task(nn.Linear(1, 5), score, None, None, api.make_settings(model="m"))
    assert task.samples is not None
    assert task.samples[0].flatten().tolist() == [0, 2, 5, 7, 10, 12, 15, 17, 20, 22]
    assert task.samples[1].tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]


def test_where_nothing_is_fine_tuned_no_teacher_is_asked() -> None:
    """Training data may be there for guidance alone; the outputs of this model no teacher's loss could take."""
    consistent(quick(Pair(), lambda net: margin(net.inner), finetune_epochs=0, final_epochs=0))  # type: ignore[arg-type]
    options = {"finetune_epochs": 0, "final_epochs": 0, "time_limit_seconds": 60}
    consistent(quick(Pair(), lambda net: margin(net.inner), **options))  # type: ignore[arg-type]


def test_a_model_on_several_devices_is_one_line() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, 4), nn.Linear(4, 2, device="meta"))
    with pytest.raises(EvopruneError, match=r"on several devices \(cpu, meta\)"):
        quick(net)


def test_a_gpu_by_its_number_is_for_the_model_to_name() -> None:
    with pytest.raises(EvopruneError, match="device cuda:1: move the model there"):
        quick(model(), device=torch.device("cuda:1"))


def test_a_weight_that_is_a_buffer_is_not_computed_from_others(caplog: pytest.LogCaptureFixture) -> None:
    class Weighted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.loss = model(), nn.CrossEntropyLoss(weight=torch.ones(2))

        def forward(self, inputs: Tensor) -> Tensor:
            return self.inner(inputs)  # type: ignore[no-any-return]

    consistent(quick(Weighted()))
    assert "left out" not in caplog.text


def test_a_layer_without_any_weight_is_no_layer_to_prune() -> None:
    net = model().append(nn.Identity())
    net[-1].off = nn.Embedding(0, 8)
    consistent(quick(net))


def test_settings_that_would_mean_nothing_are_told(caplog: pytest.LogCaptureFixture) -> None:
    quick(model(), train=None, final_schedule="constant", finetune_schedule="cosine")
    assert "final_epochs, final_schedule, finetune_epochs, finetune_schedule" in caplog.text
    with pytest.raises(EvopruneError, match="--memory-mb belongs to a search"):
        quick(model(), guidance="gradient", population=None, generations=None, memory_mb=100)


# -- what engineers bring -------------------------------------------------------------------------------------


def test_padded_texts_for_a_transformer_of_torch() -> None:
    """Its fast path would pack them, and not call the layers as hooks expect."""

    class Texts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words = nn.Embedding(10, 8, padding_idx=0)
            self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2)
            self.out = nn.Linear(8, 2)

        def forward(self, ids: Tensor) -> Tensor:
            encoded = self.encoder(self.words(ids), src_key_padding_mask=ids == 0)
            return self.out(encoded.mean(1))  # type: ignore[no-any-return]

    torch.manual_seed(0)
    ids = torch.randint(1, 10, (40, 6))
    ids[::2, 4:] = 0
    train = ids, (ids[:, 0] > 4).long()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of torch, that nested tensors are a prototype
        quick(Texts(), evoprune.accuracy(train), train)
    assert torch.backends.mha.get_fastpath_enabled()


def test_a_learning_rate_that_ruins_the_model_is_said_so(caplog: pytest.LogCaptureFixture) -> None:
    options = {"passes": [0.1], "guidance": "magnitude", "finetune_epochs": 2, "optimizer": "sgd"}
    quick(model(), learning_rate=1e-3, **options)
    assert "lower learning rate" not in caplog.text
    quick(model(), learning_rate=50.0, **options)
    assert "give a lower learning rate than 50" in caplog.text


def test_tensors_that_no_file_can_keep_are_found_first(tmp_path: Path) -> None:
    for name, tensor in (("sparse", torch.eye(3).to_sparse()), ("complex128", torch.zeros(1, dtype=torch.cdouble))):
        net = model()
        net.register_buffer("other", tensor)
        with pytest.raises(EvopruneError, match=f"other, a .*{name} tensor"):
            quick(net, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_complex_parameters_are_trained() -> None:
    class Spectral(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.mix = model(), nn.Parameter(torch.ones(6, 4, dtype=torch.cfloat))

        def forward(self, inputs: Tensor) -> Tensor:
            mixed = torch.fft.irfft(torch.fft.rfft(inputs) * self.mix, n=6)
            return self.inner(mixed)  # type: ignore[no-any-return]

    consistent(quick(Spectral()))


def test_a_batch_of_a_loader_is_tried_whole() -> None:
    """As one graph has to be; and boxes of several images have the numbers of those."""

    class Graph(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 2)
            self.edges = torch.arange(20).roll(1)

        def forward(self, nodes: Tensor) -> Tensor:
            return self.b(self.a(nodes)[self.edges].relu())  # type: ignore[no-any-return]

    nodes, labels = torch.randn(20, 6), torch.arange(20) % 2
    net = Graph()

    def score(candidate: nn.Module) -> float:
        with torch.no_grad():
            return float((candidate(nodes).argmax(1) == labels).float().mean())

    consistent(quick(net, score, [(nodes, labels)], guidance="magnitude"))
    for guidance in ("none", "wanda", "learned"):
        with pytest.raises(EvopruneError, match=rf"{guidance} .* two of them alone: IndexError.*guidance magnitude"):
            quick(net, score, [(nodes, labels)], guidance=guidance)


def test_targets_that_are_not_one_a_sample_have_gradients_while_training_alone() -> None:
    batches = [(data()[0][:32], torch.zeros(50, 5)), (data()[0][32:], torch.zeros(40, 5))]

    def loss(outputs: Tensor, boxes: Tensor) -> Tensor:
        return outputs.square().mean() + boxes.sum()

    options: dict[str, Any] = {"guidance": "gradient", "loss": loss}
    consistent(quick(model(), margin, batches, population=None, generations=None, **options))
    with pytest.raises(EvopruneError, match="64 inputs and 90 targets; leave --space out"):
        quick(model(), margin, batches, space="allocation", **options)


def test_scores_from_data_need_a_device_that_has_doubles() -> None:
    with pytest.raises(EvopruneError, match="sums in float64, which meta does not have"):
        quick(model().to("meta"))


def test_a_drop_in_hundredths_of_a_percent_is_pointed_out(caplog: pytest.LogCaptureFixture) -> None:
    quick(model(), lambda _: 90.0, max_drop=0.5)
    assert "from 90 it may fall to 89.995; for a score in percent give max_drop=50" in caplog.text
    caplog.clear()
    quick(model(), lambda _: 0.9, max_drop=0.5)
    quick(model(), lambda _: 90.0, max_drop=50)
    quick(model(), lambda _: -2.3, max_drop=0.5)
    assert "hundredths" not in caplog.text


def test_weights_in_half_precision_are_not_trained() -> None:
    with pytest.raises(EvopruneError, match=r"float16 are too coarse.*model.float\(\)"):
        quick(model().half())


def test_buffers_that_scoring_changes_are_named(caplog: pytest.LogCaptureFixture) -> None:
    class Observed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model()
            self.register_buffer("highest", torch.zeros(()))

        def forward(self, inputs: Tensor) -> Tensor:
            self.highest.copy_(torch.maximum(self.highest, inputs.max()))
            return self.inner(inputs)  # type: ignore[no-any-return]

    quick(Observed())
    assert "scoring changes buffers of the model" in caplog.text
    assert ": highest;" in caplog.text
    caplog.clear()
    quick(model())
    assert "changes buffers" not in caplog.text


@pytest.mark.parametrize("bad", [2, -1])
def test_labels_of_pixels_are_all_looked_at(bad: int) -> None:
    net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 1))
    inputs, targets = data()[0], torch.zeros(64, 6, 6, dtype=torch.long)
    targets[5, 0, :2] = torch.tensor([-100, 1])

    def score(candidate: nn.Module) -> float:
        with torch.no_grad():
            return float((candidate(inputs).argmax(1) == targets).float().mean())

    consistent(quick(net, score, (inputs, targets)))
    targets[50, 3, 3] = bad
    with pytest.raises(EvopruneError, match=f"label {bad}, but the model has 2 outputs.*ignore_index"):
        quick(net, score, (inputs, targets))


def test_scales_of_norms_over_several_dimensions_and_integers_are_no_layers() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.LayerNorm((2, 4, 4)), nn.Flatten(), nn.Linear(32, 2))
    net[3].register_module("packed", nn.Module())
    net[3].packed.weight = nn.Parameter(torch.zeros(4, 4, dtype=torch.uint8), requires_grad=False)
    assert [layer.name for layer in evoprune.core.prunable_layers(net)] == ["0", "3"]
    assert [layer.name for layer in evoprune.core.prunable_layers(net, include_norm=True)] == ["0", "1", "3"]


def test_the_start_of_a_loader_counts_once_in_the_time_of_an_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    class Slow:
        """Takes 100 seconds to start and 2 for each of its batches."""

        def __len__(self) -> int:
            return 16

        def __iter__(self) -> Any:
            nonlocal now
            now += 100
            for batch in zip(*(tensor.split(4) for tensor in data()), strict=True):
                now += 2
                yield batch

    def score(net: nn.Module) -> float:
        nonlocal now
        now += 1000
        return margin(net)

    estimates = []
    wanted = TimeLimit.is_up

    def watched(limit: TimeLimit, *given: Any, **options: Any) -> bool:
        estimates.append(limit._epoch_seconds())
        return wanted(limit, *given, **options)

    monkeypatch.setattr("evoprune.run.time_limit.time.perf_counter", lambda: now)
    monkeypatch.setattr(TimeLimit, "is_up", watched)
    quick(model(), score, Slow(), guidance="magnitude", time_limit_seconds=1e9, batch_size=None)
    assert estimates[0] == 1000 + 100 + 16 * 2


def test_a_run_whose_time_was_up_once_only_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Though what was left to do took less than was thought."""

    def up(limit: TimeLimit, **_: int) -> bool:
        return limit.state.stage is None and len(limit.state.history) == 1

    monkeypatch.setattr(TimeLimit, "is_up", up)
    events: list[dict[str, Any]] = []
    result = quick(model(), sparsity=0.9, time_limit_seconds=60, listener=events.append)
    assert [event["layers"] for event in events if event["event"] == "stage_start"][1:] == [[]]
    assert result.summary["status"].endswith("because the time was up")


def test_a_model_of_which_nothing_could_go_was_trained_all_the_same(tmp_path: Path) -> None:
    result = quick(model(), layers=["5"], sparsity=0.001, out=tmp_path)  # a tenth of a weight
    assert result.summary["status"] == "nothing could be pruned; the model was only fine-tuned"
    dense = quick(model(), layers=["5"], sparsity=0.001, train=None, out=tmp_path / "dense")
    assert dense.summary["status"] == "nothing could be pruned; the dense model is returned"
    tuned = evoprune.finetune(tmp_path / "dense", 1, model=model(), score=evoprune.accuracy(data()), train=data())
    assert tuned.summary["status"] == "nothing could be pruned; the model was only fine-tuned"


def test_a_scripted_part_stays_as_it_is() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch, that scripts are of yesterday
        scripted = torch.jit.script(nn.Sequential(nn.Linear(2, 2), nn.ReLU()))
        consistent(quick(nn.Sequential(model(), scripted), train=None))


class InEval(nn.Module):
    """Gives logits in training, and in eval mode what `then` makes of them."""

    def __init__(self, then: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.inner, self.then = model(), then

    def forward(self, x: Tensor) -> Any:
        logits = self.inner(x)
        return logits if self.training else self.then(logits)


def test_the_teacher_is_tried_in_eval_mode(caplog: pytest.LogCaptureFixture) -> None:
    pair = InEval(lambda logits: (logits, logits.norm()))
    with pytest.raises(EvopruneError, match=r"gives a tuple in eval mode.*distill=0"):
        quick(pair, lambda net: margin(net.inner))  # type: ignore[arg-type]
    consistent(quick(pair, lambda net: margin(net.inner), distill=0.0))  # type: ignore[arg-type]
    assert "probabilities" not in caplog.text
    quick(InEval(lambda logits: logits.softmax(1)))
    assert "gives probabilities in eval mode" in caplog.text


def test_frozen_weights_have_gradients_for_guidance_whoever_made_the_loss() -> None:
    net = model().requires_grad_(False)
    for loss in (None, nn.functional.cross_entropy):
        consistent(quick(net, train=None, guidance="gradient", loss=loss))
    assert not any(parameter.requires_grad for parameter in net.parameters())


def test_a_run_from_python_that_was_killed_at_once_asks_for_its_model(tmp_path: Path) -> None:
    quick(model(), out=tmp_path)
    for file in ("result.json", "state/dense.safetensors", "state/snapshot.safetensors"):
        (tmp_path / file).unlink()
    with pytest.raises(EvopruneError, match="started from Python with a model of its own"):
        evoprune.resume(tmp_path)


def test_a_later_fine_tuning_ends_in_the_journal_when_its_files_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else one that is killed while they are written would be told of as done."""
    quick(model(), out=tmp_path)
    ended = (tmp_path / "journal.jsonl").read_text().count("stage_end")
    save, seen = evoprune.Result.save_model, []

    def watched(result: evoprune.Result, folder: Path) -> None:
        save(result, folder)
        seen.append((tmp_path / "journal.jsonl").read_text().count("stage_end"))

    monkeypatch.setattr(evoprune.Result, "save_model", watched)
    evoprune.finetune(tmp_path, 1, model=model(), score=evoprune.accuracy(data()), train=data())
    assert seen == [ended]
    assert (tmp_path / "journal.jsonl").read_text().count("stage_end") == ended + 1


@pytest.mark.parametrize("few", [[16], [16, 16]])
def test_a_candidates_norms_are_measured_on_all_batches_and_to_screen_it_on_few(
    few: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[int]] = []

    def watched(*parts: Any, norm_batches: Any = (), **rest: Any) -> Any:
        seen.append([len(batch) for batch in norm_batches])
        return make_evaluator(*parts, norm_batches=norm_batches, **rest)

    monkeypatch.setattr("evoprune.run.searching.make_evaluator", watched)
    monkeypatch.setattr("evoprune.run.searching.SCREENING_NORM_SAMPLES", sum(few))
    monkeypatch.setattr("evoprune.run.runner.NORM_SAMPLES", 40)
    quick(model(), passes=[0.5], algorithm="evopress", recalibrate=True, guidance="magnitude")
    assert seen == [few, few, [16, 16, 16]]


def test_batch_norms_are_not_measured_on_batches_that_spoil_the_dense_model(caplog: pytest.LogCaptureFixture) -> None:
    """Batches of one class, say, as an unshuffled loader of a sorted folder gives them."""
    inputs, targets = data()
    dense = evoprune.accuracy(data())(model())
    shifted = [(batch + 3, labels) for batch, labels in zip(inputs.split(32), targets.split(32), strict=True)]
    options = {"passes": [0.5], "train": shifted, "finetune_epochs": 0, "final_epochs": 0, "guidance": "magnitude"}
    statistics = model()[1].running_mean  # type: ignore[index, union-attr]
    result = quick(model(), evoprune.loss((inputs, targets)), recalibrate=None, **options)
    assert "candidates are scored with its own" in caplog.text
    assert torch.equal(result.model[1].running_mean, statistics)  # type: ignore[index]
    caplog.clear()
    result = quick(model(), evoprune.loss((inputs, targets)), recalibrate=True, **options)
    assert "are those batches like all of the data?" in caplog.text
    assert not torch.equal(result.model[1].running_mean, statistics)  # type: ignore[index]
    assert dense > 0


def test_norms_are_measured_after_epochs_that_tighten() -> None:
    result = quick(model(), passes=[0.5], final_epochs=0, recalibrate=True, **TIGHTENS)
    found = result.model[0](data()[0]).mean((0, 2, 3))  # type: ignore[index]
    torch.testing.assert_close(result.model[1].running_mean, found.detach(), rtol=1e-4, atol=1e-5)  # type: ignore[index]


def test_a_later_stage_below_the_floor_is_not_trained_out_when_the_time_is_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TimeLimit, "is_up", lambda _, tuned=False: tuned)
    events: list[dict[str, Any]] = []

    def score(net: nn.Module) -> float:
        zeros = sum(int((net[layer].weight == 0).sum()) for layer in (0, 5))  # type: ignore[index]
        return 1.0 if zeros < 50 else 0.5  # 37 of 123 in the first stage, 74 in the second

    result = quick(model(), score, passes=[0.3, 0.6, 0.9], floor=0.9, listener=events.append)
    assert [sum(e["event"] == "epoch" and e["stage"] == s for e in events) for s in range(3)] == [1, 1, 1]
    assert result.sparsity == pytest.approx(37 / 123)
    assert result.summary["status"].endswith("because the time was up")


def test_final_epochs_that_were_cut_are_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TimeLimit, "is_up", lambda *_, **__: False)
    monkeypatch.setattr(TimeLimit, "epochs_left", lambda _, wanted: min(wanted, 1))
    summary = quick(model(), passes=[0.5], finetune_epochs=0, final_epochs=3).summary
    assert summary["finetune"]["epochs"] == 1
    assert "the time was up" in summary["status"]


@pytest.mark.parametrize(
    ("floor", "status"), [(0.9, "the validation score 0.5000 is below the floor 0.9000"), (0.5, "complete")]
)
def test_a_model_below_its_floor_is_said_to_be(floor: float, status: str) -> None:
    dense = margin(model())
    options = {"preset": "original", "floor": floor}
    result = quick(model(), lambda net: 1.0 if margin(net) == dense else 0.5, train=None, **options)
    assert result.summary["status"] == status


def test_the_clock_of_a_resumed_run_goes_on(tmp_path: Path) -> None:
    def stop(event: dict[str, Any]) -> None:
        if event["event"] == "stage_start":
            raise Stopped

    with pytest.raises(Stopped):
        quick(model(), out=tmp_path, listener=stop)
    snapshot = tmp_path / "state" / "snapshot.safetensors"
    state = load_state(snapshot)
    state.seconds = 1000.0
    save_state(state, snapshot)
    resumed = evoprune.resume(tmp_path, model(), evoprune.accuracy(data()), train=data())
    assert resumed.summary["seconds"] >= 1000


def test_the_time_of_a_search_has_its_guidance_and_that_of_fine_tuning_every_epoch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now, advise = [0.0], searching.advise

    def slow(*given: Any) -> Any:
        now[0] += 100
        return advise(*given)

    def score(_: nn.Module) -> float:
        now[0] += 1
        return 1.0

    monkeypatch.setattr("evoprune.run.runner.time", SimpleNamespace(perf_counter=lambda: now[0]))
    monkeypatch.setattr(searching, "advise", slow)
    summary = quick(model(), score, passes=[0.5], guidance="magnitude", finetune_epochs=2).summary
    assert summary["search"]["seconds"] == 100 + summary["search"]["evaluations"]
    assert summary["finetune"] == {"epochs": 3, "seconds": 3}


def test_a_candidate_of_guidance_is_one_evaluation_of_an_own_function() -> None:
    search = quick(model(), margin, guidance="learned").summary["search"]
    assert search["full_evaluations"] == search["evaluations"] > 800


def test_an_unfinished_runs_journal_counts_evaluations_as_its_result_does() -> None:
    events: list[dict[str, Any]] = []
    summary = quick(model(), listener=events.append).summary
    last = [event for event in events if event["event"] == "generation"][-1]
    assert last["full_evaluations"] == summary["search"]["full_evaluations"]


def test_a_teacher_that_draws_in_eval_mode_teaches_the_same_again() -> None:
    class Always(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model()

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(nn.functional.dropout(x, 0.5)) * (0.5 + np.random.rand() / 2)  # noqa: NPY002

    weights = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        expected = np.random.rand()  # noqa: NPY002
        np.random.seed(seed)  # noqa: NPY002
        net = Always()
        net.inner.load_state_dict(model().state_dict())
        weights.append(quick(net).model.state_dict())
        assert np.random.rand() == expected  # noqa: NPY002
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


def test_a_run_stopped_before_its_weights_were_kept_is_not_resumed_with_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError("no space")

    with monkeypatch.context() as patch:
        patch.setattr("evoprune.api.save_tensors", full)
        with pytest.raises(OSError, match="no space"):
            quick(model(), out=tmp_path / "run")
    with pytest.raises(EvopruneError, match=r"had not begun.*start over with overwrite=True"):
        evoprune.resume(tmp_path / "run", model(), evoprune.accuracy(data()), train=data())
    quick(model(), out=tmp_path / "run", overwrite=True)


@pytest.mark.parametrize("score", [evoprune.loss, evoprune.fidelity])
def test_a_stage_whose_model_gives_nan_is_a_bad_one(score: Any, tmp_path: Path) -> None:
    class Normalizing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(36, 8, bias=False), nn.Linear(8, 2)
            self.first.weight.data.abs_()

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x.flatten(1)).relu()
            return self.second(x / x.norm(dim=1, keepdim=True))

    torch.manual_seed(0)
    inputs, targets = data()
    result = quick(
        Normalizing(), score((inputs.relu(), targets)), None, guidance="magnitude", passes=[0.3, 0.98], front=True,
        out=tmp_path,
    )  # fmt: skip
    stages = [json.loads(line) for line in (tmp_path / "journal.jsonl").read_text().splitlines()]
    assert [event["val_score"] is None for event in stages if event["event"] == "stage_end"] == [False, True]
    assert [point["sparsity"] for point in result.front] == [pytest.approx(0.3, abs=0.01)]


def test_a_score_that_trains_the_model_is_refused() -> None:
    def training(net: nn.Module) -> float:
        with torch.no_grad():
            net[-1].bias.add_(1)
        return margin(net)

    with pytest.raises(EvopruneError, match=r"the score changes the model's weights \(\d\.bias\).*deepcopy"):
        quick(model(), training)


def test_that_a_folder_holds_a_run_is_said_before_anything_is_scored(tmp_path: Path) -> None:
    quick(model(), out=tmp_path / "run")
    with pytest.raises(EvopruneError, match="already holds a run"):
        quick(model(), lambda _: pytest.fail("scored"), out=tmp_path / "run")


def test_the_masks_of_each_stage_are_there_while_the_run_goes_on(tmp_path: Path) -> None:
    kept: list[int] = []

    def listen(event: dict[str, Any]) -> None:
        if event["event"] == "stage_end":
            kept.append(sum(int(mask.sum()) for mask in load_file(tmp_path / "masks.safetensors").values()))

    result = quick(model(), out=tmp_path, passes=[0.3, 0.6], listener=listen)
    assert len(kept) == 2
    assert kept[0] > kept[1] == sum(int(mask.sum()) for mask in result.masks.values())


def test_layers_of_very_many_inputs_have_a_random_order_and_it_is_said(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evoprune.evaluation.moments.MOST_INPUTS", 47)
    net = model()
    wide = [name for name, part in net.named_modules() if isinstance(part, nn.Linear)]
    assert layer_moments(net, ["0", *wide], data()[0]).keys() == {"0"}
    quick(net)
    assert "or have too many inputs" in caplog.text
    assert f"weights: {wide[0]}" in caplog.text
