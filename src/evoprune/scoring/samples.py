"""Labelled samples as two tensors in memory, prepared once."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from evoprune.core import EvopruneError
from evoprune.training import OwnRandomState, generators_of, is_pair

__all__ = ["Samples", "as_tensors"]

Samples = tuple[Tensor, Tensor] | Iterable[tuple[Tensor, Tensor]]
"""(inputs, targets), or batches of them such as a DataLoader gives."""


def as_tensors(data: Any) -> tuple[Tensor, Tensor]:
    """Inputs (N, ...) and integer targets (N,) of a pair of tensors or of an iterable of batches.

    Raises:
        EvopruneError: not such data; no samples; targets that are not class numbers of 0 or more.
    """
    if is_pair(data):
        inputs, targets = data
    else:
        inputs, targets = _join(data)
    if inputs.dim() == 0 or targets.dim() != 1 or len(inputs) != len(targets):
        raise EvopruneError(
            f"scoring data has inputs of shape {tuple(inputs.shape)} and targets of shape {tuple(targets.shape)};"
            " expected inputs (N, ...) and targets (N,)"
        )
    if len(targets) == 0:
        raise EvopruneError("scoring data is empty; give at least one (inputs, targets) sample")
    if targets.is_floating_point() or targets.is_complex() or targets.dtype == torch.bool:
        raise EvopruneError(f"targets are {targets.dtype}; expected class numbers, for example targets.long()")
    if int(targets.min()) < 0:
        raise EvopruneError(f"a target is {int(targets.min())}; expected class numbers from 0 to C - 1")
    return inputs.detach(), targets.detach().long()


def _join(batches: Any) -> tuple[Tensor, Tensor]:
    wanted = "expected a pair of tensors or batches of (inputs, targets), such as a DataLoader"
    if not isinstance(batches, Iterable) or isinstance(batches, (Tensor, str, bytes)):
        raise EvopruneError(f"scoring data is a {type(batches).__name__}; {wanted}")
    inputs, targets = [], []
    with OwnRandomState(0, generators_of(batches)).active():  # a shuffling loader draws from the global generators
        for batch in batches:
            if not is_pair(batch) or any(part.dim() == 0 for part in batch):
                raise EvopruneError(f"a batch of the scoring data is not a pair of tensors; {wanted}")
            inputs.append(batch[0])
            targets.append(batch[1])
    if not inputs:
        raise EvopruneError("scoring data is empty; give at least one (inputs, targets) batch")
    if len({(part.shape[1:], part.dtype) for part in inputs}) > 1:
        raise EvopruneError("scoring data has inputs of several shapes or types; bring them to one shape first")
    return torch.cat(inputs), torch.cat(targets)
