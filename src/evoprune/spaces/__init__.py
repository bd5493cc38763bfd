"""Spaces: what may be pruned, and what a genome means for the model."""

from evoprune.spaces.allocation import AllocationSpace
from evoprune.spaces.mixture import MixtureSpace
from evoprune.spaces.packing import pack_bits, unpack_bits
from evoprune.spaces.space import Space
from evoprune.spaces.weights import WeightSpace

__all__ = ["AllocationSpace", "MixtureSpace", "Space", "WeightSpace", "pack_bits", "unpack_bits"]
