"""Pieces of a generation that are small enough for the cache and large enough for few calls."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

__all__ = ["Block", "blocks"]

BLOCK = 1 << 18
"""Genes of a block; a layer that is larger is a block of its own."""


class Block(NamedTuple):
    """Some children's genes of some layers.

    Attributes:
        rows: which of the children.
        layers: which layers.
        genes: where the genes of these layers are.
    """

    rows: slice
    layers: slice
    genes: slice


def blocks(count: int, sizes: Sequence[int]) -> Iterator[Block]:
    """All genes of `count` genomes whose L layers have `sizes`, each once."""
    layer = gene = 0
    while layer < len(sizes):
        last, end = layer + 1, gene + sizes[layer]
        while last < len(sizes) and end + sizes[last] - gene <= BLOCK:
            last, end = last + 1, end + sizes[last]
        at_once = max(1, BLOCK // (end - gene))
        for row in range(0, count, at_once):
            yield Block(slice(row, min(row + at_once, count)), slice(layer, last), slice(gene, end))
        layer, gene = last, end
