"""Measure the running statistics of batch norms anew, since those of the dense model do not fit a pruned one.

Li et al., "EagleEye: Fast Sub-net Evaluation for Efficient Neural Network Pruning", ECCV 2020.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from evoprune.core import EvopruneError, said
from evoprune.scoring import device_of, eval_mode, evaluating, unwrapped

__all__ = ["NORM_SAMPLES", "batch_norms", "put_back", "recalibrate", "statistics_of"]

NORM_SAMPLES = 512
"""Samples, or a batch more, that norms are measured on; six times as many were no better (docs/LOG.md, 2026-11-30)."""


def batch_norms(model: nn.Module) -> list[_BatchNorm]:
    """The batch norms whose running statistics move in training, so not those that the model's `train` keeps fixed."""
    with eval_mode(model):  # which gives every module its mode back
        model.train()
        return [module for module in model.modules() if isinstance(module, _BatchNorm) and _moves(module)]


def _moves(norm: _BatchNorm) -> bool:
    return norm.training and norm.track_running_stats and norm.running_mean is not None


def recalibrate(model: nn.Module, batches: Iterable[Tensor], dtype: torch.dtype = torch.float32) -> None:
    """Running means and variances become averages over `batches`; nothing else changes, nothing is random.

    Norms that the batches do not reach keep theirs, and so do those that are fixed in training; after an error all do.

    Args:
        model: changed in place; modes and momentum are left as found.
        batches: (B, ...) inputs of training, of about equal size, since they count alike; on any device.
        dtype: of the arithmetic; float32, or bfloat16 by autocast, channels-last.

    Raises:
        EvopruneError: the model cannot be run on a batch, its norms in train mode.
    """
    model, device = unwrapped(model), device_of(model)
    norms, rounded, reached = batch_norms(model), dtype == torch.bfloat16, False
    momentum, found = [norm.momentum for norm in norms], [statistics_of(norm) for norm in norms]
    # Without its cache, which would keep what it made of weights that change between calls.
    autocast = torch.autocast(device.type, dtype=torch.bfloat16, enabled=rounded, cache_enabled=False)
    with evaluating(model), autocast:
        try:
            for norm in norms:
                norm.reset_running_stats()
                norm.momentum = None  # the plain average over all batches
                norm.train()
            for batch in batches:
                layout = torch.channels_last if rounded and batch.dim() == 4 else torch.preserve_format
                model(batch.to(device, copy=True, memory_format=layout))  # it may change them in place
            reached = True
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # of a user's model
            raise EvopruneError(
                f"batch norms cannot be measured on a batch of the training data ({said(error)});"
                " --no-recalibrate leaves that out"
            ) from error
        finally:
            for norm, before, statistics in zip(norms, momentum, found, strict=True):
                norm.momentum = before
                if not reached or not norm.num_batches_tracked:
                    put_back(norm, statistics)


def statistics_of(norm: nn.Module) -> list[Tensor]:
    """Copies of a batch norm's running statistics, for `put_back`."""
    return [buffer.clone() for buffer in norm.buffers()]


def put_back(norm: nn.Module, statistics: list[Tensor]) -> None:
    """Give a batch norm the statistics that `statistics_of` found."""
    for buffer, value in zip(norm.buffers(), statistics, strict=True):
        buffer.copy_(value)
