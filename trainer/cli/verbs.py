"""The verbs of the command line: their options and help.

The functions import their implementations, because importing torch would slow down `optlab --help`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperCommand

from trainer import streams
from trainer.cli import compare as compare_verb
from trainer.cli import completion, init, lessons
from trainer.cli import sweep as sweep_verb
from trainer.cli.options import (
    LOADING,
    RUNS,
    AsJson,
    ConfigFile,
    DescentOptions,
    ExistingRun,
    LandscapeFiles,
    OutputOptions,
    Overrides,
    RunFolder,
    RunsFolder,
    expand_options,
)
from trainer.console import waiting
from trainer.errors import ConfigError


class Verb(TyperCommand):
    """A command during which `print` writes to stderr, so that stdout has only results."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the command line; answer a config key that is given as an option with the override."""
        arguments = list(args)
        try:
            return super().parse_args(ctx, args)
        except Exception as error:  # typer exports no name for NoSuchOption
            option = str(getattr(error, "option_name", ""))
            if type(error).__name__ == "NoSuchOption" and "overrides" in (each.name for each in self.params):
                _refuse_option(option, arguments)
            raise

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        with streams.components_print_to_stderr():
            return super().invoke(ctx)


def _refuse_option(option: str, arguments: Sequence[str]) -> None:
    """Raise ConfigError if an unknown option is a key of the config, as in `--lr 0.1` and `--epochs=3`."""
    from trainer.config.suggestions import option_as_override

    at = next(i for i, text in enumerate(arguments) if text.partition("=")[0] == option)
    value = arguments[at].partition("=")[2] or next(iter(arguments[at + 1 : at + 2]), None)
    if override := option_as_override(option, value):
        raise ConfigError(
            f"there is no option {option}",
            where="command line",
            expected="config keys as KEY=VALUE",
            fix=f"did you mean {override}?",
        )


app = typer.Typer(
    name="optlab",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Start with: optlab train quickstart, or optlab init to write example configs",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import PackageNotFoundError, version

        try:
            typer.echo(f"optlab {version('optlab')}")
        except PackageNotFoundError:
            typer.echo("optlab, not installed")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Train small neural networks from YAML configs and compare optimizers fairly."""


def verb(name: str | None = None, *, panel: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a function as a verb, listed in a panel of the help."""
    register = app.command(name, cls=Verb, rich_help_panel=panel)
    return lambda function: register(expand_options(function))


verb(panel="Start")(init.init)


@verb(panel="Train")
def train(
    config: ConfigFile,
    overrides: Overrides = None,
    *,
    folder: RunFolder,
    existing: ExistingRun,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the config, parameter groups, steps and a time estimate.")
    ] = False,
    output: OutputOptions,
) -> None:
    """Train one experiment and write a run directory.

    Exit codes: 0 done, 1 failed, 2 invalid config or usage, 3 diverged, 130 interrupted, 143 terminated,
    129 terminal closed.

    Examples:

        optlab train quickstart

        optlab train sgd_momentum optimizer.lr=0.1 train.epochs=1 seed=3

        for lr in 1 .1 .01; do optlab train sgd optimizer.lr=$lr --skip-existing; done
    """
    with waiting(LOADING, quiet=output.quiet):
        from trainer.cli import commands

    raise typer.Exit(commands.train(config, overrides or [], folder, existing, output, dry_run=dry_run))


@verb(panel="Train")
def resume(
    run: Annotated[Path, typer.Argument(help="A run directory.", autocompletion=completion.run_dirs)],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Overrides that extend the run: train.epochs=20"),
    ] = None,
    trust: Annotated[
        bool,
        typer.Option("--trust", help="Execute the user code of a run from another user, host or path."),
    ] = False,
    *,
    output: OutputOptions,
) -> None:
    """Resume a run from its last checkpoint. The result equals that of an uninterrupted run, bit for bit.

    A larger `train.epochs` extends a finished run. Overrides that would change completed steps are refused.

    Examples:

        optlab resume runs/quickstart/seed=0

        optlab resume runs/quickstart/seed=0 train.epochs=40
    """
    with waiting(LOADING, quiet=output.quiet):
        from trainer.cli.resume import resume as run_resume

    raise typer.Exit(run_resume(run, overrides or [], output, trust=trust))


