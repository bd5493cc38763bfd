"""The command line: parse, call, print. Results go to stdout, everything else to stderr."""

from __future__ import annotations

import json
import logging
import os
import shlex
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, NoReturn, cast

import torch
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from evoprune import api
from evoprune.core import EvopruneError, prunable_layers, said
from evoprune.progress import ProgressView
from evoprune.report import layer_table, summary_lines, write_report
from evoprune.run import Result, make_settings, parse_duration
from evoprune.run.settings import AlgorithmName, BudgetName, DeviceName, GuidanceName, PresetName
from evoprune.tasks import device_named
from evoprune.training import Precision, Recipe
from evoprune.zoo import BUILT_IN, NETWORKS, checkpoint_path, load_checkpoint, load_data, load_model
from evoprune.zoo import train as run_training

__all__ = ["app", "main"]

app = typer.Typer(
    name="evoprune", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
    help="Prune trained PyTorch models by evolution.",
)  # fmt: skip
NOTHING = "nothing was changed"
SMALLER = "--device cpu, or a smaller --batch-size from the start, needs less"
UsageError = cast(type[Exception], typer.BadParameter.__mro__[1])
"""What the command line's parser raises, wherever this version of typer keeps it."""


Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on stdout instead of tables.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Device = Annotated[DeviceName, typer.Option(help="auto: the GPU where there is one.")]
Run = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")]
Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help=f"{', '.join(BUILT_IN)}, or package.module:factory (a callable that returns an nn.Module).",
    ),
]
Checkpoint = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        help="Trained weights: .safetensors, a PyTorch state dict, or the name of a built-in model; a built-in model"
        " has its shipped ones by default.",
    ),
]
DataName = Annotated[
    str | None,
    typer.Option(
        "--data",
        metavar="NAME_OR_DIR",
        help="mnist-sample, mnist, cifar10, or a folder of parquet splits; a built-in model has its own.",
    ),
]


def _version(wanted: bool) -> None:
    if wanted:
        print(f"evoprune {version('evoprune')}")
        raise typer.Exit


