"""The types every room of evoprune shares.

Shape legend:
    P candidates, G genes, N samples, B samples of one batch, C classes, L layers, K objectives; in search/ C children.

Data flows one way: space -> genomes -> plans -> evaluator -> scores -> algorithm -> journal -> surgery
-> report. A genome is a row of a (P, G) tensor; what it means for the model is a plan.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import pairwise
from math import prod
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

__all__ = [
    "Evaluator", "EvopruneError", "Layer", "Masks", "Plans", "Scores",
    "check_initialized", "did_you_mean", "equal_parts", "few", "generator", "prefix_of",
    "prunable_layers", "resolve_layers", "said", "sparsity_of", "spread", "strip_module_prefix", "weight_of",
]  # fmt: skip

_PREFIX = "module."

Masks = dict[str, Tensor]
"""Layer name -> bool tensor of the weight's shape; True where the weight stays."""

Plans = Mapping[str, Tensor]
"""P candidates at once: layer name -> bool tensor (P, *weight shape). Layers not named stay as they are."""


class EvopruneError(ValueError):
    """Input that cannot be used. The message is one line: what was wrong and what to do about it."""


@dataclass(frozen=True)
class Layer:
    """A weight tensor that may be pruned: the parameter `<name>.weight` of a model."""

    name: str
    kind: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of weights."""
        return prod(self.shape)


@dataclass(frozen=True)
class Scores:
    """What an evaluator says of P candidates.

    Attributes:
        score: (P,) float64, higher is better. Where `complete` is False it is an upper bound.
        loss: (P,) float64 mean loss over the samples seen, lower is better; it breaks ties between equal
            scores. None when the score is the user's own function.
        complete: (P,) bool, False for a candidate that was stopped early because it could no longer reach
            the floor it was given.
        samples: samples scored, summed over candidates; divided by the size of the validation set it gives
            the number of full evaluations.
    """

    score: Tensor
    loss: Tensor | None
    complete: Tensor
    samples: int


class Evaluator(Protocol):
    """Plans to scores, those of the reference, or near them in bfloat16; candidates may be stopped early."""

    @property
    def samples(self) -> int:
        """N, the samples of one full evaluation (1 when the score is an opaque function)."""
        ...

    @property
    def peak_bytes(self) -> int:
        """Highest memory of scoring so far, as the evaluator estimates it; 0 where it does not."""
        ...

    def __call__(self, plans: Plans, floor: float = -float("inf")) -> Scores:
        """Score P candidates.

        Args:
            plans: layer name -> (P, *weight shape) bool, True where the weight stays.
            floor: a candidate whose score provably stays below may be stopped early.
        """
        ...


def said(error: BaseException) -> str:
    """`RuntimeError: message`, in one line, of an error that a user's or a library's code raised."""
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or ['no message'])[0]}"


def spread(total: int, count: int) -> Tensor:
    """Up to `count` of the numbers from 0 to `total` - 1, evenly spread and ascending, int64."""
    count = min(count, total)
    return torch.arange(count) * total // count


def equal_parts(total: int, most: int) -> list[slice]:
    """The numbers from 0 to `total` - 1 in as few parts of up to `most` as can be, equal up to one.

    A last part of what is left over may be a single sample: some models cannot take one, and means over parts would
    give it the weight of many.
    """
    size, larger = divmod(total, parts := -(-total // most))
    ends = [number * size + min(number, larger) for number in range(parts + 1)]
    return [slice(first, end) for first, end in pairwise(ends)]


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """`; did you mean lenet5?` where one of `names` is near, else nothing."""
    near = get_close_matches(name, list(names), n=1)
    return f"; did you mean {near[0]}?" if near else ""


def few(names: Iterable[str]) -> str:
    """The first three of `names`, and how many more there are."""
    first = list(names)
    return ", ".join(first[:3]) + (f" and {len(first) - 3} more" if len(first) > 3 else "")


def strip_module_prefix(name: str) -> str:
    """`module.conv1` -> `conv1`: the prefix that nn.DataParallel adds to every name."""
    return name.removeprefix(_PREFIX)


def prefix_of(model: nn.Module) -> str:
    """`module.` where all parameters have that prefix; else "": `module` is a part of the model like others."""
    return _PREFIX if all(name.startswith(_PREFIX) for name, _ in model.named_parameters()) else ""


def check_initialized(model: nn.Module) -> None:
    """Raise EvopruneError for a model with layers whose shapes are not known yet."""
    for name, parameter in model.named_parameters():
        if isinstance(parameter, UninitializedParameter):
            raise EvopruneError(f"the model's {name} has no shape yet (a lazy layer); run the model on one batch first")


def prunable_layers(model: nn.Module, include_norm: bool = False) -> list[Layer]:
    """The layers of `model` whose weight may be pruned, in the order of its modules.

    Every module with a floating-point `weight` of two dimensions or more that is no normalization's scale; with
    `include_norm` those scales, too. A weight that two modules share is listed once.
    """
    layers, seen, prefix = [], set(), prefix_of(model)
    for name, module in model.named_modules():
        weight = None if isinstance(module, torch.jit.ScriptModule) else module._parameters.get("weight")
        if weight is None or weight.numel() == 0 or not weight.is_floating_point() or id(weight) in seen:
            continue
        along_one = weight.numel() == max(weight.shape, default=0) and _is_norm(module)  # (1, C, 1, 1), say
        is_scale = weight.dim() < 2 or along_one or isinstance(module, nn.LayerNorm | nn.RMSNorm)
        if is_scale and not (include_norm and _is_norm(module)):
            continue
        seen.add(id(weight))
        layers.append(Layer(name.removeprefix(prefix), type(module).__name__, tuple(weight.shape)))
    return layers


def _is_norm(module: nn.Module) -> bool:
    """Whether its class, or one that it is made from, says so: torch's, and the RMS norms of many models."""
    return any("norm" in kind.__name__.lower() for kind in type(module).__mro__)


