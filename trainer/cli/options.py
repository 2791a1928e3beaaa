"""Options of the verbs, grouped in dataclasses, and their expansion into parameters that Typer reads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, is_dataclass
from functools import wraps
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Annotated, Any

import typer

from trainer.cli import completion

ConfigFile = Annotated[
    Path,
    typer.Argument(
        help="The experiment's YAML file, or the name of a packaged config (optlab init --list).",
        autocompletion=completion.config_files,
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]...",
        help="Overrides with YAML values: optimizer.lr=0.1 scheduler=null model.hidden=[100,50]",
        autocompletion=completion.overrides,
    ),
]
RunsFolder = Annotated[
    Path, typer.Option("--runs", envvar="OPTLAB_RUNS", help="Directory of all runs.", metavar="DIR")
]
RUNS = Path("runs")
LOADING = "Loading PyTorch"
FigureStyleName = Annotated[
    str, typer.Option("--style", help="Figure style: screen, slides, paper or print (grey).")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]


@dataclass(frozen=True)
class OutputOptions:
    """What a verb that trains prints."""

    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print no progress on stderr.")] = False
    as_json: AsJson = False


@dataclass(frozen=True)
class RunFolder:
    """Where a run is written."""

    runs: RunsFolder = RUNS
    run_dir: Annotated[Path | None, typer.Option(help="Exact path of the run directory.", metavar="DIR")] = (
        None
    )


@dataclass(frozen=True)
class ExistingRun:
    """What to do if the run directory contains a run already, or another process writes to it."""

    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing run.")] = False
    skip: Annotated[
        bool,
        typer.Option(
            "--skip-existing", help="Skip a finished run of the same config; resume an interrupted one."
        ),
    ] = False
    resume: Annotated[
        bool, typer.Option("--resume", help="Resume an existing run from its last checkpoint.")
    ] = False
    wait: Annotated[
        bool,
        typer.Option(
            "--wait",
            help="Wait while another process trains this run. Implies --skip-existing, unless --resume or "
            "--force is given.",
        ),
    ] = False


@dataclass(frozen=True)
class DescentOptions:
    """The optimizers of a landscape, their budget and their learning rates."""

    optimizers: Annotated[
        str, typer.Option(help="Optimizers with options: SGD,SGD:momentum=0.9,Adam", metavar="NAME,NAME")
    ] = "SGD,SGD:momentum=0.9,RMSprop,Adam"
    steps: Annotated[
        int,
        typer.Option(
            help="Budget of each optimizer in gradient evaluations (one per step; LBFGS uses several).",
            min=1,
            max=100_000,
        ),
    ] = 300
    start: Annotated[
        str | None, typer.Option(help="Starting point (default: the problem's own).", metavar="X,Y")
    ] = None
    lr: Annotated[
        float | None, typer.Option(help="Use this learning rate for all optimizers; do not tune.")
    ] = None
    tune: Annotated[
        bool,
        typer.Option("--tune/--no-tune", help="Tune each optimizer's learning rate, or use its default."),
    ] = True
    trials: Annotated[
        int, typer.Option(help="Number of learning rates to try per optimizer.", min=2, max=1000)
    ] = 20


@dataclass(frozen=True)
class LandscapeFiles:
    """Where the figures of a landscape are written."""

    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="A folder, or a file for the figure (png, svg, pdf).", metavar="PATH"
        ),
    ] = None
    style: FigureStyleName = "screen"
    animate: Annotated[bool, typer.Option("--gif/--no-gif", help="Also write an animated GIF.")] = True
    runs: RunsFolder = RUNS


@dataclass(frozen=True)
class SweepOptions:
    """Which runs of a sweep to train and how."""

    workers: Annotated[
        int | None,
        typer.Option(help="Worker processes (default: as in the sweep file, else one per core).", min=1),
    ] = None
    only: Annotated[
        list[str] | None,
        typer.Option(help="Run only this variant. Can be repeated.", metavar="VARIANT"),
    ] = None
    shard: Annotated[
        str | None,
        typer.Option(
            help="Run the I-th of N parts of the grid, or share a search with N-1 other commands, e.g. in a "
            "job array.",
            metavar="I/N",
        ),
    ] = None
    on: Annotated[
        str,
        typer.Option(
            help="Where the workers are: local, ray (the cluster of RAY_ADDRESS, or this machine), or "
            "ray:HOST:PORT.",
            metavar="WHERE",
        ),
    ] = "local"
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Print the runs, the budget of each variant and a time estimate."),
    ] = False
    fail_fast: Annotated[bool, typer.Option("--fail-fast", help="Stop at the first run that fails.")] = False
    force: Annotated[
        bool, typer.Option("--force", help="Overwrite existing runs that have another config.")
    ] = False
    figures: Annotated[
        bool, typer.Option("--figures/--no-figures", help="Compare the runs at the end and draw figures.")
    ] = True


@dataclass(frozen=True)
class ChallengeOptions:
    """The suite, the search space, the budget and the output of a challenge."""

    suite: Annotated[
        str, typer.Option(help="Name of a packaged suite, or a sweep file with problems.", metavar="SUITE")
    ] = "tiny"
    search: Annotated[
        list[str] | None,
        typer.Option(
            help="An axis: lr=1e-4..1, or momentum=0,0.9 (default: the learning rates of the suite). "
            "Can be repeated.",
            metavar="KEY=VALUES",
        ),
    ] = None
    trials: Annotated[
        int | None, typer.Option(help="Settings to try (default: as many as each baseline).", min=1)
    ] = None
    seeds: Annotated[
        int | None, typer.Option(help="Fresh seeds for the best setting (default: all of the suite).", min=2)
    ] = None
    problems: Annotated[
        str | None, typer.Option(help="Problems of the suite (default: all).", metavar="NAME,NAME")
    ] = None
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Folder (default: runs/SUITE-NAME).", metavar="DIR"),
    ] = None
    name: Annotated[
        str | None, typer.Option(help="Name in tables and figures (default: the name of the class).")
    ] = None
    train_baselines: Annotated[
        bool,
        typer.Option(
            "--train-baselines", help="Train the baselines here instead of using the stored ones; takes long."
        ),
    ] = False
    workers: Annotated[int | None, typer.Option(help="Worker processes (default: one per core).", min=1)] = (
        None
    )
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the search space, the budget and a time estimate.")
    ] = False
    force: Annotated[
        bool, typer.Option("--force", help="Overwrite runs in the folder that have another config or code.")
    ] = False
    figures: Annotated[bool, typer.Option("--figures/--no-figures", help="Draw figures.")] = True


@dataclass(frozen=True)
class AnalysisOptions:
    """How runs are grouped and tested."""

    by: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY", help="Group by this key only, e.g. optimizer.name. Can be repeated."),
    ] = None
    target: Annotated[
        list[str] | None,
        typer.Option(
            metavar="METRIC=X",
            help="Report the time to reach this value, e.g. val_accuracy=0.95. Can be repeated.",
        ),
    ] = None
    metric: Annotated[
        str | None,
        typer.Option(
            help="Result to compare and rank settings by, e.g. val_loss (default: test, else validation).",
            metavar="RESULT",
        ),
    ] = None
    against: Annotated[
        str | None,
        typer.Option(
            metavar="GROUP",
            help="Compare each other group only with this one. Fewer differences have narrower intervals.",
        ),
    ] = None
    bootstrap: Annotated[
        bool,
        typer.Option(
            "--bootstrap",
            help="Use bootstrap intervals for paired differences. With few seeds their coverage is too low.",
        ),
    ] = False
    confidence: Annotated[
        float,
        typer.Option(
            help="Level of the interval of each group, and of all intervals of differences together."
        ),
    ] = 0.95

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of `compare_runs` that these options set."""
        return {
            "by": self.by or [],
            "targets": self.target or [],
            "metric": self.metric,
            "against": self.against,
            "bootstrap": self.bootstrap,
            "confidence": self.confidence,
        }


