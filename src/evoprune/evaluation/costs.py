"""What a pruned model costs, in weights, parameters, multiply-adds or bytes: linear in what each layer keeps.

- `weights`: those of the layers that may be pruned.
- `parameters`: all of the model. Those that are not pruned, such as biases and norms, are a constant.
- `flops`: multiply-adds of nonzero weights for one input. A weight of a convolution is used once at every position of
  its output, that of a linear layer once a token. Biases and activations are not counted.
- `bytes`: each layer as a matrix of (out, in * k * k) in compressed sparse rows: for a nonzero weight its value and its
  column in 1, 2 or 4 bytes, for each row a pointer of 4 bytes and one more; everything else as it is. The dense model
  is taken as plain arrays, so a layer that keeps all costs more than that.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from evoprune.core import EvopruneError, Layer, said, weight_of
from evoprune.scoring import device_of, evaluating, first_input, unwrapped

__all__ = ["Costs", "measure_costs"]

POINTER_BYTES = 4
RECURRENT = (nn.RNNBase, nn.RNNCellBase)
MULTIPLIES = (nn.Linear, _ConvNd, _NormBase, nn.LayerNorm, nn.GroupNorm)
"""Layers of which it is known how often they use a weight."""


@dataclass(frozen=True)
class Costs:
    """cost = constant + sum over layers of unit * weights kept.

    Attributes:
        kind: `weights`, `parameters`, `flops` or `bytes`.
        units: what a weight of each of L layers costs.
        constant: what is not pruned.
        dense: cost of the dense model.
    """

    kind: str
    units: tuple[int, ...]
    constant: int
    dense: int

    @staticmethod
    def of_weights(sizes: Sequence[int]) -> Costs:
        """Where every weight of L layers of these sizes counts as one, and nothing else."""
        return Costs("weights", (1,) * len(sizes), 0, sum(sizes))

    def of(self, kept: Sequence[int]) -> int:
        """Cost of keeping (L,) weights."""
        return self.constant + sum(unit * count for unit, count in zip(self.units, kept, strict=True))

    @property
    def free(self) -> float:
        """The share that is not constant."""
        return 1 - self.constant / self.dense

    @property
    def most(self) -> float:
        """The largest share that can go: every layer keeps one weight."""
        return self.free - sum(self.units) / self.dense

    def allowance(self, gone: float) -> int:
        """What the kept weights may cost when the share `gone` of the dense cost goes: one weight a layer at least."""
        return max(sum(self.units), math.floor(round((1 - gone) * self.dense, 6)) - self.constant)


def measure_costs(
    kind: str, model: nn.Module, layers: Sequence[Layer], everything: Sequence[Layer], sample: Tensor | None
) -> Costs:
    """The costs of a model whose `layers` are pruned.

    Args:
        kind: `weights`, `parameters`, `flops` or `bytes`.
        model: as found afterwards.
        layers: L of them.
        everything: all layers that may be pruned; those not among `layers` stay dense.
        sample: (1, ...) input, or None; `flops` runs the model on it.

    Raises:
        EvopruneError: `flops` of a model that cannot be run, or that uses weights in ways that cannot be counted.
    """
    names = [layer.name for layer in layers]
    sizes = [layer.size for layer in layers]
    if kind == "weights":
        return Costs.of_weights(sizes)
    if kind == "parameters":
        dense = sum(parameter.numel() for parameter in model.parameters())
        return Costs(kind, (1,) * len(layers), dense - sum(sizes), dense)
    if kind == "bytes":
        stored = {id(tensor): tensor.nbytes for tensor in model.state_dict(keep_vars=True).values()}
        dense = sum(stored.values())
        value = [weight_of(model, name).element_size() for name in names]
        units = tuple(size + _column_bytes(layer) for size, layer in zip(value, layers, strict=True))
        pointers = sum(POINTER_BYTES * (layer.shape[0] + 1) for layer in layers)
        rest = dense - sum(size * layer.size for size, layer in zip(value, layers, strict=True))
        return Costs(kind, units, rest + pointers, dense)
    uses = _uses(model, everything, sample)
    dense = sum(uses[layer.name] * layer.size for layer in everything)
    units = tuple(uses[name] for name in names)
    return Costs(kind, units, dense - sum(unit * size for unit, size in zip(units, sizes, strict=True)), dense)


def _column_bytes(layer: Layer) -> int:
    """The narrowest whole number of 1, 2 or 4 bytes that counts the columns of a layer."""
    columns = layer.size // layer.shape[0]
    return 1 if columns <= 1 << 8 else 2 if columns <= 1 << 16 else 4


def _uses(model: nn.Module, layers: Sequence[Layer], sample: Tensor | None) -> dict[str, int]:
    """How often each layer uses each of its weights for one input."""
    if sample is None:
        raise EvopruneError("--budget flops runs the model on one input; pass train=..., or a score built from data")
    try:
        with _counted(model, layers) as uses, evaluating(model):
            unwrapped(model)(sample.to(device_of(model), copy=True))
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever a user's model says about one sample
        raise EvopruneError(
            f"--budget flops: the model does not run on one input: {said(error)}; choose --budget parameters, or bytes"
        ) from error
    uncounted = [f"{layer.name!r} ({layer.kind})" for layer in layers if not uses[layer.name]]
    uncounted += [type(module).__name__ for module in model.modules() if isinstance(module, RECURRENT)]
    if uncounted:
        raise EvopruneError(
            f"--budget flops: cannot count how often {uncounted[0]} uses its weights; choose --budget parameters, or"
            " bytes"
        )
    return uses


@contextmanager
def _counted(model: nn.Module, layers: Sequence[Layer]) -> Iterator[dict[str, int]]:
    """Counts what runs inside; a weight that several modules share is counted in all of them."""
    names: Mapping[int, str] = {id(weight_of(model, layer.name)): layer.name for layer in layers}
    uses: dict[str, int] = defaultdict(int)

    def count(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        weight = module._parameters["weight"]
        assert weight is not None
        # An output channel, or an input channel of a transposed convolution, meets each of its weights once a position.
        seen = first_input(args, kwargs) if isinstance(module, _ConvTransposeNd) else output
        if not isinstance(seen, Tensor):
            return  # not counted, which is said
        channels = weight.numel() if isinstance(module, nn.LayerNorm) else weight.shape[0]
        uses[names[id(weight)]] += seen.numel() // channels

    with ExitStack() as hooks:
        for module in model.modules():
            if isinstance(module, MULTIPLIES) and id(module._parameters.get("weight")) in names:
                hooks.enter_context(module.register_forward_hook(count, with_kwargs=True))
        yield uses
