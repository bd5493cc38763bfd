"""What a run needs of the process and of the given model, put back afterwards."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn

from evoprune.core import EvopruneError
from evoprune.run import Settings
from evoprune.scoring import device_of
from evoprune.training import OwnRandomState, repeatable

__all__ = ["like", "surroundings"]


class _Collector(logging.Filter):
    """Keeps the text of warnings, and lets all pass; a handler would stop Python from showing them by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno >= logging.WARNING:
            self.texts.append(record.getMessage())
        return True


def _uncompiled() -> AbstractContextManager[Any]:
    """Models from `torch.compile` run as they were written: compiled code would not see the hooks that watch layers."""
    compiles = "torch._dynamo" in sys.modules  # else nothing can have been compiled, and importing it takes a second
    return torch.compiler.set_stance("force_eager") if compiles else nullcontext()


@contextmanager
def surroundings(settings: Settings) -> Iterator[list[str]]:
    """Threads, random state, gradients and cuDNN as a run needs them; gives the warnings that come up inside.

    The order of floating-point sums follows the number of threads, so it is a setting of the run. Global random
    states are left as found, and training needs gradients wherever it is called from.

    Raises:
        EvopruneError: torch makes new tensors elsewhere than on the CPU, where random numbers are drawn, or in half
            precision.
    """
    if (place := torch.get_default_device()).type != "cpu":
        raise EvopruneError(
            f"torch's default device is {place}, and evoprune draws its random numbers on the CPU; call"
            " torch.set_default_device('cpu') before, and move the model with model.to(...)"
        )
    if (kind := torch.get_default_dtype()).itemsize < 4:
        raise EvopruneError(
            f"torch's default type is {kind}, too coarse to order weights by; call torch.set_default_dtype("
            "torch.float32) before, the model can stay as it is"
        )
    before, collector, log = torch.get_num_threads(), _Collector(), logging.getLogger("evoprune")
    torch.set_num_threads(settings.threads)
    log.addFilter(collector)
    try:
        with (
            repeatable(),
            _uncompiled(),
            OwnRandomState(0).active(),
            torch.inference_mode(False),
            torch.enable_grad(),
        ):
            yield collector.texts
    finally:
        log.removeFilter(collector)
        torch.set_num_threads(before)


@contextmanager
def like(given: nn.Module | None, pruned: nn.Module | None) -> Iterator[None]:
    """Afterwards `pruned`, a copy of `given` or itself, has the device, modes, gradients and layout that it has now.

    After an error, too, for it may be the user's own model. Nothing happens where none is given.
    """
    if given is None or pruned is None:
        yield
        return
    device, layout = device_of(given), torch.channels_last
    modes = [module.training for module in given.modules()]
    gradients = [parameter.grad for parameter in given.parameters()]
    last = [
        p.dim() == 4 and not p.is_contiguous() and p.is_contiguous(memory_format=layout) for p in given.parameters()
    ]
    try:
        yield
    finally:
        pruned.to(device)
        for module, training in zip(pruned.modules(), modes, strict=True):
            module.training = training
        for parameter, gradient, channels_last in zip(pruned.parameters(), gradients, last, strict=True):
            moved = None if gradient is None else gradient.to(parameter.device)  # the run may have taken it elsewhere
            parameter.grad = moved if pruned is given else None
            if parameter.dim() == 4:
                usual = layout if channels_last else torch.contiguous_format
                parameter.data = parameter.data.contiguous(memory_format=usual)
