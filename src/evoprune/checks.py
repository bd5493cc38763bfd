"""Whether a run can do what it is asked to, said before it costs time; and what a user should know of it."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator
from contextlib import closing, contextmanager

import torch
from torch import Tensor, nn

from evoprune.core import EvopruneError, check_initialized, few, resolve_layers, said, weight_of
from evoprune.evaluation.moments import layers_seen
from evoprune.guidance import NEED_SAMPLES
from evoprune.run import Settings, Task
from evoprune.run.settings import DEFAULT_MAX_DROP
from evoprune.scoring import Accuracy, CallableScore, DataScore
from evoprune.surgery import NORM_SAMPLES, batch_norms, recalibrate
from evoprune.training import first_batches

__all__ = [
    "check_dense", "check_guidance", "check_model", "check_scoring", "check_test",
    "copied", "recalibrates", "warn_of_what_stays",
]  # fmt: skip

FEWEST_SAMPLES = 64
"""Of which statistics are taken without being asked for."""
ALREADY = 0.01
"""Share of zeros that no trained model has by chance."""
IN_PERCENT = 1.5
"""A score above is no share of something."""
LITTLE = 1e-3
"""Share of a score that nobody means when they name a drop."""
SPOILED = 0.1
"""Of an accuracy, or as a share of a higher score: what new statistics may cost the dense model."""
NEGLIGIBLE = 0.02
"""Share of the parameters that may be left out without a word."""
log = logging.getLogger("evoprune")


def check_dense(task: Task, settings: Settings, dense_val_score: float) -> None:
    """Refuse a model that is broken; warn of one that does not know its data.

    Raises:
        EvopruneError: a weight or the score is not finite.
    """
    for name, parameter in task.model.named_parameters():
        if not bool(torch.isfinite(parameter).all()):
            raise EvopruneError(f"the model's {name} has NaN or infinite values; give a model with finite weights")
    if abs(dense_val_score) == float("inf"):
        raise EvopruneError(
            f"the score of the dense model is {dense_val_score}; expected a finite number. Does the model give NaN or"
            " infinite outputs?"
        )
    floor = settings.floor
    if floor is not None and isinstance(task.val_score, Accuracy) and not 0 <= floor <= 1:
        hint = f"; did you mean {floor / 100:g}?" if 2 < floor <= 100 else ""
        raise EvopruneError(f"--floor {floor:g}: expected an accuracy from 0 to 1{hint}")
    if floor is not None and floor > dense_val_score:
        raise EvopruneError(
            f"the floor {floor:g} is above the dense model's own validation score {dense_val_score:.4f};"
            " give a --floor below it, or --max-drop in points"
        )
    drop = None if settings.max_drop is None else settings.max_drop / 100
    own = isinstance(task.val_score, CallableScore) and abs(dense_val_score) > IN_PERCENT
    if own and drop not in (None, DEFAULT_MAX_DROP / 100) and drop < LITTLE * abs(dense_val_score):
        log.warning(
            "max_drop is in hundredths of the score's unit: from %.6g it may fall to %.6g; for a score in percent give"
            " max_drop=%g, or floor=...",
            dense_val_score, dense_val_score - drop, 10_000 * drop,
        )  # fmt: skip
    zeros = sum(int((weight_of(task.model, layer.name) == 0).sum()) for layer in task.layers)
    share = zeros / sum(layer.size for layer in task.layers)
    if share > ALREADY:
        log.warning(
            "%.2f %% of the weights are zero already; they count as weights that stay until they are pruned, and"
            " training gives them values again: ask for more than that, or fine-tune the run that pruned them",
            100 * share,
        )
    score = task.val_score
    if isinstance(score, Accuracy) and score.is_guessing(dense_val_score):
        log.warning(
            "the dense model's validation accuracy is %.4f, about what guessing gives with %d classes; is it trained,"
            " and are these its data and labels?",
            dense_val_score, len(score.targets.unique()),
        )  # fmt: skip


def check_guidance(task: Task, settings: Settings) -> None:
    """Refuse a guidance that lacks what it looks at; warn where the order of the weights would be random.

    Raises:
        EvopruneError: it needs samples, and the run has none; or gradients, and a layer is frozen.
    """
    if task.samples is None and settings.guidance in NEED_SAMPLES:
        raise EvopruneError(
            f"--guidance {settings.guidance} looks at samples: pass `train`, or a score built from data such as"
            " evoprune.accuracy(loader)"
        )
    layers = resolve_layers(task.layers, settings.layers)
    watches = settings.guidance in ("none", "wanda", "learned") and settings.preset == "default"
    if watches and task.samples is not None:
        try:
            seen = layers_seen(task.model, [layer.name for layer in layers], task.samples[0][:2])
        except Exception as error:  # whatever a user's model says
            raise EvopruneError(
                f"--guidance {settings.guidance} looks at samples, and the model cannot take two of them alone:"
                f" {said(error)}; choose guidance magnitude"
            ) from error
        blind = [layer for layer in layers if layer.name not in seen]
        share = sum(layer.size for layer in blind) / sum(layer.size for layer in layers)
        if settings.guidance == "none" and share > NEGLIGIBLE:
            log.warning(
                "the order in which weights go is random, not evolved, in layers that are not called as linear ones or"
                " plain 2-d convolutions, or have too many inputs; %.0f %% of the weights: %s; guidance magnitude"
                " orders them",
                100 * share, few(layer.name for layer in blind),
            )  # fmt: skip
    if settings.guidance == "gradient" and not settings.tightens and task.samples is not None:
        inputs, targets = (len(part) for part in task.samples)
        if inputs != targets:
            raise EvopruneError(
                f"--guidance gradient beside a search looks at samples one by one, and there are {inputs} inputs and"
                f" {targets} targets; leave --space out to prune while training, or choose guidance magnitude"
            )
    frozen = [layer.name for layer in layers if not weight_of(task.model, layer.name).requires_grad]
    if settings.tightens and frozen:
        raise EvopruneError(
            f"--space training prunes by the gradients of training, and the weight of {frozen[0]} is frozen"
            f" ({len(frozen)} of {len(layers)} layers are); name the layers to prune, or choose --space allocation"
        )


def check_model(model: object) -> None:
    """Refuse what is no model, or one that is not whole.

    Raises:
        EvopruneError: it is none, has no shapes yet, or is on several devices.
    """
    if not isinstance(model, nn.Module):
        raise EvopruneError(f"model is a {type(model).__name__}; expected a torch.nn.Module")
    check_initialized(model)
    if len(places := sorted({str(parameter.device) for parameter in model.parameters()})) > 1:
        raise EvopruneError(f"the model is on several devices ({', '.join(places)}); move it to one: model.to(...)")


def check_test(task: Task) -> None:
    """Refuse a test score whose data the model cannot take, before the run rather than at its end; nothing is scored.

    Raises:
        EvopruneError: it cannot.
    """
    if isinstance(task.test_score, DataScore):
        with closing(task.test_score.outputs(task.model)) as batches:
            next(batches)


def recalibrates(task: Task, settings: Settings, dense_val_score: float) -> bool:
    """Whether batch norms are measured anew; where it is not said, in a search of several layers at once.

    Of one layer the dense model's statistics are near enough, and its candidates are many times faster in one batch.
    What the dense model itself scores so is looked at first: batches of one class, say, spoil it.

    Raises:
        EvopruneError: it is asked for and cannot be done: without batch norms, training data, or on one of its batches.
    """
    asked, norms = settings.recalibrate, batch_norms(task.model)
    if asked and not norms:
        raise EvopruneError("--recalibrate: the model has no batch norm with running statistics; leave it out")
    if asked and task.train is None:
        raise EvopruneError("--recalibrate measures on training data; pass `train`, or leave it out")
    if asked is None:
        several = len(resolve_layers(task.layers, settings.layers)) > 1
        enough = task.samples is not None and len(task.samples[0]) >= FEWEST_SAMPLES
        asked = settings.preset == "default" and not settings.tightens and several and enough and bool(norms)
    if not asked or task.train is None:
        return False
    dense = copied(task.model)
    try:
        recalibrate(dense, first_batches(task.train, NORM_SAMPLES))
    except EvopruneError as error:
        if settings.recalibrate:
            raise
        log.warning("%s, as is done now", error)
        return False
    score = task.val_score(dense)
    spoiled = dense_val_score - score > SPOILED * max(1.0, abs(dense_val_score))
    if spoiled:
        log.warning(
            "with batch norms measured on the first batches of the training data the dense model scores %.4g instead of"
            " %.4g; %s", score, dense_val_score,
            "are those batches like all of the data?" if settings.recalibrate else "candidates are scored with its own",
        )  # fmt: skip
    return settings.recalibrate is True or not spoiled


def warn_of_what_stays(model: nn.Module) -> None:
    """Warn of weights that cannot be pruned."""
    computed = [
        name
        for name, module in model.named_modules()
        if "weight" not in module._parameters
        and "weight" not in module._buffers
        and isinstance(getattr(module, "weight", None), Tensor)
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
            100 * share, few(others),
        )  # fmt: skip


@contextmanager
def check_scoring(model: nn.Module) -> Iterator[None]:
    """Look at what scoring a model does to it: warn where its buffers change.

    Raises:
        EvopruneError: its parameters changed.
    """

    def values() -> dict[str, Tensor]:
        return {
            name: buffer.detach().to("cpu", torch.float64, copy=True).nan_to_num()
            for name, buffer in model.named_buffers()
            if buffer.is_floating_point() and buffer.layout is torch.strided
        }

    parameters = [(name, parameter, parameter.detach().clone()) for name, parameter in model.named_parameters()]
    before = values()
    yield
    if moved := [name for name, now, then in parameters if not ((now == then) | now.isnan()).all()]:
        raise EvopruneError(
            f"the score changes the model's weights ({few(moved)}), and what was scored has to stay as it is; let it"
            " train a copy, such as copy.deepcopy(model)"
        )
    if changed := [name for name, value in values().items() if name in before and not torch.equal(value, before[name])]:
        log.warning(
            "scoring changes buffers of the model, as observers of quantization do, so scores depend on what was scored"
            " before: %s; freeze them first, such as with model.apply(torch.ao.quantization.disable_observer)",
            few(changed),
        )


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
            f"the model cannot be copied: {said(error)}; take weight normalization of the old kind, or the masks of"
            " torch.nn.utils.prune, off first (torch.nn.utils.remove_weight_norm, prune.remove), and where the model"
            " keeps activations run it under torch.no_grad()"
        ) from error
    except TypeError as error:  # of Python
        raise EvopruneError(
            f"the model cannot be copied: {said(error)}; take off first what cannot be (a lock, a generator, a"
            " file), or give the model a __deepcopy__"
        ) from error
