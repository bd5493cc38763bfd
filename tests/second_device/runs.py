"""Runs of evoprune with the model on the second device; prints a line of JSON for each: its name and what was seen."""

from __future__ import annotations

import json
import sys
import tempfile
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import device  # beside this file; registers the second device
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import evoprune
from evoprune.training import Recipe
from evoprune.zoo import Data, Split, trainer

SPARSITY = 0.7
generator = torch.Generator().manual_seed(1)
inputs, targets = torch.randn(120, 1, 8, 8, generator=generator), torch.randint(3, (120,), generator=generator)
inputs[torch.arange(120), 0, targets, targets] += 4.0
tokens = torch.randint(20, (120, 8), generator=generator)


def model() -> nn.Module:
    """A small network with what CIFAR networks have."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(54, 16), nn.Dropout(0.1), nn.ReLU(), nn.Linear(16, 3),
    ).to(device.NAME)  # fmt: skip


class Text(nn.Module):
    """An encoder with attention."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 16)
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.head = nn.Linear(16, 3)
        self.register_buffer("places", torch.linspace(0, 1, 8)[:, None])

    def forward(self, x: Tensor) -> Tensor:
        """(B, 8) tokens to (B, 3)."""
        encoded: Tensor = self.encoder(self.embedding(x) + self.places)
        logits: Tensor = self.head(encoded.mean(1))
        return logits


def loader() -> DataLoader[Any]:
    """Batches on the CPU, as anybody's."""
    return DataLoader(TensorDataset(inputs, targets), batch_size=30)


def own_score(model: nn.Module) -> float:
    """As a user would write it."""
    place = next(model.parameters()).device
    return float((model(inputs.to(place)).argmax(1).cpu() == targets).float().mean())


def prune(**changes: Any) -> dict[str, Any]:
    """One run, and what came of it."""
    settings = {
        "score": evoprune.accuracy(loader()), "train": (inputs, targets), "sparsity": SPARSITY, "finetune_epochs": 1,
        "final_epochs": 1, "seed": 1, "recalibrate": False,
    }  # fmt: skip
    if changes.get("guidance") != "gradient":
        settings |= {"generations": 1, "population": 4}
    return described(evoprune.prune(changes.pop("model", None) or model(), **(settings | changes)))


def devices_of(model: nn.Module) -> list[str]:
    """Where its parameters are."""
    return sorted({parameter.device.type for parameter in model.parameters()})


def described(result: evoprune.Result) -> dict[str, Any]:
    """Where the model is, how sparse, and whether its zeros are the masks'."""
    modules = dict(result.model.named_modules())
    zeros = all((modules[name].weight.cpu()[~mask] == 0).all() for name, mask in result.masks.items())
    return {
        "devices": devices_of(result.model),
        "sparsity": result.sparsity,
        "zeros": bool(zeros),
        "digest": sum(float(value.cpu().double().abs().sum()) for value in result.model.state_dict().values()),
    }


def interrupted(after: int, **changes: Any) -> dict[str, Any]:
    """A run that is stopped after some generations and epochs, and resumed, beside one that is not.

    Then it is trained on and measured again.
    """
    with tempfile.TemporaryDirectory() as folder:
        run, events = Path(folder) / "run", []

        def stop(event: dict[str, Any]) -> None:
            events.append(event["event"])
            if events.count("generation") + events.count("epoch") == after:
                raise KeyboardInterrupt

        with suppress(KeyboardInterrupt):
            prune(out=run, listener=stop, **changes)
        assert not (run / "result.json").exists(), "the run was not interrupted"
        given = {"model": model(), "score": evoprune.accuracy(loader()), "train": (inputs, targets)}
        resumed = described(evoprune.resume(run, **given))
        assert resumed["digest"] == prune(**changes)["digest"], "resumed, but to other weights"
        evoprune.finetune(run, 1, **given)
        evoprune.evaluate(run, model=given["model"], score=given["score"])
        return resumed


def front() -> dict[str, Any]:
    """Every stage's model."""
    result = evoprune.prune(
        model(), evoprune.accuracy(loader()), train=loader(), front=True, passes=[0.4, SPARSITY], guidance="gradient",
        finetune_epochs=1, final_epochs=0,
    )  # fmt: skip
    point, _ = result.point(0)
    assert devices_of(point) == [device.NAME]
    return described(result)


def trained() -> dict[str, Any]:
    """What `evoprune train` does."""
    split, net = Split(inputs, targets), model()
    data = Data("made up", split, split, split, classes=3, mean=(0.5,), std=(0.2,))
    recipe = Recipe(epochs=1, batch_size=40, learning_rate=1e-3, shift=1, flip=True, cutout=2)
    with tempfile.TemporaryDirectory() as folder:
        trainer.train(net, data, recipe, 0, Path(folder) / "w.safetensors")
    return {"devices": devices_of(net), "zeros": True}


def refused() -> dict[str, Any]:
    """The device itself: it does not mix."""
    try:
        inputs.to(device.NAME) + inputs
    except RuntimeError as error:
        return {"refused": str(error)}
    return {"refused": None}


RUNS: dict[str, Callable[[], dict[str, Any]]] = {
    "the device itself": refused,
    "default": prune,
    "loader, test set, batch norms, bfloat16": lambda: prune(
        train=loader(), test=evoprune.accuracy(loader()), recalibrate=True, train_precision="bfloat16"
    ),
    "batch norms of each candidate": lambda: prune(recalibrate=None, algorithm="evopress"),
    "one candidate after the other": lambda: prune(scoring=[], include_norm=True),
    "data on the device": lambda: prune(
        score=evoprune.accuracy((inputs.to(device.NAME), targets.to(device.NAME))),
        train=(inputs.to(device.NAME), targets.to(device.NAME)),
    ),
    "augmented": lambda: prune(shift=1, flip=True, cutout=2, optimizer="sgd"),
    "own score": lambda: prune(score=own_score),
    "own loss": lambda: prune(loss=nn.functional.cross_entropy, score=evoprune.loss(loader())),
    "fidelity to the dense model": lambda: prune(score=evoprune.fidelity(loader())),
    "attention": lambda: prune(
        model=Text().to(device.NAME), train=(tokens, targets), score=evoprune.accuracy((tokens, targets))
    ),
    "original": lambda: prune(preset="original", floor=0.0, sparsity=None, passes=[SPARSITY]),
    **{f"guidance {name}": lambda name=name: prune(guidance=name) for name in ("magnitude", "wanda", "learned")},
    "guidance gradient": lambda: prune(guidance="gradient"),
    "budgets by nsga2": lambda: prune(space="allocation", algorithm="nsga2"),
    "budgets by cmaes, in flops": lambda: prune(space="allocation", algorithm="cmaes", budget="flops"),
    "mixture": lambda: prune(space="mixture", algorithm="ga", generations=2),
    "pbil": lambda: prune(algorithm="pbil"),
    "evopress": lambda: prune(algorithm="evopress"),
    "resumed": lambda: interrupted(3, optimizer="adamw", final_epochs=2),
    "resumed, gradient": lambda: interrupted(2, guidance="gradient", optimizer="sgd", finetune_epochs=4),
    "front": front,
    "trained": trained,
}

if __name__ == "__main__":
    torch.set_num_threads(1)
    for name in sys.argv[1:] or RUNS:
        try:
            seen = RUNS[name]()
        except Exception:
            seen = {"error": traceback.format_exc()}
        print(json.dumps({"name": name, **seen}), flush=True)
