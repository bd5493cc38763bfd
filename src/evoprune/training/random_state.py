"""Randomness that is not ours, of data loaders and of cuDNN: made repeatable, without a trace afterwards."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

__all__ = ["OwnRandomState", "generators_of", "repeatable"]


@contextmanager
def repeatable() -> Iterator[None]:
    """cuDNN takes ways that give the same bits again, and does not choose them by the clock; put back afterwards."""
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        yield
    finally:
        cudnn.deterministic, cudnn.benchmark = before


def generators_of(loader: Any) -> list[torch.Generator]:
    """The random generators that a data loader or its samplers were given."""
    batches = getattr(loader, "batch_sampler", None)
    parts = (loader, getattr(loader, "sampler", None), batches, getattr(batches, "sampler", None))
    own = dict.fromkeys(getattr(part, "generator", None) for part in parts)
    return [generator for generator in own if isinstance(generator, torch.Generator)]


class OwnRandomState:
    """Random states of its own for torch, numpy and Python.

    Inside `with state.active():` they are the global ones; afterwards the global ones are as before, and the
    next `with` goes on where the last one stopped.

    Args:
        seed: where they start.
        generators: further generators, such as a data loader's own, that are seeded and put back likewise.
    """

    def __init__(self, seed: int, generators: Sequence[torch.Generator] = ()) -> None:
        gpus = torch.cuda.default_generators if torch.cuda.is_initialized() else ()
        self.generators = [torch.default_generator, *gpus, *generators]
        found = self._get()
        for generator in self.generators:
            generator.manual_seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002
        random.seed(seed)
        self.state = self._get()
        self._set(found)

    @contextmanager
    def active(self) -> Iterator[None]:
        """The global random states are these."""
        found = self._get()
        self._set(self.state)
        try:
            yield
        finally:
            self.state = self._get()
            self._set(found)

    def _get(self) -> tuple[Any, ...]:
        return [g.get_state() for g in self.generators], np.random.get_state(), random.getstate()  # noqa: NPY002

    def _set(self, state: tuple[Any, ...]) -> None:
        for generator, value in zip(self.generators, state[0], strict=True):
            generator.set_state(value)
        np.random.set_state(state[1])  # noqa: NPY002
        random.setstate(state[2])
