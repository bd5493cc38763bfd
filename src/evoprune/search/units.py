"""Evolve the masks of a layer's units, each with a fitness of its own.

A whole-model score says one number about a mask of a million bits. A layer's output says far more: the squared
distance between the masked and the dense output is a sum over the layer's units (output channels, neurons),
and each unit's part depends on its own bits only. So every unit is a species with its own fitness
(cooperative coevolution: Potter and De Jong, 1994), and swapping two bits of a unit changes its fitness by an
amount that is exact and costs O(1) to compute (partial evaluation in gray-box optimization: Bouter et al.,
GECCO 2017). Nothing is assumed about which weights matter: proposals are uniformly random, and only the
outputs decide.

With D inputs, unit u with weights w and kept bits m has the error z' C z, where z = w * (1 - m) is what was
taken away and C is the second moment of the layer's inputs.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["evolve_units", "nested_ranks", "output_error"]

PATIENCE = 12
"""Generations without any improvement after which a layer's evolution ends."""


def output_error(weight: Tensor, moment: Tensor, kept: Tensor) -> Tensor:
    """(U,) mean squared distance between each unit's masked and full output.

    Args:
        weight: (U, D) float.
        moment: (D, D) second moment of the inputs, mean of x x'.
        kept: (U, D) bool.
    """
    gone = weight * ~kept
    return ((gone @ moment) * gone).sum(1)


def evolve_units(
    weight: Tensor,
    moment: Tensor,
    kept: Tensor,
    allowed: Tensor,
    generations: int,
    rng: torch.Generator,
    proposals: int = 32,
) -> Tensor:
    """Improve `kept` without changing how many bits it has.

    In each generation every unit draws `proposals` bits to clear and as many to set, and tries the best of each:
    in even generations as a swap inside the unit, in odd ones as a transfer between two units, the cheapest
    bits to clear of some paid for by the best bits to set of others. Only improvements are kept.

    Args:
        weight: (U, D) float.
        moment: (D, D) float.
        kept: (U, D) bool, a subset of `allowed`.
        allowed: (U, D) bool, the bits that may be set.
        generations: steps at most; it ends earlier when nothing improves any more.
        rng: source of all randomness.
        proposals: bits tried in each unit and direction.

    Returns:
        (U, D) bool.
    """
    kept = kept.clone()
    pull = (weight * ~kept) @ moment  # (U, D): half the derivative of each unit's error by what was taken away
    power = moment.diagonal()
    choices = allowed.sum(1)
    alive = (choices > 0)[:, None]
    position = torch.argsort(~allowed, dim=1, stable=True)  # (U, D): the allowed bits of each unit first
    units = torch.arange(weight.shape[0])
    never = torch.tensor(float("inf"))
    idle = 0

    for generation in range(generations):
        draw = torch.rand(2, len(units), proposals, generator=rng) * choices[:, None]
        clear, set_ = (position.gather(1, drawn) for drawn in draw.long())
        w_clear, w_set = weight.gather(1, clear), weight.gather(1, set_)
        cost = w_clear * (w_clear * power[clear] + 2 * pull.gather(1, clear))
        gain = w_set * (w_set * power[set_] - 2 * pull.gather(1, set_))
        cost = torch.where(kept.gather(1, clear) & alive, cost, never)
        gain = torch.where(kept.gather(1, set_) | ~alive, never, gain)
        (cost, pick_clear), (gain, pick_set) = cost.min(1), gain.min(1)
        a, b = clear[units, pick_clear], set_[units, pick_set]
        if generation % 2 == 0:
            better = cost + gain - 2 * weight[units, a] * weight[units, b] * moment[a, b] < 0
            giver = taker = units[better]
        else:
            giver, taker = _transfers(cost, gain)
        idle = 0 if len(giver) else idle + 1
        if idle == PATIENCE:
            break
        kept[giver, a[giver]] = False
        kept[taker, b[taker]] = True
        pull[giver] += weight[giver, a[giver], None] * moment[a[giver]]
        pull[taker] -= weight[taker, b[taker], None] * moment[b[taker]]
    return kept


def _transfers(cost: Tensor, gain: Tensor) -> tuple[Tensor, Tensor]:
    """Pairs of different units, (T,) givers and (T,) takers, in which the giver's cost is below the taker's gain."""
    (cost, givers), (gain, takers) = cost.sort(), gain.sort()
    pairs = int((cost + gain < 0).sum())
    givers, takers = givers[:pairs], takers[:pairs]
    # A unit that gave and took at once would meet its own change: leave such pairs to a later generation.
    apart = ~(torch.isin(givers, takers) | torch.isin(takers, givers))
    return givers[apart], takers[apart]


def nested_ranks(
    weight: Tensor,
    moment: Tensor,
    allowed: Tensor,
    smallest: float,
    rng: torch.Generator,
    levels: int = 6,
    generations: int = 300,
) -> Tensor:
    """In which order a layer's weights can go: masks of falling density, each evolved inside the one before.

    Args:
        weight: (U, D) float.
        moment: (D, D) second moment of the inputs.
        allowed: (U, D) bool, the densest mask.
        smallest: the last mask's size as a share of `allowed`, in (0, 1).
        rng: source of all randomness.
        levels: masks to evolve; their sizes fall geometrically.
        generations: of `evolve_units` for each mask.

    Returns:
        (U, D) float: the number of masks that a weight survived, with a random fraction in [0, 1) between
        equals; -1 where not allowed.
    """
    rank = torch.where(allowed, torch.rand(weight.shape, generator=rng), -1.0)
    outer, start = allowed, int(allowed.sum())
    for level in range(1, levels + 1):
        size = max(1, round(start * smallest ** (level / levels)))
        positions = outer.flatten().nonzero()[:, 0]
        inner = torch.zeros_like(outer)
        inner.view(-1)[positions[torch.randperm(len(positions), generator=rng)[:size]]] = True
        outer = evolve_units(weight, moment, inner, outer, generations, rng)
        rank[outer] += 1
    return rank
