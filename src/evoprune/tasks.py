"""Tasks: from objects that a Python user gives, or from the names in a run's settings."""

from __future__ import annotations

import copy
import logging
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evoprune.core import EvopruneError, prunable_layers, resolve_layers, said, weight_of
from evoprune.guidance import NEED_SAMPLES
from evoprune.run import Settings, Task
from evoprune.scoring import Accuracy, CallableScore, DataScore, as_score, device_of
from evoprune.storage import digest_of, read_tensors
from evoprune.surgery import batch_norms
from evoprune.training import BatchSource, TensorSource, as_source, first_samples
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
    "check_dense",
    "check_guidance",
    "check_recalibration",
    "copied",
    "device_named",
    "given_task",
    "load_weights",
    "named_model",
    "named_task",
    "read_weights",
]

SAMPLES = 3000
"""Training samples that guidance looks at."""
ALREADY = 0.01
"""Share of zeros that no trained model has by chance."""
NEGLIGIBLE = 0.02
"""Share of the parameters that may be left out without a word."""
Weights = dict[str, Tensor]
log = logging.getLogger("evoprune")


def given_task(model: nn.Module, score: DataScore | CallableScore, train: Any, test: Any, settings: Settings) -> Task:
    """What was given from Python, checked as far as one batch shows it; `auto` is the device that the model is on."""
    _check_state(model)
    _name_what_stays(model)
    device = device_of(model) if settings.device == "auto" else device_named(settings.device)
    model.to(device)
    source = None if train is None else as_source(train, settings.batch_size, device)
    samples = None
    if source is not None:
        samples = first_samples(source, SAMPLES)
    elif isinstance(score, DataScore):
        samples = (score.inputs[:SAMPLES].cpu(), score.targets[:SAMPLES].cpu())
    layers = prunable_layers(model, settings.include_norm)
    if settings.augmentation and source is not None:
        if not isinstance(source, TensorSource):
            raise EvopruneError("shift, flip and cutout need a pair of tensors as `train`; let the loader augment")
        source = source.augmented(**settings.augmentation)
    task = Task(model, layers, score, source, samples, None if test is None else as_score(test))
    if source is not None and samples is not None:
        _check_training(model, source, samples, settings)
    return task


