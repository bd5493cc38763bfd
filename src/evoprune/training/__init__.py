"""Training: one deterministic, resumable epoch, used to train models and to fine-tune pruned ones."""

from evoprune.training.epoch import Loss, at_least_float32, batch_of, train_epoch
from evoprune.training.layout import reuse_freed_memory, set_memory_format
from evoprune.training.random_state import OwnRandomState, generators_of, repeatable
from evoprune.training.recipe import Optimizer, Precision, Recipe
from evoprune.training.source import (
    BatchSource,
    FirstSteps,
    LoaderSource,
    TensorSource,
    as_source,
    first_batches,
    first_samples,
    is_pair,
)
from evoprune.training.state import optimizer_from_tensors, optimizer_to_tensors

__all__ = [
    "BatchSource", "FirstSteps", "LoaderSource", "Loss", "Optimizer", "OwnRandomState", "Precision", "Recipe",
    "TensorSource", "as_source", "at_least_float32", "batch_of", "first_batches", "first_samples", "generators_of",
    "is_pair", "optimizer_from_tensors", "optimizer_to_tensors", "repeatable", "reuse_freed_memory",
    "set_memory_format", "train_epoch",
]  # fmt: skip