def weight_of(model: nn.Module, name: str) -> nn.Parameter:
    """The weight of the layer called `name`, with or without the prefix that nn.DataParallel adds."""
    modules: dict[str, nn.Module] = dict(model.named_modules())
    module = modules.get(prefix_of(model) + name) or modules.get(name)
    weight = None if module is None else module._parameters.get("weight")
    if weight is None:
        raise EvopruneError(f"the model has no layer {name!r} with a weight")
    return weight


def resolve_layers(layers: Sequence[Layer], names: Iterable[str] | None) -> list[Layer]:
    """The layers that `names` ask for (a leading `module.` is ignored), in the order of the model; all for None.

    Raises:
        EvopruneError: a name is not a prunable layer; the message suggests near names.
    """
    if names is None:
        return list(layers)
    by_name = {layer.name: layer for layer in layers}
    wanted = {name if name in by_name else strip_module_prefix(name) for name in names}
    for name in sorted(wanted - by_name.keys()):
        near = get_close_matches(name, by_name, n=3, cutoff=0.5)
        hint = f"did you mean {', '.join(near)}?" if near else f"there are {', '.join(list(by_name)[:10])};"
        raise EvopruneError(
            f"unknown layer {name!r}; {hint} `evoprune layers MODEL` or evoprune.core.prunable_layers(model) lists all"
        )
    return [layer for layer in layers if layer.name in wanted]


def sparsity_of(masks: Mapping[str, Tensor], layers: Iterable[Layer]) -> float:
    """Share of zeros among the weights of `layers`; a layer without a mask counts as dense."""
    layers = list(layers)
    pruned = sum(int((~masks[layer.name]).sum()) for layer in layers if layer.name in masks)
    return pruned / sum(layer.size for layer in layers)


def generator(seed: int, *path: int) -> torch.Generator:
    """A CPU random generator for one step of a run.

    Every step (a stage, a generation, an epoch) derives its own stream from the run's seed and its place in
    the run, so no random state has to be saved and a resumed run draws the same numbers as an unbroken one. A path is
    filled up with zeros to three numbers: `(seed, 1)` and `(seed, 1, 0)` are the same stream.
    """
    if seed < 0:
        raise EvopruneError(f"seed {seed}: expected 0 or more")
    state = np.random.SeedSequence([seed, *path]).generate_state(2, np.uint32)
    return torch.Generator().manual_seed(int(state[0]) << 31 ^ int(state[1]))
