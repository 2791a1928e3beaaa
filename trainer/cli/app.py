"""The Typer application: the verbs with their panels in the help.

A verb's options and help are in `verbs/`, its implementation is in `commands/`. The functions in `verbs/`
import their implementations when called, because importing torch would slow down `optlab --help`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from trainer import streams
from trainer.cli.options import expand_options
from trainer.cli.verbs import (
    bench,
    challenge,
    check,
    compare,
    doctor,
    export,
    init,
    landscape,
    lessons,
    list_components,
    plot,
    prepare,
    report,
    resume,
    runs,
    sample,
    schema,
    show,
    sweep,
    train,
    validate,
    watch,
)
from trainer.errors import ConfigError


class Verb(TyperCommand):
    """A command during which `print` writes to stderr, so that stdout has only results."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the command line; answer a config key that is given as an option with the override."""
        arguments = list(args)
        try:
            return super().parse_args(ctx, args)
        except Exception as error:  # typer exports no names for NoSuchOption and MissingParameter
            kind = type(error).__name__
            if kind == "NoSuchOption" and "overrides" in (each.name for each in self.params):
                _refuse_option(str(getattr(error, "option_name", "")), arguments)
            missing = getattr(error, "param", None)
            if kind == "MissingParameter" and missing is not None and missing.name == "config":
                raise ConfigError(
                    "no config is given",
                    where="command line",
                    expected="a YAML file, or the name of a packaged config (list them: optlab init --list)",
                    fix=f"for example: optlab {self.name} quickstart",
                ) from error
            raise

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        with streams.components_print_to_stderr():
            return super().invoke(ctx)


class Verbs(TyperGroup):
    """The application, which answers a config in the place of a verb with the command that takes it."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the verb."""
        name = args[0]
        if name not in self.commands and (verb := _verb_for(name)):
            raise ConfigError(
                f"there is no command {name}",
                where="command line",
                expected=f"one of {', '.join(self.commands)}",
                fix=f"did you mean optlab {verb}?",
            )
        return super().resolve_command(ctx, args)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the options before the verb; answer a config key with the override."""
        arguments = list(args)
        try:
            return super().parse_args(ctx, args)
        except Exception as error:
            if type(error).__name__ == "NoSuchOption":
                _refuse_option(str(getattr(error, "option_name", "")), arguments, "optlab train quickstart ")
            raise


def _verb_for(name: str) -> str:
    """Return the command that a word in the place of a verb stands for, or an empty string."""
    from trainer.config import packaged

    if name in ("run", "fit"):
        return "train"
    if name in packaged.names("sweep"):
        return f"sweep {name}"
    is_config = name in packaged.names("config", "lesson") or name.endswith((".yaml", ".yml"))
    return f"train {name}" if is_config else ""


def _refuse_option(option: str, arguments: Sequence[str], command: str = "") -> None:
    """Raise ConfigError if an unknown option is a key of the config, as in `--lr 0.1` and `--epochs=3`."""
    from trainer.config.suggestions import option_as_override

    at = next(i for i, text in enumerate(arguments) if text.partition("=")[0] == option)
    value = arguments[at].partition("=")[2] or next(iter(arguments[at + 1 : at + 2]), None)
    if override := option_as_override(option, value):
        raise ConfigError(
            f"there is no option {option}",
            where="command line",
            expected="config keys as KEY=VALUE",
            fix=f"did you mean {command}{override}?",
        )


app = typer.Typer(
    name="optlab",
    cls=Verbs,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Start with:\n\n    optlab train quickstart\n\n    "
    "optlab sweep quickstart optimizer.lr=0.1,0.01,0.001\n\n    "
    "optlab init, which writes example configs and an optimizer to edit",
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


PANELS: Mapping[str, Mapping[str, Callable[..., None]]] = {
    "Start": {"init": init.init},
    "Train": {
        "train": train.train,
        "resume": resume.resume,
        "sweep": sweep.sweep,
        "challenge": challenge.challenge,
        "validate": validate.validate,
        "check": check.check,
        "prepare": prepare.prepare,
        "lessons": lessons.lessons,
    },
    "Inspect": {
        "plot": plot.plot,
        "compare": compare.compare,
        "report": report.report,
        "watch": watch.watch,
        "export": export.export,
        "sample": sample.sample,
        "runs": runs.list_runs,
        "list": list_components.list_components,
        "show": show.show,
        "landscape": landscape.landscape,
    },
    "Tools": {"bench": bench.bench, "schema": schema.schema, "doctor": doctor.doctor},
}
"""The verbs by their panel of the help, in the order in which the help lists them."""

for panel, verbs in PANELS.items():
    for name, function in verbs.items():
        app.command(name, cls=Verb, rich_help_panel=panel)(expand_options(function))

command = typer.main.get_command(app)
"""The application as a click command, built once per process."""
