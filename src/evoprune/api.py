"""prune, resume, finetune and evaluate: what the command line and Python users call."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from evoprune.core import EvopruneError, prunable_layers, resolve_layers, sparsity_of
from evoprune.report import write_report
from evoprune.run import (
    Folder,
    Listener,
    Result,
    Runner,
    Settings,
    Task,
    finish,
    make_settings,
    side,
    write_outputs,
)
from evoprune.scoring import Accuracy, DataScore, as_score
from evoprune.storage import save_tensors
from evoprune.surgery import FineTuner, apply_masks, load_masks
from evoprune.training import Recipe, TensorSource, as_source, first_samples
from evoprune.zoo import BUILT_IN, check_data_fits, default_checkpoint, load_checkpoint, load_data, load_model

__all__ = ["evaluate", "finetune", "prune", "prune_named", "resume"]

Score = Callable[[nn.Module], float]
SAMPLES = 3000


def prune(
    model: nn.Module,
    score: Score,
    *,
    train: Any = None,
    test: Score | None = None,
    layers: Iterable[str] | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    inplace: bool = False,
    listener: Listener | None = None,
    **settings: Any,
) -> Result:
    """Prune a model by evolution.

    Args:
        model: any nn.Module; it is not changed unless `inplace`.
        score: model -> float, higher is better, or a score built from data, such as
            `evoprune.accuracy(loader)`, which is far faster since candidates are scored in batches.
        train: batches for fine-tuning: a DataLoader, a list of (inputs, targets), or a pair of tensors;
            without it nothing is fine-tuned.
        test: another score, read once at the end for the dense and the pruned model.
        layers: names of the layers to prune; all prunable ones by default.
        out: run folder for journal, snapshots, masks, weights and the report; nothing is written without it.
        overwrite: start over where `out` holds a run.
        inplace: prune the given model itself.
        listener: called with every event of the journal.
        **settings: the options of `evoprune prune`, such as `sparsity=0.9`, `max_drop=0.5`, `seed=1`,
            `preset="original"`, `time_limit_seconds=600`; see `evoprune.run.Settings`.

    Returns:
        The pruned model, its masks, and what was measured.

    Raises:
        EvopruneError: something given cannot be used; the message says what and what to do.

    Example:
        >>> result = evoprune.prune(model, evoprune.accuracy(val_loader), train=train_loader, max_drop=0.5)
        >>> result.sparsity, result.score
    """
    if not isinstance(model, nn.Module):
        raise EvopruneError(f"model is a {type(model).__name__}; expected a torch.nn.Module")
    settings.setdefault("model", type(model).__name__)
    score = as_score(score)
    name = getattr(score, "function", score)
    settings.setdefault("score_name", getattr(name, "__name__", type(name).__name__).lower())
    chosen = make_settings(layers=list(layers) if layers is not None else None, **settings)
    torch.set_num_threads(chosen.threads)
    device = _device(chosen.device, model)
    home, modes = _device("model", model), {module: module.training for module in model.modules()}
    task = _task(model if inplace else copy.deepcopy(model), score, train, test, chosen, device)
    resolve_layers(task.layers, chosen.layers or [])
    folder = Folder.create(Path(out), chosen, overwrite) if out is not None else None
    result = _carry_out(task, chosen, folder, listener, resume=False)
    result.model.to(home)
    for module, twin in zip(model.modules(), result.model.modules(), strict=True):
        twin.training = modes[module]
    return result


def prune_named(settings: Settings, out: Path, overwrite: bool = False, listener: Listener | None = None) -> Result:
    """What `evoprune prune MODEL` does: model, checkpoint and data are given by name in the settings."""
    torch.set_num_threads(settings.threads)
    task, settings = _named_task(settings)
    resolve_layers(task.layers, settings.layers or [])
    folder = Folder.create(out, settings, overwrite)
    return _carry_out(task, settings, folder, listener, resume=False)


def resume(
    out: str | Path,
    model: nn.Module | None = None,
    score: Score | None = None,
    *,
    train: Any = None,
    test: Score | None = None,
    listener: Listener | None = None,
) -> Result:
    """Go on with a run that was interrupted; the result is that of an unbroken run, bit for bit.

    Args:
        out: the run folder.
        model: needed, like `score`, `train` and `test`, for a run that was started from Python.
        score: as given to `prune`.
        train: as given to `prune`.
        test: as given to `prune`.
        listener: called with every event of the journal.
    """
    folder, settings = Folder.open(Path(out))
    torch.set_num_threads(settings.threads)
    if settings.data is None and (model is None or score is None):
        raise EvopruneError(
            f"the run in {out} was started from Python with a model of its own; go on with"
            " evoprune.resume(folder, model, score, train=...)"
        )
    if model is not None and score is not None:
        task = _task(copy.deepcopy(model), score, train, test, settings, _device(settings.device, model))
    else:
        task, settings = _named_task(settings, folder.dense if folder.dense.exists() else None)
    if folder.dense.exists():
        task.model.load_state_dict(_read(folder.dense))
    return _carry_out(task, settings, folder, listener, resume=folder.snapshot.exists())


def finetune(
    run: str | Path, epochs: int = 20, learning_rate: float | None = None, listener: Listener | None = None
) -> Result:
    """Train the pruned model of a finished run further, its masks kept exactly.

    The folder's model.safetensors and result.json are replaced; the model from before stays beside as
    model.before-finetune.safetensors.
    """
    folder, settings = Folder.open(Path(run))
    summary = folder.read_result()
    if epochs < 1:
        raise EvopruneError(f"--epochs {epochs}: expected 1 or more")
    torch.set_num_threads(settings.threads)
    task, settings = _named_task(settings, folder.dense)
    assert task.train is not None
    dense = copy.deepcopy(task.model).eval()
    masks = load_masks(folder.masks, task.layers)
    task.model.load_state_dict(_read(folder.model))
    recipe = Recipe(
        epochs=epochs, batch_size=settings.batch_size, optimizer=settings.optimizer, schedule="cosine",
        learning_rate=learning_rate or settings.learning_rate, weight_decay=settings.weight_decay,
        distill=settings.distill,
    )  # fmt: skip
    tuner = FineTuner(task.model, masks, task.train, recipe, dense if settings.distill else None)
    begun, done = time.perf_counter(), summary["finetune"]["epochs"]
    for epoch in range(epochs):
        loss = tuner.epoch(epoch, settings.seed, 0xF17E, done)
        event = {"event": "epoch", "stage": -1, "epoch": epoch, "epochs": epochs, "loss": loss}
        if listener is not None:
            listener(event | {"val_score": float(task.val_score(task.model)), "seconds": time.perf_counter() - begun})
    seconds = time.perf_counter() - begun
    val_score = float(task.val_score(task.model))
    summary["pruned"] = side(task, task.model, masks, val_score)
    summary["finetune"] = {
        "epochs": done + epochs,
        "seconds": summary["finetune"]["seconds"] + round(seconds, 3),
    }
    summary["seconds"] = round(summary["seconds"] + seconds, 3)
    save_tensors(_read(folder.model), folder.path / "model.before-finetune.safetensors")
    result = Result(
        task.model,
        masks,
        sparsity_of(masks, task.layers),
        val_score,
        summary.get("front", []),
        summary,
        folder.path,
    )
    write_outputs(folder, result, settings)
    write_report(folder.path)
    return result


def evaluate(run: str | Path) -> dict[str, Any]:
    """Score the model in a run folder again and compare with what result.json says.

    Returns:
        model, sparsity, nonzero_weights, val_score, test_score, and `recorded`, the same as written by the run.
    """
    folder, settings = Folder.open(Path(run), lock=False)
    recorded = folder.read_result()["pruned"]
    torch.set_num_threads(settings.threads)
    task, _ = _named_task(settings, folder.dense)
    task.model.load_state_dict(_read(folder.model))
    masks = load_masks(folder.masks, task.layers)
    before = {name: tensor.clone() for name, tensor in task.model.state_dict().items()}
    apply_masks(task.model, masks)
    if any(not torch.equal(before[name], tensor) for name, tensor in task.model.state_dict().items()):
        raise EvopruneError(f"{folder.model} has weights that {folder.masks} says are pruned; the folder is damaged")
    measured = side(task, task.model, masks, float(task.val_score(task.model)))
    return {"model": settings.model} | measured | {"recorded": recorded}


def _carry_out(
    task: Task, settings: Settings, folder: Folder | None, listener: Listener | None, resume: bool
) -> Result:
    """Run, finish, report; the folder's lock is given back whatever happens."""
    try:
        with torch.random.fork_rng(devices=[]):
            for score in (task.val_score, task.test_score):
                if isinstance(score, DataScore):
                    score.bind(task.model)
            dense = copy.deepcopy(task.model)
            if folder is not None and not folder.dense.exists():
                save_tensors(dense.state_dict(), folder.dense)
            runner = Runner(task, settings, folder, listener, resume)
            runner.run()
            result = finish(runner, dense)
        if folder is not None:
            write_report(folder.path)
        return result
    finally:
        if folder is not None:
            folder.close()