@app.callback()
def _options(
    _: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Options that belong to no command."""


@app.command()
def prune(
    model: Model,
    checkpoint: Checkpoint = None,
    data: DataName = None,
    layer: Annotated[list[str] | None, typer.Option(help="Prune only this layer; may be repeated.")] = None,
    space: Annotated[  # not SpaceName: what is not there yet has an answer of its own (run/contradictions.py)
        str | None,
        typer.Option(
            help="weights: one bit a weight (default); allocation: one budget a layer; mixture: budgets, then bits near"
            " their boundaries; training: no search, masks tighten in training (default with guidance gradient)."
        ),
    ] = None,
    budget: Annotated[BudgetName | None, typer.Option(help="What --sparsity counts; weights by default.")] = None,
    preset: Annotated[
        PresetName, typer.Option(help="original: the reference's search, and its numbers in place of these defaults.")
    ] = "default",
    guidance: Annotated[
        GuidanceName, typer.Option(help="What may be assumed of weights; with gradient masks tighten in training.")
    ] = "none",
    algorithm: Annotated[
        AlgorithmName | None, typer.Option(help="Who makes better genomes from scored ones; steady by default.")
    ] = None,
    floor: Annotated[float | None, typer.Option(help="Validation score to keep; accuracy from 0 to 1.")] = None,
    max_drop: Annotated[
        float | None,
        typer.Option(
            help="Points of validation score to lose: 0.5 of accuracy 0.99 leaves 0.985; 0.75 if no goal is given."
        ),
    ] = None,
    sparsity: Annotated[
        float | None,
        typer.Option(
            help="Share of zeros to reach in the pruned layers, from 0 to 1; without a floor whatever the score."
        ),
    ] = None,
    passes: Annotated[str | None, typer.Option(help="Sparsity of each pass, such as 0.6,1.0.")] = None,
    front: Annotated[
        bool, typer.Option("--front", help="Keep every stage's model; the floor picks the result.")
    ] = False,
    alpha: Annotated[
        float | None, typer.Option(help="Weight of sparsity in the original fitness; 0.8 by default.")
    ] = None,
    population: Annotated[
        int | None, typer.Option(help="Genomes; 12 by default, 8 for resnet18, 10 with preset original.")
    ] = None,
    generations: Annotated[
        int | None,
        typer.Option(help="Of each stage; 5 by default; with preset original 25, resnet18 15, one layer alone 20."),
    ] = None,
    crossover_rate: Annotated[
        float | None,
        typer.Option(help="Probability that a child has two parents, of ga, steady and nsga2; 0.8 by default."),
    ] = None,
    mutation_rate: Annotated[
        float | None,
        typer.Option(
            help="First share of bits that a mutation moves, of space weights; 0.002 by default. With preset original:"
            " the share of bits that it clears, 0.1, of one layer alone 0.05."
        ),
    ] = None,
    initial_sparsity: Annotated[
        float | None, typer.Option(help="Of the original preset's first genomes; 0.1 by default.")
    ] = None,
    finetune_epochs: Annotated[
        int | None,
        typer.Option(
            help="After each stage; 2 by default, 1 for resnet18; without --passes half of them, rounded up, while over"
            " 15 % of the weights stay."
        ),
    ] = None,
    final_epochs: Annotated[
        int | None,
        typer.Option(help="At the end, and where the floor needs them; 8 by default, 10 for resnet18."),
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="Of fine-tuning; 0.003 by default (Adam), 0.05 for resnet18 (SGD).")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="Of fine-tuning; 128 by default.")] = None,
    distill: Annotated[
        float | None,
        typer.Option(help="Share of the loss that asks for the dense model's outputs; 0.5 by default."),
    ] = None,
    shift: Annotated[
        int | None, typer.Option(help="Pixels that fine-tuning's images move by at most, both ways.")
    ] = None,
    flip: Annotated[
        bool | None, typer.Option("--flip/--no-flip", help="Mirror images at random in fine-tuning.")
    ] = None,
    cutout: Annotated[
        int | None, typer.Option(help="Pixels a side of a square that each image loses in fine-tuning.")
    ] = None,
    first_size: Annotated[
        int | None, typer.Option(help="Pixels a side of fine-tuning's first images; at the end they have full size.")
    ] = None,
    train_precision: Annotated[Precision | None, typer.Option(help="Of fine-tuning; float32 by default.")] = None,
    recalibrate: Annotated[
        bool | None,
        typer.Option(
            "--recalibrate/--no-recalibrate",
            help="Measure batch norms anew, for each candidate and each stage's masks. The default does so where"
            " several layers with batch norms are searched at once and the training data suits it.",
        ),
    ] = None,
    include_norm: Annotated[bool, typer.Option("--include-norm", help="Prune the scales of norm layers too.")] = False,
    time_limit: Annotated[
        str | None,
        typer.Option(help="90s, 10m or 1h; ends in a valid, fine-tuned result: one generation and an epoch at least."),
    ] = None,
    memory_mb: Annotated[int | None, typer.Option(help="Memory that scoring may use; 1024 by default.")] = None,
    scoring: Annotated[
        str | None, typer.Option(help="Fast ways to use, of prefix, batched, racing, precision (all), or reference.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Same seed, same result.")] = 0,
    device: Device = "auto",
    workers: Annotated[int, typer.Option(help="Processes (1 so far).")] = 1,
    threads: Annotated[int | None, typer.Option(help="Of PyTorch; its own choice by default.")] = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Run folder; runs/MODEL by default.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Start over where --out holds a run.")] = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Prune a model; writes a run folder with masks, weights and a report."""
    folder = out or Path("runs") / model.replace(":", "-")
    begun = _watched(folder / "config.json")

    def call() -> None:
        settings = make_settings(
            model=model, checkpoint=checkpoint, data=data, layers=layer or None, space=space, preset=preset,
            budget=budget, guidance=guidance, algorithm=algorithm, floor=floor, max_drop=max_drop,
            sparsity=sparsity, passes=passes, front=front, alpha=alpha, population=population,
            generations=generations, crossover_rate=crossover_rate, mutation_rate=mutation_rate,
            initial_sparsity=initial_sparsity, finetune_epochs=finetune_epochs, final_epochs=final_epochs,
            learning_rate=learning_rate, batch_size=batch_size, distill=distill, shift=shift, flip=flip,
            cutout=cutout, first_size=first_size, train_precision=train_precision, recalibrate=recalibrate,
            include_norm=include_norm,
            time_limit_seconds=parse_duration(time_limit) if time_limit is not None else None, memory_mb=memory_mb,
            scoring=scoring, seed=seed, device=device, workers=workers,
            threads=threads, command=shlex.join(["evoprune", *sys.argv[1:]]),
        )  # fmt: skip
        with ProgressView(quiet) as view:
            result = api.prune_named(settings, folder, overwrite, view)
        _show(result, as_json)

    def go_on() -> str:
        return f"`evoprune resume {shlex.quote(str(folder))}` goes on where it stopped" if begun() else NOTHING

    _guard(call, debug, go_on, SMALLER)


@app.command()
def resume(run: Run, quiet: Quiet = False, as_json: AsJson = False, debug: Debug = False) -> None:
    """Go on with an interrupted run; the result is that of an unbroken one, bit for bit."""

    def call() -> None:
        with ProgressView(quiet) as view:
            result = api.resume(run, listener=view)
        _show(result, as_json)

    _guard(call, debug, lambda: "the same command again goes on where it stopped")


@app.command()
def finetune(
    run: Run,
    epochs: Annotated[int, typer.Option(help="Passes over the training data.")] = 20,
    learning_rate: Annotated[float | None, typer.Option(help="As in the run by default.")] = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Train the pruned model of a finished run further, its masks kept exactly."""
    done = _watched(run / "result.json", Path.read_bytes)  # it may have been put back

    def call() -> None:
        with ProgressView(quiet) as view:
            tuned = api.finetune(run, epochs, learning_rate, view, shlex.join(["evoprune", *sys.argv[1:]]))
        _show(tuned, as_json)
        if not as_json:
            print(f"before: {max(run.glob('model.before-finetune*'), key=lambda path: path.stat().st_mtime_ns)}")

    def go_on() -> str:
        report = f"`evoprune report {shlex.quote(str(run))}` draws its report"
        return f"the model is fine-tuned; {report}" if done() else NOTHING

    _guard(call, debug, go_on)


@app.command("eval")
def evaluate(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help=f"A run folder, or a shipped network: {', '.join(NETWORKS)}.")
    ],
    data: Annotated[
        str | None,
        typer.Option(
            metavar="NAME_OR_DIR",
            help="For a shipped network; its model's own by default. A run is scored on its own data.",
        ),
    ] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Score the pruned model of a run again, or a shipped network, beside what was recorded of it."""

    def call() -> None:
        with Console(stderr=True).status(f"scoring {escape(str(run))} on the validation and test data"):
            found = api.evaluate(run, data)
        if as_json:
            print(json.dumps(found))
            return
        table = Table(title=escape(f"{found['model']} in {run}"), title_justify="left")
        table.add_column("")
        for column, side in (("measured now", found), ("recorded", found["recorded"])):
            table.add_column(
                escape(f"{column}, on {Path(side['data']).name}") if side["data"] else column, justify="right"
            )
        for name in api.RECORDED:
            table.add_row(name.replace("_", " "), *(_number(side[name]) for side in (found, found["recorded"])))
        Console().print(table)

    _guard(call, debug)


@app.command(hidden=True)
def export(run: str, to: Annotated[str, typer.Option()] = "dense") -> None:  # noqa: ARG001 (the contract's form)
    """Not there yet."""
    _fail(
        "export is not there yet; model.safetensors in the run folder is dense and loads everywhere, masks.safetensors"
        " holds the masks"
    )


@app.command()
def report(run: Run, debug: Debug = False) -> None:
    """Draw the figures and the report of a run again, also of an unfinished one."""

    def call() -> None:
        print(write_report(run))

    _guard(call, debug)


@app.command()
def layers(
    model: Model,
    checkpoint: Checkpoint = None,
    include_norm: Annotated[bool, typer.Option("--include-norm", help="List the scales of norm layers too.")] = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """List the layers that can be pruned."""

    def call() -> None:
        built = load_model(model)
        if checkpoint is not None:
            load_checkpoint(built, checkpoint_path(checkpoint))
        found = prunable_layers(built, include_norm)
        if as_json:
            rows = [{"name": la.name, "kind": la.kind, "shape": la.shape, "weights": la.size} for la in found]
            print(json.dumps(rows))
            return
        table = Table(
            title=escape(f"{model}: {sum(la.size for la in found):,} weights can be pruned"), title_justify="left"
        )
        for column in ("layer", "kind", "shape", "weights"):
            table.add_column(column, justify="right" if column == "weights" else "left")
        for la in found:
            table.add_row(escape(la.name), la.kind, " x ".join(map(str, la.shape)), f"{la.size:,}")
        Console().print(table)

    _guard(call, debug)


@app.command()
def train(
    model: Model,
    data: Annotated[str, typer.Option("--data", metavar="NAME_OR_DIR", help="As for prune.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="The .safetensors file to write.")],
    checkpoint: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Train these weights on, or those that come with a model, by its name; random ones by default.",
        ),
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training data.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Highest of the schedule.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images a step.")] = None,
    cutout: Annotated[int | None, typer.Option(help="Pixels a side of a square that each image loses.")] = None,
    first_size: Annotated[int | None, typer.Option(help="Pixels a side of the first images; 0: full size.")] = None,
    seed: Annotated[int, typer.Option(help="Same seed, same weights.")] = 0,
    device: Device = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace FILE, and start over.")] = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Train a model; continues where an interrupted training of the same settings stopped."""
    given: dict[str, Any] = {
        "epochs": epochs, "learning_rate": learning_rate, "batch_size": batch_size, "cutout": cutout,
        "first_size": first_size,
    }  # fmt: skip

    def call() -> None:
        if not 0 <= seed < 2**64:
            raise EvopruneError(f"--seed {seed}: expected a number from 0 to 2**64 - 1")
        if out.suffix != ".safetensors":
            raise EvopruneError(f"--out {out}: weights become safetensors; give a name that ends in .safetensors")
        begun = Path(f"{out}.part").exists()  # with --overwrite, and then interrupted
        if out.is_dir() or (out.exists() and not overwrite and not begun):
            raise EvopruneError(f"{out} exists already; replace it with --overwrite, or choose another --out")
        recipe = BUILT_IN[model].recipe if model in BUILT_IN else Recipe()
        recipe = replace(recipe, **{name: value for name, value in given.items() if value is not None})
        built, images = load_model(model, seed), load_data(data)
        described = {"model": model}
        if checkpoint is not None:
            described["from"] = json.dumps(load_checkpoint(built, checkpoint_path(checkpoint)))
        built.to(device_named(device))

        with ProgressView(quiet, doing="training") as view:

            def on_epoch(epoch: dict[str, float]) -> None:
                scores = {"loss": epoch["train_loss"], "val_score": epoch["val_accuracy"]}
                view({"event": "epoch", "epoch": int(epoch["epoch"]) - 1, "epochs": recipe.epochs, **scores})

            def on_step(done: float) -> None:
                view({"event": "step", "epochs_done": done, "epochs": recipe.epochs})

            view({"event": "stage_start", "name": model})
            trained = run_training(
                built, images, recipe, seed, out,
                on_epoch=on_epoch, on_step=on_step, restart=overwrite, metadata=described,
            )  # fmt: skip
        if as_json:
            print(json.dumps({"model": model, "data": images.name, "file": str(out), "seed": seed} | trained))
            return
        print(f"validation accuracy  {trained['val_accuracy']:.2%}")
        print(f"test accuracy        {trained['test_accuracy']:.2%}")
        print(f"weights              {out}")

    def go_on() -> str:
        begun = Path(f"{out}.part").exists()
        return "the same command without --overwrite goes on after the last whole epoch" if begun else NOTHING

    _guard(call, debug, go_on, SMALLER)


def _show(result: Result, as_json: bool) -> None:
    if as_json:
        print(json.dumps(result.summary))
        return
    Console().print(layer_table(result.summary))
    for line in summary_lines(result.summary):
        print(line)
    if result.path is not None:
        print(f"report: {result.path / 'report.html'}")


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"


def _watched(path: Path, look: Callable[[Path], object] = lambda path: path.stat().st_mtime_ns) -> Callable[[], bool]:
    """Tells whether a file is there and has been written since this call; or whether what `look` sees is another."""

    def seen() -> object:
        return look(path) if path.is_file() else None

    before = seen()
    return lambda: seen() not in (None, before)


def _guard(
    call: Callable[[], None],
    debug: bool,
    go_on: Callable[[], str] = lambda: NOTHING,
    needs_less: str = "free some, or hide the GPU with CUDA_VISIBLE_DEVICES=",
) -> None:
    """Errors of the user become one line and exit code 2."""
    try:
        call()
    except EvopruneError as error:
        if debug:
            raise
        _fail(str(error))
    except torch.OutOfMemoryError as error:
        if debug:
            raise
        _fail(f"the GPU has too little memory ({said(error)}); {needs_less}; {go_on()}")
    except KeyboardInterrupt:
        print(f"evoprune: interrupted; {go_on()}", file=sys.stderr)
        raise SystemExit(130) from None


def _fail(message: str) -> NoReturn:
    print(f"evoprune: {' '.join(message.split())}", file=sys.stderr)
    raise SystemExit(2) from None


def _forget_output() -> None:
    """Python flushes stdout once more at its end, which would fail again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def main() -> None:
    """Entry point of the `evoprune` command."""
    logging.basicConfig(format="%(name)s: %(levelname)s: %(message)s")
    try:
        code = app(sys.argv[1:] or ["--help"], standalone_mode=False)
        sys.stdout.flush()  # here, where a full disk can still be told of
        raise SystemExit(code)
    except UsageError as error:
        message = getattr(error, "format_message", error.__str__)().replace("Value error, ", "")
        _fail(f"{message.rstrip('.')}; see `evoprune --help` or `evoprune COMMAND --help`")
    except BrokenPipeError:  # the reader of our output, such as `head`, has gone
        _forget_output()
        raise SystemExit(1) from None
    except OSError as error:
        if "--debug" in sys.argv:
            raise
        _forget_output()
        where = f" {error.filename}" if error.filename else " the output"
        _fail(f"cannot read or write{where}: {error.strerror or error}; free space or choose another place")