def named_task(
    settings: Settings, weights: Weights | None = None, source: object = None, same_data: bool = False
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
    resolve_layers(prunable_layers(model, settings.include_norm), settings.layers)  # before the data is loaded
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
    _check_state(model)
    _name_what_stays(model)
    check_data_fits(model, data)
    device = device_named(settings.device)
    model.to(device)
    train = TensorSource(data.train.inputs, data.train.targets, settings.batch_size, fill=data.black, device=device)
    task = Task(
        model,
        prunable_layers(model, settings.include_norm),
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


def named_model(settings: Settings, weights: Weights | None = None, source: object = None) -> nn.Module:
    """The model of the settings with `weights`, or with those of its checkpoint."""
    if settings.data is None and weights is not None:
        raise EvopruneError(
            "this run was started from Python with a model of its own: evoprune.resume(folder, model, score, train=...)"
            " goes on with it, or gives the result of one that has ended; to score or fine-tune that, take its model"
            " and masks"
        )
    model = load_model(settings.model, directory=settings.directory)
    checkpoint = _checkpoint_of(settings)
    if weights is not None:
        load_weights(model, weights, source)
    elif checkpoint is not None:
        load_checkpoint(model, checkpoint)
    return model


def _checkpoint_of(settings: Settings) -> Path | None:
    return checkpoint_path(settings.checkpoint) if settings.checkpoint else default_checkpoint(settings.model)


def check_dense(task: Task, settings: Settings, dense_val_score: float) -> None:
    """Refuse a model that is broken; warn of one that does not know its data.

    Raises:
        EvopruneError: a weight or the score is not finite.
    """
    for name, parameter in task.model.named_parameters():
        if not bool(torch.isfinite(parameter).all()):
            raise EvopruneError(f"the model's {name} has NaN or infinite values; give a model with finite weights")
    if abs(dense_val_score) == float("inf"):
        raise EvopruneError(f"the score of the dense model is {dense_val_score}; expected a finite number")
    floor = settings.floor
    if floor is not None and isinstance(task.val_score, Accuracy) and not 0 <= floor <= 1:
        hint = f"; did you mean {floor / 100:g}?" if 2 < floor <= 100 else ""
        raise EvopruneError(f"--floor {floor:g}: expected an accuracy from 0 to 1{hint}")
    if floor is not None and floor > dense_val_score:
        raise EvopruneError(
            f"the floor {floor:g} is above the dense model's own validation score {dense_val_score:.4f};"
            " give a --floor below it, or --max-drop in points"
        )
    zeros = sum(int((weight_of(task.model, layer.name) == 0).sum()) for layer in task.layers)
    share = zeros / sum(layer.size for layer in task.layers)
    if share > ALREADY:
        log.warning(
            "%.2f %% of the weights are zero already; they count as weights that stay until they are pruned, and"
            " training gives them values again: ask for more than that, or fine-tune the run that pruned them",
            100 * share,
        )
    score = task.val_score
    if isinstance(score, Accuracy):
        classes = len(score.targets.unique())
        chance = 1 / classes
        if classes > 1 and dense_val_score < chance + 3 * (chance * (1 - chance) / score.samples) ** 0.5:
            log.warning(
                "the dense model's validation accuracy is %.4f, about what guessing gives with %d classes; is it"
                " trained, and are these its data and labels?",
                dense_val_score, classes,
            )  # fmt: skip


def check_guidance(task: Task, settings: Settings) -> None:
    """Whether there is what the rule of the settings looks at.

    Raises:
        EvopruneError: it needs samples, and the run has none; or gradients, and a layer is frozen.
    """
    if task.samples is None and settings.guidance in NEED_SAMPLES:
        raise EvopruneError(
            f"--guidance {settings.guidance} looks at samples: pass `train`, or a score built from data such as"
            " evoprune.accuracy(loader)"
        )
    layers = resolve_layers(task.layers, settings.layers)
    frozen = [layer.name for layer in layers if not weight_of(task.model, layer.name).requires_grad]
    if settings.tightens and frozen:
        raise EvopruneError(
            f"--space training prunes by the gradients of training, and the weight of {frozen[0]} is frozen"
            f" ({len(frozen)} of {len(layers)} layers are); name the layers to prune, or choose --space allocation"
        )


def check_recalibration(task: Task) -> None:
    """Whether there is what `recalibrate` measures, and what it measures it on.

    Raises:
        EvopruneError: the model has no batch norm, or the run no training data.
    """
    if not batch_norms(task.model):
        raise EvopruneError("--recalibrate: the model has no batch norm with running statistics; leave it out")
    if task.train is None:
        raise EvopruneError("--recalibrate measures on training data; pass `train`, or leave it out")


def copied(model: nn.Module) -> nn.Module:
    """A copy of a model.

    Raises:
        EvopruneError: torch cannot copy it.
    """
    try:
        return copy.deepcopy(model)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:  # of torch, for a parameter that is computed from others
        raise EvopruneError(
            f"the model cannot be copied: {said(error)}; take weight normalization of the old kind off first"
            " (torch.nn.utils.remove_weight_norm), and where the model keeps activations run it under torch.no_grad()"
        ) from error


def read_weights(path: Path, remedy: str = "put it back from a copy, or prune again with --overwrite") -> Weights:
    """A state dict from a run folder."""
    return read_tensors(path, f"the run folder is damaged: {remedy}")[0]


def load_weights(model: nn.Module, weights: Weights, source: object) -> None:
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


def _check_training(model: nn.Module, source: BatchSource, samples: tuple[Tensor, Tensor], settings: Settings) -> None:
    """Whether the loss of a few samples can be computed, and lead anywhere, before a search has been paid for."""
    epochs = settings.finetune_epochs + settings.final_epochs
    if epochs and not any(parameter.requires_grad for parameter in model.parameters()):
        raise EvopruneError(
            "no parameter of the model can be trained; call model.requires_grad_(True), or leave `train` out"
        )
    has_loss = epochs > 0 or settings.guidance == "gradient"  # else it only shows guidance what inputs look like
    targets = source.targets if isinstance(source, TensorSource) else samples[1]
    if has_loss and targets.is_floating_point() and not _are_probabilities(targets):
        raise EvopruneError(
            f"the training data has targets {tuple(targets.shape)} {targets.dtype}; fine-tuning is for classifiers, by"
            " cross-entropy: give class numbers (N,) or probabilities (N, C) that sum to 1, or leave `train` out"
        )
    tried = copied(model).train(epochs > 0)  # auxiliary outputs, say, show only in train mode
    device = device_of(model)
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            outputs = tried(samples[0][:2].to(device, copy=True))
        if has_loss and not isinstance(outputs, Tensor):
            raise TypeError(
                f"it gives a {type(outputs).__name__}, and training needs logits (N, C); wrap it, or leave `train` out"
            )
        if has_loss:  # on the CPU, since a label out of range would leave a GPU unusable
            loss = F.cross_entropy(outputs.float().cpu(), samples[1][:2])
            if epochs:
                loss.backward()
                if any(parameter.grad is not None and parameter.grad.is_sparse for parameter in tried.parameters()):
                    raise TypeError("sparse gradients; make embeddings with sparse=False")
    except Exception as error:  # whatever a user's model says about its data
        raise EvopruneError(
            f"the training data {tuple(samples[0].shape[1:])} {samples[0].dtype} does not fit the model: {said(error)}"
        ) from error
    if has_loss and targets.dim() == 1 and not targets.is_floating_point():
        lowest, highest, classes = int(targets.min()), int(targets.max()), outputs.shape[1]
        if lowest < 0 or highest >= classes:
            raise EvopruneError(
                f"the training data has label {lowest if lowest < 0 else highest}, but the model has {classes}"
                f" outputs; expected class numbers from 0 to {classes - 1}"
            )


def _are_probabilities(targets: Tensor) -> bool:
    if targets.dim() != 2 or targets.shape[1] < 2:
        return False
    return bool((targets >= 0).all()) and bool(((targets.sum(1) - 1).abs() < 1e-3).all())


def _check_state(model: nn.Module) -> None:
    """Snapshots and weights hold tensors only."""
    for name, value in model.state_dict().items():
        if not isinstance(value, Tensor):
            raise EvopruneError(
                f"the model's state dict holds {name}, a {type(value).__name__} (get_extra_state), and runs keep only"
                " tensors; give a model without it"
            )


def _name_what_stays(model: nn.Module) -> None:
    """Warn of weights that cannot be pruned."""
    computed = [
        name
        for name, module in model.named_modules()
        if "weight" not in module._parameters and isinstance(getattr(module, "weight", None), Tensor)
    ]
    if computed:
        log.warning(
            "left out, for their weights are computed from other parameters (a parametrization, torch.nn.utils.prune):"
            " %s; make them plain first, such as with torch.nn.utils.parametrize.remove_parametrizations",
            ", ".join(computed),
        )
    plain = [module for module in model.modules() if not isinstance(module, torch.jit.ScriptModule)]
    weights = {id(module._parameters.get("weight")) for module in plain}
    others = {name: p.numel() for name, p in model.named_parameters() if p.dim() >= 2 and id(p) not in weights}
    share = sum(others.values()) / max(1, sum(parameter.numel() for parameter in model.parameters()))
    if share > NEGLIGIBLE:
        log.warning(
            "%.0f %% of the parameters stay as they are, and count in no sparsity: matrices that are not the weight of"
            " a plain layer (as in torch's LSTM and MultiheadAttention, or in scripted modules): %s",
            100 * share, ", ".join(list(others)[:3]) + (", ..." if len(others) > 3 else ""),
        )  # fmt: skip
