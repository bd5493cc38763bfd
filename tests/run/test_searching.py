"""How a stage's search is put together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import evoprune
from evoprune import EvopruneError
from evoprune.core import Layer, Masks, Plans, Scores, prunable_layers, weight_of
from evoprune.evaluation import SampledEvaluator, make_evaluator
from evoprune.guidance import learned
from evoprune.guidance.learned import CANDIDATES
from evoprune.guidance.magnitude import lamp_scores, magnitudes
from evoprune.run import searching
from evoprune.run.objective import mixed_fitness, score_fitness, slack
from evoprune.search import BudgetedBits, InTurn, Population, Shares, lexicographic_order, make_algorithm
from evoprune.spaces import WeightSpace
from evoprune.surgery import global_threshold

from .conftest import data, net

QUICK = {"population": 4, "generations": 2, "finetune_epochs": 1, "final_epochs": 1, "threads": 1}


def pruned(**options: Any) -> evoprune.Result:
    return evoprune.prune(net(), evoprune.accuracy(data()), train=data(), **(QUICK | options))


@pytest.mark.parametrize("guidance", ["none", "gradient"])
def test_guidance_looks_at_the_model_without_its_pruned_weights(monkeypatch: pytest.MonkeyPatch, guidance: str) -> None:
    seen = []
    advise = searching.advise

    def watched(kind: str, model: nn.Module, layers: list[Layer], masks: Masks, *rest: Any) -> Any:
        seen.append(sum(int((~masks[layer.name]).sum()) for layer in layers))
        assert all(not weight_of(model, layer.name)[~masks[layer.name]].any() for layer in layers)
        return advise(kind, model, layers, masks, *rest)

    monkeypatch.setattr(searching, "advise", watched)
    pruned(passes=[0.4, 0.7], guidance=guidance, space="weights")
    assert seen == [0, 80]


def test_a_listener_hears_of_every_layer_that_is_ordered() -> None:
    events: list[dict[str, Any]] = []
    pruned(passes=[0.4], listener=events.append)
    before = [event for event in events if event["event"] in ("ordered", "generation")]
    assert before[:2] == [{"event": "ordered", "layers": done, "of": 2} for done in (1, 2)]


@pytest.mark.parametrize("algorithm", ["ga", "steady", "evopress", "cmaes", "random"])
def test_every_algorithm_meets_the_sparsity_in_the_allocation_space(algorithm: str) -> None:
    result = pruned(sparsity=0.8, space="allocation", algorithm=algorithm)
    assert result.sparsity == pytest.approx(0.8, abs=0.005)
    assert result.summary["algorithm"] == algorithm


@pytest.mark.parametrize("algorithm", ["ga", "steady", "random"])
def test_a_mixture_spends_the_second_part_of_a_stage_on_bits(algorithm: str) -> None:
    """What it ends with is no level of the order any more, and the sparsity is exact in both parts."""
    events: list[dict[str, Any]] = []
    options: dict[str, Any] = {"passes": [0.6], "space": "mixture", "algorithm": algorithm, "guidance": "magnitude"}
    options |= {"population": 6, "generations": 6, "threads": 1, "listener": events.append}
    result = evoprune.prune(net(), evoprune.accuracy(data()), **options)
    assert result.sparsity == pytest.approx(0.6, abs=0.003)
    shares = [s for e in events if e["event"] == "generation" for s in e["candidates"]["sparsity"]]
    assert len(set(shares)) == 1
    kept = {name: weight_of(net(), name)[mask].abs().min() for name, mask in result.masks.items()}
    gone = {name: weight_of(net(), name)[~mask].abs().max() for name, mask in result.masks.items()}
    assert any(gone[name] > kept[name] for name in kept)


def test_the_memory_of_those_who_screen_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[SampledEvaluator] = []

    def watched(*given: Any, **options: Any) -> Any:
        made.append(make_evaluator(*given, **options))
        return made[-1]

    monkeypatch.setattr(searching, "make_evaluator", watched)
    found = pruned(passes=[0.6], algorithm="evopress").summary["search"]["peak_memory_mb"]
    assert len(made) == 3
    assert all(evaluator.peak_bytes > 0 for evaluator in made)
    assert found == round(sum(evaluator.peak_bytes for evaluator in made) / 2**20, 1) > 0


def test_screening_scores_most_candidates_on_few_samples() -> None:
    full = pruned(sparsity=0.6, space="allocation", algorithm="random", population=16)
    screened = pruned(sparsity=0.6, space="allocation", algorithm="evopress", population=16)
    assert screened.summary["search"]["evaluations"] == full.summary["search"]["evaluations"]
    assert screened.summary["search"]["full_evaluations"] < 0.8 * full.summary["search"]["full_evaluations"]


def test_what_guidance_scored_is_counted() -> None:
    plain, learned = (pruned(sparsity=0.6, guidance=guidance) for guidance in ("magnitude", "learned"))
    stages = sum(1 for _ in learned.front)
    more = learned.summary["search"]["evaluations"] - plain.summary["search"]["evaluations"]
    assert more == 2 * CANDIDATES * stages
    full = learned.summary["search"]["full_evaluations"] - plain.summary["search"]["full_evaluations"]
    assert full > 0.5 * more


def test_nsga2_ends_a_stage_at_its_target() -> None:
    result = pruned(sparsity=0.7, algorithm="nsga2", population=8)
    assert result.sparsity == pytest.approx(0.7, abs=0.01)


@pytest.mark.parametrize("target", [0.5, 0.9, 0.99, 0.999])
def test_a_points_sparsity_counts_as_the_targets_only_within_a_hundredth_of_what_stays(target: float) -> None:
    assert slack(target) <= 0.01 * (1 - target) + 1e-12
    population = Population(
        torch.zeros(4, 1), torch.tensor([[0.9, 0.0], [0.8, 0.0], [0.7, 0.0], [0.6, 0.0]]),
        {"sparsity": 1 - torch.tensor([2.0, 1.05, 1.009, 1.0], dtype=torch.float64) * (1 - target)},
    )  # fmt: skip
    search = searching.Search(None, None, None, (), None, target, front=True)  # type: ignore[arg-type]
    found = search.best(population)
    assert found == (2 if 0.009 * (1 - target) <= slack(target) else 3)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"algorithm": "nsga2", "space": "weights"}, "space allocation"),
        ({"algorithm": "cmaes", "space": "weights"}, "space allocation"),
        ({"algorithm": "pbil", "space": "allocation"}, "space weights"),
        ({"algorithm": "pbil", "space": "mixture"}, "space weights"),
        ({"algorithm": "cmaes", "space": "mixture"}, "space allocation"),
        ({"algorithm": "nsga2", "space": "mixture"}, "space allocation"),
    ],
)
def test_what_does_not_go_together_is_said(options: dict[str, str], words: str, tmp_path: Path) -> None:
    with pytest.raises(EvopruneError, match=words):
        pruned(sparsity=0.5, out=tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def test_under_a_floor_below_zero_nothing_seems_better_than_above_it() -> None:
    """Scores far below zero outweigh any sparsity."""
    scores = Scores(torch.tensor([-20.0, -50.0]), None, torch.ones(2, dtype=torch.bool), 2)
    above, below = mixed_fitness(scores, torch.tensor([0.1, 0.9]), 0.8, -30.0)[:, 0].tolist()
    assert above == pytest.approx(0.8 * 0.1 - 0.2 * 20)
    assert below < above
    assert mixed_fitness(scores, torch.tensor([0.1, 0.9]), 0.8, 0.5).tolist() == [[0.0], [0.0]]


def test_of_equal_scores_the_lower_loss_is_fitter() -> None:
    losses = torch.tensor([0.3, 0.2, 0.1])
    scores = Scores(torch.tensor([0.9, 0.9, 0.8]), losses, torch.ones(3, dtype=torch.bool), 3)
    assert lexicographic_order(score_fitness(scores)).tolist() == [1, 0, 2]


def test_who_just_reaches_the_floor_is_worth_something() -> None:
    """The reference: 0 under the floor."""
    scores = Scores(torch.tensor([0.5, 0.49]), None, torch.ones(2, dtype=torch.bool), 2)
    assert mixed_fitness(scores, torch.tensor([0.5, 0.5]), 0.8, 0.5)[:, 0].tolist() == pytest.approx([0.5, 0])


def test_screening_leaves_the_best() -> None:
    space, genomes = WeightSpace([Layer("a", "Linear", (1, 6))]), torch.ones(6, 6, dtype=torch.bool).tril()

    def counted(plans: Plans) -> Scores:
        return Scores(plans["a"].flatten(1).sum(1).double(), None, torch.ones(len(plans["a"]), dtype=torch.bool), 6)

    algorithm = make_algorithm("evopress", Shares(1), 6)
    search = searching.Search(
        space, algorithm, counted, ((counted, 3), (counted, 2)), lambda s, _: s.score[:, None], 0.5
    )
    scored = searching.Scored()
    kept, traits = search._screened(genomes, {"row": torch.arange(6)}, scored)
    assert scored.samples == 12
    assert traits["row"].tolist() == kept.sum(1).sub(1).tolist() == [4, 5]


def test_with_magnitudes_a_search_begins_at_lamps_threshold(monkeypatch: pytest.MonkeyPatch) -> None:
    space, bases = searching.AllocationSpace, []

    def watched(layers: list[Layer], priority: Tensor, base: Tensor, *rest: Any) -> Any:
        bases.append(base.tolist())
        return space(layers, priority, base, *rest)

    monkeypatch.setattr(searching, "AllocationSpace", watched)
    pruned(passes=[0.6], guidance="magnitude", space="allocation")
    scores = lamp_scores(magnitudes(net(), prunable_layers(net())))
    kept = global_threshold(torch.cat([score.flatten() for score in scores.values()]), [160, 40], 80)
    assert bases == [[int(part.sum()) for part in kept.split([160, 40])]]


def test_what_was_said_of_the_search_reaches_it(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def algorithm(name: str, genes: BudgetedBits, size: int, **rates: float) -> Any:
        seen.update(rates, name=name, size=size, mutation_rate=genes.mutation_rate)
        return make_algorithm(name, genes, size, **rates)

    def evaluator(*parts: Any, **options: Any) -> Any:
        seen.update(options)
        return make_evaluator(*parts, **options)

    monkeypatch.setattr(searching, "make_algorithm", algorithm)
    monkeypatch.setattr(searching, "make_evaluator", evaluator)
    pruned(
        passes=[0.5], algorithm="ga", population=5, crossover_rate=0.3, mutation_rate=0.01, memory_mb=77,
        scoring=["batched"],
    )  # fmt: skip
    assert seen == {
        "name": "ga", "size": 5, "crossover_rate": 0.3, "mutation_rate": 0.01, "memory_mb": 77, "ways": ["batched"],
        "norm_batches": [],
    }  # fmt: skip


def test_all_who_score_share_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those on a part of the samples, and those that guidance learns from."""
    given: list[int] = []

    def evaluator(*parts: Any, memory_mb: int, **options: Any) -> Any:
        given.append(memory_mb)
        return make_evaluator(*parts, memory_mb=memory_mb, **options)

    monkeypatch.setattr(searching, "make_evaluator", evaluator)
    monkeypatch.setattr(learned, "make_evaluator", evaluator)
    pruned(passes=[0.5], algorithm="evopress", guidance="learned", memory_mb=90)
    assert given == [90, 90, 30, 30, 30]


