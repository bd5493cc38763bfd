"""Tasks: from objects that a Python user gives, or from the names in a run's settings."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from evoprune.checks import warn_of_what_stays
from evoprune.core import EvopruneError, prunable_layers, resolve_layers, spread
from evoprune.run import Settings, Task
from evoprune.scoring import Accuracy, CallableScore, DataScore, as_score, device_of
from evoprune.storage import check_state, digest_of, read_tensors
from evoprune.training import Loss, TensorSource, as_source, first_samples
from evoprune.training_checks import check_training
from evoprune.zoo import (
    BUILT_IN,
    DATA_NAMES,
    check_data_fits,
    checkpoint_path,
    default_checkpoint,
    load_checkpoint,
    load_data,
    load_model,
)

__all__ = [
    "device_named",
    "given_task",
    "load_weights",
    "named_model",
    "named_task",
    "read_weights",
]

SAMPLES = 3000
"""Training samples that guidance looks at."""
NO_FLOAT64 = ("mps", "meta")
log = logging.getLogger("evoprune")


def given_task(
    model: nn.Module, score: DataScore | CallableScore, train: Any, test: Any, settings: Settings,
    loss: Loss | None = None,
) -> Task:  # fmt: skip
    """What was given from Python, checked as far as one batch shows it; `auto` is the device that the model is on."""
    check_state(model)
    warn_of_what_stays(model)
    device = device_of(model) if settings.device == "auto" else device_named(settings.device)
    if device.type in NO_FLOAT64 and isinstance(score, DataScore):
        raise EvopruneError(
            f"scores built from data are sums in float64, which {device} does not have; move the model with"
            " model.to('cpu'), or give your own function model -> float as the score"
        )
    model.to(device)
    source = None if train is None else as_source(train, settings.batch_size, device)
    samples = None
    if source is not None:
        samples = first_samples(source, SAMPLES)
    elif isinstance(score, DataScore):
        some = spread(score.samples, SAMPLES)  # the first ones may all be of a few classes
        samples = (score.inputs[some].cpu(), score.targets[some].cpu())
    layers = prunable_layers(model, settings.include_norm)
    if settings.augmentation and source is not None:
        if not isinstance(source, TensorSource):
            raise EvopruneError("shift, flip and cutout need a pair of tensors as `train`; let the loader augment")
        source = source.augmented(**settings.augmentation)
    task = Task(model, layers, score, source, samples, None if test is None else as_score(test), loss)
    check_training(task, settings)
    return task


def named_task(
    settings: Settings, weights: dict[str, Tensor] | None = None, source: object = None, same_data: bool = False
) -> tuple[Task, Settings]:
    """Model, checkpoint and data of the settings; the settings come back with the names that were used.

    Args:
        settings: of the run.
        weights: of a run folder; with them the checkpoint is not read.
        source: where they are from, for messages.
        same_data: whether data that changed since the run began is an error; else it is a warning.
    """
    model = named_model(settings, weights, source)
    checkpoint = _checkpoint_of(settings)
    layers = prunable_layers(model, settings.include_norm)
    resolve_layers(layers, settings.layers)  # before the data is loaded
    name = settings.data or (BUILT_IN[settings.model].data if settings.model in BUILT_IN else None)
    if name is None:
        raise EvopruneError(f"no data for {settings.model!r}; pass --data NAME_OR_FOLDER")
    data = load_data(name)
    if weights is None and checkpoint is None:
        log.warning(
            "no checkpoint: %s is pruned with the weights that its factory gives; if those are not trained,"
            " pass --checkpoint FILE",
            settings.model,
        )
    shipped = checkpoint is not None and checkpoint == default_checkpoint(settings.model)
    if name == "mnist-sample" and shipped and BUILT_IN[settings.model].data == "mnist":
        log.warning(
            "the shipped weights have seen the images of mnist-sample in training, so their accuracy there proves"
            " nothing; use --data mnist, or train some: evoprune train %s --data mnist-sample --out FILE",
            settings.model,
        )
    digest = digest_of(t for split in (data.train, data.val, data.test) for t in (split.inputs, split.targets))
    if settings.data_digest not in (None, digest):
        changed = f"the data {name} is not what it was when the run began"
        if same_data:
            raise EvopruneError(f"{changed}; put it back, or prune again with --overwrite")
        log.warning("%s; scores cannot be compared with the recorded ones", changed)
    warn_of_what_stays(model)
    check_data_fits(model, data)
    device = device_named(settings.device)
    model.to(device)
    train = TensorSource(data.train.inputs, data.train.targets, settings.batch_size, fill=data.black, device=device)
    task = Task(
        model,
        layers,
        Accuracy(data.val.inputs.to(device), data.val.targets.to(device)),
        train.augmented(**settings.augmentation) if settings.augmentation else train,
        first_samples(train, SAMPLES),
        Accuracy(data.test.inputs.to(device), data.test.targets.to(device)),
    )
    used = {
        "data": name if name in DATA_NAMES else str(Path(name).resolve()),
        "data_digest": settings.data_digest or digest,
        "checkpoint": None if checkpoint is None else str(Path(checkpoint).resolve()),
        "score_name": "accuracy", "directory": settings.directory or str(Path.cwd()),
    }  # fmt: skip
    return task, settings.model_copy(update=used)


def named_model(settings: Settings, weights: dict[str, Tensor] | None = None, source: object = None) -> nn.Module:
    """The model of the settings with `weights`, or with those of its checkpoint."""
    if settings.has_train is not None:
        raise EvopruneError(
            "this run was started from Python with a model of its own, so give that and the score again:"
            " evoprune.resume(folder, model, score, train=...), and likewise model=..., score=... to evoprune.finetune"
            " and evoprune.evaluate"
        )
    model = load_model(settings.model, directory=settings.directory)
    check_state(model)
    checkpoint = _checkpoint_of(settings)
    if weights is not None:
        load_weights(model, weights, source)
    elif checkpoint is not None:
        load_checkpoint(model, checkpoint)
    return model


def _checkpoint_of(settings: Settings) -> Path | None:
    return checkpoint_path(settings.checkpoint) if settings.checkpoint else default_checkpoint(settings.model)


def read_weights(
    path: Path, remedy: str = "put it back from a copy, or prune again with --overwrite"
) -> dict[str, Tensor]:
    """A state dict from a run folder."""
    return read_tensors(path, f"the run folder is damaged: {remedy}")[0]


def load_weights(model: nn.Module, weights: dict[str, Tensor], source: object) -> None:
    """Put a run folder's weights into its model."""
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise EvopruneError(
            f"{source} does not fit the model {type(model).__name__}: other names or shapes; go on with the model, and"
            " the code of it, that the run began with"
        ) from error


def device_named(wanted: str) -> torch.device:
    """The device that `--device` names; `auto` takes the GPU where there is one.

    Raises:
        EvopruneError: it is a GPU, and PyTorch sees none.
    """
    if wanted == "cuda" and not torch.cuda.is_available():
        raise EvopruneError("--device cuda: this PyTorch sees no GPU; use --device cpu or install a CUDA build")
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(wanted)
