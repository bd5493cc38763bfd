"""The default genetic algorithm: bits under an exact budget, and how the budget is shared between layers.

Each genome keeps exactly `keep` weights. It carries, beside its bits, the share of the budget that each layer
gets and two step sizes, which mutate first and then steer the mutation of what they belong to
(self-adaptation: Schwefel, "Numerical Optimization of Computer Models", 1981). Bits are crossed uniformly
(Syswerda, "Uniform Crossover in Genetic Algorithms", 1989), then repaired to the layers' budgets: surplus
weights of least priority go, missing ones of most priority come back. Survivors are the best of parents and
children, (mu + lambda).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from evoprune.search.algorithm import Population, lexicographic_order

__all__ = ["BudgetGA", "share_budget"]


@dataclass(frozen=True)
class BudgetGA:
    """Generational GA over bit genomes of a fixed number of ones.

    Attributes:
        sizes: weights of each of the L layers; G is their sum.
        keep: ones in every genome.
        start: (G,) bool, the genome to start from; its density in each layer is the first guess.
        priority: (G,) float in [0, 1], which weights a repair keeps first; None draws it at random anew for
            every child, so that nothing is assumed.
        size: P, genomes in the population and children in a generation.
        crossover_rate: probability that a child has two parents.
        mutation_rate: first share of a layer's bits whose place a mutation draws anew.
        budget_step: first standard deviation of the mutation of a layer's log-share.
    """

    sizes: Sequence[int]
    keep: int
    start: Tensor
    priority: Tensor | None = None
    size: int = 12
    crossover_rate: float = 0.8
    mutation_rate: float = 0.002
    budget_step: float = 0.5

    @property
    def asks_per_generation(self) -> int:
        """One: all children at once."""
        return 1

    def ask(self, population: Population | None, rng: torch.Generator) -> tuple[Tensor, Mapping[str, Tensor]]:
        """P candidates with the traits `log_share` (P, L), `budget_step` (P,) and `mutation_rate` (P,)."""
        layers = len(self.sizes)
        if population is None:
            bits = self.start.expand(self.size, -1)
            log_share = self._step_of_zero_first((self.size, layers), rng)
            budget_step = torch.full((self.size,), self.budget_step)
            mutation_rate = torch.full((self.size,), self.mutation_rate)
        else:
            mothers, fathers = self._parents(population, rng)
            from_father = torch.rand(self.size, layers, generator=rng) < 0.5
            share, step, rate = (population.traits[k] for k in ("log_share", "budget_step", "mutation_rate"))
            log_share = torch.where(from_father, share[fathers], share[mothers])
            learning = (2 * layers) ** -0.5
            budget_step = step[mothers] * torch.exp(learning * torch.randn(self.size, generator=rng))
            mutation_rate = rate[mothers] * torch.exp(0.5 * torch.randn(self.size, generator=rng))
            budget_step, mutation_rate = budget_step.clamp(0.02, 2.0), mutation_rate.clamp(1e-5, 0.2)
            log_share = log_share + budget_step[:, None] * torch.randn(self.size, layers, generator=rng)
            bits = population.genomes[mothers].clone()
            for child, father in enumerate(fathers.tolist()):
                swap = torch.rand(bits.shape[1], generator=rng) < 0.5
                bits[child] = torch.where(swap, population.genomes[father], bits[child])
        counts = share_budget(log_share, self._start_counts(), torch.tensor(self.sizes), self.keep)
        genomes = torch.stack(
            [
                self._repaired(row, count, float(rate), rng)
                for row, count, rate in zip(bits, counts, mutation_rate, strict=True)
            ]
        )
        return genomes, {"log_share": log_share, "budget_step": budget_step, "mutation_rate": mutation_rate}

    def tell(self, population: Population | None, candidates: Population) -> Population:
        """The best P of parents and children."""
        if population is None:
            return candidates
        merged = population.join(candidates)
        return merged.take(lexicographic_order(merged.fitness)[: len(population)])

    def floor(self, population: Population | None) -> float:
        """The worst survivor's first fitness column."""
        return -float("inf") if population is None else float(population.fitness[:, 0].min())

    def _start_counts(self) -> Tensor:
        return torch.stack([part.sum() for part in self.start.split(list(self.sizes))]).clamp(min=1)

    def _step_of_zero_first(self, shape: tuple[int, int], rng: torch.Generator) -> Tensor:
        """Random log-shares; the first genome keeps the start's shares."""
        log_share = self.budget_step * torch.randn(shape, generator=rng)
        log_share[0] = 0
        return log_share

    def _parents(self, population: Population, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Two winners of tournaments of two for each child; without crossover both are the mother."""
        rank = torch.empty(len(population), dtype=torch.long)
        rank[lexicographic_order(population.fitness)] = torch.arange(len(population))
        pairs = torch.randint(len(population), (2, 2, self.size), generator=rng)
        mothers, fathers = torch.where(rank[pairs[0]] <= rank[pairs[1]], pairs[0], pairs[1])
        crossed = torch.rand(self.size, generator=rng) < self.crossover_rate
        return mothers, torch.where(crossed, fathers, mothers)

    def _repaired(self, bits: Tensor, counts: Tensor, rate: float, rng: torch.Generator) -> Tensor:
        """Mutate (G,) bits and bring every layer to its count: each keeps the bits of the highest keys."""
        priority = torch.rand(bits.shape, generator=rng) if self.priority is None else self.priority
        key = bits + priority
        mutated = torch.rand(bits.shape, generator=rng) < rate
        key = torch.where(mutated, 2 * torch.rand(bits.shape, generator=rng), key)
        result = torch.zeros_like(bits)
        first = 0
        for size, count in zip(self.sizes, counts.tolist(), strict=True):
            result[first + key[first : first + size].topk(count, sorted=False).indices] = True
            first += size
        return result


def share_budget(log_share: Tensor, base: Tensor, capacity: Tensor, total: int) -> Tensor:
    """Weights for each layer: in proportion to base * exp(log_share), between 1 and capacity, `total` in all.

    Args:
        log_share: (P, L) float.
        base: (L,) weights of each layer that log-share 0 stands for.
        capacity: (L,) weights there are.
        total: L <= total <= sum of capacity.

    Returns:
        (P, L) int64; every row sums to `total` exactly.
    """
    want = base.double().log() + log_share.double()
    # At `low` every layer gets one weight, at `high` all there are.
    low, high = -want.amax(1, keepdim=True), (capacity.double().log() - want).amax(1, keepdim=True)
    for _ in range(64):
        middle = (low + high) / 2
        fits = _clip(torch.exp(want + middle), capacity).floor().sum(1, keepdim=True) <= total
        low, high = torch.where(fits, middle, low), torch.where(fits, high, middle)
    exact = _clip(torch.exp(want + low), capacity)
    counts = exact.floor().long()
    # What flooring left over goes to the largest remainders, then wherever there is room.
    for row, remainder in zip(counts, exact - exact.floor(), strict=True):
        for layer in remainder.argsort(descending=True, stable=True).repeat(2).tolist():
            rest = total - int(row.sum())
            row[layer] += min(rest, int(capacity[layer] - row[layer]), 1 + rest // len(row))
    return counts


def _clip(counts: Tensor, capacity: Tensor) -> Tensor:
    return torch.minimum(counts, capacity.double()).clamp(min=1)
