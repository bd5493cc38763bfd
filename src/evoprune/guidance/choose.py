"""From the name of a guidance to what it says of every weight.

`none` and `learned` assume nothing about weights: the order in which a layer's weights go is evolved from how far the
layer's output moves (guidance/evolved.py), or learned from how far the model's outputs move when random weights are
dropped (guidance/learned.py). `magnitude`, `gradient` and `wanda` are the usual rules, each in its unit: the weight's
own, the squared loss (what a weight adds to it), the layer's output (what a weight adds to it, root mean square).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evoprune.core import EvopruneError, Layer, Masks, generator
from evoprune.guidance.evolved import evolved_order
from evoprune.guidance.gradient import gradient_effects
from evoprune.guidance.learned import CANDIDATES as LEARNED_CANDIDATES
from evoprune.guidance.learned import SAMPLES as LEARNED_SAMPLES
from evoprune.guidance.learned import learned_ranks
from evoprune.guidance.magnitude import lamp_scores, magnitudes
from evoprune.guidance.wanda import wanda_scores
from evoprune.surgery import global_threshold
from evoprune.training import Loss

__all__ = ["Advice", "advise"]

NEED_SAMPLES = ("gradient", "wanda", "learned")
"""Those that say nothing without samples of the data; `none` makes do with any order."""
LAST_STAGE = 1 << 15
"""No stage has a higher number."""
TIES = 0xFFFF
"""Place of the random stream that orders pruned weights, beside those of the layers."""


@dataclass(frozen=True)
class Advice:
    """What a guidance says of the weights of some layers, in gene order.

    Attributes:
        order: (G,) float32 in [0, 1), evenly spread in each layer: only the order inside a layer means something.
        importance: (G,) floats, what can be compared between layers too, -1 where a weight is pruned at present;
            None for a guidance that orders each layer for itself.
        candidates: models that were scored to find it out.
        samples: that they were scored on, all candidates together.
    """

    order: Tensor
    importance: Tensor | None = None
    candidates: int = 0
    samples: int = 0

    def first_mask(self, sizes: Sequence[int], keep: int) -> Tensor | None:
        """(G,) bool, the `keep` most important weights of all layers and the most important one of each, if known."""
        return None if self.importance is None else global_threshold(self.importance, sizes, keep)


def advise(
    kind: str,
    model: nn.Module,
    layers: Sequence[Layer],
    masks: Masks,
    left: Mapping[str, Tensor],
    samples: tuple[Tensor, Tensor] | None,
    smallest: float,
    seed_path: tuple[int, ...],
    on_layer: Callable[[int], None] = lambda _: None,
    loss: Loss | None = None,
    memory_mb: int = 1024,
    norms_anew: bool = False,
) -> Advice | None:
    """What the guidance `kind` says; None for `none` without samples, which then has any order.

    Args:
        kind: `none`, `learned`, `magnitude`, `gradient` or `wanda`.
        model: with its pruned weights at zero.
        layers: the layers searched.
        masks: what stays at present.
        left: number of the stage that pruned a weight, of the weights' shapes.
        samples: (N, ...) inputs and (N,) targets of the training data; None when there are none.
        smallest: down to which density a layer's weights get an order, as a share of its present one; below it the
            order is random (`none`), or that of the last round (`learned`).
        seed_path: run seed and place in the run, for random numbers.
        on_layer: told how many layers are done, where that takes long (`none`).
        loss: whose gradients count (`gradient`); cross-entropy by default.
        memory_mb: limit for scoring (`learned`).
        norms_anew: whether candidates' batch norms are measured anew (`none`).

    Raises:
        EvopruneError: `kind` needs samples, and there are none.
    """
    candidates = scored = 0
    comparable: Mapping[str, Tensor] = {}  # by which one threshold may cut all layers
    if kind == "magnitude":
        values = magnitudes(model, layers)
        comparable = lamp_scores(values)
    elif samples is None:
        if kind in NEED_SAMPLES:
            raise EvopruneError(f"guidance {kind!r} looks at data; there are no samples")
        return None
    elif kind == "none":
        values, comparable = evolved_order(model, layers, masks, samples[0], smallest, seed_path, on_layer, norms_anew)
    elif kind == "learned":
        values = learned_ranks(model, layers, masks, samples[0], smallest, seed_path, memory_mb)
        candidates = len(layers) * LEARNED_CANDIDATES
        scored = candidates * min(len(samples[0]), LEARNED_SAMPLES)
    elif kind == "gradient":
        values = comparable = gradient_effects(model, layers, *samples, loss or F.cross_entropy)
    else:
        values = wanda_scores(model, layers, samples[0])
    rng = generator(*seed_path, TIES)
    orders = {layer.name: _even(values[layer.name], masks[layer.name], left[layer.name], rng) for layer in layers}
    importance = torch.cat(_in_all_layers(comparable, orders, masks)) if comparable else None
    return Advice(torch.cat(list(orders.values())), importance, candidates, scored)


def _in_all_layers(comparable: Mapping[str, Tensor], orders: Mapping[str, Tensor], masks: Masks) -> list[Tensor]:
    """(N,) values of each layer's weights, -1 where they are pruned.

    A layer that has none gets those of all others, evenly, in its own order: one threshold leaves it as dense as them.
    """
    found = {name: torch.where(masks[name], values, -1.0).flatten() for name, values in comparable.items()}
    if orders.keys() > comparable.keys():
        known = torch.cat([values[values >= 0] for values in found.values()]).sort().values
        for name in orders.keys() - comparable.keys():
            mask = masks[name].flatten()
            rank = orders[name][mask].argsort().argsort()
            found[name] = torch.full(mask.shape, -1.0, dtype=known.dtype)
            found[name][mask] = known[rank * len(known) // len(rank)]
    return [found[name] for name in orders]


def _even(values: Tensor, mask: Tensor, left: Tensor, rng: torch.Generator) -> Tensor:
    """Any numbers from 0 on -> their ranks, evenly spaced in [0, 1).

    What is pruned at present comes behind: those that left last first, since they were worth more and their values are
    the freshest; in random order where nothing else is known.
    """
    pruned = left.double() + torch.rand(mask.shape, generator=rng, dtype=torch.float64) - LAST_STAGE
    values = torch.where(mask, values.double(), pruned).flatten()
    ranks = torch.empty(len(values))
    ranks[values.argsort(stable=True)] = torch.arange(len(values)) / len(values)
    return ranks
