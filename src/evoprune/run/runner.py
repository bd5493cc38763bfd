"""The run: stages of search and fine-tuning until the schedule ends, resumable at any moment."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from evoprune.core import EvopruneError, generator, resolve_layers, sparsity_of, weight_of
from evoprune.run.costing import costs_of
from evoprune.run.folder import Folder
from evoprune.run.journal import Journal
from evoprune.run.objective import floor_of
from evoprune.run.result import describe_layers
from evoprune.run.schedule import Outcome, Stage, is_hopeless, next_stage
from evoprune.run.searching import Scored, Search, make_search
from evoprune.run.settings import Settings, TuningSchedule
from evoprune.run.state import FrontPoint, Kept, RunState, load_state, packed, save_state, unpacked
from evoprune.run.task import Task
from evoprune.run.time_limit import TimeLimit
from evoprune.scoring import Accuracy, DataScore
from evoprune.search import Population
from evoprune.storage import save_tensors
from evoprune.surgery import NORM_SAMPLES, FineTuner, Tightening, apply_masks, batch_norms, recalibrate
from evoprune.training import TensorSource, first_batches, reuse_freed_memory, set_memory_format

__all__ = ["Listener", "Runner"]

Listener = Callable[[dict[str, Any]], None]
"""Called with every event of the journal. Two more are for watching only: `ordered` while the weights of layer after
layer are ordered, and `step` after every step of training."""

SNAPSHOT_SECONDS = 5.0
NOTICED = 0.02
"""Of an accuracy, or as a share of a higher score: what is lost in one epoch by no chance."""
log = logging.getLogger("evoprune")


class Runner:
    """Carries a task through its schedule.

    Args:
        task: live objects; `task.model` is changed in place.
        settings: of the run.
        folder: where journal and snapshots go; None keeps nothing.
        dense_val_score: validation score of `task.model` as it is; None goes on from the folder's snapshot.
        begun: when the work began, by time.perf_counter(): what came before the run itself counts, too.
        listener: told of every event.
    """

    def __init__(
        self,
        task: Task,
        settings: Settings,
        folder: Folder | None,
        dense_val_score: float | None,
        begun: float,
        listener: Listener | None = None,
    ) -> None:
        set_memory_format(task.model, torch.contiguous_format)  # as after fine-tuning, so in a resumed run as well
        self.task, self.settings, self.folder, self.listener = task, settings, folder, listener
        self.layers = resolve_layers(task.layers, settings.layers)
        self.costs = costs_of(task, settings)
        trains = task.train is not None and settings.finetune_epochs + settings.final_epochs > 0
        self.teacher = copy.deepcopy(task.model) if trains and settings.distill else None
        if self.teacher is not None:
            self.teacher.eval()
            if isinstance(task.train, TensorSource):
                task.train.cache_teacher_logits(self.teacher)
        self.norm_batches: list[Tensor] = []
        if settings.recalibrate and task.train is not None:
            # Augmented as in training: on other images the model does not work with its own statistics either.
            self.norm_batches = first_batches(task.train, NORM_SAMPLES)
        self.last_snapshot = 0.0
        self.found: float | None = None  # score of the best candidate of this stage's search
        reuse_freed_memory()
        if dense_val_score is None:
            assert folder is not None
            self.state = load_state(folder.snapshot)
            self._check_fits(folder)
        else:
            kept = self._kept({layer.name: torch.ones(layer.shape, dtype=torch.bool) for layer in self.layers})
            self.state = RunState(now=kept, accepted=kept, dense_val_score=dense_val_score)
        self.journal = Journal(folder.journal if folder else None, self.state.journal_bytes)
        self.started = begun - self.state.seconds
        self.limit = TimeLimit(task, settings, self.state, self.teacher, self.elapsed)
        if dense_val_score is not None:
            layers = describe_layers(self.layers, {})
            self._tell("run_start", dense_val_score=dense_val_score, layers=layers)
            self._snapshot()

    @property
    def floor(self) -> float | None:
        """The validation score to keep, or None."""
        return floor_of(self.settings.floor, self.settings.max_drop, self.state.dense_val_score)

    def run(self) -> None:
        """Ask the schedule, search, fine-tune, keep or go back; until there is no next stage."""
        state = self.state
        while (stage := state.stage or self._next_stage()) is not None:
            if state.stage is None:
                generations = 0 if self.settings.tightens or not stage.layers else self.settings.generations
                state.stage, state.phase, state.step = stage, "search" if generations else "short", 0
                self._tell(
                    "stage_start", stage=stage.index, name=stage.name, layers=list(stage.layers), target=stage.target,
                    **{"pass": stage.round}, generations=generations, epochs=stage.epochs,
                )  # fmt: skip
            if state.phase == "search":
                self._search(stage)
            if state.phase == "short":
                stage = self._finetune(stage)
            if state.phase == "final":
                self._epochs(stage, self.settings.final_schedule, stage.final_epochs)
            self._settle(stage)
        self._put(state.accepted)
        state.now = state.accepted

    def _next_stage(self) -> Stage | None:
        plan = partial(next_stage, self.settings, self.layers, self.state.history, self.task.train is not None)
        planned = plan(out_of_time=False, costs=self.costs)
        if not self.state.late and not self.limit.is_up():
            return planned
        late = plan(out_of_time=True, costs=self.costs)
        if late != planned:
            self.state.late = self.state.cut_short = True
        return late

    # -- search ------------------------------------------------------------------------------------------

    def _search(self, stage: Stage) -> None:
        """The main loop: ask, evaluate, tell, append."""
        state, settings, begun = self.state, self.settings, time.perf_counter()
        search = make_search(
            self.task, settings, state, stage, self.floor, self.costs, self._show_layers, self.norm_batches
        )
        counted = time.perf_counter()
        state.search_seconds += counted - begun
        self._snapshot(at_most_every=SNAPSHOT_SECONDS)
        if state.step == 0 and state.advice is not None:
            # Of an own function nobody knows the samples: a candidate is one evaluation of it.
            known = isinstance(self.task.val_score, DataScore)
            state.evaluations += state.advice.candidates
            state.samples_scored += state.advice.samples if known else state.advice.candidates
        for number in range(state.step, settings.generations + 1):
            rng = generator(settings.seed, stage.index, number)
            population = None if state.population is None else unpacked(state.population, search.space.length)
            population, scored = search.generation(population, rng)
            state.population = packed(population)
            state.evaluations += scored.evaluations
            state.samples_scored += scored.samples
            state.scoring_bytes = max(state.scoring_bytes, search.peak_bytes)
            state.step, state.generations = number + 1, state.generations + (number > 0)
            now = time.perf_counter()
            if number == 0:
                state.first_scores_seconds = now - begun
            state.search_seconds += now - counted
            counted = now
            best = self._tell_generation(number, search, population, scored)
            self.found = best["score"]
            reached = settings.preset == "original" and best["sparsity"] >= stage.target
            if reached or number == settings.generations:
                break
            if self.limit.is_up():
                state.cut_short = True
                break
            self._snapshot(at_most_every=SNAPSHOT_SECONDS)
        self._warn_of_guessing(stage)
        self._take_best(stage, search)

    def _warn_of_guessing(self, stage: Stage) -> None:
        """Where all candidates guess, the lowest loss is that of the one whose outputs say the least."""
        score, found, dense = self.task.val_score, self.found, self.state.dense_val_score
        if not isinstance(score, Accuracy) or found is None or not score.is_guessing(found) or score.is_guessing(dense):
            return
        if not self.norm_batches and self.task.train is not None and batch_norms(self.task.model):
            advice = "--recalibrate measures batch norms anew for each candidate, and may show which are better"
        else:
            advice = "smaller steps may help, such as --passes 0.5,0.8,0.9"
        log.warning(
            "%s: no candidate does better than guessing (%.4f), so the search had nothing to go by; %s",
            stage.name, found, advice,
        )  # fmt: skip

    def _take_best(self, stage: Stage, search: Search) -> None:
        """The best genome becomes the model's masks."""
        state, model = self.state, self.task.model
        assert state.population is not None
        population = unpacked(state.population, search.space.length)
        found = search.space.plans(population.genomes[search.best(population)][None])
        masks = state.now.masks | {name: _never_empty(plan[0].clone()) for name, plan in found.items()}
        if self.settings.preset == "original":
            state.warm[stage.name] = state.population.genomes
        values = {name: weight_of(model, name).detach().clone() for name in stage.layers}
        apply_masks(model, masks)
        begun = time.perf_counter()
        self._recalibrate()
        state.search_seconds += time.perf_counter() - begun
        state.now = self._kept(masks, state.now.values | values)
        state.population, state.advice, state.phase, state.step = None, None, "short", 0
        self._snapshot()

    # -- fine-tuning -------------------------------------------------------------------------------------

    def _finetune(self, stage: Stage) -> Stage:
        """Short fine-tuning; returns the stage with as many final epochs, the next phase, as there is time for."""
        if self.task.train is None:
            return stage
        state, settings = self.state, self.settings
        if state.step == 0 and stage.epochs:
            least = 1 if settings.tightens or not settings.final_epochs else 0
            fits = self.limit.epochs_left(stage.epochs + settings.final_epochs) - settings.final_epochs
            if fits < stage.epochs:
                state.cut_short = True
                stage = state.stage = replace(stage, epochs=max(least, fits))
        self._epochs(stage, self.settings.finetune_schedule, stage.epochs)
        if stage.final_epochs and self._wants_final_epochs(stage):
            fits = self.limit.epochs_left(stage.final_epochs)
            state.cut_short |= fits < stage.final_epochs
            stage = state.stage = replace(stage, final_epochs=fits)
            state.phase, state.step = "final", 0
        return stage

    def _wants_final_epochs(self, stage: Stage) -> bool:
        if not stage.only_below_floor:
            return True
        floor = self.floor
        if floor is None or not self._val_score() < floor:
            return False
        # Without them nothing might hold the floor; what does may wait for later stages.
        if self._has_pruned() and self.limit.is_up(tuned=True):
            self.state.cut_short = True
            return False
        return True

    def _has_pruned(self) -> bool:
        return any(outcome.accepted and outcome.sparsity > 0 for outcome in self.state.history)

    def _tightening(self, stage: Stage, steps: int) -> Tightening:
        weights = {name: weight_of(self.task.model, name) for name in stage.layers}
        keep = stage.keep([weight.numel() for weight in weights.values()])
        return Tightening(weights, self.state.now.masks, keep, steps)

    def _epochs(self, stage: Stage, schedule: TuningSchedule, epochs: int) -> None:
        """What is left of the epochs of a phase."""
        state, settings, floor = self.state, self.settings, self.floor
        if state.step >= epochs:
            return
        assert self.task.train is not None
        final = state.phase == "final"
        before = stage.epochs if final else 0
        tightening = None
        if settings.tightens and not final and stage.layers:
            tightening = self._tightening(stage, epochs * self.task.train.steps)
        recipe = settings.recipe(epochs, schedule)
        tuner = FineTuner(
            self.task.model, state.now.masks, self.task.train, recipe, self.teacher, tightening, self.task.loss
        )
        if state.optimizer and state.step:
            tuner.load_state(state.optimizer)
        on_step = partial(self._show_step, before, before + epochs)
        for epoch in range(state.step, epochs):
            # Scores on small images say little of those at full size, which come last.
            may_give_up = final and before and stage.only_below_floor and not settings.first_size
            half_way = may_give_up and epoch == max(1, epochs // 2)
            if half_way and is_hopeless(state.epoch_scores[before - 1 :], floor, state.dense_val_score):
                break
            begun = time.perf_counter()
            loss = tuner.epoch(epoch, settings.seed, stage.index, before, 1, on_step=on_step)
            if tightening is not None:
                if epoch + 1 == epochs:
                    tuner.tighten_to_the_end()
                self._recalibrate()
            val_score = self._val_score()
            if before + epoch == 0 and not settings.first_size:  # on small images it says little
                self._warn_of_learning_rate(val_score)
            state.step = epoch + 1
            state.epoch_scores.append(val_score)
            state.finetune_epochs += 1
            state.finetune_seconds += time.perf_counter() - begun
            state.optimizer = tuner.state()
            state.now = self._kept(dict(tuner.masks), state.now.values)
            self._tell(
                "epoch", stage=stage.index, epoch=before + epoch, epochs=before + epochs, loss=loss, val_score=val_score
            )
            self._snapshot()
        state.optimizer = {}
        tuner.close()

    def _warn_of_learning_rate(self, val_score: float) -> None:
        """Where the first epoch after a search took more from the score than pruning did."""
        dense, found, self.found = self.state.dense_val_score, self.found, None
        if found is not None and found - val_score > max(dense - found, NOTICED * max(1.0, abs(dense))):
            log.warning(
                "an epoch of fine-tuning took the validation score from %.4g to %.4g; if that is no accident, give a"
                " lower learning rate than %g",
                found, val_score, self.settings.learning_rate,
            )  # fmt: skip

    def _settle(self, stage: Stage) -> None:
        """Keep what the stage gave if the floor holds; else go back to what was kept before."""
        state, floor = self.state, self.floor
        val_score = self._val_score()
        below = floor is not None and val_score < floor
        held = self.settings.preset == "original" or self.settings.front or not below
        sparsity = sparsity_of(state.now.masks, self.task.layers)
        tuned = state.phase == "final" and state.step > 0
        state.history.append(Outcome(stage.target, sparsity, val_score, held, tuned, below))
        layers = {layer.name: sparsity_of(state.now.masks, [layer]) for layer in self.layers}
        if self.settings.front:
            state.front.append(FrontPoint(sparsity, val_score, Kept(state.now.model, state.now.masks, {}, {})))
        if held and not (self.settings.front and below):
            state.accepted = state.now
            if self.folder is not None:
                save_tensors(state.now.masks, self.folder.masks)
        if not held:
            state.now = state.accepted
            self._put(state.now)
        state.stage, state.phase, state.step, state.epoch_scores = None, "search", 0, []
        self._tell(
            "stage_end",
            stage=stage.index,
            model_sparsity=sparsity,
            val_score=val_score,
            layers=layers,
            accepted=held,
        )
        self._snapshot()

    def _recalibrate(self) -> None:
        """Measure batch norms anew after a change of masks, if the settings ask for it."""
        if self.norm_batches:
            recalibrate(self.task.model, self.norm_batches)

    # -- small things ------------------------------------------------------------------------------------

    def cost(self) -> int:
        """What the kept model costs, in what the budget counts."""
        masks = self.state.accepted.masks
        return self.costs.of([int(masks[layer.name].count_nonzero()) for layer in self.layers])

    def elapsed(self) -> float:
        """Seconds of work so far, those before an interruption included."""
        return time.perf_counter() - self.started

    def _val_score(self) -> float:
        return self.task.val_score(self.task.model)

    def _kept(self, masks: dict[str, Tensor], values: Mapping[str, Tensor] | None = None) -> Kept:
        """The model as it is, with `masks`; `values` are the last ones of all weights, None where nothing is pruned."""
        model = {name: tensor.detach().cpu().clone() for name, tensor in self.task.model.state_dict().items()}
        current = {layer.name: weight_of(self.task.model, layer.name).detach().cpu() for layer in self.layers}
        if values is None:
            left = {name: torch.zeros(mask.shape, dtype=torch.int16) for name, mask in masks.items()}
            return Kept(model, masks, {name: value.clone() for name, value in current.items()}, left)
        # What stays has been trained since; what is pruned keeps the last value it had.
        last = {name: torch.where(masks[name], value, values[name].cpu()) for name, value in current.items()}
        assert self.state.stage is not None
        now, number = self.state.now, 1 + self.state.stage.index
        left = {
            name: torch.where(now.masks[name], number, now.left[name]).masked_fill_(mask, 0).short()
            for name, mask in masks.items()
        }
        return Kept(model, masks, last, left)

    def _put(self, kept: Kept) -> None:
        self.task.model.load_state_dict(kept.model)

    def _check_fits(self, folder: Folder) -> None:
        """Put the snapshot's weights into the model; raise where it is of another one."""
        state, shapes = self.state, {layer.name: layer.shape for layer in self.layers}
        for kept in (state.accepted, state.now):
            fits = {name: tuple(mask.shape) for name, mask in kept.masks.items()} == shapes
            try:
                self._put(kept)
            except RuntimeError:
                fits = False
            if not fits:
                raise EvopruneError(
                    f"{folder.snapshot} does not fit the model: other layers or shapes; go on with the model that the"
                    " run began with, or prune again with --overwrite"
                )

    def _tell(self, event: str, **content: Any) -> None:
        record = {"event": event, "seconds": round(self.elapsed(), 3), **content}
        self.journal.append(record)
        self.state.journal_bytes = self.journal.bytes
        if self.listener is not None:
            self.listener(record)

    def _show_layers(self, done: int) -> None:
        assert self.state.stage is not None
        self._show("ordered", layers=done, of=len(self.state.stage.layers))

    def _show_step(self, before: int, epochs: int, done: float) -> None:
        self._show("step", epochs_done=before + done, epochs=epochs)

    def _show(self, event: str, **content: Any) -> None:
        """To watch only: the journal holds what a run has decided."""
        if self.listener is not None:
            self.listener({"event": event, **content})

    def _tell_generation(self, number: int, search: Search, population: Population, scored: Scored) -> dict[str, Any]:
        chosen = search.best(population)
        fitness = population.fitness[chosen].tolist()
        best = {
            "sparsity": float(population.traits["sparsity"][chosen]),
            "score": float(population.traits["score"][chosen]),
            "loss": -fitness[1] if len(fitness) > 1 and not search.front else None,
            "fitness": fitness[0],
        }
        assert self.state.stage is not None
        self._tell(
            "generation",
            stage=self.state.stage.index,
            generation=number,
            evaluations=self.state.evaluations,
            full_evaluations=round(self.state.samples_scored / search.evaluator.samples, 3),
            best=best,
            mean_fitness=float(population.fitness[:, 0].mean()),
            candidates={
                "sparsity": [round(sparsity, 6) for sparsity in scored.sparsity],
                "score": [None if score is None else round(score, 6) for score in scored.score],
            },
        )
        return best

    def _snapshot(self, at_most_every: float = 0.0) -> None:
        now = time.perf_counter()
        if self.folder is not None and now - self.last_snapshot >= at_most_every:
            self.state.seconds = now - self.started
            try:
                save_state(self.state, self.folder.snapshot)
            except EvopruneError as error:
                raise EvopruneError(f"{error}, then `{self.folder.resuming}`") from error
            self.last_snapshot = now


def _never_empty(mask: Tensor) -> Tensor:
    """A layer without any weight would cut the network: its first weight stays."""
    if not mask.any():
        mask.view(-1)[0] = True
    return mask
