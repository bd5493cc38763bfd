"""Surgery: plans to changed models."""

from evoprune.surgery.finetune import FineTuner
from evoprune.surgery.masks import apply_masks, load_masks, set_weights
from evoprune.surgery.recalibration import NORM_SAMPLES, batch_norms, put_back, recalibrate, statistics_of
from evoprune.surgery.threshold import global_threshold
from evoprune.surgery.tighten import Tightening

__all__ = [
    "NORM_SAMPLES", "FineTuner", "Tightening", "apply_masks", "batch_norms", "global_threshold", "load_masks",
    "put_back", "recalibrate", "set_weights", "statistics_of",
]  # fmt: skip
