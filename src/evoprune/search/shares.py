"""Real-valued genes: how much each layer keeps, and nothing of which weights.

A gene is the log of a layer's density relative to the start's, up to the common factor that an exact budget takes
out (`share_budget` turns genes into counts). Uniform crossover (Syswerda 1989); Gaussian mutation with a step that
adapts itself (Schwefel 1981).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from evoprune.core import EvopruneError
from evoprune.search.algorithm import Population
from evoprune.search.genes import Proposal
from evoprune.search.random_bits import coin_flips
from evoprune.search.self_adaptation import adapted, trades

__all__ = ["Shares"]


@dataclass(frozen=True)
class Shares:
    """(C, G) float32 genomes: a log-share for each of L layers, then with `free_total` the log of the density.

    Attributes:
        layers: L.
        step: first standard deviation of a mutation, and of the first population.
        free_total: whether a last gene says how much is kept in all, relative to the start; else G is L.
        lowest: the least that the last gene may stand for, above 0 and below 1.
    """

    layers: int
    step: float = 0.5
    free_total: bool = False
    lowest: float = 0.01

    def __post_init__(self) -> None:
        if not 0 < self.lowest < 1:
            raise EvopruneError(f"lowest must be between 0 and 1, not {self.lowest:g}")

    @property
    def length(self) -> int:
        """G."""
        return self.layers + self.free_total

    def first(self, count: int, rng: torch.Generator) -> Proposal:
        """Zeros, the start itself, then random shares; free totals are spread evenly, in logs."""
        genomes = self.step * torch.randn(count, self.length, generator=rng)
        if self.free_total:
            genomes[:, -1] = math.log(self.lowest) * torch.rand(count, generator=rng)
        genomes[0] = 0
        return genomes, {"step": torch.full((count,), self.step)}

    def breed(self, population: Population, mothers: Tensor, fathers: Tensor, rng: torch.Generator) -> Proposal:
        """Crossover, then a Gaussian step of every gene."""
        genomes = population.genomes[mothers]
        from_father = coin_flips(genomes.numel(), rng).view_as(genomes)
        genomes = torch.where(from_father, population.genomes[fathers], genomes)
        step = self._step(population, mothers, rng)
        return self._bounded(genomes + step[:, None] * torch.randn(genomes.shape, generator=rng)), {"step": step}

    def switch(self, population: Population, parents: Tensor, rng: torch.Generator) -> Proposal:
        """One to three pairs of layers trade; a free total takes a Gaussian step."""
        step = self._step(population, parents, rng)
        changes = torch.zeros(len(parents), self.length)
        changes[:, : self.layers] = trades(step, self.layers, rng)
        if self.free_total:
            changes[:, -1] = step * torch.randn(step.shape, generator=rng)
        return self._bounded(population.genomes[parents] + changes), {"step": step}

    def _step(self, population: Population, mothers: Tensor, rng: torch.Generator) -> Tensor:
        inherited = population.traits["step"][mothers]
        return adapted(inherited, (2 * self.length) ** -0.5, min(0.02, self.step), max(2.0, self.step), rng)

    def _bounded(self, genomes: Tensor) -> Tensor:
        if self.free_total:
            genomes[:, -1].clamp_(math.log(self.lowest), 0)
        return genomes
