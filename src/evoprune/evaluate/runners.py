"""Two ways to get P candidates' outputs on a batch: one by one, or as one batch through the split graph."""

from __future__ import annotations

import operator
from collections.abc import Callable
from math import prod
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import Node
from torch.fx.node import map_arg

from evoprune.core import Plans, weight_of
from evoprune.evaluate.graph import Split
from evoprune.evaluate.kernels import (
    Weights,
    average_pool,
    call_layer,
    columns,
    prefers_columns,
    tanh_,
)  # fmt: skip
from evoprune.scoring import device_of

__all__ = ["GraphRunner", "OneByOne", "Runner", "candidate_weights"]

Shared = list[Any]
"""What candidates have in common on one batch."""


class Runner(Protocol):
    """Outputs of P candidates on one batch of samples."""

    def shared(self, inputs: Tensor) -> Shared:
        """What all candidates have in common on (B, ...) inputs; it may be kept for later calls."""
        ...

    def outputs(self, weights: Weights, shared: Shared) -> Tensor:
        """(P, B, C) outputs."""
        ...


def candidate_weights(model: nn.Module, plans: Plans) -> dict[int, Tensor]:
    """id of each parameter in `plans` -> (P, *shape) weights with the masks multiplied in."""
    weights: dict[int, Tensor] = {}
    for name, masks in plans.items():
        parameter = weight_of(model, name)
        # A weight that two names share is multiplied by both masks, as the reference does.
        weights[id(parameter)] = weights.get(id(parameter), parameter.detach()) * masks.to(parameter.device)
    return weights


