"""Bits under an exact budget, and how the budget is shared between layers.

Each genome keeps exactly `keep` weights. It carries, beside its bits, the share of the budget that each layer
gets and two step sizes that adapt themselves. Bits are crossed uniformly (Syswerda, "Uniform Crossover in
Genetic Algorithms", 1989), then repaired to the layers' budgets: surplus weights of least priority go, missing
ones of most priority come back.

Priorities are whole numbers of a few bits, so that a child costs a few nanoseconds a gene: a gene's key is its
priority with its bit above it, and the highest keys of a layer stay.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from evoprune.core import EvopruneError
from evoprune.search.algorithm import Population
from evoprune.search.blocks import Block, blocks
from evoprune.search.budget import share_budget
from evoprune.search.genes import Proposal
from evoprune.search.keep_highest import keep_highest
from evoprune.search.random_bits import LEVELS, coin_flips, hits, put, random_bytes, random_levels
from evoprune.search.self_adaptation import adapted, trades

__all__ = ["BudgetedBits"]

BYTE = 1 << 8


@dataclass(frozen=True)
class BudgetedBits:
    """(C, G) bool genomes of a fixed number of ones.

    Attributes:
        sizes: weights of each of the L layers; G is their sum.
        keep: ones in every genome, L at least.
        start: (G,) bool, the genome to start from; its density in each layer is the first guess.
        priority: (G,) float in [0, 1), evenly spread in each layer: which weights a repair keeps first. It is
            rounded to 1/16384. None draws it at random anew for every child, so that nothing is assumed.
        mutation_rate: in [0, 1), first share of a layer's bits whose place a mutation draws anew.
        budget_step: first standard deviation of the mutation of a layer's log-share.
    """

    sizes: Sequence[int]
    keep: int
    start: Tensor
    priority: Tensor | None = None
    mutation_rate: float = 0.002
    budget_step: float = 0.5

    def __post_init__(self) -> None:
        assert self.start.shape == (self.length,)
        assert self.priority is None or self.priority.shape == (self.length,)
        if not len(self.sizes) <= self.keep <= self.length:
            raise EvopruneError(
                f"keep must be between one weight a layer ({len(self.sizes)}) and all of them ({self.length}),"
                f" not {self.keep}"
            )
        if not 0 <= self.mutation_rate < 1:
            raise EvopruneError(f"mutation_rate must be at least 0 and below 1, not {self.mutation_rate:g}")

    @property
    def length(self) -> int:
        """G."""
        return sum(self.sizes)

    def first(self, count: int, rng: torch.Generator) -> Proposal:
        """The start cut to the budget: the first genome with the start's shares, the others with random ones.

        Bits of all of them mutate as ever.
        """
        log_share = self.budget_step * torch.randn(count, len(self.sizes), generator=rng)
        log_share[0] = 0
        step, rate = torch.full((count,), self.budget_step), torch.full((count,), self.mutation_rate)
        return self._children(
            lambda block: self.start[block.genes].expand(count, -1)[block.rows], log_share, step, rate, rng
        )

    def breed(self, population: Population, mothers: Tensor, fathers: Tensor, rng: torch.Generator) -> Proposal:
        """Uniform crossover of bits and of shares, mutation of both, repair."""
        share = population.traits["log_share"]
        from_father = coin_flips(len(mothers) * len(self.sizes), rng).view(-1, len(self.sizes))
        log_share = torch.where(from_father, share[fathers], share[mothers])
        step, rate = self._steps(population, mothers, rng)
        log_share = log_share + step[:, None] * torch.randn(log_share.shape, generator=rng)

        def crossed(block: Block) -> Tensor:
            part, a, b = population.genomes[:, block.genes], mothers[block.rows], fathers[block.rows]
            bits = part.index_select(0, a)
            if torch.equal(a, b):
                return bits
            change = part.index_select(0, b).bitwise_xor_(bits)
            return bits.bitwise_xor_(change.bitwise_and_(coin_flips(bits.numel(), rng).view_as(bits)))

        return self._children(crossed, log_share, step, rate, rng)

    def switch(self, population: Population, parents: Tensor, rng: torch.Generator) -> Proposal:
        """One to three pairs of layers trade a part of their budgets; bits mutate as ever."""
        step, rate = self._steps(population, parents, rng)
        log_share = population.traits["log_share"][parents] + trades(step, len(self.sizes), rng)

        def copied(block: Block) -> Tensor:
            return population.genomes[:, block.genes].index_select(0, parents[block.rows])

        return self._children(copied, log_share, step, rate, rng)

    def chances(self) -> Tensor:
        """(G,) the density that the start's shares give each layer."""
        counts = self._counts(torch.zeros(1, len(self.sizes)))[0]
        sizes = torch.tensor(self.sizes)
        return (counts / sizes).float().repeat_interleave(sizes)

    def sample(self, chances: Tensor, count: int, rng: torch.Generator) -> Proposal:
        """Shares around those that the chances add up to, then bits, scaled so that they meet the budget nearly."""
        parts, sizes = chances.split(list(self.sizes)), torch.tensor(self.sizes)
        sums = torch.stack([part.sum(dtype=torch.float64) for part in parts])
        log_share = (sums / self._start_counts).log().float()
        log_share = log_share + self.budget_step * torch.randn(count, len(self.sizes), generator=rng)
        step, rate = torch.full((count,), self.budget_step), torch.full((count,), self.mutation_rate)

        scales = (LEVELS * self._counts(log_share) / sums).float()

        def drawn(block: Block) -> Tensor:
            scale = scales[block.rows, block.layers].repeat_interleave(sizes[block.layers], 1)
            limits = (chances[block.genes] * scale).clamp(max=LEVELS - 1).short()
            return random_levels(limits.numel(), rng).view_as(limits) < limits

        return self._children(drawn, log_share, step, rate, rng)

    def _steps(self, population: Population, mothers: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """What the children inherit of both step sizes."""
        step, rate = population.traits["budget_step"][mothers], population.traits["mutation_rate"][mothers]
        step = adapted(
            step, (2 * len(self.sizes)) ** -0.5, min(0.02, self.budget_step), max(2.0, self.budget_step), rng
        )
        return step, adapted(rate, 0.5, min(1e-5, self.mutation_rate), max(0.2, self.mutation_rate), rng)

    def _children(
        self, drawn: Callable[[Block], Tensor], log_share: Tensor, step: Tensor, rate: Tensor, rng: torch.Generator
    ) -> Proposal:
        """Mutate the (R, N) bits that are `drawn` for each block, and bring them to the layers' budgets."""
        genomes = torch.empty(len(log_share), self.length, dtype=torch.bool)
        counts = self._counts(log_share)
        for block in blocks(len(genomes), self.sizes):
            rows, layers, genes = block
            keys, levels = self._keys(drawn(block), genes, rate[rows], rng)
            genomes[rows, genes] = keep_highest(keys, self.sizes[layers], counts[rows, layers], levels, rng)
        return genomes, {"log_share": log_share, "budget_step": step, "mutation_rate": rate}

    def _keys(self, bits: Tensor, genes: slice, rates: Tensor, rng: torch.Generator) -> tuple[Tensor, int]:
        """(R, N) keys of `bits`, and how many values they have.

        A mutated gene's whole key is random: half of the time it becomes a one, and its priority is drawn anew.
        """
        mutated = hits(bits.shape[1], rates, rng)
        if self._levels is None:
            keys = random_bytes(bits.numel(), rng).bitwise_and_(BYTE // 2 - 1).view_as(bits).add_(bits, alpha=BYTE // 2)
            put(keys.view(-1), mutated, random_bytes(len(mutated), rng))
            return keys, BYTE
        keys = torch.add(self._levels[genes], bits, alpha=LEVELS // 2)
        put(keys.view(-1), mutated, random_levels(len(mutated), rng))
        return keys, LEVELS

    def _counts(self, log_share: Tensor) -> Tensor:
        return share_budget(log_share, self._start_counts, torch.tensor(self.sizes), self.keep)

    @cached_property
    def _start_counts(self) -> Tensor:
        return torch.stack([part.count_nonzero() for part in self.start.split(list(self.sizes))]).clamp(min=1)

    @cached_property
    def _levels(self) -> Tensor | None:
        """(G,) int16: the priority below the bit."""
        if self.priority is None:
            return None
        return (self.priority * (LEVELS // 2)).clamp(0, LEVELS // 2 - 1).short()
