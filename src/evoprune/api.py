"""prune, resume, finetune and evaluate: what the command line and Python users call."""

from __future__ import annotations

import copy
import json
import logging
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from evoprune.again import Given, load_pruned, on_this_machine, opened, recorded, show_dense
from evoprune.checks import (
    check_dense,
    check_guidance,
    check_model,
    check_scoring,
    check_test,
    copied,
    recalibrates,
)
from evoprune.core import EvopruneError, Masks, resolve_layers
from evoprune.report import write_report
from evoprune.report.read import read_run
from evoprune.run import (
    Folder,
    Listener,
    Result,
    Runner,
    Settings,
    Task,
    costs_of,
    finetune_later,
    finish,
    make_settings,
    side,
)
from evoprune.run.settings import DEFAULT_MAX_DROP
from evoprune.run.task import Score
from evoprune.scoring import Accuracy, DataScore, as_score, device_of
from evoprune.storage import save_tensors
from evoprune.surroundings import like, surroundings
from evoprune.tasks import given_task, named_task, read_weights
from evoprune.training import Loss, is_pair
from evoprune.training_checks import check_training
from evoprune.zoo import BUILT_IN, NETWORKS, check_size_fits, load_network

__all__ = ["evaluate", "finetune", "prune", "prune_named", "resume"]

log = logging.getLogger("evoprune")

RECORDED = ("sparsity", "nonzero_weights", "val_score", "test_score")
"""What `evaluate` measures and compares; the file of a shipped network says it of itself."""
NAMED_ONLY = {
    "checkpoint", "data", "data_digest", "device_used", "directory", "has_loss", "has_test", "has_train", "warnings",
}  # fmt: skip
"""Settings that `prune` does not take: it is given objects."""
ONLY_TUNING = (
    "batch_size", "cutout", "distill", "final_epochs", "final_schedule", "finetune_epochs", "finetune_schedule",
    "first_size", "flip", "label_smoothing", "learning_rate", "optimizer", "shift", "train_precision", "weight_decay",
)  # fmt: skip
"""Settings that mean nothing without training data."""
UNTUNED_GENERATIONS = 40
"""The default number of generations where nothing is fine-tuned: all that can be gained has to come from the search."""


