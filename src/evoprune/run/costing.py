"""What the budget of a run counts."""

from __future__ import annotations

from evoprune.core import EvopruneError, resolve_layers
from evoprune.evaluation import Costs, measure_costs
from evoprune.run.settings import Settings
from evoprune.run.task import Task

__all__ = ["costs_of"]


def costs_of(task: Task, settings: Settings) -> Costs:
    """The costs of the task's model in the quantity that the settings name.

    Raises:
        EvopruneError: it cannot be counted, or less of it can go than is asked for.
    """
    layers = resolve_layers(task.layers, settings.layers)
    sample = None if task.samples is None else task.samples[0][:1]
    costs = measure_costs(settings.budget, task.model, layers, task.layers, sample)
    if settings.budget != "weights" and settings.sparsity is not None and settings.sparsity > costs.most:
        raise EvopruneError(
            f"--sparsity {settings.sparsity:g}: at most {costs.most:.4f} of the {costs.kind} can go, since only the"
            " weights of the chosen layers are pruned; ask for less"
        )
    return costs
