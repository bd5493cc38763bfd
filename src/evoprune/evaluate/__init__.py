"""Plans to scores: the reference, one candidate at a time, and ways that give its scores faster."""

from evoprune.evaluate.choose import WAYS, Way, make_evaluator
from evoprune.evaluate.costs import Costs, measure_costs
from evoprune.evaluate.memory import reuse_freed_memory
from evoprune.evaluate.reference import ReferenceEvaluator
from evoprune.evaluate.sampled import SampledEvaluator

__all__ = [
    "WAYS",
    "Costs",
    "ReferenceEvaluator",
    "SampledEvaluator",
    "Way",
    "make_evaluator",
    "measure_costs",
    "reuse_freed_memory",
]
