"""Operations of a graph that run faster together or in place, recognized by looking at its nodes.

Nothing here changes what is computed beyond the last bits of float32; whatever is not recognized runs as it is.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import Node

from evoprune.evaluation.first_conv import Activation, FirstConv, Pool, suits
from evoprune.evaluation.kernels import has_hooks

__all__ = ["FoldedNorm", "activation_of", "first_conv", "folded_norm", "is_owned", "module_of", "pool_of"]

ADDITIONS = (operator.add, operator.iadd, torch.add)
GIVE_NEW_TENSORS = (
    nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.AvgPool2d,
    nn.MaxPool2d, nn.LayerNorm,
)  # fmt: skip
FUNCTIONS: dict[Any, Activation] = {torch.tanh: "tanh", F.tanh: "tanh", torch.relu: "relu", F.relu: "relu"}


def module_of(root: nn.Module, node: Node) -> nn.Module | None:
    """The module that a node calls, when calling it does only what its class says."""
    if node.op != "call_module":
        return None
    module = root.get_submodule(str(node.target))
    return None if has_hooks(module) else module


def activation_of(root: nn.Module, node: Node) -> Activation:
    """Whether a node is a tanh or a ReLU and nothing else."""
    module = module_of(root, node)
    if module is not None:
        return "tanh" if type(module) is nn.Tanh else "relu" if type(module) is nn.ReLU else None
    if node.op == "call_function" and len(node.args) == 1 and node.kwargs.keys() <= {"inplace"}:
        return FUNCTIONS.get(node.target)
    return None


def pool_of(root: nn.Module, node: Node) -> Pool:
    """Whether a node pools non-overlapping 2x2 windows, and how."""
    module = module_of(root, node)
    if type(module) is nn.AvgPool2d and _halves(module) and module.divisor_override is None:
        return "mean"
    if type(module) is nn.MaxPool2d and _halves(module) and module.dilation in (1, (1, 1)):
        return None if module.return_indices else "max"
    return None


def _halves(pool: nn.AvgPool2d | nn.MaxPool2d) -> bool:
    two = (2, (2, 2))
    return pool.kernel_size in two and pool.stride in two and pool.padding in (0, (0, 0)) and not pool.ceil_mode


def only_reader(node: Node) -> Node | None:
    """The one operation that reads a value, if it is one and reads nothing else."""
    readers = list(node.users)
    return readers[0] if len(readers) == 1 and readers[0].all_input_nodes == [node] else None


def is_owned(root: nn.Module, node: Node) -> bool:
    """Whether a value is a new tensor that only one operation reads, so that it may be overwritten."""
    if len(node.users) != 1:
        return False
    module = module_of(root, node)
    return type(module) in GIVE_NEW_TENSORS or (node.op == "call_function" and node.target in ADDITIONS)


def first_conv(root: nn.Module, node: Node) -> tuple[FirstConv, list[Node]] | None:
    """A convolution that runs better over unfolded patches, and the nodes done with it: activation, pooling."""
    module = module_of(root, node)
    if not isinstance(module, nn.Conv2d) or not suits(module):
        return None
    done = [node]
    activation: Activation = None
    pool: Pool = None
    if (reader := only_reader(done[-1])) is not None and (activation := activation_of(root, reader)) is not None:
        done.append(reader)
    if (reader := only_reader(done[-1])) is not None and (pool := pool_of(root, reader)) is not None:
        done.append(reader)
    return FirstConv(module, activation, pool), done


class FoldedNorm:
    """A convolution and the batch norm behind it, in eval mode, as one convolution.

    Attributes:
        scale: (O,) what the convolution's filters are multiplied by.
        bias: (O,).
    """

    def __init__(self, conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
        assert norm.running_mean is not None
        assert norm.running_var is not None
        self.conv = conv
        weight = torch.ones_like(norm.running_var) if norm.weight is None else norm.weight.detach()
        self.scale = weight * torch.rsqrt(norm.running_var + norm.eps)
        before = -norm.running_mean if conv.bias is None else conv.bias.detach() - norm.running_mean
        self.bias = before * self.scale if norm.bias is None else before * self.scale + norm.bias.detach()

    def filters(self, weight: Tensor) -> Tensor:
        """(..., O, I, kernel height, kernel width) filters, scaled."""
        return weight * self.scale[:, None, None, None]


def folded_norm(root: nn.Module, node: Node, varied: set[int]) -> tuple[FoldedNorm, Node] | None:
    """A convolution whose only reader is a batch norm of fixed statistics, and that reader.

    Args:
        root: the model.
        node: of the convolution.
        varied: ids of the parameters that differ between candidates.
    """
    conv, reader = module_of(root, node), only_reader(node)
    norm = None if reader is None else module_of(root, reader)
    if type(conv) is not nn.Conv2d or type(norm) is not nn.BatchNorm2d or norm.running_mean is None:
        return None
    if conv.padding_mode != "zeros" or any(id(parameter) in varied for parameter in norm.parameters()):
        return None
    assert reader is not None
    return FoldedNorm(conv, norm), reader
