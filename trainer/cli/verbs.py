"""The verbs of the command line, with bodies of a few lines each.

torch is imported inside the commands alone, so that `optlab --help` answers at once.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperCommand

from trainer import streams
from trainer.cli import compare as compare_verb
from trainer.cli import completion
from trainer.cli import sweep as sweep_verb


class Verb(TyperCommand):
    """A command during which `print` writes to stderr: what components print is no result."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        with streams.components_print_to_stderr():
            return super().invoke(ctx)


app = typer.Typer(
    name="optlab",
    help="Train small neural networks and compare optimizers honestly: YAML in, a run directory out.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Start with: optlab train configs/quickstart.yaml",
)

verb = partial(app.command, cls=Verb)

ConfigFile = Annotated[
    Path, typer.Argument(help="The experiment's YAML file.", autocompletion=completion.config_files)
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]...",
        help="Overrides, values in YAML: optimizer.lr=0.1 scheduler=null model.hidden=[100,50]",
        autocompletion=completion.overrides,
    ),
]
Runs = Annotated[
    Path, typer.Option("--runs", envvar="OPTLAB_RUNS", help="Directory that holds all runs.", metavar="DIR")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]
RUNS = Path("runs")


@verb(rich_help_panel="Train")
def train(
    config: ConfigFile,
    overrides: Overrides = None,
    runs: Runs = RUNS,
    run_dir: Annotated[
        Path | None, typer.Option(help="Name the run's directory exactly.", metavar="DIR")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Throw away a run that is there already.")] = False,
    skip_existing: Annotated[
        bool, typer.Option("--skip-existing", help="Leave a finished run of the same config as it is.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a run that is there, from its last checkpoint.")
    ] = False,
    wait: Annotated[
        bool,
        typer.Option("--wait", help="As --skip-existing, after a process that is training it has finished."),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the resolved config, groups, steps and an estimate.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")] = False,
    as_json: AsJson = False,
) -> None:
    """Train one experiment and leave a run directory.

    Exit codes: 0 done, 1 failed, 2 your config or usage, 3 diverged, 130 interrupted, 143 terminated,
    129 hung up.

    Examples:

        optlab train configs/quickstart.yaml

        optlab train configs/sgd_momentum.yaml optimizer.lr=0.1 train.epochs=1 seed=3

        for lr in 1 .1 .01; do optlab train configs/sgd.yaml optimizer.lr=$lr --skip-existing; done
    """
    from trainer.cli import commands

    raise typer.Exit(
        commands.train(
            config,
            overrides or [],
            runs=runs,
            run_dir=run_dir,
            force=force,
            skip_existing=skip_existing,
            resume=resume,
            wait=wait,
            dry_run=dry_run,
            quiet=quiet,
            as_json=as_json,
        )
    )


@verb(rich_help_panel="Train")
def resume(
    run: Annotated[Path, typer.Argument(help="A run directory.", autocompletion=completion.run_dirs)],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="What may change on the way: train.epochs=20"),
    ] = None,
    trust: Annotated[
        bool, typer.Option("--trust", help="Execute the code that a run made elsewhere names.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")] = False,
    as_json: AsJson = False,
) -> None:
    """Go on with a run from its last checkpoint; it ends as if it had never stopped, to the last bit.

    A longer `train.epochs` extends a finished run. A setting that would change what was done is refused.

    Examples:

        optlab resume runs/quickstart/seed=0

        optlab resume runs/quickstart/seed=0 train.epochs=40
    """
    from trainer.cli.resume import resume as run_resume

    raise typer.Exit(run_resume(run, overrides or [], trust=trust, quiet=quiet, as_json=as_json))


verb(rich_help_panel="Train")(sweep_verb.sweep)


