"""evoprune: prune trained PyTorch models by evolution.

result = evoprune.prune(model, evoprune.accuracy(val_loader), train=train_loader, max_drop=0.5)
"""

import os
import sys
from pathlib import Path
from types import TracebackType

# Idle OpenMP threads of a small operation spin for the next one by default; on a machine whose cores are busy
# with something else that makes two threads ten times slower than one. Only a default, and only in time.
if "torch" not in sys.modules:
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def _quiet_when_interrupted(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        print("evoprune: interrupted; nothing was changed", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


_hook_before = sys.excepthook
if Path(sys.argv[0] if sys.argv else "").name in ("evoprune", "-m"):  # Ctrl-C while the command is still importing
    sys.excepthook = _quiet_when_interrupted

from evoprune.api import evaluate, finetune, prune, resume
from evoprune.core import EvopruneError
from evoprune.run import Result
from evoprune.scoring import accuracy, fidelity, loss
from evoprune.surgery import apply_masks

if sys.excepthook is _quiet_when_interrupted:
    sys.excepthook = _hook_before

__all__ = [
    "EvopruneError", "Result", "accuracy", "apply_masks", "evaluate", "fidelity", "finetune", "loss", "prune", "resume",
]  # fmt: skip