def original(**options: Any) -> list[list[dict[str, Any]]]:
    """The generations of every stage that searched, of the original preset."""
    events: list[dict[str, Any]] = []
    pruned(preset="original", floor=0.0, listener=events.append, **options)
    found = [[e for e in events if e["event"] == "generation" and e["stage"] == stage] for stage in range(8)]
    return [stage for stage in found if stage]


def test_the_original_ends_a_layer_at_the_threshold_of_its_pass() -> None:
    for stage in original(passes=[0.2], generations=30):
        best = [event["best"]["sparsity"] for event in stage]
        assert best[-1] >= 0.2 > max(best[:-1])


def test_the_second_pass_of_the_original_starts_from_the_populations_of_the_first() -> None:
    stages = original(passes=[0.9, 1.0], generations=3)
    for first, second in zip(stages[:2], stages[2:], strict=True):
        assert round(first[-1]["best"]["sparsity"], 6) in second[0]["candidates"]["sparsity"]


def test_guidance_hears_how_long_ago_a_weight_went_and_how_thin_a_layer_may_become(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    heard, advise = [], searching.advise

    def watched(*given: Any) -> Any:
        _, _, _, masks, left, _, smallest = given[:7]
        numbers = torch.cat([number[~masks[name]] for name, number in left.items()])
        heard.append((sorted(set(numbers.tolist())), smallest))
        assert not any(left[name][mask].any() for name, mask in masks.items())
        return advise(*given)

    monkeypatch.setattr(searching, "advise", watched)
    pruned(passes=[0.25, 0.5, 0.75], guidance="gradient", space="weights")
    assert [numbers for numbers, _ in heard] == [[], [1], [1, 2]]
    assert [smallest for _, smallest in heard] == pytest.approx([0.3 * kept for kept in (3 / 4, 2 / 3, 1 / 2)])


def half_as_good(model: nn.Module) -> float:
    """0.5 of the dense model's score, and a little for what is left in the first row."""
    zeros = weight_of(model, "0") == 0
    return 0.5 - 0.01 * int(zeros[0].sum()) if zeros.any() else 1.0


def generations_of_the_original(**options: Any) -> list[dict[str, Any]]:
    """Each generation of a search by the original preset, in one layer of a net."""
    events: list[dict[str, Any]] = []
    options = {"floor": 0.0, "population": 6, "generations": 4, "threads": 1, "listener": events.append} | options
    evoprune.prune(net(), half_as_good, preset="original", layers=["0"], **options)
    return [event for event in events if event["event"] == "generation"]


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_the_original_ends_with_the_fittest_of_all_candidates(alpha: float) -> None:
    generations, fittest = generations_of_the_original(alpha=alpha), 0.0
    for event in generations:
        found, best = event["candidates"], event["best"]
        pairs = zip(found["sparsity"], found["score"], strict=True)
        fittest = max([fittest, *(alpha * sparsity + (1 - alpha) * score for sparsity, score in pairs)])
        assert best["fitness"] == pytest.approx(fittest, abs=1e-5)
        assert alpha * best["sparsity"] + (1 - alpha) * best["score"] == pytest.approx(fittest, abs=1e-5)


def test_the_original_thinks_nothing_of_candidates_below_its_floor() -> None:
    assert {event["best"]["fitness"] for event in generations_of_the_original(floor=0.6)} == {0.0}
    assert all(event["best"]["fitness"] > 0 for event in generations_of_the_original(floor=0.0))


@pytest.mark.parametrize("share", [0.1, 0.6])
def test_the_original_begins_as_sparse_as_it_is_told(share: float) -> None:
    first = generations_of_the_original(initial_sparsity=share)[0]["candidates"]["sparsity"]
    assert sum(first) / len(first) == pytest.approx(share, abs=0.1)


@pytest.mark.parametrize("guidance", ["none", "magnitude"])
def test_a_search_of_weights_has_the_start_and_the_order_of_its_guidance(
    guidance: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    told, begun, advise = [], [], searching.advise

    def advised(*given: Any) -> Any:
        told.append(advise(*given))
        return told[-1]

    def watched(sizes: Any, keep: int, start: Tensor, priority: Any = None, **options: Any) -> BudgetedBits:
        begun.append((start, priority))
        return BudgetedBits(sizes, keep, start, priority, **options)

    monkeypatch.setattr(searching, "advise", advised)
    monkeypatch.setattr(searching, "BudgetedBits", watched)
    pruned(passes=[0.6], guidance=guidance)
    ((start, priority),) = begun
    assert torch.equal(start, told[0].first_mask([160, 40], 80))
    assert torch.equal(priority, told[0].order)


def test_the_worst_survivor_is_the_floor_of_the_next_candidates() -> None:
    floors: list[float] = []

    def counted(plans: Plans, floor: float = -float("inf")) -> Scores:
        floors.append(floor)
        score = plans["a"].flatten(1).double() @ torch.arange(6.0).double()
        return Scores(score, None, torch.ones(len(score), dtype=torch.bool), 6)

    algorithm = make_algorithm("ga", BudgetedBits((6,), 3, torch.ones(6, dtype=torch.bool)), 4)
    space, rng = WeightSpace([Layer("a", "Linear", (1, 6))]), torch.Generator().manual_seed(0)
    search = searching.Search(space, algorithm, counted, (), lambda s, _: s.score[:, None], 0.5)  # type: ignore[arg-type]
    population, _ = search.generation(None, rng)
    search.generation(population, rng)
    assert floors == [-float("inf"), float(population.fitness[:, 0].min())]


@pytest.mark.parametrize("space", ["allocation", "mixture"])
def test_what_was_said_reaches_every_algorithm_of_a_space(space: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def algorithm(name: str, genes: Any, size: int, **rates: float) -> Any:
        seen.append((name, size, rates, type(genes).__name__))
        return make_algorithm(name, genes, size, **rates)

    monkeypatch.setattr(searching, "make_algorithm", algorithm)
    options = {"population": 5, "crossover_rate": 0.3, "generations": 4, "guidance": "magnitude"}
    pruned(passes=[0.5], space=space, algorithm="ga", **options)
    assert all(found[:3] == ("ga", 5, {"crossover_rate": 0.3}) for found in seen)
    assert {found[3] for found in seen} == ({"Shares", "BoundarySwaps"} if space == "mixture" else {"Shares"})


@pytest.mark.parametrize(("algorithm", "turn"), [("ga", 3), ("steady", 7)])
def test_a_mixture_searches_budgets_for_half_of_its_generations(
    algorithm: str, turn: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns: list[int] = []

    def watched(first: Any, second: Any, turn: int) -> InTurn:
        turns.append(turn)
        return InTurn(first, second, turn)

    monkeypatch.setattr(searching, "InTurn", watched)
    options = {"population": 6, "generations": 6, "guidance": "magnitude"}
    pruned(passes=[0.6], space="mixture", algorithm=algorithm, **options)
    assert turns == [turn]


def test_nsga2_spreads_from_what_is_there_to_the_target() -> None:
    events: list[dict[str, Any]] = []
    pruned(passes=[0.7], algorithm="nsga2", population=8, guidance="magnitude", listener=events.append)
    first = next(e for e in events if e["event"] == "generation")["candidates"]["sparsity"]
    assert first[0] == 0, "the start"
    assert len(set(first)) >= 6
    assert max(first) <= 0.7


def test_a_front_ends_with_its_best_at_the_target_or_where_none_is_there_with_its_sparsest() -> None:
    fitness = torch.tensor([[0.9, 0.3], [0.6, 0.6], [0.7, 0.5], [0.5, 0.45]], dtype=torch.float64)
    population = Population(torch.zeros(4, 1), fitness, {"sparsity": fitness[:, 1]})
    search = searching.Search(None, None, None, (), None, 0.5, front=True)  # type: ignore[arg-type]
    assert search.best(population) == 2
    assert search.best(population.take(torch.tensor([0, 3]))) == 1


@pytest.mark.parametrize(("target", "below"), [(0.5, 1e-3), (0.9, 1e-3), (0.95, 5e-4), (0.99, 1e-4)])
def test_a_thousandth_or_a_hundredth_of_what_stays_may_be_missing(target: float, below: float) -> None:
    assert slack(target) == pytest.approx(below)


def test_the_original_crosses_and_mutates_as_often_as_it_is_told() -> None:
    still = generations_of_the_original(initial_sparsity=0.3, crossover_rate=0.0, mutation_rate=0.0)
    first = set(still[0]["candidates"]["sparsity"])
    assert all(set(event["candidates"]["sparsity"]) <= first for event in still)


@pytest.mark.parametrize("anew", [False, True])
def test_guidance_hears_whether_norms_are_measured_anew(anew: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    told, advise = [], searching.advise

    def watched(*given: Any) -> Any:
        told.append(given[-1])
        return advise(*given)

    monkeypatch.setattr(searching, "advise", watched)
    torch.manual_seed(0)
    normed = nn.Sequential(net()[0], nn.BatchNorm1d(net()[0].out_features), *net()[1:])  # type: ignore[union-attr, arg-type]
    evoprune.prune(normed, evoprune.accuracy(data()), train=data(), recalibrate=anew, passes=[0.4], **QUICK)
    assert told == [anew]