class OneByOne:
    """Put each candidate's weights into the model and run it whole."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def shared(self, inputs: Tensor) -> Shared:
        """The inputs themselves."""
        return [inputs]

    def outputs(self, weights: Weights, shared: Shared) -> Tensor:
        """(P, B, C) outputs."""
        parameters = [p for p in self.model.parameters() if id(p) in weights]
        kept = [parameter.detach().clone() for parameter in parameters]
        candidates = len(next(iter(weights.values())))
        results = []
        try:
            for candidate in range(candidates):
                for parameter in parameters:
                    parameter.copy_(weights[id(parameter)][candidate])
                results.append(self.model(shared[0].clone()))
        finally:
            for parameter, values in zip(parameters, kept, strict=True):
                parameter.copy_(values)
        return torch.stack(results)


class GraphRunner:
    """Run the shared operations once, the varied ones for all candidates in one batch.

    Args:
        split: of the model.
        weights: ids of the varied parameters.
        shortcuts: use the faster CPU forms of tanh and average pooling.
    """

    def __init__(self, split: Split, weights: set[int], shortcuts: bool = True) -> None:
        self.split, self.weight_ids, self.shortcuts = split, weights, shortcuts
        self.varied = set(split.varied)
        self.device = device_of(split.root).type
        self.layers = {
            node
            for node in split.varied
            if node.op == "call_module" and any(id(p) in weights for p in self._module(node).parameters())
        }
        self.unfolded = {
            node
            for node in self.layers
            if node.all_input_nodes[0] not in self.varied and prefers_columns(self._module(node))
        }
        self.followers = {node: self._followers(node) for node in self.unfolded}
        self.peak_numel = 0

    def _module(self, node: Node) -> nn.Module:
        return self.split.root.get_submodule(str(node.target))

    def shared(self, inputs: Tensor) -> Shared:
        """Values of the frontier, and the patches of first convolutions that run as matrix products."""
        values: dict[Node, Any] = {}
        for node in self.split.shared:
            if node.op == "placeholder":
                values[node] = node.args[0] if values else inputs
                continue
            values[node] = self._call(node, *map_arg((node.args, node.kwargs), values.__getitem__))
        frontier = [values[node] for node in self.split.frontier]
        patches = {n: columns(self._module(n), values[n.all_input_nodes[0]]) for n in self.unfolded}
        only_patches = {n.all_input_nodes[0] for n in self.unfolded}
        for index, node in enumerate(self.split.frontier):
            readers = {user for user in node.users if user in self.varied}
            if node in only_patches and readers <= self.unfolded and node is not self.split.output:
                frontier[index] = None
        return [len(inputs), frontier, patches]

    def outputs(self, weights: Weights, shared: Shared) -> Tensor:
        """(P, B, C) outputs."""
        batch, frontier, patches = shared
        candidates = len(next(iter(weights.values())))
        values: dict[Node, Any] = dict(zip(self.split.frontier, frontier, strict=True))
        peak = 0
        for node in self.split.varied:
            if node in values:  # done together with the convolution before it
                continue
            if node in self.unfolded:
                result = self._head(node, weights, patches[node], values)
                peak = max(peak, candidates * batch * self._module(node).out_channels * prod(patches[node][1]))
                continue
            if node in self.layers:
                source = node.all_input_nodes[0]
                result = call_layer(self._module(node), weights, values[source], source in self.varied, candidates)
            else:
                result = self._varied(node, values, candidates)
            for source in node.all_input_nodes:
                if self.split.last_reader.get(source) is node:
                    values.pop(source, None)
            values[node] = result
            peak = max(peak, result.numel() if isinstance(result, Tensor) else 0)
        self.peak_numel = peak
        output: Tensor = values[self.split.output]
        if self.split.output not in self.varied:
            return output.expand(candidates, *output.shape)
        return output.reshape(candidates, batch, *output.shape[1:])

    def _head(
        self, node: Node, weights: Weights, patches: tuple[Tensor, tuple[int, int]], values: dict[Node, Any]
    ) -> Tensor:
        """A first convolution as one product of all candidates' filters, and the operations that follow it alone.

        They work on (B, P*O, H, W); only what remains after them, such as a pooled image, is put in the order
        (P*B, O, H, W). The result goes under the last of these operations; the others are marked as done.
        """
        module, (rows, size) = self._module(node), patches
        weight = weights[id(module.weight)].flatten(2)  # (P, O, I)
        result = torch.matmul(weight.flatten(0, 1), rows)
        if isinstance(module.bias, Tensor):
            result.add_(module.bias.repeat(len(weight))[:, None])
        result = result.unflatten(2, size)
        last = node
        for follower in self.followers[node]:
            shortcut = self._shortcut(follower)
            assert shortcut is not None
            result, values[last], last = shortcut(result), None, follower
        values[last] = result.unflatten(1, weight.shape[:2]).transpose(0, 1).flatten(0, 1)
        return result

    def _varied(self, node: Node, values: dict[Node, Any], candidates: int) -> Any:
        """Any other operation on varied values, mixed with shared ones where it reads both."""
        if self.shortcuts:
            short = self._shortcut(node)
            source = node.args[0] if node.args else None
            if short is not None and isinstance(source, Node) and values[source].device.type == "cpu":
                given = values[source]
                if short is not tanh_ or _owned(source):
                    return short(given)

        def value(source: Node) -> Any:
            found = values[source]
            if source not in self.varied and source in self.split.from_input and isinstance(found, Tensor):
                return found.repeat(candidates, *[1] * (found.dim() - 1))
            return found

        if node.target in ELEMENTWISE and len(node.args) == 2 and not node.kwargs:
            a, b = node.args
            if isinstance(a, Node) and isinstance(b, Node) and a in self.varied and b not in self.varied:
                x, y = values[a], values[b]
                if b in self.split.from_input and isinstance(y, Tensor) and x.dim() == y.dim():
                    return ELEMENTWISE[node.target](x.unflatten(0, (candidates, -1)), y).flatten(0, 1)
        return self._call(node, *map_arg((node.args, node.kwargs), value))

    def _followers(self, node: Node) -> list[Node]:
        """The chain of operations with a shortcut that are the only readers of what comes before."""
        chain: list[Node] = []
        while self.shortcuts and self.device == "cpu" and len(node.users) == 1:
            node = next(iter(node.users))
            if self._shortcut(node) is None:
                break
            chain.append(node)
        return chain

    def _shortcut(self, node: Node) -> Callable[[Tensor], Tensor] | None:
        if not self.shortcuts or len(node.all_input_nodes) != 1 or len(node.args) != 1:
            return None
        if node.op == "call_module":
            module = self._module(node)
            if type(module) is nn.Tanh and not module._forward_hooks and not module._forward_pre_hooks:
                return tanh_
            if (
                type(module) is nn.AvgPool2d
                and not module._forward_hooks
                and not module._forward_pre_hooks
                and _halves(module)
            ):
                return average_pool
        elif node.target in (torch.tanh, F.tanh, "tanh"):
            return tanh_
        return None

    def _call(self, node: Node, args: Any, kwargs: Any) -> Any:
        if node.op == "call_module":
            return self._module(node)(*args, **kwargs)
        if node.op == "call_function":
            return node.target(*args, **kwargs)  # type: ignore[operator]
        if node.op == "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        owner, _, name = str(node.target).rpartition(".")
        return getattr(self.split.root.get_submodule(owner), name)


ELEMENTWISE: dict[Any, Callable[[Tensor, Tensor], Tensor]] = {
    operator.add: torch.add,
    operator.iadd: torch.add,
    torch.add: torch.add,
    operator.mul: torch.mul,
    torch.mul: torch.mul,
    operator.sub: torch.sub,
    torch.sub: torch.sub,
}


def _halves(pool: nn.AvgPool2d) -> bool:
    """Non-overlapping 2x2 windows, nothing else."""
    two = (2, (2, 2))
    return (
        pool.kernel_size in two
        and pool.stride in two
        and pool.padding in (0, (0, 0))
        and not pool.ceil_mode
        and pool.divisor_override is None
    )


def _owned(source: Node) -> bool:
    """Whether a varied value is a new tensor that only one operation reads, so that it may be overwritten."""
    return source.op == "call_module" and len(source.users) == 1
