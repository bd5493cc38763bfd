"""Surgery: plans to changed models."""

from evoprune.surgery.finetune import FineTuner
from evoprune.surgery.masks import apply_masks, load_masks, save_masks, swap_weights
from evoprune.surgery.tighten import Tightening

__all__ = ["FineTuner", "Tightening", "apply_masks", "load_masks", "save_masks", "swap_weights"]
