"""Model weights to and from disk: safetensors, or a PyTorch state dict read without unpickling."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from evoprune.core import EvopruneError, few, prefix_of, said, strip_module_prefix
from evoprune.storage import check_state, read_tensors, save_tensors
from evoprune.zoo.parts import INDEX, read_parts

__all__ = ["load_checkpoint", "load_tensors", "save_checkpoint"]

WRAPPERS = ("net", "state_dict", "model")  # keys under which training scripts keep the state dict


def load_checkpoint(model: nn.Module, path: str | Path) -> dict[str, str]:
    """Load the weights of `path` into `model`, in place.

    A `module.` prefix on names and a dict around the state dict (`net`, `state_dict`, `model`) are stripped.

    Args:
        model: the model that the checkpoint was saved from.
        path: a .safetensors file, the .safetensors.index.json of several, or a PyTorch state dict.

    Returns:
        What the file says about itself: its metadata (empty for a PyTorch file).

    Raises:
        EvopruneError: the file is missing, no checkpoint, needs unpickling, holds other names, shapes or kinds
            of numbers than the model, or values that are not finite in the model's precision, or the model's
            state holds more than tensors. The model is then unchanged.
    """
    check_state(model)
    path = Path(path)
    if not path.is_file():
        raise EvopruneError(f"checkpoint {path} is not a file; pass a .safetensors file or a PyTorch state dict")
    if path.name.endswith(INDEX):
        loaded, metadata = read_parts(path)
    else:
        loaded, metadata = read_tensors(path) if _is_safetensors(path) else _read_torch(path)
    load_tensors(model, loaded, path)
    return metadata


def load_tensors(model: nn.Module, loaded: Mapping[str, Tensor], path: Path) -> None:
    """Put a state dict that was read from `path` into `model`, in place.

    Raises:
        EvopruneError: it does not fit, see `load_checkpoint`; the model is then unchanged.
    """
    # Either may be of a model wrapped in DataParallel: compare without the prefix, load with it.
    prefix = prefix_of(model)
    state = model.state_dict()
    own = {name.removeprefix(prefix): name for name in state}
    if not loaded.keys() <= own.keys():
        loaded = {strip_module_prefix(name): tensor for name, tensor in loaded.items()}
    current = {name: state[own[name]] for name in own}
    _check_fits(path, loaded, current)
    _check_numbers(path, loaded, {name.removeprefix(prefix): p.dtype for name, p in model.named_parameters()})
    model.load_state_dict({own[name]: tensor for name, tensor in loaded.items()})


def save_checkpoint(model: nn.Module, path: str | Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write the weights of `model` as safetensors, completely or not at all.

    Tensors that share memory are each written in full and a `module.` prefix is stripped, so the file loads
    everywhere.

    Raises:
        EvopruneError: the state holds more than tensors, or the file cannot be written (a full disk, a folder
            without permission); a file that was there before is left as it was.
    """
    check_state(model)
    state = model.state_dict()
    prefix = prefix_of(model)
    save_tensors({name.removeprefix(prefix): value for name, value in state.items()}, path, metadata)


def _is_safetensors(path: Path) -> bool:
    """By its name, or by its content: eight bytes of length, then JSON."""
    with path.open("rb") as file:
        return path.suffix == ".safetensors" or file.read(9)[8:] == b"{"


def _read_torch(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with warnings.catch_warnings(action="ignore"):  # about pickle protocols; what counts is said below
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # bytes of any other kind raise anything
        raise EvopruneError(f"checkpoint {path} {_why_unreadable(path, error)}") from error
    while isinstance(content, dict) and not _is_state_dict(content):
        inner = next((content[key] for key in WRAPPERS if isinstance(content.get(key), dict)), None)
        if inner is None:
            break
        content = inner
    if not _is_state_dict(content):
        raise EvopruneError(
            f"checkpoint {path} holds no state dict (names to tensors), nor one under {', '.join(WRAPPERS)}"
        )
    return dict(content), {}


def _is_state_dict(content: object) -> bool:
    return (
        isinstance(content, dict)
        and bool(content)
        and all(isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items())
    )


def _check_fits(path: Path, loaded: Mapping[str, Tensor], current: Mapping[str, Tensor]) -> None:
    if missing := [name for name in current if name not in loaded]:
        raise EvopruneError(f"checkpoint {path} lacks {few(missing)} of the model; is it of another model?")
    if unexpected := [name for name in loaded if name not in current]:
        raise EvopruneError(
            f"checkpoint {path} holds {few(unexpected)}, which the model has not; is it of another model?"
        )
    for name, tensor in loaded.items():
        if tensor.shape != current[name].shape:
            raise EvopruneError(
                f"checkpoint {path}: {name} has shape {tuple(tensor.shape)} but the model wants "
                f"{tuple(current[name].shape)}; is it of another model?"
            )
        wanted = current[name].dtype
        if not _same_kind(tensor.dtype, wanted):
            raise EvopruneError(
                f"checkpoint {path}: {name} is {_plain(tensor.dtype)} but the model wants {_plain(wanted)}; "
                "save the weights as floating-point numbers"
            )


def _check_numbers(path: Path, loaded: Mapping[str, Tensor], parameters: Mapping[str, torch.dtype]) -> None:
    """Parameters are finite; buffers may be infinite, as the masks of attention are, but not NaN."""
    for name, tensor in loaded.items():
        # As the model will hold them: 1e300 is finite in a file of float64 and infinite in float32.
        wanted = parameters.get(name)
        if bool(tensor.isnan().any()) or (wanted is not None and not bool(tensor.to(wanted).isfinite().all())):
            fits = "" if wanted is None else f" or infinite values, or some too large for the model's {_plain(wanted)}"
            raise EvopruneError(f"checkpoint {path}: {name} holds NaN{fits}; use another checkpoint")


def _same_kind(found: torch.dtype, wanted: torch.dtype) -> bool:
    """Whether numbers may be converted: counters from any real number, weights from floating point only."""
    return wanted.is_complex or (not found.is_complex and (found.is_floating_point or not wanted.is_floating_point))


def _plain(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _why_unreadable(path: Path, error: Exception) -> str:
    with path.open("rb") as file:
        start = file.read(2)
    if start != b"PK" and start[:1] != b"\x80":  # how zip archives and pickles begin
        return "is neither a safetensors file nor a PyTorch state dict"
    if isinstance(error, pickle.UnpicklingError):
        return (
            "holds more than tensors and is not unpickled, for safety; "
            "save the weights alone with torch.save(model.state_dict(), ...)"
        )
    return f"cannot be read ({said(error)}); is it complete?"
