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

from itertools import pairwise

import torch
from torch import Tensor

__all__ = ["evolve_units", "nested_ranks"]

PATIENCE = 12
"""Generations without any improvement after which a layer's evolution ends."""
INPUTS_A_MOVE = 512
"""A unit of so many inputs more may move a bit more at once: else large units would need more generations."""


def evolve_units(
    weight: Tensor,
    moment: Tensor,
    kept: Tensor,
    allowed: Tensor,
    generations: int,
    rng: torch.Generator,
    proposals: int = 32,
    most: int | None = None,
) -> Tensor:
    """Improve `kept` without changing how many bits it has.

    In each generation every unit draws bits to clear and bits to set, and tries the best of each: in even generations
    as swaps inside the unit, as many of them as together lower its error the most; in odd ones as a transfer between
    two units, the cheapest bits to clear of some paid for by the best bits to set of others. Only improvements are
    kept.

    Args:
        weight: (U, D) float.
        moment: (D, D) float.
        kept: (U, D) bool, a subset of `allowed`.
        allowed: (U, D) bool, the bits that may be set.
        generations: steps at most; it ends earlier when nothing improves any more.
        rng: source of all randomness.
        proposals: bits tried in each unit and direction for each that moves.
        most: bits that may move at once in each direction; one for every `INPUTS_A_MOVE` inputs by default.

    Returns:
        (U, D) bool.
    """
    most = max(1, weight.shape[1] // INPUTS_A_MOVE) if most is None else most
    kept = kept.clone()
    pull = (weight * ~kept) @ moment  # (U, D): half the derivative of each unit's error by what was taken away
    choices = allowed.sum(1)
    alive = (choices > 0)[:, None]
    position = torch.argsort(~allowed, dim=1, stable=True)  # (U, D): the allowed bits of each unit first
    idle = 0

    def best(drawn: Tensor, may_move: Tensor, sign: int) -> tuple[Tensor, Tensor, Tensor]:
        """(U, most) bits that alone raise the error the least; what that takes away; whether there are so many."""
        bits = position.gather(1, drawn).sort(1).values
        taken = sign * weight.gather(1, bits)
        fits = may_move.gather(1, bits) & alive
        fits[:, 1:] &= bits[:, 1:] != bits[:, :-1]  # drawn twice
        alone = taken * (taken * moment.diagonal()[bits] + 2 * pull.gather(1, bits))
        alone, pick = alone.masked_fill(~fits, float("inf")).topk(most, largest=False)
        return bits.gather(1, pick), taken.gather(1, pick), alone.isfinite()

    for generation in range(generations):
        draw = (torch.rand(2, len(weight), proposals * most, generator=rng) * choices[:, None]).long()
        (clear, out, may_clear), (set_, back, may_set) = best(draw[0], kept, 1), best(draw[1], ~kept, -1)
        if generation % 2 == 0:
            bits, taken = (torch.stack(pair, 2).flatten(1) for pair in ((clear, set_), (out, back)))
            change = _changes(bits, taken, pull, moment)[:, 1::2].masked_fill(~(may_clear & may_set), float("inf"))
            change, number = change.min(1)
            moves = torch.where(change < 0, 2 * (number + 1), 0)
            giver = moves.nonzero()[:, 0]
            _move(bits, taken, moves, kept, pull, moment)
        else:
            at_once = most if generation % 4 == 1 else 1
            cost, gain = (
                _changes(bits[:, :at_once], taken[:, :at_once], pull, moment)[:, -1].masked_fill(
                    ~fits[:, at_once - 1], float("inf")
                )
                for bits, taken, fits in ((clear, out, may_clear), (set_, back, may_set))
            )
            giver, taker = _transfers(cost, gain)
            for bits, taken, units in ((clear, out, giver), (set_, back, taker)):
                moves = torch.zeros(len(weight), dtype=torch.long).index_fill_(0, units, at_once)
                _move(bits, taken, moves, kept, pull, moment)
        idle = 0 if len(giver) else idle + 1
        if idle == PATIENCE:
            break
    return kept


def _changes(bits: Tensor, taken: Tensor, pull: Tensor, moment: Tensor) -> Tensor:
    """(U, M): by how much the first 1, 2, ..., M moves together change each unit's error.

    Args:
        bits: (U, M) int64 the bits that move, all different.
        taken: (U, M) what each takes away: the weight of a bit that is cleared, minus that of one that is set.
        pull: (U, D).
        moment: (D, D).
    """
    pairs = taken[:, :, None] * taken[:, None, :] * moment[bits[:, :, None], bits[:, None, :]]
    alone: Tensor = 2 * (taken * pull.gather(1, bits)).cumsum(1)
    return alone + pairs.cumsum(1).cumsum(2).diagonal(dim1=1, dim2=2)


def _move(bits: Tensor, taken: Tensor, moves: Tensor, kept: Tensor, pull: Tensor, moment: Tensor) -> None:
    """Carry out each unit's first (U,) `moves`, in place."""
    for number in range(int(moves.max())):
        units = (moves > number).nonzero()[:, 0]
        bit = bits[units, number]
        kept[units, bit] = ~kept[units, bit]
        pull[units] += taken[units, number, None] * moment[bit]


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
) -> tuple[Tensor, list[float]]:
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
        equals; -1 where not allowed. And of each number of masks, from 0 to `levels`, the share of the layer's output
        (of its sum of squares) that is lost with the weights that survived so many, by weight.
    """
    fractions = torch.rand(weight.shape, generator=rng).clamp(max=1 - 2**-21)  # else float32 rounds to the next rank
    rank = torch.where(allowed, fractions, -1.0)
    outer, start = allowed, int(allowed.sum())
    sizes, lost, whole = [start], [0.0], _error(weight * allowed, moment)
    for level in range(1, levels + 1):
        size = max(1, round(start * smallest ** (level / levels)))
        positions = outer.flatten().nonzero()[:, 0]
        inner = torch.zeros_like(outer)
        inner.view(-1)[positions[torch.randperm(len(positions), generator=rng)[:size]]] = True
        outer = evolve_units(weight, moment, inner, outer, generations, rng)
        rank[outer] += 1
        sizes.append(int(outer.sum()))
        lost.append(_error(weight * (allowed & ~outer), moment) / whole if whole else 0.0)
    sizes, lost = [*sizes, 0], [*lost, 1.0 if whole else 0.0]
    taken = [larger - smaller for larger, smaller in pairwise(sizes)]
    return rank, [(after - before) / max(1, few) for (before, after), few in zip(pairwise(lost), taken, strict=True)]


def _error(gone: Tensor, moment: Tensor) -> float:
    """What the outputs lose with the weights (U, D) that are `gone`."""
    return float((gone * (gone @ moment)).sum())
