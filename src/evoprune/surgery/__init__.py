"""Surgery: plans to changed models."""

from evoprune.surgery.finetune import FineTuner
from evoprune.surgery.masks import apply_masks, load_masks, save_masks, swap_weights

__all__ = ["FineTuner", "apply_masks", "load_masks", "save_masks", "swap_weights"]
