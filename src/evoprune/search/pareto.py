"""Fronts and crowding of several objectives, all to be maximized; by pymoo (Blank and Deb, "pymoo", 2020)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from evoprune.core import EvopruneError

__all__ = ["load_pymoo", "pareto_order"]


def pareto_order(fitness: Tensor) -> Tensor:
    """(P, K) -> (P,) positions: front after front, in each the loneliest first; equals stay in order."""
    sorting, crowding = load_pymoo()
    losses = np.nan_to_num(-fitness.double().numpy(), nan=np.inf, posinf=np.inf, neginf=-np.inf)
    for column in losses.T:  # infinite ones would leave nothing of a distance between finite ones
        finite = column[np.isfinite(column)]
        low, high = (finite.min(), finite.max()) if len(finite) else (0.0, 0.0)
        span = (high - low) or 1.0
        column[:] = np.clip(column, low - span, high + span)
    order: list[np.ndarray[Any, Any]] = []
    for unordered in sorting.do(losses):
        front = np.sort(unordered)
        order.append(front[np.argsort(-crowding.do(losses[front]), kind="stable")])
    return torch.from_numpy(np.concatenate(order))


def load_pymoo() -> tuple[Any, Any]:
    """What sorts fronts, and what measures how lonely a point of one is.

    Raises:
        EvopruneError: pymoo is not installed.
    """
    try:
        from pymoo.operators.survival.rank_and_crowding.metrics import get_crowding_function  # noqa: PLC0415 (optional)
        from pymoo.util.nds.non_dominated_sorting import NonDominatedSorting  # noqa: PLC0415 (optional)
    except ImportError:
        raise EvopruneError(
            "the algorithm nsga2 needs pymoo: pip install -e '.[search]' in evoprune's folder"
        ) from None
    return NonDominatedSorting(), get_crowding_function("cd")
