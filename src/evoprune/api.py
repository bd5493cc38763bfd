"""prune, resume, finetune and evaluate: what the command line and Python users call."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
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
    floor_of,
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
log = logging.getLogger("evoprune")

SAMPLES = 3000
"""Training samples that guidance looks at."""
FINETUNE_STREAM = 0xF17E
"""Place of a later fine-tuning's random stream beside those of the stages."""


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
    score = as_score(score)
    name = getattr(score, "function", score)
    settings.setdefault("model", type(model).__name__)
    settings.setdefault("score_name", getattr(name, "__name__", type(name).__name__).lower())
    chosen = make_settings(layers=list(layers) if layers is not None else None, **settings)
    as_given = _like(model)
    with _threads(chosen):
        task = _task(model if inplace else copy.deepcopy(model), score, train, test, chosen)
        return as_given(_begin(task, chosen, None if out is None else Path(out), overwrite, listener))


def prune_named(settings: Settings, out: Path, overwrite: bool = False, listener: Listener | None = None) -> Result:
    """What `evoprune prune MODEL` does: model, checkpoint and data are given by name in the settings."""
    with _threads(settings):
        task, settings = _named_task(settings)
        return _begin(task, settings, out, overwrite, listener)


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
    with _opened(out) as (folder, found):
        settings = found
        dense = _read(folder.dense) if folder.dense.exists() else None
        if model is None or score is None:
            task, settings = _named_task(settings, dense)
        else:
            task = _task(copy.deepcopy(model), as_score(score), train, test, settings)
            if dense is not None:
                _load(task.model, dense, folder.dense)
        resumed = folder.snapshot.exists()
        dense_val_score = 0.0 if resumed else float(task.val_score(task.model))
        result = _carry_out(task, settings, folder, dense_val_score, listener, resumed)
        return result if model is None else _like(model)(result)


def finetune(
    run: str | Path, epochs: int = 20, learning_rate: float | None = None, listener: Listener | None = None
) -> Result:
    """Train the pruned model of a finished run further, its masks kept exactly.

    The folder's model.safetensors and result.json are replaced; the model from before stays beside as
    model.before-finetune.safetensors.
    """
    if epochs < 1:
        raise EvopruneError(f"--epochs {epochs}: expected 1 or more")
    with _opened(run) as (folder, found):
        summary = folder.read_result()
        task, settings = _named_task(found, _read(folder.dense))
        assert task.train is not None
        dense = copy.deepcopy(task.model).eval()
        masks = load_masks(folder.masks, task.layers)
        before = _read(folder.model)
        _load(task.model, before, folder.model)
        recipe = Recipe(
            epochs=epochs, batch_size=settings.batch_size, optimizer=settings.optimizer, schedule="cosine",
            learning_rate=settings.learning_rate if learning_rate is None else learning_rate,
            weight_decay=settings.weight_decay, distill=settings.distill,
        )  # fmt: skip
        if settings.distill and isinstance(task.train, TensorSource):
            task.train.ask(dense)
        tuner = FineTuner(task.model, masks, task.train, recipe, dense if settings.distill else None)
        begun, done = time.perf_counter(), summary["finetune"]["epochs"]
        val_score = 0.0
        for epoch in range(epochs):
            loss = tuner.epoch(epoch, settings.seed, FINETUNE_STREAM, done)
            val_score = float(task.val_score(task.model))
            event = {"event": "epoch", "stage": -1, "epoch": epoch, "epochs": epochs, "loss": loss}
            if listener is not None:
                listener(event | {"val_score": val_score, "seconds": time.perf_counter() - begun})
        tuner.close()
        seconds = round(time.perf_counter() - begun, 3)
        summary["pruned"] = side(task, task.model, masks, val_score)
        summary["finetune"]["epochs"] += epochs
        summary["finetune"]["seconds"] += seconds
        summary["seconds"] += seconds
        save_tensors(before, folder.path / "model.before-finetune.safetensors")
        sparsity = sparsity_of(masks, task.layers)
        result = Result(task.model, masks, sparsity, val_score, [], summary, folder.path)
        write_outputs(folder, result, settings)
        write_report(folder.path)
        return result


def evaluate(run: str | Path) -> dict[str, Any]:
    """Score the model in a run folder again and compare with what result.json says.

    Returns:
        model, sparsity, nonzero_weights, val_score, test_score, and `recorded`, the same as written by the run.
    """
    with _opened(run, lock=False) as (folder, settings):
        recorded = folder.read_result()["pruned"]
        task, _ = _named_task(settings, _read(folder.dense))
        masks, weights = load_masks(folder.masks, task.layers), _read(folder.model)
        _load(task.model, weights, folder.model)
        apply_masks(task.model, masks)
        if any(not torch.equal(weights[name], tensor.cpu()) for name, tensor in task.model.state_dict().items()):
            raise EvopruneError(
                f"{folder.model} has weights that {folder.masks} says are pruned; the folder is damaged"
            )
        measured = side(task, task.model, masks, float(task.val_score(task.model)))
        return {"model": settings.model} | measured | {"recorded": recorded}


