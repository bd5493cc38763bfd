"""Model names, factories, and the shipped checkpoint."""

import random
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from evoprune.core import EvopruneError, generator, prunable_layers
from evoprune.training import TensorSource, train_epoch
from evoprune.zoo import (
    BUILT_IN,
    DATA_NAMES,
    default_checkpoint,
    load_checkpoint,
    load_data,
    load_model,
    measured_accuracy,
)


def test_lenet5_has_the_layers_of_the_reference() -> None:
    model = load_model("lenet5")
    layers = {layer.name: layer.shape for layer in prunable_layers(model)}
    assert layers == {
        "feature.0": (6, 1, 5, 5),
        "feature.3": (16, 6, 5, 5),
        "classifier.1": (120, 400),
        "classifier.3": (84, 120),
        "classifier.5": (10, 84),
    }
    assert sum(layer.size for layer in prunable_layers(model)) == 61_470
    assert model(torch.zeros(3, 1, 28, 28)).shape == (3, 10)


def test_lenet5_caffe_has_the_weights_that_papers_count() -> None:
    model = load_model("lenet5-caffe")
    layers = {layer.name: layer.shape for layer in prunable_layers(model)}
    assert layers == {
        "feature.0": (20, 1, 5, 5),
        "feature.2": (50, 20, 5, 5),
        "classifier.1": (500, 800),
        "classifier.3": (10, 500),
    }
    assert sum(layer.size for layer in prunable_layers(model)) == 430_500
    assert sum(parameter.numel() for parameter in model.parameters()) == 431_080
    assert model(torch.zeros(3, 1, 28, 28)).shape == (3, 10)


@torch.no_grad()
def test_lenet5_caffe_is_the_net_of_the_prototxt() -> None:
    """One ReLU, after the first linear layer, and nothing but the max-pools after the convolutions."""
    model = load_model("lenet5-caffe")
    images = torch.randn(4, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    x = F.max_pool2d(F.conv2d(images, model.feature[0].weight, model.feature[0].bias), 2)
    x = F.max_pool2d(F.conv2d(x, model.feature[2].weight, model.feature[2].bias), 2)
    first, second = model.classifier[1], model.classifier[3]
    x = (x.flatten(1) @ first.weight.T + first.bias).clamp(min=0) @ second.weight.T + second.bias
    assert float(x.std()) > 0.01
    torch.testing.assert_close(model(images), x)


def test_lenet5_caffe_learns_by_its_recipe() -> None:
    data, model = load_data("mnist-sample"), load_model("lenet5-caffe")
    recipe = replace(BUILT_IN["lenet5-caffe"].recipe, epochs=1)
    source = TensorSource(data.train.inputs[::2], data.train.targets[::2], recipe.batch_size, shift=recipe.shift)
    train_epoch(model, source, recipe, recipe.make_optimizer(model), 0, generator(0))
    assert measured_accuracy(model, data.val) > 0.6


def test_weights_depend_on_the_seed_alone() -> None:
    torch.manual_seed(5)
    random = torch.get_rng_state()
    one, same, other = (load_model("lenet5", seed=seed).feature[0].weight for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in_models_are_complete(name: str) -> None:
    assert BUILT_IN[name].data in DATA_NAMES
    checkpoint = default_checkpoint(name)
    assert checkpoint is None or "test_accuracy" in load_checkpoint(load_model(name), checkpoint)


@pytest.mark.parametrize("name", ["lenet5", "lenet5-caffe"])
def test_the_shipped_models_are_trained(name: str) -> None:
    """Most of these images were trained on (docs/data.md): this is a test of the file, not of the model."""
    checkpoint = default_checkpoint(name)
    assert checkpoint is not None
    model = load_model(name)
    metadata = load_checkpoint(model, checkpoint)
    assert metadata["data"] == "mnist"
    assert float(metadata["test_accuracy"]) >= 0.988
    assert measured_accuracy(model, load_data("mnist-sample").test) > 0.985


MODULE = """
import random
import numpy as np
from torch import nn
import torch

class Net(nn.Linear):
    def __init__(self):
        super().__init__(4, 2)

class zoo:
    small = Net

def number():
    return 3

def broken():
    raise RuntimeError("no weights\\nat all")

def leaving():
    raise SystemExit(2)

def lazy():
    return nn.LazyLinear(3)

class Drawn(nn.Linear):
    def __init__(self):
        super().__init__(4, 2)
        self.weight.data[0] = float(np.random.rand()) + random.random()

size = 4
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "my_models.py").write_text(MODULE)
    (tmp_path / "my_broken.py").write_text("import no_such_package")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry != ""])
    yield "my_models"
    sys.modules.pop("my_models", None)


def test_weights_drawn_by_numpy_and_python_depend_on_the_seed_too(module: str) -> None:
    def drawn() -> tuple[float, float]:
        return np.random.rand(), random.random()  # noqa: NPY002

    np.random.seed(0)  # noqa: NPY002
    random.seed(0)
    expected = [drawn(), drawn()]
    np.random.seed(0)  # noqa: NPY002
    random.seed(0)
    before = drawn()
    one, same, other = (load_model(f"{module}:Drawn", seed=seed).weight[0] for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert [before, drawn()] == expected


@pytest.mark.parametrize("factory", ["Net", "zoo.small"])
def test_own_factories_in_the_current_directory(module: str, factory: str) -> None:
    model = load_model(f"{module}:{factory}")
    assert isinstance(model, nn.Linear)
    assert default_checkpoint(f"{module}:{factory}") is None


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            "lenet",
            "unknown model 'lenet': expected lenet5, lenet5-caffe, resnet18 or package.module:factory; did you mean",
        ),
        ("LeNet-5", "did you mean lenet5"),
        ("lenet5_caffe", "did you mean lenet5-caffe"),
        ("gpt", "unknown model 'gpt': expected lenet5, lenet5-caffe, resnet18 or package.module:factory$"),
        ("my_models:", "unknown model"),
        ("my_models:Nett", "my_models has no Nett; did you mean Net"),
        ("my_models:size", "size is a int; expected one that gives an nn.Module"),
        ("my_models:number", "its factory returned a int, not an nn.Module"),
        ("my_models:broken", "its factory failed with RuntimeError: no weights$"),
        ("my_models:leaving", "its factory failed with SystemExit: 2$"),
        ("my_models:lazy", "the model's weight has no shape yet"),
        (
            "my_broken:Net",
            "importing my_broken failed with ModuleNotFoundError: No module named 'no_such_package'",
        ),
        ("no_such:Net", "importing no_such failed with ModuleNotFoundError"),
        (".relative:Net", "importing .relative failed with"),
    ],
)
@pytest.mark.usefixtures("module")
def test_unusable_specs(spec: str, message: str) -> None:
    with pytest.raises(EvopruneError, match=message) as caught:
        load_model(spec)
    assert "\n" not in str(caught.value)
