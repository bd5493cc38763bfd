"""See what layers are given while a model runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

from torch import Tensor, nn

from evoprune.core import prefix_of
from evoprune.scoring.modes import device_of, evaluating

__all__ = ["CONVOLUTIONS", "first_input", "watch_inputs"]

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
BATCH = 250
"""Samples that a model is watched on at a time."""


def watch_inputs(
    model: nn.Module,
    inputs: Tensor,
    wanted: Callable[[str, nn.Module], bool],
    take: Callable[[str, nn.Module, Tensor], None],
) -> None:
    """Run `model` in eval mode on (N, ...) `inputs`; `take` gets every `wanted` layer's name, module and first input.

    Not what a linear layer or convolution does not take as its kind does: a subclass may make something else of it.
    """

    def hook_of(name: str) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if _fits(module, given := first_input(args, kwargs)):
                take(name, module, given)

        return hook

    prefix = prefix_of(model)
    with evaluating(model), ExitStack() as hooks:
        for path, module in model.named_modules():
            name = path.removeprefix(prefix)
            if wanted(name, module):
                hooks.enter_context(module.register_forward_pre_hook(hook_of(name), with_kwargs=True))
        for batch in inputs.split(BATCH):
            model(batch.to(device_of(model), copy=True))  # it may change them in place


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
