"""See what layers are given while a model runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from evoprune.core import prefix_of

__all__ = ["first_input", "watching_inputs"]


@contextmanager
def watching_inputs(
    model: nn.Module, wanted: Callable[[str, nn.Module], bool], take: Callable[[str, nn.Module, Tensor], None]
) -> Iterator[None]:
    """Inside, `take` is called with every `wanted` layer's name, module and first input, just before it runs."""

    def hook_of(name: str) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]:
        return lambda module, args, kwargs: take(name, module, first_input(args, kwargs))

    with ExitStack() as hooks:
        prefix = prefix_of(model)
        for path, module in model.named_modules():
            name = path.removeprefix(prefix)
            if wanted(name, module):
                hooks.enter_context(module.register_forward_pre_hook(hook_of(name), with_kwargs=True))
        yield


def first_input(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
    """What a module was called with, also by keyword: `fc(x)` or `fc(input=x)`."""
    first: Tensor = args[0] if args else next(iter(kwargs.values()))
    return first
