"""How a model's weights lie in memory."""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["set_memory_format"]


@torch.no_grad()
def set_memory_format(model: nn.Module, memory_format: torch.memory_format) -> None:
    """What `Module.to` does to four-dimensional parameters; it fails where others have five dimensions.

    Strides follow the format even where the layout is the same, as with one input channel: convolutions go by them.
    """
    for parameter in model.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.to(memory_format=memory_format)
