"""CMA-ES: a Gaussian over real-valued genomes that learns its mean, its step and its covariance.

N. Hansen, "The CMA Evolution Strategy: A Tutorial", arXiv:1604.00772, with its default parameters and with negative
weights for the worse half; equation numbers below are the tutorial's. The state between two steps is six plain
tensors. A test compares it with the package `cmaes`; as there, (45) counts updates from one, and (58) has no 1/4.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from evoprune.core import EvopruneError
from evoprune.search.algorithm import Algorithm, Population, lexicographic_order
from evoprune.search.genes import Genes, Proposal
from evoprune.search.selection import best

__all__ = ["CMAES"]

LARGEST_SIGMA = 1e32
SMALLEST_VARIANCE = 1e-20


@dataclass(frozen=True)
class CMAES(Algorithm):
    """CMA-ES over (C, G) float32 genomes, which maximizes. The population is the best genomes seen so far.

    Attributes:
        genes: only their length G is used; the first mean is all zero.
        size: P, lambda, at least 2: genomes drawn in a generation, and kept for the record.
        sigma: first standard deviation, above 0.
    """

    genes: Genes
    size: int = 12
    sigma: float = 0.5

    def __post_init__(self) -> None:
        if self.size < 2:
            raise EvopruneError(f"cmaes needs a population of 2 at least, not {self.size}")
        if not self.sigma > 0:
            raise EvopruneError(f"sigma must be above 0, not {self.sigma:g}")

    def ask(self, population: Population | None, rng: torch.Generator) -> Proposal:
        """P draws; the first of all is the start, all zero."""
        state = self._first_state() if population is None else population.state
        axes, lengths = _principal_axes(state["covariance"])
        drawn = torch.randn(self.size, self.genes.length, generator=rng, dtype=torch.float64)
        genomes = (state["mean"] + state["sigma"] * (drawn * lengths) @ axes.T).float()
        if population is None:
            genomes[0] = 0
        return genomes, {}

    def tell(self, population: Population | None, candidates: Population) -> Population:
        """The best P seen; the state learns from the candidates only."""
        state = self._first_state() if population is None else population.state
        order = lexicographic_order(candidates.fitness)
        learned = self._learned(state, candidates.genomes[order].double())
        survivors = candidates if population is None else best(population, candidates, self.size)
        return replace(survivors, state=learned)

    def floor(self, population: Population | None) -> float:  # noqa: ARG002
        """No bound: the worst candidates teach too."""
        return -float("inf")

    def _first_state(self) -> dict[str, Tensor]:
        zeros = torch.zeros(self.genes.length, dtype=torch.float64)
        return {
            "mean": zeros, "covariance": torch.eye(self.genes.length, dtype=torch.float64), "step_path": zeros,
            "covariance_path": zeros, "sigma": torch.tensor([self.sigma], dtype=torch.float64),
            "steps": torch.zeros(1, dtype=torch.int64),
        }  # fmt: skip

    def _learned(self, state: Mapping[str, Tensor], genomes: Tensor) -> dict[str, Tensor]:
        """One update by (lambda, G) genomes, best first."""
        rates, n, steps = self._rates, self.genes.length, int(state["steps"]) + 1
        axes, lengths = _principal_axes(state["covariance"])
        whiten = (axes / lengths) @ axes.T  # C^(-1/2)
        moves = (genomes - state["mean"]) / state["sigma"]
        move = rates.weights.clamp(min=0) @ moves  # (41)
        mean = state["mean"] + state["sigma"] * move  # (42)

        usual = math.sqrt(n) * (1 - 1 / (4 * n) + 1 / (21 * n * n))  # E||N(0, I)||
        c = rates.step_path
        step_path = (1 - c) * state["step_path"] + math.sqrt(c * (2 - c) * rates.effective) * whiten @ move  # (43)
        sigma = state["sigma"] * torch.exp(c / rates.damping * (step_path.norm() / usual - 1))  # (44)

        reached = float(step_path.norm()) / math.sqrt(1 - (1 - c) ** (2 * (steps + 1)))
        calm = reached < (1.4 + 2 / (n + 1)) * usual  # else the path would stretch the covariance too fast
        c = rates.covariance_path
        path = (1 - c) * state["covariance_path"] + calm * math.sqrt(c * (2 - c) * rates.effective) * move  # (45)
        squares = (moves @ whiten).square().sum(1) + 1e-8
        weights = torch.where(rates.weights >= 0, rates.weights, rates.weights * n / squares)  # (46)
        fade = rates.one - (1 - calm) * rates.one * c * (2 - c) + rates.many * rates.weights.sum()
        covariance = (
            (1 - fade) * state["covariance"]
            + rates.one * torch.outer(path, path)
            + rates.many * (moves.T * weights) @ moves
        )  # (47)
        return {
            "mean": mean, "covariance": (covariance + covariance.T) / 2, "step_path": step_path,
            "covariance_path": path, "sigma": sigma.clamp(max=LARGEST_SIGMA), "steps": state["steps"] + 1,
        }  # fmt: skip

    @cached_property
    def _rates(self) -> _Rates:
        return _default_rates(self.genes.length, self.size)


@dataclass(frozen=True)
class _Rates:
    """Weights and learning rates; the tutorial's names in brackets."""

    weights: Tensor
    """(lambda,) of the candidates, best first [w]."""
    effective: float
    """How many parents the positive weights are worth [mu_eff]."""
    one: float
    """Of the rank-one update [c_1]."""
    many: float
    """Of the rank-mu update [c_mu]."""
    step_path: float
    """[c_sigma]"""
    damping: float
    """[d_sigma]"""
    covariance_path: float
    """[c_c]"""


def _default_rates(n: int, size: int) -> _Rates:
    """Table 1 of the tutorial."""
    raw = math.log((size + 1) / 2) - torch.arange(1, size + 1, dtype=torch.float64).log()  # (49)
    better, worse = raw[: size // 2], raw[size // 2 :]
    effective, effective_worse = (float(part.sum() ** 2 / part.square().sum()) for part in (better, worse))
    one = 2 / ((n + 1.3) ** 2 + effective)  # (57)
    many = min(1 - one - 1e-8, 2 * (effective - 2 + 1 / effective) / ((n + 2) ** 2 + effective))  # (58)
    negative = min(
        1 + one / many if many else math.inf,  # (50)
        1 + 2 * effective_worse / (effective + 2),  # (51)
        (1 - one - many) / (n * many) if many else math.inf,  # (52)
    )
    above, below = raw.clamp(min=0), raw.clamp(max=0)
    weights = above / above.sum() + negative * below / below.abs().sum()  # (53)
    step_path = (effective + 2) / (n + effective + 5)
    damping = 1 + 2 * max(0.0, math.sqrt((effective - 1) / (n + 1)) - 1) + step_path  # (55)
    covariance_path = (4 + effective / n) / (n + 4 + 2 * effective / n)  # (56)
    return _Rates(weights, effective, one, many, step_path, damping, covariance_path)


def _principal_axes(covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvectors (G, G) as columns and standard deviations (G,) along them."""
    variances, axes = torch.linalg.eigh(covariance)
    return axes, variances.clamp(min=SMALLEST_VARIANCE).sqrt()
