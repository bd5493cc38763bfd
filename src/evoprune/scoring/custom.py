"""The user's own function as a score."""

from __future__ import annotations

from collections.abc import Callable
from math import inf, isnan
from typing import Any

from torch import nn

from evoprune.core import EvopruneError, said
from evoprune.scoring.data_score import DataScore
from evoprune.scoring.modes import eval_mode
from evoprune.training import OwnRandomState

__all__ = ["CallableScore", "as_score"]


class CallableScore:
    """model -> float, higher is better, checked at every call.

    The function is given the model in eval mode, whatever trained it before; its modes are as before afterwards, and so
    is which parameters need gradients. What it draws from the global random states of torch, numpy and Python is the
    same at every call, so that candidates differ by nothing else and a resumed run goes on alike.

    Attributes:
        samples: 1, since nobody knows on how many the function looks: a call is a full evaluation.
    """

    samples = 1

    def __init__(self, function: Callable[[nn.Module], Any]) -> None:
        self.function = function

    def __call__(self, model: nn.Module) -> float:
        """The function's value.

        Raises:
            EvopruneError: the function raised, what it gave is no number, or it moved or converted the model.
        """
        name, before = getattr(self.function, "__name__", type(self.function).__name__), _kind(model)
        trained = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
        try:
            with eval_mode(model), OwnRandomState(0).active():
                value = self.function(model)
        except EvopruneError:
            raise
        except Exception as error:
            raise EvopruneError(f"the score function {name} raised {said(error)}") from error
        finally:
            for parameter, requires_grad in trained:
                if parameter.requires_grad != requires_grad:
                    parameter.requires_grad = requires_grad
        if (after := _kind(model)) != before:
            raise EvopruneError(
                f"the score function {name} changed the model: its parameters were {before}, and are {after}; let it"
                " move or convert its data instead, or a copy of the model"
            )
        try:
            if isinstance(value, (str, bytes)):
                raise TypeError
            number = float(value)
        except (TypeError, ValueError, RuntimeError) as error:
            raise EvopruneError(
                f"the score function {name} returned a {type(value).__name__}; expected a number"
            ) from error
        if number == inf:
            raise EvopruneError(f"the score function {name} returned infinity; expected a finite number")
        if isnan(number):
            raise EvopruneError(f"the score function {name} returned NaN; expected a number, higher is better")
        return number


def _kind(model: nn.Module) -> str:
    """Types and devices of all parameters, in words."""
    return " and ".join(sorted({f"{p.dtype} on {p.device}" for p in model.parameters()}))


def as_score(score: Any) -> DataScore | CallableScore:
    """A score as evaluators take it: one built from data stays as it is, a function is checked at every call.

    Raises:
        EvopruneError: neither.
    """
    if isinstance(score, (DataScore, CallableScore)):
        return score
    if not callable(score):
        raise EvopruneError(
            f"score is a {type(score).__name__}; expected a function model -> float,"
            " or a score built from data such as evoprune.accuracy(loader)"
        )
    return CallableScore(score)
