"""Model outputs to numbers: accuracy, loss, fidelity to the dense model, or the user's own function."""

from evoprune.scoring.custom import CallableScore, as_score
from evoprune.scoring.data_score import DataScore
from evoprune.scoring.measures import Accuracy, Fidelity, NegativeLoss, accuracy, fidelity, loss
from evoprune.scoring.modes import device_of, eval_mode, evaluating, unwrapped
from evoprune.scoring.watching import CONVOLUTIONS, first_input, largest_numel, watch_inputs

__all__ = [
    "CONVOLUTIONS", "Accuracy", "CallableScore", "DataScore", "Fidelity", "NegativeLoss",
    "accuracy", "as_score", "device_of", "eval_mode", "evaluating", "fidelity", "first_input", "largest_numel",
    "loss", "unwrapped", "watch_inputs",
]  # fmt: skip
