"""Options dataclasses of verbs become options of the command line."""

from __future__ import annotations

from dataclasses import dataclass
from inspect import signature
from typing import Annotated

import typer
from typer.testing import CliRunner

from trainer.cli.options import expand_options


@dataclass(frozen=True)
class Limits:
    low: Annotated[int, typer.Option("--low", help="The lowest value.")] = 1
    names: Annotated[list[str] | None, typer.Option("--name")] = None


@dataclass(frozen=True)
class Loudness:
    quiet: Annotated[bool, typer.Option("--quiet", "-q")] = False


def test_the_fields_of_dataclass_parameters_are_options_and_the_function_receives_the_objects() -> None:
    received: list[object] = []

    def verb(
        place: Annotated[str, typer.Argument()], high: int = 9, *, limits: Limits, loudness: Loudness
    ) -> None:
        """Say something."""
        received.append((place, high, limits, loudness))

    assert list(signature(expand_options(verb)).parameters) == ["place", "high", "low", "names", "quiet"]
    app = typer.Typer()
    app.command()(expand_options(verb))
    run = CliRunner().invoke
    assert run(app, ["here", "--low", "3", "--name", "a", "--name", "b", "-q"]).exit_code == 0
    assert run(app, ["there", "--high", "2"]).exit_code == 0
    assert received == [
        ("here", 9, Limits(3, ["a", "b"]), Loudness(True)),
        ("there", 2, Limits(1, None), Loudness(False)),
    ]
    said = run(app, ["--help"]).output
    assert "The lowest value." in said
    assert "Say something." in said
