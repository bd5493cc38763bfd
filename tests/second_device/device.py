"""A second device in this machine's own memory, so that tests can tell who mixes devices without a GPU.

It computes what the CPU does, and like a GPU it refuses tensors that are elsewhere. Importing this registers it with
PyTorch for good (its Python backends are experimental: torch.utils.backend_registration), so it belongs into a process
of its own.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils import backend_registration
from torch.utils._python_dispatch import return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map

NAME = "second"
TAKES_CPU = {"copy_", "_to_copy", "index", "index_put", "index_put_", "_index_put_impl_"}
"""Operations whose other tensors may be on the CPU, as with CUDA: copies, and places to read or write."""


class SecondTensor(Tensor):
    """A tensor of the second device; `inner` is what it holds."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> SecondTensor:
        made: SecondTensor = Tensor._make_wrapper_subclass(
            cls, inner.size(), strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype,
            device=torch.device(NAME, 0),
        )  # fmt: skip
        made.inner = inner
        return made

    def untyped_storage(self) -> torch.UntypedStorage:
        """Its memory: tensors that share it can be told."""
        return self.inner.untyped_storage()

    @classmethod
    def __torch_dispatch__(cls, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return compute(operation, *args, **(kwargs or {}))


def compute(operation: Any, *args: Any, **kwargs: Any) -> Any:
    """An operation some of whose tensors, or whose result, are on the second device."""
    name = operation.overloadpacket.__name__
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    ours = [tensor for tensor in tensors if isinstance(tensor, SecondTensor)]
    elsewhere = [tensor for tensor in tensors if not isinstance(tensor, SecondTensor) and tensor.dim() > 0]
    reads_ours_from_cpu = name in TAKES_CPU - {"copy_", "_to_copy"} and not isinstance(args[0], SecondTensor)
    if ours and elsewhere and (name not in TAKES_CPU or reads_ours_from_cpu):
        raise RuntimeError(f"{operation} of tensors on {sorted({str(tensor.device) for tensor in tensors})}")
    wanted = kwargs.get("device")
    if wanted is not None:
        kwargs = kwargs | {"device": torch.device("cpu")}
    inner_args, inner_kwargs = tree_map(lambda x: x.inner if isinstance(x, SecondTensor) else x, (args, kwargs))
    result = operation(*inner_args, **inner_kwargs)
    if wanted is not None and torch.device(wanted).type == "cpu":
        return result
    known = {id(tensor.inner): tensor for tensor in ours} | {id(tensor): tensor for tensor in elsewhere}

    def placed(value: Any) -> Any:
        """In-place operations return the tensor that they were given."""
        if not isinstance(value, Tensor):
            return value
        return known[id(value)] if id(value) in known else SecondTensor(value)

    result = tree_map(placed, result)
    return return_and_correct_aliasing(operation, args, kwargs, result) if ours else result


class Module(backend_registration._DummyBackendModule):
    """What torch.second has to have."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        """For autocast."""
        return [torch.bfloat16]


backend_registration._setup_privateuseone_for_python_backend(NAME, Module())
library = torch.library.Library("_", "IMPL")  # kept: what it registers goes with it
library.fallback(compute, "PrivateUse1")
library.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