def _begin(task: Task, settings: Settings, out: Path | None, overwrite: bool, listener: Listener | None) -> Result:
    """Start a run. What can be wrong with the request is found before a folder is made."""
    resolve_layers(task.layers, settings.layers or [])
    dense_val_score = float(task.val_score(task.model))
    floor_of(settings, dense_val_score)
    if out is None:
        return _carry_out(task, settings, None, dense_val_score, listener)
    folder = Folder.create(out, settings, overwrite)
    try:
        return _carry_out(task, settings, folder, dense_val_score, listener)
    finally:
        folder.close()


def _carry_out(
    task: Task,
    settings: Settings,
    folder: Folder | None,
    dense_val_score: float,
    listener: Listener | None,
    resumed: bool = False,
) -> Result:
    """Run, finish, report."""
    with torch.random.fork_rng(devices=[]):
        for score in (task.val_score, task.test_score):
            if isinstance(score, DataScore):
                score.bind(task.model)
        dense = copy.deepcopy(task.model)
        if folder is not None and not folder.dense.exists():
            save_tensors(dense.state_dict(), folder.dense)
        runner = Runner(task, settings, folder, dense_val_score, listener, resumed)
        runner.run()
        result = finish(runner, dense)
    if folder is not None:
        write_report(folder.path)
    return result


@contextmanager
def _opened(run: str | Path, lock: bool = True) -> Iterator[tuple[Folder, Settings]]:
    """A run folder and its settings, with the number of threads the run was made with."""
    folder, settings = Folder.open(Path(run), lock)
    try:
        with _threads(settings):
            yield folder, settings
    finally:
        folder.close()


@contextmanager
def _threads(settings: Settings) -> Iterator[None]:
    """The order of floating-point sums follows the number of threads, so it is a setting of the run."""
    before = torch.get_num_threads()
    torch.set_num_threads(settings.threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _like(model: nn.Module) -> Callable[[Result], Result]:
    """Remembers device and modes of a model, to give a result's model the same."""
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    modes = [module.training for module in model.modules()]

    def put_back(result: Result) -> Result:
        result.model.to(device)
        for module, training in zip(result.model.modules(), modes, strict=True):
            module.training = training
        return result

    return put_back


def _task(model: nn.Module, score: Score, train: Any, test: Score | None, settings: Settings) -> Task:
    device = _device(settings.device)
    model.to(device)
    source = None if train is None else as_source(train, settings.batch_size, device)
    samples = None
    if source is not None:
        samples = first_samples(source, SAMPLES)
    elif isinstance(score, DataScore):
        samples = (score.inputs[:SAMPLES].to(device), score.targets[:SAMPLES].to(device))
    layers = prunable_layers(model, settings.include_norm)
    return Task(model, layers, score, source, samples, None if test is None else as_score(test))


def _named_task(settings: Settings, dense: dict[str, Tensor] | None = None) -> tuple[Task, Settings]:
    """Model, checkpoint and data of the settings; the settings come back with the names that were used.

    With `dense`, weights that a run folder holds, the checkpoint is not read.
    """
    if settings.data is None and dense is not None:
        raise EvopruneError(
            "this run was started from Python with a model of its own; go on with"
            " evoprune.resume(folder, model, score, train=...), or load model.safetensors from the folder"
        )
    model = load_model(settings.model)
    checkpoint = settings.checkpoint or default_checkpoint(settings.model)
    if dense is not None:
        _load(model, dense, "the run's weights")
    elif checkpoint is not None:
        load_checkpoint(model, checkpoint)
    name = settings.data or (BUILT_IN[settings.model].data if settings.model in BUILT_IN else None)
    if name is None:
        raise EvopruneError(f"no data for {settings.model!r}; pass --data NAME_OR_FOLDER")
    data = load_data(name)
    if name == "mnist-sample" and checkpoint == default_checkpoint("lenet5"):
        log.warning(
            "the shipped LeNet-5 has seen the images of mnist-sample in training, so its accuracy there proves nothing;"
            " use --data mnist, or train one: evoprune train lenet5 --data mnist-sample --out FILE"
        )
    check_data_fits(model, data)
    device = _device(settings.device)
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


def _load(model: nn.Module, weights: dict[str, Tensor], source: object) -> None:
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise EvopruneError(
            f"{source} does not fit the model {type(model).__name__}: other names or shapes; give the model of the run"
        ) from error


def _device(wanted: str) -> torch.device:
    """The device of the settings; `auto` takes the GPU where there is one."""
    if wanted == "cuda" and not torch.cuda.is_available():
        raise EvopruneError("--device cuda: this PyTorch sees no GPU; use --device cpu or install a CUDA build")
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(wanted)