def prune(
    model: nn.Module,
    score: Score,
    *,
    train: Any = None,
    test: Score | None = None,
    loss: Loss | None = None,
    layers: str | Iterable[str] | None = None,
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
            `evoprune.accuracy(loader)`, which is far faster: candidates run in batches where they share batch
            norms, and stop early.
        train: batches for fine-tuning: a DataLoader, a list of (inputs, targets), or a pair of tensors; without it
            nothing is fine-tuned, and the search has more generations by default.
        test: another score, read once at the end for the dense and the pruned model.
        loss: (outputs, targets) -> a tensor of one number that fine-tuning makes small, and whose gradients guidance
            `gradient` looks at, such as `torch.nn.functional.mse_loss`; it must depend on its arguments alone. By
            default cross-entropy, for a classifier, with the dense model as teacher.
        layers: names of the layers to prune; all prunable ones by default.
        out: run folder for journal, snapshots, masks, weights and the report; nothing is written without it.
        overwrite: start over where `out` holds a run.
        inplace: prune the given model itself.
        listener: called with every event of the journal, and with those to watch only (`evoprune.run.Listener`).
        **settings: the options of `evoprune prune`, such as `sparsity=0.9`, `max_drop=0.5`, `seed=1`,
            `preset="original"`, `time_limit_seconds=600`; see `evoprune.run.Settings`. The device is that of the
            model, unless `device` names another.

    Returns:
        The pruned model, its masks, and what was measured.

    Raises:
        EvopruneError: something given cannot be used; the message says what and what to do.

    Example:
        >>> result = evoprune.prune(model, evoprune.accuracy(val_loader), train=train_loader, max_drop=0.5)
        >>> result.sparsity, result.score
    """
    check_model(model)
    score = as_score(score)
    settings = {name: value for name, value in settings.items() if value is not None}  # None leaves the default
    chosen = _chosen(model, score, train, test, loss, layers, settings)
    folder = None if out is None else Path(out)
    if folder is not None:
        Folder(folder).check_vacant(overwrite)
    with surroundings(chosen) as warned:
        _warn_of_defaults(score, train, loss, settings, chosen)
        own = model if inplace else copied(model)
        with like(model, own):
            task = given_task(own, score, train, test, chosen, loss)
            return _begin(task, chosen, folder, overwrite, listener, warned)


def _chosen(
    model: nn.Module, score: Score, train: Any, test: Score | None, loss: Loss | None,
    layers: str | Iterable[str] | None, given: dict[str, Any],
) -> Settings:  # fmt: skip
    """The settings of a run from Python: what was given, completed."""
    if named := sorted(name for name in NAMED_ONLY if name in given):
        raise EvopruneError(f"{named[0]} is nothing that `prune` takes: give the model and the score themselves")
    names = [layers] if isinstance(layers, str) else layers
    if names is not None and not isinstance(names, Iterable):
        raise EvopruneError(f"layers is {layers!r}; expected names of layers")
    defaults: dict[str, Any] = {"model": type(model).__name__, "score_name": _name_of(score)}
    if loss is not None:
        if not callable(loss) or isinstance(loss, type):
            raise EvopruneError(f"loss is {loss!r}; expected a function (outputs, targets) -> a tensor of one number")
        if vain := [name for name in ("distill", "label_smoothing") if given.get(name)]:
            raise EvopruneError(f"{vain[0]} belongs to cross-entropy, and the loss is your own; leave it out")
        defaults["distill"] = 0.0
    if train is None and given.get("preset", "default") == "default":
        if given.get("space") != "training":
            defaults["generations"] = UNTUNED_GENERATIONS
        if given.get("guidance") == "gradient":
            defaults["space"] = "allocation"  # without training nothing can tighten in it
    if isinstance(device := given.get("device"), torch.device):
        if device.index and device != device_of(model):
            raise EvopruneError(f"device {device}: move the model there with model.to(...), and leave `device` out")
        given = given | {"device": "auto" if device == device_of(model) else device.type}
    chosen = make_settings(layers=list(names) if names is not None else None, **(defaults | given))
    if chosen.tightens and train is None:
        raise EvopruneError("space training prunes while the model trains; pass `train`, or choose another space")
    has = {"has_train": train is not None, "has_test": test is not None, "has_loss": loss is not None}
    return chosen.model_copy(update=has)


def _name_of(score: Score) -> str:
    """What the score is called in the report."""
    function = getattr(score, "function", score)
    name: str = getattr(function, "__name__", type(function).__name__).lower()
    # In whatever unit: not a share of correct answers, as ours is.
    return "own accuracy" if function is not score and name == "accuracy" else name


def _warn_of_defaults(score: Score, train: Any, loss: Loss | None, given: dict[str, Any], chosen: Settings) -> None:
    """Tell a Python user what is not as they may think."""
    if loss is not None and train is None and given.get("guidance") != "gradient":
        log.warning("without `train` nothing is fine-tuned, and `loss` means nothing")
    if train is None and (vain := sorted(name for name in ONLY_TUNING if given.get(name))):
        log.warning("without `train` nothing is fine-tuned, and this means nothing: %s", ", ".join(vain))
    if given.get("batch_size") and not (train is None or is_pair(train)):
        log.warning("batch_size means nothing where `train` gives batches itself")
    if given.get("preset", "default") != "default":
        return
    if not isinstance(score, Accuracy) and given.get("max_drop") is None and chosen.max_drop is not None:
        log.warning(
            "no goal was given: weights go until the score has lost %g, in its own unit; give sparsity=..., floor=...,"
            " or max_drop=..., in hundredths of that unit",
            DEFAULT_MAX_DROP / 100,
        )
    if train is None and not isinstance(score, DataScore) and given.get("guidance", "none") == "none":
        log.warning(
            "the search begins with random weights, since it has no data to look at; pass `train`, a score built from"
            " data such as evoprune.accuracy(loader), or guidance='magnitude'"
        )


def prune_named(settings: Settings, out: Path, overwrite: bool = False, listener: Listener | None = None) -> Result:
    """What `evoprune prune MODEL` does: model, checkpoint and data are given by name in the settings."""
    Folder(out).check_vacant(overwrite)  # before the data is loaded
    with surroundings(settings) as warned:
        task, settings = named_task(settings)
        check_training(task, settings)
        return _begin(task, settings, out, overwrite, listener, warned)


def resume(
    out: str | Path,
    model: nn.Module | None = None,
    score: Score | None = None,
    *,
    train: Any = None,
    test: Score | None = None,
    loss: Loss | None = None,
    inplace: bool = False,
    listener: Listener | None = None,
) -> Result:
    """Go on with a run that was interrupted; the result is that of an unbroken run, bit for bit.

    A run that has ended stays as it is, fine-tuned later or not: what its folder holds is returned.

    Args:
        out: the run folder.
        model: needed, like `score`, `train` and `test`, for a run that was started from Python; with any weights, since
            the folder has the run's.
        score: as given to `prune`.
        train: as given to `prune`.
        test: as given to `prune`.
        loss: as given to `prune`.
        inplace: go on in the given model itself, which is copied otherwise.
        listener: called with every event of the journal, and with those to watch only (`evoprune.run.Listener`).
    """
    given = Given(model, score, train, test, loss)
    with opened(out) as (folder, found):
        own = given if inplace else given.with_copy()
        with like(given.model, own.model):
            return _go_on(own, folder, found, listener)


def _go_on(given: Given, folder: Folder, found: Settings, listener: Listener | None) -> Result:
    """The rest of a run, in the model that is given, if one is; of a run that has ended, what its folder holds."""
    if folder.result.exists():
        return recorded(folder, on_this_machine(found), given.model)
    if folder.before_finetune.exists():
        raise EvopruneError(
            f"{folder.result} is missing, and the run was fine-tuned later, which going on from its own end would"
            f" lose; put it back from a copy, or delete {folder.before_finetune} to go on all the same"
        )
    resumed = folder.snapshot.exists()
    if resumed and not folder.dense.exists():
        raise EvopruneError(
            f"{folder.dense} is missing, the weights that the run began with; put it back from a copy, or start"
            " over with --overwrite"
        )
    if given.model is not None and not folder.dense.exists():
        raise EvopruneError(
            f"the run in {folder.path} had not begun: it was stopped before the weights were kept; start over with"
            " overwrite=True"
        )
    dense = read_weights(folder.dense) if folder.dense.exists() else None
    given.check(train=found.has_train, test=found.has_test, loss=bool(found.has_loss))
    task, settings = given.task(found, dense, folder.dense, same_data=True)
    device = device_of(task.model).type
    if settings.device_used not in (None, device):
        raise EvopruneError(
            f"the run began on {settings.device_used}, and would go on on {device} with other bits; resume it where"
            " there is the same kind of device, a given model on it"
        )
    begun = time.perf_counter()
    check_test(task)
    dense_val_score = None if resumed else task.val_score(task.model)
    return _carry_out(task, settings, folder, dense_val_score, begun, listener)


def finetune(
    run: str | Path,
    epochs: int = 20,
    learning_rate: float | None = None,
    listener: Listener | None = None,
    command: str | None = None,
    *,
    model: nn.Module | None = None,
    score: Score | None = None,
    train: Any = None,
    test: Score | None = None,
    loss: Loss | None = None,
) -> Result:
    """Train the pruned model of a finished run further, its masks kept exactly.

    The folder's model.safetensors and result.json are replaced, and the journal goes on; the model from before stays
    beside as model.before-finetune.safetensors, at a second time as model.before-finetune-2.safetensors, and so on.
    Interrupted before that, it changes nothing.

    Args:
        run: the run folder.
        epochs: passes over the training data.
        learning_rate: highest of the schedule, which is that of the run's final epochs; the run's own by default.
        listener: called with every event of the journal, and with those to watch only (`evoprune.run.Listener`).
        command: what was typed, for the report.
        model: needed, like `score`, `train` and `test`, for a run that was started from Python; with any weights, and
            it is not changed.
        score: as given to `prune`.
        train: as given to `prune`, or training data for a run that had none.
        test: as given to `prune`.
        loss: as given to `prune`.
    """
    if not isinstance(epochs, int) or epochs < 1:
        raise EvopruneError(f"--epochs {epochs}: expected 1 or more")
    given = Given(model, score, train, test, loss)
    with opened(run) as (folder, found), like(model, (own := given.with_copy()).model):
        summary = folder.read_result()
        own.check(test=found.has_test, loss=bool(found.has_loss) if found.has_train else None)
        weights = read_weights(folder.dense)
        settings = on_this_machine(found).model_copy(update={"final_epochs": epochs})  # which are checked
        task, settings = own.task(settings, weights, folder.dense)
        if task.train is None:
            raise EvopruneError("fine-tuning needs training data; pass `train`")
        check_test(task)
        if settings.first_size and task.samples is not None:
            check_size_fits(task.model, task.samples[0], [settings.recipe(epochs, settings.final_schedule)])
        ended = [old.start.stage for old in read_run(folder.path).stages if old.end is not None]
        dense = copy.deepcopy(task.model)
        dense.eval()
        masks = load_pruned(task.model, folder, settings)
        result = finetune_later(
            task, dense, settings, folder, summary, masks, 1 + max(ended, default=-1),
            settings.recipe(epochs, settings.final_schedule, learning_rate),
            command or f"evoprune.finetune({str(run)!r}, {epochs}, {learning_rate})", listener,
        )  # fmt: skip
        write_report(folder.path)
        return result


def evaluate(
    run: str | Path,
    data: str | None = None,
    *,
    model: nn.Module | None = None,
    score: Score | None = None,
    test: Score | None = None,
) -> dict[str, Any]:
    """Score the model in a run folder again, or a shipped network, and compare with what was recorded of it.

    Args:
        run: a run folder, or the name of a shipped network (`evoprune.zoo.NETWORKS`).
        data: for a shipped network, as for `evoprune prune`; that of its model by default.
        model: needed, like `score`, for a run that was started from Python; with any weights, and it is not changed.
        score: as given to `prune`.
        test: as given to `prune`.

    Returns:
        model, data, val_score, test_score, weights, nonzero_weights, sparsity, file_bytes, and `recorded`, the same as
        written by the run.
    """
    if not Path(run).exists():
        model, masks, metadata = load_network(str(run))
        named = NETWORKS[str(run)]
        settings = make_settings(model=named, data=data or BUILT_IN[named].data)
        task, _ = named_task(settings, model.state_dict(), run)
        said = {key: json.loads(metadata[key]) for key in RECORDED} | {"data": metadata.get("data")}
        return _measured(settings, task, masks, said)
    if data is not None:
        raise EvopruneError("--data is for shipped networks; a run is scored on the data that it was made with")
    with opened(run, lock=False) as (folder, found):
        said = folder.read_result()["pruned"]
        given = Given(model, score, test=test).with_copy()
        file = folder.model if model is None else folder.dense
        task, settings = given.task(on_this_machine(found), read_weights(file, folder.remedy), file)
        return _measured(settings, task, load_pruned(task.model, folder, settings), said | {"data": found.data})


def _measured(settings: Settings, task: Task, masks: Masks, said: dict[str, Any]) -> dict[str, Any]:
    measured = side(task, task.model, masks, task.val_score(task.model), settings.model)
    return {"model": settings.model, "data": settings.data} | measured | {"recorded": said}


def _begin(
    task: Task, settings: Settings, out: Path | None, overwrite: bool, listener: Listener | None, warned: list[str]
) -> Result:
    """Start a run. What can be wrong with the request is found before a folder is made."""
    begun = time.perf_counter()
    resolve_layers(task.layers, settings.layers)
    show_dense(task)
    check_test(task)
    with check_scoring(task.model):
        dense_val_score = task.val_score(task.model)
    check_dense(task, settings, dense_val_score)
    costs_of(task, settings)
    check_guidance(task, settings)
    if settings.first_size and task.samples is not None:
        most = max(settings.finetune_epochs, settings.final_epochs)  # fewer where little is lost, or the time is up
        recipes = [settings.recipe(epochs, "constant") for epochs in range(1, most + 1)]
        check_size_fits(task.model, task.samples[0], recipes)
    anew = recalibrates(task, settings, dense_val_score)
    found = {"recalibrate": anew, "device_used": device_of(task.model).type, "warnings": list(warned)}
    settings = settings.model_copy(update=found)
    folder = None if out is None else Folder.create(out, settings, overwrite)
    try:
        return _carry_out(task, settings, folder, dense_val_score, begun, listener)
    finally:
        if folder is not None:
            folder.close()


def _carry_out(
    task: Task,
    settings: Settings,
    folder: Folder | None,
    dense_val_score: float | None,
    begun: float,
    listener: Listener | None,
) -> Result:
    """Run, finish, report; the arguments are those of `Runner`."""
    dense = copied(task.model).cpu()  # scored at the end alone
    if folder is not None and not folder.dense.exists():
        save_tensors(dense.state_dict(), folder.dense)
    runner = Runner(task, settings, folder, dense_val_score, begun, listener)
    runner.run()
    result = finish(runner, dense)
    if folder is not None:
        write_report(folder.path)
    return result
