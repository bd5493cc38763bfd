"""Scores: what they are, and what they say about data and functions that cannot be used."""

import copy
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from evoprune import scoring
from evoprune.core import EvopruneError
from evoprune.scoring import (
    Accuracy,
    CallableScore,
    Fidelity,
    NegativeLoss,
    as_score,
    largest_numel,
    watch_inputs,
    watching,
)


def data(samples: int = 600) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), nn.Dropout(0.5), nn.BatchNorm1d(8), nn.Linear(8, 3))
    return model, torch.randn(samples, 5), torch.randint(0, 3, (samples,))


def test_values_are_torchs() -> None:
    model, inputs, targets = data()
    with torch.no_grad():
        outputs = model.eval()(inputs)
    model.train()
    assert Accuracy(inputs, targets)(model) == (outputs.argmax(1) == targets).double().mean()
    assert NegativeLoss(inputs, targets)(model) == pytest.approx(-F.cross_entropy(outputs, targets).item(), rel=1e-6)
    assert all(module.training for module in model.modules())


def test_fidelity_is_relative_to_the_first_model() -> None:
    model, inputs, targets = data()
    score = Fidelity(inputs, targets)
    with pytest.raises(EvopruneError, match="bind"):
        _ = score.expected
    assert score(model) == 0
    with torch.no_grad():
        model[3].bias += 2
    assert score(model) == pytest.approx(-12, rel=1e-5)


@pytest.mark.parametrize("make", [scoring.accuracy, scoring.loss, scoring.fidelity])
def test_a_loader_gives_the_same_as_its_tensors_and_no_random_numbers_are_used(make: object) -> None:
    model, inputs, targets = data()
    state = torch.random.get_rng_state()
    loader = DataLoader(TensorDataset(inputs, targets), batch_size=64, shuffle=True)
    from_loader, from_tensors = make(loader), make((inputs, targets))  # type: ignore[operator]
    assert from_loader.samples == 600
    assert from_loader(model) == pytest.approx(from_tensors(model), abs=1e-7)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_shuffling_loader_gives_the_same_samples_in_the_same_order_each_time() -> None:
    _, inputs, targets = data()
    for own in (None, torch.Generator().manual_seed(1)):
        loader = DataLoader(TensorDataset(inputs, targets), batch_size=64, shuffle=True, generator=own)
        first = scoring.accuracy(loader)
        torch.manual_seed(7)
        assert torch.equal(scoring.accuracy(loader).inputs, first.inputs)


def test_scoring_changes_no_flag_of_cudnn_but_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def flags() -> tuple[bool, ...]:
        cudnn = torch.backends.cudnn
        return cudnn.enabled, cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32

    def forward(x: torch.Tensor) -> torch.Tensor:
        seen.append(flags())
        return x

    for name in ("enabled", "benchmark", "deterministic", "allow_tf32"):
        monkeypatch.setattr(torch.backends.cudnn, name, True)
    model = nn.Identity()
    monkeypatch.setattr(model, "forward", forward)
    with scoring.evaluating(model):
        model(torch.zeros(1))
    assert seen == [(True, True, True, False)]
    assert flags() == (True, True, True, True)


TF32_SWITCHES = """
import torch
from torch import nn
from evoprune.scoring import evaluating

backends = torch.backends
cudnn, mkldnn = backends.cudnn, backends.mkldnn
places = cudnn.conv, cudnn.rnn, backends.cuda.matmul, mkldnn.conv, mkldnn.rnn, mkldnn.matmul


def state():
    found = [place.fp32_precision for place in places]
    for older in (torch.get_float32_matmul_precision, lambda: cudnn.allow_tf32):
        try:
            found.append(older())
        except RuntimeError:
            found.append("cannot be told")
    return found


{}
before = state()
with evaluating(nn.Linear(2, 2)):
    inside = state()
    assert not {{"tf32", "bf16", "high", "medium", True}} & set(inside), inside
    a, b = torch.randn(2, 256, 256)
    torch.testing.assert_close(a @ b, (a.double() @ b.double()).float(), rtol=1e-4, atol=1e-3)
assert state() == before, (state(), before)
"""


@pytest.mark.skipif(not hasattr(torch.backends.cudnn, "conv"), reason="a version of torch before these switches")
@pytest.mark.parametrize(
    "switch",
    [
        "", "backends.fp32_precision = 'ieee'", "backends.fp32_precision = 'tf32'",
        "backends.cudnn.fp32_precision = 'tf32'", "backends.cudnn.conv.fp32_precision = 'ieee'",
        "torch.set_float32_matmul_precision('high')", "torch.set_float32_matmul_precision('medium')",
        "backends.cuda.matmul.allow_tf32 = True", "backends.mkldnn.matmul.fp32_precision = 'bf16'",
        "backends.mkldnn.fp32_precision = 'bf16'", "backends.cudnn.allow_tf32 = False",
    ],
)  # fmt: skip
def test_scores_are_of_full_float32_whichever_switch_of_torch_is_set(switch: str) -> None:
    """Each in a process of its own: torch does not let one be taken back entirely."""
    subprocess.run([sys.executable, "-c", TF32_SWITCHES.format(switch)], check=True)


@given(st.integers(1, 4), st.integers(1, 6), st.integers(2, 5))
def test_candidates_may_come_in_leading_dimensions(candidates: int, batch: int, classes: int) -> None:
    outputs, targets = torch.randn(candidates, batch, classes), torch.randint(0, classes, (batch,))
    for score in (Accuracy(torch.zeros(batch, 1), targets), NegativeLoss(torch.zeros(batch, 1), targets)):
        for method in (score.values, score.losses):
            together = method(outputs, targets)
            assert together.shape == (candidates, batch)
            torch.testing.assert_close(together, torch.stack([method(one, targets) for one in outputs]))
        assert (score.values(outputs, targets) <= score.upper_bound).all()


