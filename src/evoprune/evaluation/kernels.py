"""Varied layers and a few activations, for many candidates at once.

A varied value holds its candidates in the batch dimension, candidate by candidate: (P*B, ...). Operations
that treat samples apart work on it unchanged; only layers whose weights differ need a way of their own.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evoprune.scoring import CONVOLUTIONS

__all__ = ["average_pool", "call_layer", "call_with", "has_hooks", "tanh_", "tanh_average_pool"]

Weights = Mapping[int, Tensor]
"""id of a parameter -> its values for P candidates, (P, *shape)."""


def call_layer(module: nn.Module, weights: Weights, given: Tensor, varied: bool, candidates: int) -> Tensor:
    """A layer whose weight differs: `given` is (P*B, ...) when varied, else the shared (B, ...)."""
    weight = module._parameters.get("weight")
    if _is_plain(module, (nn.Linear,)) and id(weight) in weights:
        return call_linear(weights[id(weight)], module.bias, given, varied)  # type: ignore[arg-type]
    parts = given.chunk(candidates) if varied else [given] * candidates
    if _is_plain(module, CONVOLUTIONS) and id(weight) in weights:
        each = [module._conv_forward(x, w, module.bias) for x, w in zip(parts, weights[id(weight)], strict=True)]  # type: ignore[operator]
    else:
        each = [call_with(module, weights, index, x) for index, x in enumerate(parts)]
    return each[0] if candidates == 1 else torch.cat(each)


def call_linear(weight: Tensor, bias: Tensor | None, given: Tensor, varied: bool) -> Tensor:
    """One batched matrix product for all candidates: weight (P, O, I)."""
    candidates, out, into = weight.shape
    rows = given.reshape(candidates, -1, into) if varied else given.reshape(1, -1, into).expand(candidates, -1, -1)
    batch = given.shape[0] if varied else candidates * given.shape[0]
    if candidates == 1:
        result = F.linear(rows[0], weight[0], bias)
    elif bias is None:
        result = torch.bmm(rows, weight.mT)
    else:
        result = torch.baddbmm(bias, rows, weight.mT)
    return result.reshape(batch, *given.shape[1:-1], out)


def tanh_(x: Tensor) -> Tensor:
    """tanh in place, as 2 sigmoid(2x) - 1: three times faster on a CPU, and as exact as float32 sums are."""
    return x.mul_(2).sigmoid_().mul_(2).sub_(1)


def average_pool(x: Tensor) -> Tensor:
    """Average over 2x2 windows, (B, C, H, W): adds strided slices, five times faster than the CPU's kernel."""
    return _window_sum(x).mul_(0.25)


def tanh_average_pool(x: Tensor) -> Tensor:
    """`average_pool(tanh_(x))`, x overwritten: what is linear in tanh_ is done behind the pooling."""
    return _window_sum(x.mul_(2).sigmoid_()).mul_(0.5).sub_(1)


def _window_sum(x: Tensor) -> Tensor:
    height, width = x.shape[2] // 2 * 2, x.shape[3] // 2 * 2
    rows = x[:, :, 0:height:2] + x[:, :, 1:height:2]
    return rows[..., 0:width:2].add(rows[..., 1:width:2])


def has_hooks(module: nn.Module) -> bool:
    """Whether calling the module does more than its class says."""
    return any((module._forward_hooks, module._forward_pre_hooks, module._backward_hooks))


def _is_plain(module: nn.Module, kinds: tuple[type[nn.Module], ...]) -> bool:
    """torch's own layer, without hooks."""
    return type(module) in kinds and not has_hooks(module)


def call_with(module: nn.Module, weights: Weights, candidate: int, given: Tensor) -> Tensor:
    """Any module, with the candidate's weights in the place of its own.

    Not written into its own: autocast keeps what it made of a parameter, and would use it for the next candidate.
    """
    own = {name: weights[id(p)][candidate] for name, p in module.named_parameters() if id(p) in weights}
    result: Tensor = torch.func.functional_call(module, own, (given,))
    return result
