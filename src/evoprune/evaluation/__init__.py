"""Plans to scores: the reference, one candidate at a time, and ways that give its scores faster."""

from evoprune.evaluation.choose import WAYS, Way, make_evaluator
from evoprune.evaluation.costs import Costs, measure_costs
from evoprune.evaluation.recalibrated import RecalibratedEvaluator
from evoprune.evaluation.reference import ReferenceEvaluator
from evoprune.evaluation.sampled import SampledEvaluator

__all__ = [
    "WAYS",
    "Costs",
    "RecalibratedEvaluator",
    "ReferenceEvaluator",
    "SampledEvaluator",
    "Way",
    "make_evaluator",
    "measure_costs",
]
