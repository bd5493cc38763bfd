"""Guidance `learned`: the order in which a layer's weights go, from scored candidates alone.

Nothing is assumed about weights, and nothing is looked at but the model's outputs. A candidate drops a random tenth of
what is left of one layer; its score is how far the outputs moved (`Fidelity`). One number says little about a weight
that was dropped among thousands, so

- the ten candidates of a round drop each remaining weight exactly once, and a weight is credited with the place that
  its candidate took among the ten, which no outlier can distort;
- after each round those with the least credit leave for good, as in successive rejects (Audibert et al., "Best arm
  identification in multi-armed bandits", COLT 2010). The next round scores what is left: credit is earned in the
  company that a weight would have in a sparse layer, where a candidate also says more about each of its weights.

How good it is (LeNet-5, one layer pruned, no fine-tuning, 2,000 MNIST validation images, mean of seeds 0 to 4, one
thread of an AMD EPYC, 400 candidates; docs/LOG.md, 2026-11-24): classifier.1 with 20 / 10 % kept 97.6 / 95.2 %, against
random 93.8 / 77.1, as many candidates without elimination 95.2 / 89.7, magnitude 98.8 / 97.6, guidance `none`
98.7 / 97.7; feature.3 91.0 / 84.0 %, against magnitude 74.9 / 58.7 and `none` 86.8 / 63.1. So it is far above chance
everywhere, above the rules on convolutions, below them on large linear layers, and seeds differ by a point or more.

It costs ROUNDS * GROUPS candidates a layer and call on SAMPLES samples: seconds a layer for LeNet-5, too long for a
network whose candidates take seconds each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from evoprune.core import EvopruneError, Layer, Masks, generator, spread
from evoprune.evaluation import make_evaluator
from evoprune.scoring import Fidelity, device_of, evaluating

__all__ = ["eliminate", "learned_ranks"]

SAMPLES = 500
"""Training samples that a candidate is scored on."""
ROUNDS, GROUPS = 40, 10
"""Rounds of elimination, and candidates in each."""
CANDIDATES = ROUNDS * GROUPS
"""Scored for each layer."""
MEMORY = 0.9
"""Share of its credit that a weight takes into the next round; what it earned in denser company counts less."""


def learned_ranks(
    model: nn.Module,
    layers: Sequence[Layer],
    masks: Masks,
    inputs: Tensor,
    smallest: float,
    seed_path: tuple[int, ...],
    memory_mb: int = 1024,
) -> dict[str, Tensor]:
    """Layer name -> ranks of the weight's shape, each layer alone while the others stay as they are.

    Args:
        model: with its pruned weights at zero; as found afterwards.
        layers: the layers searched.
        masks: what stays at present.
        inputs: (N, ...), of which `SAMPLES` from all over are used.
        smallest: share of a layer's present weights that is left after the last round.
        seed_path: run seed and place in the run, for random numbers.
        memory_mb: limit for scoring.

    Raises:
        EvopruneError: the model's outputs are not (B, C).
    """
    inputs = inputs[spread(len(inputs), SAMPLES)]
    with evaluating(model):
        outputs = model(inputs[:2].to(device_of(model), copy=True))
    if not isinstance(outputs, Tensor) or outputs.dim() != 2:
        raise EvopruneError("guidance learned needs a model whose outputs are (B, C); choose another guidance")
    score = Fidelity(inputs, torch.zeros(len(inputs), dtype=torch.int64))  # it compares outputs; targets are not read
    ranks = {}
    for index, layer in enumerate(layers):
        distances = _distances(model, score, layer.name, memory_mb)
        ranks[layer.name] = eliminate(distances, masks[layer.name], smallest, generator(*seed_path, index))
    return ranks


def _distances(model: nn.Module, score: Fidelity, name: str, memory_mb: int) -> Callable[[Tensor], Tensor]:
    evaluator = make_evaluator(model, score, [name], memory_mb=memory_mb, ways=("prefix", "batched"))
    return lambda masks: -evaluator({name: masks}).score


def eliminate(distances: Callable[[Tensor], Tensor], allowed: Tensor, smallest: float, rng: torch.Generator) -> Tensor:
    """Rank weights by the round in which they are eliminated.

    Args:
        distances: (P, *shape) bool masks -> (P,) how far the outputs move, lower is better.
        allowed: bool of any shape, the weights to rank.
        smallest: share of them that is left after the last round, in (0, 1].
        rng: source of all randomness.

    Returns:
        Float of the shape of `allowed`: the rounds that a weight survived, plus its place among those of its round,
        in [0, 1); -1 where not allowed.
    """
    rank = torch.full((allowed.numel(),), -1.0)
    credit = torch.zeros(allowed.numel())
    left = allowed.flatten().nonzero()[:, 0]
    start = len(left)
    for survived in range(ROUNDS if start else 0):
        order = left[torch.randperm(len(left), generator=rng)]
        masks = torch.zeros(GROUPS, allowed.numel(), dtype=torch.bool)
        masks[:, left] = True
        dropped = order.tensor_split(GROUPS)
        for mask, group in zip(masks, dropped, strict=True):
            mask[group] = False
        place = distances(masks.view(GROUPS, *allowed.shape)).argsort().argsort()
        credit *= MEMORY
        for group, earned in zip(dropped, place.tolist(), strict=True):
            credit[group] += earned
        best_first = order[credit[order].argsort(descending=True, stable=True)]
        rank[best_first] = survived + torch.arange(len(order) - 1, -1, -1) / len(order)
        left = best_first[: max(1, round(start * smallest ** ((survived + 1) / ROUNDS)))]
    return rank.view_as(allowed)
