"""See what layers are given while a model runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from evoprune.core import equal_parts, prefix_of
from evoprune.scoring.modes import device_of, evaluating, layer_by_layer, unwrapped

__all__ = ["CONVOLUTIONS", "first_input", "largest_numel", "watch_inputs"]

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
BATCH, BATCH_BYTES = 250, 1 << 30
"""Samples that a model is watched on at a time, and what their largest value may take."""


def watch_inputs(
    model: nn.Module,
    inputs: Tensor,
    wanted: Callable[[str, nn.Module], bool],
    take: Callable[[str, nn.Module, Tensor], None],
    give: Callable[[str, Any], None] = lambda *_: None,
) -> None:
    """Run `model` in eval mode on (N, ...) `inputs`; `take` gets every `wanted` layer's name, module and first input.

    And `give` its name and output. Modules that share a weight are one layer, with the first one's name.
    Not what a linear layer or convolution does not take as its kind does: a subclass may make something else of it.
    """

    def hook_of(name: str) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if _fits(module, given := first_input(args, kwargs)):
                take(name, module, given)

        return hook

    def after(name: str) -> Callable[[nn.Module, object, object], None]:
        return lambda _, __, output: give(name, output)

    inner = unwrapped(model)
    prefix = prefix_of(model) if inner is model else ""  # names are those inside already
    at_once = max(1, min(BATCH, BATCH_BYTES // (4 * largest_numel(inner, inputs))))
    names: dict[int, str] = {}
    with evaluating(inner), layer_by_layer(), ExitStack() as hooks:
        for path, module in inner.named_modules():
            if isinstance(module, torch.jit.ScriptModule):
                continue
            weight = module._parameters.get("weight")
            name = names.setdefault(id(module if weight is None else weight), path.removeprefix(prefix))
            if wanted(name, module):
                hooks.enter_context(module.register_forward_pre_hook(hook_of(name), with_kwargs=True))
                hooks.enter_context(module.register_forward_hook(after(name)))
        for part in equal_parts(len(inputs), at_once):
            inner(inputs[part].to(device_of(inner), copy=True))  # it may change them in place


def largest_numel(model: nn.Module, inputs: Tensor) -> int:
    """Numbers of the largest value that a module of `model` gives for one of the (N, ...) `inputs`, or of that one."""
    some = inputs[:2].to(device_of(model), copy=True)
    largest = some.numel()

    def look(_: nn.Module, __: object, output: object) -> None:
        nonlocal largest
        largest = max([largest, *(leaf.numel() for leaf in tree_leaves(output) if isinstance(leaf, Tensor))])

    with evaluating(model), layer_by_layer(), ExitStack() as hooks:
        for module in model.modules():
            if not isinstance(module, torch.jit.ScriptModule):
                hooks.enter_context(module.register_forward_hook(look))
        model(some)
    return max(1, largest // len(some))


def _fits(module: nn.Module, given: object) -> bool:
    if not isinstance(given, Tensor):
        return False
    if isinstance(module, nn.Linear):
        return given.dim() >= 2 and given.shape[-1] == module.in_features
    if isinstance(module, CONVOLUTIONS):
        return given.dim() == 2 + len(module.kernel_size) and given.shape[1] == module.in_channels
    return True


def first_input(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
    """What a module was called with, also by keyword: `fc(x)` or `fc(input=x)`."""
    first: Tensor = args[0] if args else next(iter(kwargs.values()))
    return first