@verb(rich_help_panel="Train")
def validate(config: ConfigFile, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Check a config without training: names, options, shapes, parameter groups. Downloads nothing.

    Python files and packages that the config names are imported, which executes them; they are printed first.

    Examples:

        optlab validate configs/adam.yaml

        optlab validate configs/adam.yaml optimizer.lr=-1
    """
    from trainer.cli import commands

    commands.validate(config, overrides or [], as_json=as_json)


@verb(rich_help_panel="Train")
def prepare(
    name: Annotated[str, typer.Argument(help="Name of a data set.", autocompletion=completion.datasets)],
    options: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Its options: root=DIR split=letters")
    ] = None,
) -> None:
    """Download a data set and check it, so that later runs need no network.

    It goes to `root`, else OPTLAB_DATA, else the cache directory of your account. What takes time to decode
    is decoded here, into OPTLAB_CACHE, else the same cache directory.

    Examples:

        optlab prepare mnist

        optlab prepare emnist split=letters root=/data
    """
    from trainer.cli import commands

    commands.prepare(name, options or [])


@verb(rich_help_panel="Look")
def plot(
    run: Annotated[list[Path], typer.Argument(help="Run directories.", autocompletion=completion.run_dirs)],
    formats: Annotated[
        list[str] | None, typer.Option("--format", help="png, svg or pdf; may be given several times.")
    ] = None,
) -> None:
    """Draw the figures of runs again, from their CSV files alone.

    Examples:

        optlab plot runs/quickstart/seed=0

        optlab plot runs/quickstart/seed=0 --format svg --format pdf
    """
    from trainer.cli import commands

    commands.plot(run, formats or ["png"])


verb(rich_help_panel="Look")(compare_verb.compare)


@verb(name="runs", rich_help_panel="Look")
def list_runs(
    folders: Annotated[
        list[Path] | None, typer.Argument(help="Where to look (default: the directory of all runs).")
    ] = None,
    runs: Runs = RUNS,
    sort: Annotated[
        str, typer.Option(help="Column to sort by; a minus in front turns it round.", metavar="COLUMN")
    ] = "run",
    as_json: AsJson = False,
) -> None:
    """List runs with their status and results.

    Examples:

        optlab runs

        optlab runs runs/sgd --sort=-val_accuracy

        optlab runs --json | jq '.[] | select(.status == "diverged") | .run'
    """
    from trainer.cli import runs as runs_table

    runs_table.list_runs(folders or [runs], sort=sort, as_json=as_json)


@verb(name="list", rich_help_panel="Look")
def list_components(
    kind: Annotated[
        str | None,
        typer.Argument(help="dataset, augmentation, model, init, loss, optimizer or scheduler."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the components that a config may name.

    Examples:

        optlab list

        optlab list optimizer
    """
    from trainer.cli import commands

    commands.list_components(kind, as_json=as_json)


@verb(rich_help_panel="Look")
def show(
    kind: Annotated[
        str, typer.Argument(help="dataset, augmentation, model, init, loss, optimizer or scheduler.")
    ],
    name: Annotated[
        str, typer.Argument(help="One of its names, or file.py:Thing.", autocompletion=completion.names)
    ],
    options: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Options, for the layers of a model.")
    ] = None,
    shape: Annotated[
        str | None,
        typer.Option("--input", help="Shape of one sample, for the layers of a model.", metavar="C,H,W"),
    ] = None,
    classes: Annotated[int, typer.Option(help="Number of classes, for the layers of a model.", min=1)] = 10,
    as_json: AsJson = False,
) -> None:
    """Show a component's options; of a model also its layers, output shapes and parameters.

    Examples:

        optlab show optimizer AdamW

        optlab show model cnn

        optlab show model mlp hidden=[100,100] --input 3,32,32
    """
    from trainer.cli import commands

    commands.show(kind, name, options or [], shape=shape, classes=classes, as_json=as_json)