@dataclass(frozen=True)
class LineOptions:
    """How the curves of the groups are drawn."""

    x: Annotated[
        str, typer.Option("--x", help="Quantity on the x axis: step, epoch, samples or seconds.")
    ] = "step"
    scale: Annotated[
        str | None,
        typer.Option(
            help="Axis scales: semilogy, semilogx, linear or loglog (default: semilogy for losses)."
        ),
    ] = None
    centre: Annotated[str, typer.Option(help="Line of each group: mean or median.")] = "mean"
    band: Annotated[
        str, typer.Option(help="Band around the line: min-max, std, quantiles, t, bootstrap or none.")
    ] = "min-max"
    smooth: Annotated[bool, typer.Option(help="Smooth minibatch losses.")] = True
    multiples: Annotated[
        bool | None,
        typer.Option("--multiples/--overlay", help="One panel per group (default: for more than 7 groups)."),
    ] = None


@dataclass(frozen=True)
class SearchOptions:
    """How the settings of a search are compared."""

    within: Annotated[
        float,
        typer.Option(
            metavar="PERCENT", help="Sensitivity: a setting within this percentage of the best is good."
        ),
    ] = 5.0
    random: Annotated[
        bool, typer.Option("--random", help="Treat the runs as a random search and draw its budget curve.")
    ] = False


