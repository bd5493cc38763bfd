"""An optimizer's state as named tensors, so that it can be kept in safetensors."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, optim

__all__ = ["optimizer_from_tensors", "optimizer_to_tensors"]


def optimizer_to_tensors(optimizer: optim.Optimizer) -> dict[str, Tensor]:
    """The state of every parameter as `<index>/<key>` -> tensor; settings are not included."""
    return {
        f"{index}/{key}": torch.as_tensor(value)
        for index, state in optimizer.state_dict()["state"].items()
        for key, value in state.items()
        if value is not None
    }


def optimizer_from_tensors(optimizer: optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put what `optimizer_to_tensors` gave into an optimizer made with the same settings.

    Its parameters must have the memory layout that they are trained in.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, key = name.split("/", 1)
        parameter = parameters[int(index)]
        laid_out = tensor
        if tensor.shape == parameter.shape:  # fused optimizers walk both in memory order, so layouts must agree
            laid_out = torch.empty_like(parameter, dtype=tensor.dtype).copy_(tensor)
        state.setdefault(int(index), {})[key] = laid_out
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