def _task(
    model: nn.Module, score: Score, train: Any, test: Score | None, settings: Settings, device: torch.device
) -> Task:
    score = as_score(score)
    model.to(device)
    source = None if train is None else as_source(train, settings.batch_size, device)
    samples = None
    if source is not None:
        samples = first_samples(source, SAMPLES)
    elif isinstance(score, DataScore):
        samples = (score.inputs[:SAMPLES].to(device), score.targets[:SAMPLES].to(device))
    layers = prunable_layers(model, settings.include_norm)
    return Task(model, layers, score, source, samples, None if test is None else as_score(test))


def _named_task(settings: Settings, dense: Path | None = None) -> tuple[Task, Settings]:
    """Model, checkpoint and data of the settings; the settings come back with the names that were used."""
    model = load_model(settings.model)
    checkpoint = settings.checkpoint or default_checkpoint(settings.model)
    if dense is not None:
        model.load_state_dict(_read(dense))
    elif checkpoint is not None:
        load_checkpoint(model, checkpoint)
    name = settings.data or (BUILT_IN[settings.model].data if settings.model in BUILT_IN else None)
    if name is None:
        raise EvopruneError(f"no data for {settings.model!r}; pass --data NAME_OR_FOLDER")
    data = load_data(name)
    check_data_fits(model, data)
    device = _device(settings.device, model)
    model.to(device)
    train = data.train
    source = TensorSource(train.inputs, train.targets, settings.batch_size, device=device)
    task = Task(
        model,
        prunable_layers(model, settings.include_norm),
        Accuracy(data.val.inputs.to(device), data.val.targets.to(device)),
        source,
        first_samples(source, SAMPLES),
        Accuracy(data.test.inputs.to(device), data.test.targets.to(device)),
    )
    used = {"data": name, "score_name": "accuracy", "checkpoint": None if checkpoint is None else str(checkpoint)}
    return task, settings.model_copy(update=used)


def _read(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise EvopruneError(f"cannot read {path}: {error}; the run folder is damaged") from error


def _device(wanted: str, model: nn.Module) -> torch.device:
    """The device of the settings; `auto` takes the GPU where there is one, `model` where the model is."""
    first = next(model.parameters(), None)
    if wanted == "model":
        return torch.device("cpu") if first is None else first.device
    if wanted == "cuda" and not torch.cuda.is_available():
        raise EvopruneError("--device cuda: this PyTorch sees no GPU; use --device cpu or install a CUDA build")
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(wanted)
