"""Genomes that are not at work: eight bits a byte."""

import numpy as np
import torch
from torch import Tensor

__all__ = ["pack_bits", "unpack_bits"]


def pack_bits(bits: Tensor) -> Tensor:
    """(..., G) bool -> (..., ceil(G / 8)) uint8, the first gene in the highest bit."""
    return torch.from_numpy(np.packbits(bits.cpu().numpy(), axis=-1))


def unpack_bits(packed: Tensor, genes: int) -> Tensor:
    """The inverse of `pack_bits` for G = `genes`."""
    return torch.from_numpy(np.unpackbits(packed.numpy(), axis=-1, count=genes)).view(torch.bool)
