"""Second moments of layers' inputs, against sums written out, and on some positions only."""

from collections import OrderedDict

import pytest
import torch
from torch import Tensor, nn

from evoprune.evaluation import moments
from evoprune.evaluation.moments import layer_moments, layers_normed
from evoprune.scoring import watching


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 4, 2, stride=2, groups=1), nn.Flatten(), nn.Linear(64, 5)
    )


def images(count: int) -> Tensor:
    return torch.randn(count, 2, 8, 8, generator=torch.Generator().manual_seed(1)).cumsum(3) / 3


def test_they_are_the_sums_over_positions(monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs = net(), images(6)
    monkeypatch.setattr(watching, "BATCH", 4)
    found = layer_moments(model, ["0", "2", "4"], inputs)
    with torch.no_grad():
        middle = model[:2](inputs)
        rows = {
            "0": nn.functional.unfold(inputs, 3, padding=1).transpose(1, 2).flatten(0, 1),
            "2": nn.functional.unfold(middle, 2, stride=2).transpose(1, 2).flatten(0, 1),
            "4": model[:4](inputs),
        }
    for name, x in rows.items():
        torch.testing.assert_close(found[name], x.T @ x / 6, rtol=1e-4, atol=1e-4)


def test_the_error_of_a_mask_is_that_of_its_outputs() -> None:
    model, inputs = net(), images(5)
    moment = layer_moments(model, ["0"], inputs)["0"]
    gone = model[0].weight.detach() * (torch.rand(model[0].weight.shape) < 0.5)
    outputs = nn.functional.conv2d(inputs, gone, padding=1)
    flat = gone.flatten(1)
    torch.testing.assert_close(
        ((flat @ moment) * flat).sum(1), outputs.square().sum((2, 3)).mean(0), rtol=1e-4, atol=1e-4
    )


def test_some_positions_stand_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs = net(), images(400)
    whole = layer_moments(model, ["0", "4"], inputs)
    monkeypatch.setattr(moments, "FEWEST_ROWS", 4000)
    some = layer_moments(model, ["0", "4"], inputs)
    assert torch.equal(whole["4"], some["4"]), "a linear layer has one position"
    assert not torch.equal(whole["0"], some["0"])
    assert float((some["0"] - whole["0"]).norm()) < 0.15 * float(whole["0"].norm())
    again = layer_moments(model, ["0"], inputs)
    assert torch.equal(again["0"], some["0"])


def test_names_are_those_of_the_layers_whatever_a_part_is_called() -> None:
    inner = nn.Sequential(OrderedDict(module=nn.Linear(6, 5), head=nn.Linear(5, 3)))
    for model in (inner, nn.DataParallel(inner)):
        assert list(layer_moments(model, ["module", "head"], torch.randn(9, 6))) == ["module", "head"]


def test_few_samples_at_a_time_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs = nn.Sequential(nn.Conv2d(2, 3, 3)), torch.randn(20, 2, 7, 7)
    whole = layer_moments(model, ["0"], inputs)["0"]
    monkeypatch.setattr(moments, "COLUMN_BYTES", 12_000)
    torch.testing.assert_close(layer_moments(model, ["0"], inputs)["0"], whole)


def test_a_layer_that_gets_no_samples_has_no_moment_to_speak_of() -> None:
    """An expert that nothing is sent to."""

    class Experts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(3, 2), nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            sent = x[:, 0] > 1
            out = torch.zeros(len(x), 2)
            out[sent], out[~sent] = self.first(x[sent]), self.second(x[~sent])
            return out

    inputs = torch.rand(10, 3)
    found = layer_moments(Experts(), ["first", "second"], inputs)
    assert torch.equal(found["first"], torch.zeros(3, 3))
    torch.testing.assert_close(found["second"], inputs.T @ inputs / 10)


def test_about_the_mean_they_are_the_variance_of_what_goes_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a batch norm sees it, over all samples and positions."""
    model, inputs = net(), 2 + images(6)
    monkeypatch.setattr(watching, "BATCH", 4)
    found, plain = (layer_moments(model, ["0", "4"], inputs, centred) for centred in (["0"], []))
    assert torch.equal(found["4"], plain["4"])
    gone = model[0].weight.detach() * (torch.rand(model[0].weight.shape) < 0.5)
    outputs = nn.functional.conv2d(inputs, gone, padding=1)
    flat, positions = gone.flatten(1), outputs.shape[2] * outputs.shape[3]
    expected = outputs.var((0, 2, 3), correction=0) * positions
    torch.testing.assert_close(((flat @ found["0"]) * flat).sum(1), expected, rtol=1e-3, atol=1e-3)


def test_layers_before_a_batch_norm_are_found() -> None:
    class Normed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.direct, self.norm = nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3)
            self.rectified, self.after = nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3)
            self.other, self.group, self.head = nn.Conv2d(3, 4, 1), nn.GroupNorm(2, 4), nn.Linear(4, 5)
            self.fixed = nn.BatchNorm1d(5, track_running_stats=False)

        def forward(self, x: Tensor) -> Tensor:
            x = self.after(torch.relu(self.rectified(self.norm(self.direct(x)))))
            return self.fixed(self.head(self.group(self.other(x)).mean((2, 3))))

    model, names = Normed(), ["direct", "rectified", "other", "head"]
    assert layers_normed(model, names, images(2)) == {"direct"}
    assert layers_normed(nn.DataParallel(model), names, images(2)) == {"direct"}
    assert layers_normed(model, names[1:], images(2)) == set()
    for inplace in (False, True):  # the same tensor, with other values
        model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(inplace), nn.BatchNorm2d(3))
        assert layers_normed(model, ["0"], images(2)) == set()
