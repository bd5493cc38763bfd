"""evoprune: prune trained PyTorch models by evolution.

    result = evoprune.prune(model, evoprune.accuracy(val_loader), train=train_loader, max_drop=0.5)
"""

from evoprune.api import evaluate, finetune, prune, resume
from evoprune.core import EvopruneError
from evoprune.run import Result

__all__ = ["EvopruneError", "Result", "evaluate", "finetune", "prune", "resume"]
