"""Built-in models, data, training recipes and checkpoints."""

from evoprune.zoo.checkpoint import load_checkpoint, save_checkpoint
from evoprune.zoo.data import DATA_NAMES, Data, Split, check_data_fits, check_size_fits, load_data
from evoprune.zoo.models import BUILT_IN, checkpoint_path, default_checkpoint, load_model
from evoprune.zoo.networks import NETWORKS, load_network, load_trained
from evoprune.zoo.trainer import measured_accuracy, train

__all__ = [
    "BUILT_IN",
    "DATA_NAMES",
    "NETWORKS",
    "Data",
    "Split",
    "check_data_fits",
    "check_size_fits",
    "checkpoint_path",
    "default_checkpoint",
    "load_checkpoint",
    "load_data",
    "load_model",
    "load_network",
    "load_trained",
    "measured_accuracy",
    "save_checkpoint",
    "train",
]