@verb(name="landscape", rich_help_panel="Look")
def watch_landscape(
    problem: Annotated[
        str,
        typer.Argument(
            help="rosenbrock, beale, himmelblau, rastrigin, booth, three_hump_camel or quadratic."
        ),
    ],
    optimizers: Annotated[
        str, typer.Option(help="Which, with options: SGD,SGD:momentum=0.9,Adam", metavar="NAME,NAME")
    ] = "SGD,SGD:momentum=0.9,RMSprop,Adam",
    steps: Annotated[
        int,
        typer.Option(
            help="Steps of each descent; counted in gradients, of which LBFGS takes many in a step.",
            min=1,
            max=100_000,
        ),
    ] = 300,
    start: Annotated[
        str | None, typer.Option(help="Where all begin (default: the problem's own).", metavar="X,Y")
    ] = None,
    lr: Annotated[float | None, typer.Option(help="One learning rate for all, not tuned.")] = None,
    tune: Annotated[
        bool, typer.Option("--tune/--no-tune", help="Tune each learning rate, or take each one's default.")
    ] = True,
    trials: Annotated[int, typer.Option(help="Learning rates tried for each.", min=2, max=1000)] = 20,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="A folder, or the figure's file (png, svg, pdf).", metavar="PATH"
        ),
    ] = None,
    animate: Annotated[bool, typer.Option("--gif/--no-gif", help="Write the animation too.")] = True,
    runs: Runs = RUNS,
    as_json: AsJson = False,
) -> None:
    """Watch optimizers descend a surface of two parameters: a contour figure and an animated GIF.

    Each optimizer's learning rate is tuned with the same budget, which the title states.

    Examples:

        optlab landscape rosenbrock --optimizers SGD,Adam,RMSprop

        optlab landscape beale --optimizers SGD:momentum=0.9,Adam --start 1,1.5 --steps 500

        optlab landscape quadratic --lr 0.01 -o slides/quadratic.svg --no-gif
    """
    from trainer.cli import landscape

    landscape.landscape(
        problem,
        optimizers,
        steps=steps,
        start=start,
        lr=lr,
        tune=tune,
        trials=trials,
        output=output,
        runs=runs,
        animate=animate,
        as_json=as_json,
    )


@verb(rich_help_panel="Help")
def bench(
    root: Annotated[
        Path | None, typer.Option(help="Folder of MNIST; OPTLAB_DATA when left out.", metavar="DIR")
    ] = None,
    model: Annotated[
        Literal["mlp", "cnn"],
        typer.Option(help="mlp: 784-200-10 on MNIST; cnn: three 5x5 convolutions on 32x32x3 noise."),
    ] = "mlp",
    optimizer: Annotated[Literal["SGD", "Adam", "AdamW"], typer.Option(help="SGD is with momentum.")] = "SGD",
    batch_size: Annotated[int, typer.Option(help="Samples per step.", min=1, max=2000)] = 64,
    steps: Annotated[int, typer.Option(help="Steps per loop and round; an epoch's at most.", min=30)] = 900,
    rounds: Annotated[int, typer.Option(help="Rounds that count, after one that warms up.", min=1)] = 9,
    threads: Annotated[int | None, typer.Option(help="Cores for every loop (default: all).", min=1)] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Draw a figure: png, svg or pdf.", metavar="FILE")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure this machine: optlab's engines against other loops on the same network and data.

    All loops run in turn in every round; the table has medians. JAX, Keras and Lightning take part when they
    are installed (pip install optlab[bench]). Let nothing else run meanwhile.

    Examples:

        optlab bench -o bench.png

        optlab bench --batch-size 1 --threads 1 --json

        optlab bench --model cnn --steps 60
    """
    from trainer.bench.task import Setting
    from trainer.cli.bench import bench as run_bench

    setting = Setting(model, optimizer, batch_size, steps, rounds, threads)
    run_bench(root, setting, output=output, as_json=as_json)


@verb(rich_help_panel="Help")
def schema(
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="File to write; stdout when left out.", metavar="FILE"),
    ] = None,
) -> None:
    """Print the JSON Schema of a config, with which editors complete and check as you type.

    Put `# yaml-language-server: $schema=optlab.schema.json` into the first line of a config.

    Examples:

        optlab schema -o optlab.schema.json
    """
    from trainer.cli import commands

    commands.schema(output)


@verb(rich_help_panel="Help")
def doctor(runs: Runs = RUNS, as_json: AsJson = False) -> None:
    """Tell what this machine offers: versions, devices, threads, data on disk, write access.

    Examples:

        optlab doctor
    """
    from trainer.cli import commands

    commands.doctor(runs, as_json=as_json)