verb(panel="Train")(sweep_verb.sweep)


@verb(panel="Train")
def validate(
    config: ConfigFile,
    overrides: Overrides = None,
    require_data: Annotated[
        bool, typer.Option("--data", help="Exit with an error if the data set is not on disk.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check a config without training: names, options, shapes, parameter groups. Downloads nothing.

    If the data set is not on disk, the checks that need it are skipped, and a note says so.

    Python files and packages named in the config are printed, then imported, which executes them.

    Examples:

        optlab validate adam

        optlab validate adam optimizer.lr=-1
    """
    with waiting(LOADING):
        from trainer.cli import commands

    commands.validate(config, overrides or [], require_data=require_data, as_json=as_json)


@verb(panel="Train")
def prepare(
    name: Annotated[str, typer.Argument(help="Name of a data set.", autocompletion=completion.datasets)],
    options: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Options of the data set: root=DIR split=letters"),
    ] = None,
) -> None:
    """Download a data set and check it, so that later runs need no network.

    The files are stored in `root`, else in OPTLAB_DATA, else in your cache directory. Data sets that are slow
    to decode are also stored decoded, in OPTLAB_CACHE or your cache directory.

    Examples:

        optlab prepare mnist

        optlab prepare emnist split=letters root=/data
    """
    with waiting(LOADING):
        from trainer.cli import commands

    commands.prepare(name, options or [])


@verb(panel="Inspect")
def plot(
    run: Annotated[list[Path], typer.Argument(help="Run directories.", autocompletion=completion.run_dirs)],
    formats: Annotated[
        list[str] | None, typer.Option("--format", help="png, svg or pdf. Can be repeated.")
    ] = None,
) -> None:
    """Redraw the figures of runs from their CSV files.

    Examples:

        optlab plot runs/quickstart/seed=0

        optlab plot runs/quickstart/seed=0 --format svg --format pdf
    """
    with waiting(LOADING):
        from trainer.cli import commands

    commands.plot(run, formats or ["png"])


verb(panel="Inspect")(compare_verb.compare)
verb(panel="Train")(lessons.lessons)


@verb("runs", panel="Inspect")
def list_runs(
    folders: Annotated[
        list[Path] | None, typer.Argument(help="Folders to search (default: the directory of all runs).")
    ] = None,
    runs: RunsFolder = RUNS,
    sort: Annotated[
        str, typer.Option(help="Column to sort by; prefix it with - for descending.", metavar="COLUMN")
    ] = "run",
    wide: Annotated[
        bool, typer.Option("--wide", help="Show all columns and whole paths, also on a narrow terminal.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """List runs with their status and results.

    Examples:

        optlab runs

        optlab runs runs/sgd --sort=-val_accuracy

        optlab runs --json | jq '.[] | select(.status == "diverged") | .run'
    """
    from trainer.cli import runs as runs_table

    runs_table.list_runs(folders or [runs], sort=sort, wide=wide, as_json=as_json)


@verb("list", panel="Inspect")
def list_components(
    kind: Annotated[
        str | None,
        typer.Argument(help="dataset, augmentation, model, init, loss, metric, optimizer or scheduler."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the components that a config can use.

    Examples:

        optlab list

        optlab list optimizer
    """
    with waiting(LOADING):
        from trainer.cli import commands

    commands.list_components(kind, as_json=as_json)


@verb(panel="Inspect")
def show(
    kind: Annotated[
        str, typer.Argument(help="dataset, augmentation, model, init, loss, metric, optimizer or scheduler.")
    ],
    name: Annotated[
        str,
        typer.Argument(help="A component of this kind, or file.py:Thing.", autocompletion=completion.names),
    ],
    options: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Options of a model, for its table of layers."),
    ] = None,
    shape: Annotated[
        str | None,
        typer.Option("--input", help="Shape of one sample, for the table of layers.", metavar="C,H,W"),
    ] = None,
    classes: Annotated[int, typer.Option(help="Number of classes, for the table of layers.", min=1)] = 10,
    as_json: AsJson = False,
) -> None:
    """Show a component's options; for a model also its layers, output shapes and parameters.

    Examples:

        optlab show optimizer AdamW

        optlab show model cnn

        optlab show model mlp hidden=[100,100] --input 3,32,32
    """
    with waiting(LOADING):
        from trainer.cli import commands

    commands.show(kind, name, options or [], shape=shape, classes=classes, as_json=as_json)


@verb("landscape", panel="Inspect")
def watch_landscape(
    problem: Annotated[
        str,
        typer.Argument(
            help="rosenbrock, beale, himmelblau, rastrigin, booth, three_hump_camel or quadratic."
        ),
    ],
    *,
    descent: DescentOptions,
    files: LandscapeFiles,
    as_json: AsJson = False,
) -> None:
    """Draw the paths of optimizers on a surface of two parameters: a contour figure and an animated GIF.

    The learning rates are tuned with the same budget for each optimizer; the figure's title states it.

    Examples:

        optlab landscape rosenbrock --optimizers SGD,Adam,RMSprop

        optlab landscape beale --optimizers SGD:momentum=0.9,Adam --start 1,1.5 --steps 500

        optlab landscape quadratic --lr 0.01 -o slides/quadratic.svg --no-gif
    """
    with waiting(LOADING):
        from trainer.cli import landscape

    landscape.landscape(problem, descent, files, as_json=as_json)


@verb(panel="Tools")
def bench(
    root: Annotated[
        Path | None, typer.Option(help="Folder with MNIST (default: OPTLAB_DATA).", metavar="DIR")
    ] = None,
    model: Annotated[
        Literal["mlp", "cnn"],
        typer.Option(help="mlp: 784-200-10 on MNIST; cnn: three 5x5 convolutions on 32x32x3 noise."),
    ] = "mlp",
    optimizer: Annotated[Literal["SGD", "Adam", "AdamW"], typer.Option(help="SGD has momentum 0.9.")] = "SGD",
    batch_size: Annotated[int, typer.Option(help="Samples per step.", min=1, max=2000)] = 64,
    steps: Annotated[int, typer.Option(help="Steps per loop and round, at most one epoch.", min=30)] = 900,
    rounds: Annotated[int, typer.Option(help="Measured rounds, after one warm-up round.", min=1)] = 9,
    threads: Annotated[int | None, typer.Option(help="Cores for every loop (default: all).", min=1)] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Draw a figure: png, svg or pdf.", metavar="FILE")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure optlab's engines and other training loops on this machine, with the same network and data.

    The loops are interleaved: each runs once per round. The table shows medians. JAX, Keras and Lightning are
    included if installed (pip install optlab[bench]). Run nothing else at the same time.

    Examples:

        optlab bench -o bench.png

        optlab bench --batch-size 1 --threads 1 --json

        optlab bench --model cnn --steps 60
    """
    with waiting(LOADING):
        from trainer.bench.task import Setting
        from trainer.cli.bench import bench as run_bench

    setting = Setting(model, optimizer, batch_size, steps, rounds, threads)
    run_bench(root, setting, output=output, as_json=as_json)


@verb(panel="Tools")
def schema(
    sweep: Annotated[bool, typer.Option("--sweep", help="Print the schema of sweep files.")] = False,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="File to write (default: stdout).", metavar="FILE"),
    ] = None,
) -> None:
    """Print the JSON Schema of configs, which editors use for completion and checks.

    Add `# yaml-language-server: $schema=optlab.schema.json` as the first line of a config, or see
    docs/editors.md.

    Examples:

        optlab schema -o optlab.schema.json

        optlab schema --sweep -o optlab.sweep.schema.json
    """
    with waiting(LOADING):
        from trainer.cli import commands

    commands.schema(output, sweep=sweep)


@verb(panel="Tools")
def doctor(runs: RunsFolder = RUNS, as_json: AsJson = False) -> None:
    """Print versions, devices, threads, data sets on disk, the cache and write access.

    Examples:

        optlab doctor
    """
    with waiting(LOADING):
        from trainer.cli import commands

    commands.doctor(runs, as_json=as_json)
