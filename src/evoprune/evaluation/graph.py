"""A model as a graph, split where candidates begin to differ.

torch.fx (Reed et al., 2022) records the operations of `model.forward`. A value is *varied* when it depends on
a weight that differs between candidates, else *shared*. Shared operations run once for all candidates; the
shared values that varied operations read are the frontier, which can be kept between generations.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.fx import Graph, Node, Tracer

from evoprune.core import said
from evoprune.scoring import eval_mode
from evoprune.training import OwnRandomState

__all__ = ["SplitGraph", "UnsplittableError", "has_varied_weight", "split_model"]


class UnsplittableError(Exception):
    """The model cannot be run as a split graph; the message says why."""


@dataclass(frozen=True)
class SplitGraph:
    """The operations of a model, in order, sorted into shared and varied.

    Attributes:
        root: the model whose submodules the nodes name.
        shared: nodes that do not depend on a varied weight.
        varied: nodes that do.
        output: the node that is the model's output.
        frontier: shared nodes that a varied node reads, or the output when nothing is varied.
        from_input: nodes that depend on the model's input, whose first dimension is the batch.
        last_reader: value -> the varied node that reads it last.
        constants: tensors that `forward` itself made, by the names that nodes have for them.
    """

    root: nn.Module
    shared: list[Node]
    varied: list[Node]
    output: Node
    frontier: list[Node]
    from_input: set[Node]
    last_reader: dict[Node, Node]
    constants: dict[str, object]

    def attribute(self, path: str) -> object:
        """What a node of the kind `get_attr` stands for."""
        if path in self.constants:
            return self.constants[path]
        owner, _, name = path.rpartition(".")
        return getattr(self.root.get_submodule(owner), name)


CALLS = ("call_function", "call_method")
DATA_SHAPED = ("nonzero", "argwhere", "masked_select", "unique")
"""Operations whose rows differ from candidate to candidate."""


class _Tracer(Tracer):
    """Looks inside every module that is not torch's own, but not inside the varied layers."""

    def __init__(self, varied: set[int]) -> None:
        super().__init__()
        self.varied = varied

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if isinstance(m, torch.jit.ScriptModule):
            return True
        weight = m._parameters.get("weight")
        return id(weight) in self.varied or super().is_leaf_module(m, module_qualified_name)


def split_model(model: nn.Module, weights: set[int]) -> SplitGraph:
    """Trace `model` and split it at the parameters of these ids.

    Raises:
        UnsplittableError: the forward method cannot be traced, or uses a varied weight outside its layer.
    """
    graph, constants = _trace(model, weights)
    *nodes, last = graph.nodes
    output, batch = last.args[0], next(node for node in nodes if node.op == "placeholder")
    if not isinstance(output, Node):
        raise UnsplittableError("its output is not one tensor")
    shared, varied = dict[Node, None](), dict[Node, None]()  # in the order of the graph
    from_input = {batch}
    for node in nodes:
        if _only_checks(node):
            continue
        places = node.target is torch.where and len(node.args) + len(node.kwargs) == 1  # the same as nonzero
        if places or (node.op in CALLS and getattr(node.target, "__name__", node.target) in DATA_SHAPED):
            raise UnsplittableError(f"the shape of {node.name} depends on the data")
        if any(source in from_input for source in _sources(node)):
            from_input.add(node)
        varies = has_varied_weight(model, node, weights) or any(source in varied for source in node.all_input_nodes)
        (varied if varies else shared)[node] = None
    last_reader = {source: node for node in varied for source in node.all_input_nodes}
    frontier = [node for node in shared if node in last_reader or node is output]
    split = SplitGraph(model, list(shared), list(varied), output, frontier, from_input, last_reader, constants)
    for node in shared:
        if node.op == "get_attr" and id(split.attribute(str(node.target))) in weights:
            raise UnsplittableError(f"it uses {node.target} outside of its layer")
    return split


def _trace(root: nn.Module, varied: set[int]) -> tuple[Graph, dict[str, object]]:
    """The graph, and the constants that tracing had put on `root`; all modules are afterwards as before.

    What `forward` assigned to an attribute or a buffer while it was traced is no tensor.
    """
    parameters = list(inspect.signature(root.forward).parameters.values())
    # Optional arguments of forward keep their defaults: only the first is the batch.
    defaults = {p.name: p.default for p in parameters[1:] if p.default is not p.empty}
    modules = [module for module in root.modules() if not isinstance(module, torch.jit.ScriptModule)]
    found = [(own, dict(own)) for module in modules for own in (vars(module), *_registered(module))]
    before = set(vars(root))
    try:
        with eval_mode(root), OwnRandomState(0).active():
            graph = _Tracer(varied).trace(root, concrete_args=defaults or None)
    except Exception as error:  # whatever the model's own code raises when it meets a proxy
        raise UnsplittableError(said(error)) from error
    finally:
        constants = {name: vars(root)[name] for name in set(vars(root)) - before}
        for own, entries in found:
            own.clear()
            own.update(entries)
    return graph, constants


def _registered(module: nn.Module) -> tuple[dict[str, Any], ...]:
    return module._parameters, module._buffers, module._modules


def _sources(node: Node) -> list[Node]:
    """What a node's values come from: not from a tensor that it only follows to its device or type."""
    if node.target is getattr and node.args[1] in ("device", "dtype"):
        return []
    if node.op == "call_method" and node.target in ("to", "type_as"):
        return [source for source in node.args[:1] if isinstance(source, Node)]
    return node.all_input_nodes


def _only_checks(node: Node) -> bool:
    """Assertions that fx adds about arguments with a default."""
    return node.target is torch._assert or "_assert" in getattr(node.target, "__name__", "")


def has_varied_weight(root: nn.Module, node: Node, weights: set[int]) -> bool:
    """Whether the node calls a module that holds one of the parameters of these ids."""
    if node.op != "call_module":
        return False
    return any(id(parameter) in weights for parameter in root.get_submodule(str(node.target)).parameters())
