"""evoprune: prune trained PyTorch models by evolution.

result = evoprune.prune(model, evoprune.accuracy(val_loader), train=train_loader, max_drop=0.5)
"""

import os
import sys

# Idle OpenMP threads of a small operation spin for the next one by default; on a machine whose cores are busy
# with something else that makes two threads ten times slower than one. Only a default, and only in time.
if "torch" not in sys.modules:
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from evoprune.api import evaluate, finetune, prune, resume
from evoprune.core import EvopruneError
from evoprune.run import Result
from evoprune.scoring import accuracy, fidelity, loss

__all__ = [
    "EvopruneError", "Result", "accuracy", "evaluate", "fidelity", "finetune", "loss", "prune", "resume",
]  # fmt: skip