def test_each_modules_mode_is_left_as_found_also_after_an_error() -> None:
    model, inputs, targets = data()
    model[2].eval()
    with pytest.raises(EvopruneError, match="class 2"):
        Accuracy(inputs, targets)(model.append(nn.Linear(3, 2)))
    assert [module.training for module in model] == [True, True, False, True, True]
    assert torch.is_grad_enabled()


@pytest.mark.parametrize(
    ("given_data", "message"),
    [
        ((torch.zeros(0, 3), torch.zeros(0).long()), "empty"),
        ([], "empty"),
        ((torch.zeros(3, 2), torch.zeros(3)), "class numbers"),
        ((torch.zeros(3, 2), torch.tensor([0, -1, 0])), "a target is -1"),
        ((torch.zeros(3, 2), torch.zeros(4).long()), r"expected inputs \(N"),
        (torch.zeros(3), "scoring data is a Tensor"),
        (7, "scoring data is a int"),
        ([torch.zeros(3, 2)], "not a pair of tensors"),
        ([({"ids": 1}, torch.zeros(2))], "not a pair of tensors"),
        ([(torch.zeros(2, 3), torch.zeros(2).long()), (torch.zeros(2, 4), torch.zeros(2).long())], "several shapes"),
    ],
)
def test_data_that_cannot_be_used(given_data: object, message: str) -> None:
    with pytest.raises(EvopruneError, match=message) as caught:
        scoring.accuracy(given_data)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


class Sequence(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, None].expand(-1, 4, -1)


def test_models_that_cannot_be_used() -> None:
    _, inputs, targets = data()
    with pytest.raises(EvopruneError, match=r"\(100, 4, 5\); expected"):
        Accuracy(inputs, targets)(Sequence())
    assert NegativeLoss(inputs * float("nan"), targets)(nn.Linear(5, 3)) == -float("inf")


def test_a_function_is_a_score() -> None:
    model, _, _ = data(1)
    assert as_score(lambda _: torch.tensor(0.5))(model) == 0.5
    assert as_score(lambda _: 3)(model) == 3.0
    score = as_score(len)
    assert isinstance(score, CallableScore)
    assert as_score(score) is score


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda _: float("nan"), "NaN"),
        (lambda _: None, "returned a NoneType"),
        (lambda _: "0.5", "returned a str"),
        (lambda _: torch.zeros(2), "returned a Tensor"),
        (lambda _: 1 / 0, "raised ZeroDivisionError: division by zero"),
    ],
)
def test_functions_that_cannot_be_used(function: object, message: str) -> None:
    with pytest.raises(EvopruneError, match=message):
        as_score(function)(nn.Linear(1, 1))


def test_things_that_are_no_score() -> None:
    with pytest.raises(EvopruneError, match="score is a float"):
        as_score(0.5)


def test_a_model_that_changes_its_input_does_not_change_the_data() -> None:
    class InPlace(nn.Module):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return inputs.sub_(0.5).mul_(-1)

    inputs = torch.rand(20, 3)
    before, score = inputs.clone(), Accuracy(inputs, torch.zeros(20, dtype=torch.int64))
    assert score(InPlace()) == score(InPlace())
    assert torch.equal(inputs, before)


def test_no_batch_is_a_single_sample_that_is_left_over() -> None:
    """Some models cannot take one."""

    class Squeezing(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x[:, None].squeeze()

    score = Accuracy(torch.randn(101, 3), torch.zeros(101).long())
    assert 0 <= score(Squeezing()) <= 1


def test_a_sample_whose_output_is_not_a_number_is_wrong() -> None:
    outputs = torch.tensor([[float("nan"), 1.0], [2.0, 1.0], [0.0, float("nan")]])
    score = Accuracy(torch.zeros(3, 1), torch.tensor([0, 0, 1]))
    assert score.values(outputs, score.targets).tolist() == [False, True, False]


@pytest.mark.parametrize("make", [Accuracy, NegativeLoss, Fidelity])
def test_a_part_of_a_score_is_the_score_on_some_of_the_samples(make: type[scoring.DataScore]) -> None:
    dense, inputs, targets = data()
    score = make(inputs, targets)
    rows = score.rows_of(0.25)
    assert len(set(rows.tolist())) == 150
    alone = make(inputs[rows], targets[rows])
    model = copy.deepcopy(dense)
    for one in (score, alone):
        one.bind(dense)
    with torch.no_grad():
        model[3].weight.mul_(-1)
    assert score.part(0.25).samples == 150
    assert score.part(0.25)(model) == pytest.approx(alone(model))


def test_a_part_of_a_score_has_all_classes_though_they_take_turns() -> None:
    score = Accuracy(torch.zeros(1000, 3), torch.arange(1000) % 10)
    for share in (0.05, 0.25):
        assert set(score.part(share).targets.tolist()) == set(range(10))
    assert torch.equal(score.part(0.05).targets, score.part(0.05).targets)


def test_scores_are_of_float32_inside_autocast_too() -> None:
    model, inputs, targets = data()
    score = NegativeLoss(inputs, targets)
    alone = score(model)
    with torch.autocast("cpu", torch.bfloat16):
        assert score(model) == alone


def test_large_values_are_watched_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    net, batches = nn.Sequential(nn.Linear(3, 100), nn.ReLU(), nn.Linear(100, 2)), []
    assert largest_numel(net, torch.zeros(9, 3)) == 100
    monkeypatch.setattr(watching, "BATCH_BYTES", 4 * 100 * 4)
    watch_inputs(net, torch.zeros(9, 3), lambda name, _: name == "2", lambda *given: batches.append(len(given[2])))
    assert batches == [3, 3, 3]