@dataclass(frozen=True)
class FigureFiles:
    """Where figures are written, and their format."""

    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="PATH",
            help="A folder for all figures and tables, or one file: png svg pdf, csv md tex json.",
        ),
    ] = None
    figure: Annotated[
        str | None, typer.Option(help="The figure to write to a single file, e.g. val_loss.", metavar="NAME")
    ] = None
    formats: Annotated[
        list[str] | None,
        typer.Option("--format", help="Format of the figures in a folder: png, svg or pdf. Can be repeated."),
    ] = None
    style: FigureStyleName = "screen"
    size: Annotated[str | None, typer.Option(metavar="WxH", help="Figure size in inches, e.g. 7x4.")] = None
    title: Annotated[
        str | None, typer.Option(help="Title of the figures (default: what the runs have in common).")
    ] = None
    no_title: Annotated[bool, typer.Option("--no-title", help="Draw no title above the figures.")] = False
    label: Annotated[
        list[str] | None,
        typer.Option(
            metavar="GROUP=TEXT",
            help="Label of a group in the figures and in Markdown and LaTeX tables. Can be repeated.",
        ),
    ] = None
    column: Annotated[
        list[str] | None,
        typer.Option(
            metavar="HEADING", help="Column of Markdown and LaTeX tables (default: all). Can be repeated."
        ),
    ] = None


def expand_options(function: Callable[..., None]) -> Callable[..., None]:
    """Return a function for Typer that has the fields of dataclass parameters as its own parameters.

    Typer declares one option per parameter of `inspect.signature`, which a function can state itself in
    `__signature__`. The returned function builds the dataclasses from Typer's values and calls `function`.
    """
    groups: dict[str, tuple[Callable[..., Any], list[str]]] = {}
    parameters: list[Parameter] = []
    for parameter in signature(function, eval_str=True).parameters.values():
        expanded = [parameter]
        if isinstance(kind := parameter.annotation, type) and is_dataclass(kind):
            expanded = list(signature(kind, eval_str=True).parameters.values())
            groups[parameter.name] = (kind, [field.name for field in expanded])
        parameters += [each.replace(kind=Parameter.KEYWORD_ONLY) for each in expanded]

    @wraps(function)
    def call(**values: Any) -> None:
        built = {
            group: kind(**{name: values.pop(name) for name in names})
            for group, (kind, names) in groups.items()
        }
        function(**values, **built)

    call.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    return call
