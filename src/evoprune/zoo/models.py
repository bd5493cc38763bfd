"""Built-in models by name, and any other by `package.module:factory`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import nn

from evoprune.core import EvopruneError, check_initialized, did_you_mean, said
from evoprune.training import OwnRandomState, Recipe
from evoprune.zoo.lenet import LeNet5
from evoprune.zoo.lenet_caffe import LeNet5Caffe
from evoprune.zoo.resnet import ResNet18

__all__ = ["BUILT_IN", "BuiltIn", "checkpoint_path", "default_checkpoint", "load_model"]


@dataclass(frozen=True)
class BuiltIn:
    """What belongs to a built-in model.

    Attributes:
        factory: makes it with random weights.
        data: the data set it is for, a name that `load_data` knows.
        checkpoint: file of its shipped weights in zoo/checkpoints, or None.
        recipe: how it is trained if nothing else is said.
        pruning: how it is pruned if nothing else is said: preset -> settings (run/settings.py) that differ from it.
    """

    factory: Callable[[], nn.Module]
    data: str
    checkpoint: str | None
    recipe: Recipe
    pruning: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


BUILT_IN: dict[str, BuiltIn] = {
    "lenet5": BuiltIn(
        factory=LeNet5,
        data="mnist",
        checkpoint="lenet5-mnist.safetensors",
        recipe=Recipe(epochs=20, batch_size=128, learning_rate=3e-3, weight_decay=1e-2, shift=2),
    ),
    "lenet5-caffe": BuiltIn(
        factory=LeNet5Caffe,
        data="mnist",
        checkpoint="lenet5-caffe-mnist.safetensors",
        recipe=Recipe(epochs=20, batch_size=128, learning_rate=2e-3, weight_decay=2e-2, shift=2),
    ),
    "resnet18": BuiltIn(
        factory=ResNet18,
        data="cifar10",
        checkpoint="resnet18-cifar10.safetensors.index.json",
        recipe=Recipe(
            epochs=24,
            batch_size=256,
            optimizer="sgd",
            learning_rate=0.2,
            weight_decay=5e-4,
            label_smoothing=0.1,
            shift=4,
            flip=True,
            cutout=8,
            precision="bfloat16",
        ),
        pruning={
            "default": {
                "population": 8,  # 48 candidates a stage, 53 evaluations with their norms: 18 stages are below 1,000
                "optimizer": "sgd",
                "learning_rate": 0.05,
                "finetune_schedule": "cosine",
                "weight_decay": 5e-4,
                "label_smoothing": 0.1,
                "shift": 4,
                "flip": True,
                "cutout": 12,  # as the shipped weights were trained; without it they overfit
                "train_precision": "bfloat16",
                "finetune_epochs": 1,
                "final_epochs": 10,
            },
            # The reference system's numbers: docs/original.md.
            "original": {
                "generations": 15,
                "floor": 0.88,
                "passes": [0.6, 1.0],
                "finetune_epochs": 5,
                "final_epochs": 20,
                "optimizer": "sgd",
                "learning_rate": 1e-5,
                "weight_decay": 5e-4,
                "batch_size": 128,
            },
        },
    ),
}


def load_model(spec: str, seed: int = 0, directory: str | None = None) -> nn.Module:
    """Make a model; weights that its factory draws at random depend on `seed` only.

    Args:
        spec: a built-in name (`lenet5`) or `package.module:factory`, a callable without arguments that
            returns an nn.Module. The current directory is importable, as with `python -m`.
        seed: for the random weights; also of numpy and Python; global random states are left as found.
        directory: importable, too: where the run that names the model was started.

    Raises:
        EvopruneError: unknown name, or a factory that cannot be imported, fails or returns something else.
    """
    factory = _factory(spec, directory)
    gpus = range(torch.cuda.device_count())  # forking them makes their generators known
    with torch.random.fork_rng(devices=gpus), OwnRandomState(seed).active():
        try:
            model = factory()
        except (Exception, SystemExit) as error:  # whatever a user's factory raises
            raise EvopruneError(f"model {spec!r}: its factory failed with {said(error)}") from error
    if not isinstance(model, nn.Module):
        raise EvopruneError(f"model {spec!r}: its factory returned a {type(model).__name__}, not an nn.Module")
    check_initialized(model)
    return model


def default_checkpoint(spec: str) -> Path | None:
    """The shipped weights of a built-in model; None for any other model."""
    built_in = BUILT_IN.get(spec)
    if built_in is None or built_in.checkpoint is None:
        return None
    return Path(__file__).parent / "checkpoints" / built_in.checkpoint


def checkpoint_path(given: str) -> Path:
    """A file as given, or the shipped weights of the built-in model of that name."""
    return (None if Path(given).is_file() else default_checkpoint(given)) or Path(given)


def _factory(spec: str, directory: str | None) -> Callable[[], object]:
    if spec in BUILT_IN:
        return BUILT_IN[spec].factory
    module_name, colon, attribute = spec.partition(":")
    if "/" in module_name or module_name.endswith(".py"):
        raise EvopruneError(
            f"model {spec!r}: expected a module, not a file: {Path(module_name).stem}:{attribute or 'factory'}, started"
            " in its folder"
        )
    if not colon or not module_name or not attribute:
        hint = did_you_mean(spec.lower(), BUILT_IN)
        raise EvopruneError(f"unknown model {spec!r}: expected {', '.join(BUILT_IN)} or package.module:factory{hint}")
    return _import(spec, module_name, attribute, directory)


def _import(spec: str, module_name: str, attribute: str, directory: str | None) -> Callable[[], object]:
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)
    if directory is not None and directory not in sys.path:
        sys.path.insert(0, directory)
    try:
        module = import_module(module_name)
    except (Exception, SystemExit) as error:  # a missing module, or whatever a user's module raises
        raise EvopruneError(
            f"model {spec!r}: importing {module_name} failed with {said(error)}; modules are looked for in"
            f" {directory or here} and on PYTHONPATH"
        ) from error
    found = module
    for part in attribute.split("."):
        if not hasattr(found, part):
            hint = did_you_mean(part, dir(found))
            raise EvopruneError(f"model {spec!r}: {module_name} has no {attribute}{hint}")
        found = getattr(found, part)
    if not callable(found):
        raise EvopruneError(
            f"model {spec!r}: {attribute} is a {type(found).__name__}; expected one that gives an nn.Module"
        )
    factory: Callable[[], object] = found
    return factory
