"""Run a model's shared operations once, and the varied ones for all candidates in one batch.

What has to be done is worked out once, as a list of steps; running is then a plain loop.
"""

from __future__ import annotations

import operator
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node
from torch.fx.node import map_arg

from evoprune.evaluation.first_conv import FirstConv
from evoprune.evaluation.fusion import activation_of, first_conv, folded_norm, is_owned, pool_of
from evoprune.evaluation.graph import SplitGraph, UnsplittableError, has_varied_weight
from evoprune.evaluation.kernels import Weights, average_pool, call_layer, tanh_, tanh_average_pool
from evoprune.evaluation.runners import Shared, Watch
from evoprune.scoring import device_of

__all__ = ["GraphRunner"]


@dataclass
class Pass:
    """One run over the varied operations: what candidates share, what they differ in, and values so far."""

    weights: Weights
    candidates: int
    values: dict[Node, Any]
    patches: dict[Node, Any]


@dataclass(frozen=True)
class Step:
    """One or several operations; the result is the value of `node`, and `spent` are values nobody reads later."""

    node: Node
    run: Callable[[Pass], Any]
    spent: tuple[Node, ...] = ()


class GraphRunner:
    """Runs a split model: `shared` once for some samples, then `outputs` for any number of candidates.

    Args:
        split: of the model.
        weights: ids of the varied parameters.

    Attributes:
        peak_numel: numbers in the largest value of the last run.
    """

    def __init__(self, split: SplitGraph, weights: set[int]) -> None:
        self.split, self.weight_ids = split, weights
        self.root = split.root
        self.varied = set(split.varied)
        self.on_cpu = device_of(split.root).type == "cpu"
        self.first: dict[Node, FirstConv] = {}
        self.steps = self._plan()
        self.peak_numel = 0
        self.spent: dict[Node, list[Node]] = defaultdict(list)  # shared node -> values that nobody reads after it
        last = {source: node for node in split.shared for source in node.all_input_nodes}
        for source, node in last.items():
            if source not in split.frontier:
                self.spent[node].append(source)

    def shared(self, inputs: Tensor, watch: Watch = lambda _: None) -> Shared:
        """Values of the frontier, and the patches of first convolutions that run as matrix products."""
        values: dict[Node, Any] = {}
        for node in self.split.shared:
            if node.op == "placeholder":
                values[node] = node.args[0] if values else inputs
            else:
                values[node] = self._call(node, *map_arg((node.args, node.kwargs), values.__getitem__))
            watch(list(values.values()))
            for source in self.spent[node]:
                del values[source]
        patches = {node: conv.patches(values[node.all_input_nodes[0]]) for node, conv in self.first.items()}
        unfolded = {node.all_input_nodes[0] for node in self.first}
        frontier = [values[node] for node in self.split.frontier]
        for index, node in enumerate(self.split.frontier):
            readers = {user for user in node.users if user in self.varied}
            if node in unfolded and readers <= self.first.keys() and node is not self.split.output:
                frontier[index] = None  # its patches are all that is read
        return [len(inputs), frontier, patches]

    def outputs(self, weights: Weights, shared: Shared) -> Tensor:
        """(P, B, C) outputs."""
        batch, frontier, patches = shared
        candidates = len(next(iter(weights.values())))
        run = Pass(weights, candidates, dict(zip(self.split.frontier, frontier, strict=True)), patches)
        self.peak_numel = 0
        for step in self.steps:
            result = step.run(run)
            for node in step.spent:
                run.values.pop(node, None)
            run.values[step.node] = result
            self.peak_numel = max(self.peak_numel, result.numel() if isinstance(result, Tensor) else 0)
        output: Tensor = run.values[self.split.output]
        if self.split.output not in self.varied:
            return output.expand(candidates, *output.shape)
        return output.reshape(candidates, batch, *output.shape[1:])

    # -- planning ----------------------------------------------------------------------------------------

    def _plan(self) -> list[Step]:
        steps: list[Step] = []
        done: set[Node] = set()
        for node in self.split.varied:
            if node in done:
                continue
            nodes, run = self._step(node)
            done.update(nodes)
            read = [source for n in nodes for source in n.all_input_nodes]
            spent = tuple(s for s in read if self.split.last_reader.get(s) in nodes and s is not self.split.output)
            steps.append(Step(nodes[-1], run, spent))
        return steps

    def _step(self, node: Node) -> tuple[list[Node], Callable[[Pass], Any]]:
        """The nodes that are done together from `node` on, and how."""
        source = node.all_input_nodes[0] if node.all_input_nodes else node
        varied_input = source in self.varied
        if has_varied_weight(self.root, node, self.weight_ids):
            if self.on_cpu and not varied_input and (first := first_conv(self.root, node)) is not None:
                conv, nodes = first
                if self.split.output not in nodes[:-1]:
                    self.first[node] = conv
                    return nodes, self._first(node, conv)
            if (folded := self._folded(node)) is not None:
                return folded
            if len(node.args) + len(node.kwargs) > 1:
                raise UnsplittableError(f"{node.target} is called with more than one input, such as a mask")
            module = self.root.get_submodule(str(node.target))
            return [node], lambda run: call_layer(module, run.weights, run.values[source], varied_input, run.candidates)
        if varied_input and (folded := self._folded(node)) is not None:
            return folded
        if varied_input and (quick := self._quick(node, source)) is not None:
            return quick
        return [node], lambda run: self._as_it_is(node, run)

    def _first(self, node: Node, conv: FirstConv) -> Callable[[Pass], Any]:
        def call(run: Pass) -> Tensor:
            self.peak_numel = max(self.peak_numel, conv.numel(run.candidates, run.patches[node]))
            return conv(run.weights[id(conv.module.weight)], run.patches[node])

        return call

    def _folded(self, node: Node) -> tuple[list[Node], Callable[[Pass], Any]] | None:
        """A convolution with its batch norm."""
        found = folded_norm(self.root, node, self.weight_ids)
        if found is None or node is self.split.output:
            return None
        norm, reader = found
        conv, source = norm.conv, node.all_input_nodes[0]
        varied_input, own = source in self.varied, id(conv.weight) in self.weight_ids
        fixed = None if own else norm.filters(conv.weight.detach())

        def call(run: Pass) -> Tensor:
            given = run.values[source]
            if fixed is not None:
                result: Tensor = conv._conv_forward(given, fixed, norm.bias)
                return result
            parts = given.chunk(run.candidates) if varied_input else [given] * run.candidates
            filters = norm.filters(run.weights[id(conv.weight)])
            each = [conv._conv_forward(x, w, norm.bias) for x, w in zip(parts, filters, strict=True)]
            return each[0] if run.candidates == 1 else torch.cat(each)

        return [node, reader], call

    def _quick(self, node: Node, source: Node) -> tuple[list[Node], Callable[[Pass], Any]] | None:
        """Activations in place, and pooling, where that is faster than torch's own kernels."""
        activation = activation_of(self.root, node)
        if activation is not None and is_owned(self.root, source):
            reader = next(iter(node.users), node)
            pooled = pool_of(self.root, reader) == "mean" and len(node.users) == 1
            if activation == "relu":
                return [node], lambda run: run.values[source].relu_()
            if self.on_cpu and pooled and node is not self.split.output:
                return [node, reader], lambda run: tanh_average_pool(run.values[source])
            if self.on_cpu:
                return [node], lambda run: tanh_(run.values[source])
        if self.on_cpu and pool_of(self.root, node) == "mean":
            return [node], lambda run: average_pool(run.values[source])
        return None

    # -- running -----------------------------------------------------------------------------------------

    def _as_it_is(self, node: Node, run: Pass) -> Any:
        """Any other operation on varied values; shared ones that it also reads are repeated for each candidate."""

        def value(source: Node) -> Any:
            found = run.values[source]
            if source not in self.varied and source in self.split.from_input and isinstance(found, Tensor):
                return found.repeat(run.candidates, *[1] * (found.dim() - 1))
            return found

        if node.target in ELEMENTWISE and len(node.args) == 2 and not node.kwargs:
            a, b = node.args
            if isinstance(a, Node) and isinstance(b, Node) and a in self.varied and b not in self.varied:
                x, y = run.values[a], run.values[b]
                if b in self.split.from_input and isinstance(y, Tensor) and x.dim() == y.dim():
                    return ELEMENTWISE[node.target](x.unflatten(0, (run.candidates, -1)), y).flatten(0, 1)
        args, kwargs = map_arg((node.args, node.kwargs), value)
        if node.target is operator.getitem and _is_mask(args[1]) and self._depends_on_data(node.args[1]):
            raise UnsplittableError(f"the shape of {node.name} depends on the data")
        return self._call(node, args, kwargs)

    def _depends_on_data(self, index: Any) -> bool:
        sources: list[Node] = []
        map_arg(index, sources.append)
        return any(source in self.varied or source in self.split.from_input for source in sources)

    def _call(self, node: Node, args: Any, kwargs: Any) -> Any:
        if node.op == "call_module":
            return self.root.get_submodule(str(node.target))(*args, **kwargs)
        if node.op == "call_function":
            return node.target(*args, **kwargs)  # type: ignore[operator]
        if node.op == "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        return self.split.attribute(str(node.target))


def _is_mask(index: Any) -> bool:
    parts = index if isinstance(index, tuple) else (index,)
    return any(isinstance(part, Tensor) and part.dtype == torch.bool for part in parts)


ELEMENTWISE: dict[Any, Callable[[Tensor, Tensor], Tensor]] = {
    operator.add: torch.add,
    operator.iadd: torch.add,
    torch.add: torch.add,
    operator.mul: torch.mul,
    torch.mul: torch.mul,
    operator.sub: torch.sub,
    torch.sub: torch.sub,
}
