"""How a model's weights lie in memory."""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["set_memory_format"]


@torch.no_grad()
def set_memory_format(model: nn.Module, memory_format: torch.memory_format) -> None:
    """Lay out the four-dimensional parameters so, in place; `Module.to` fails where others have five dimensions."""
    for parameter in model.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=memory_format)
