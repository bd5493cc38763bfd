"""Plans to scores: the reference, one candidate at a time, and ways that give its scores faster."""

from evoprune.evaluate.choose import WAYS, make_evaluator
from evoprune.evaluate.memory import reuse_freed_memory
from evoprune.evaluate.reference import ReferenceEvaluator
from evoprune.evaluate.sampled import SampledEvaluator

__all__ = ["WAYS", "ReferenceEvaluator", "SampledEvaluator", "make_evaluator", "reuse_freed_memory"]
