"""Spaces: what may be pruned, and what a genome means for the model."""

from evoprune.spaces.packing import pack_bits, unpack_bits
from evoprune.spaces.weights import WeightSpace

__all__ = ["WeightSpace", "pack_bits", "unpack_bits"]
