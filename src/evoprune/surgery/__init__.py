"""Surgery: plans to changed models."""

from evoprune.surgery.finetune import FineTuner
from evoprune.surgery.masks import apply_masks, load_masks, save_masks, swap_weights
from evoprune.surgery.recalibrate import batch_norms, recalibrate
from evoprune.surgery.threshold import one_threshold
from evoprune.surgery.tighten import Tightening

__all__ = [
    "FineTuner", "Tightening", "apply_masks", "batch_norms", "load_masks", "one_threshold", "recalibrate", "save_masks",
    "swap_weights",
]  # fmt: skip
