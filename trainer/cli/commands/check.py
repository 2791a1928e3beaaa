"""Implementation of `optlab check`: the contract of a component, check by check."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import typer

from trainer import console, contract
from trainer.cli.commands.components import announce_code
from trainer.config.paths import absolute_import_path
from trainer.console import Column
from trainer.errors import OptlabError


def check(name: str, options: Sequence[str], *, kind: str | None, as_json: bool) -> None:
    """Print what holds and what does not; exit with 1 if something does not."""
    announce_code({"name": absolute_import_path(name, Path.cwd())})
    kind = kind or contract.kind_of(absolute_import_path(name, Path.cwd()))
    rows = []
    for one in contract.checks(name, kind=kind, options=options):
        with console.waiting(f"Checking that it {one}"):
            rows.append(_row(one))
        if not rows[-1]["holds"] and one.name == contract.BUILDS:
            break  # nothing else can be tried
    if as_json:
        console.print_json({"name": name, "kind": kind, "checks": rows})
    else:
        console.print_text(f"{kind} {name}\n")
        console.table(
            [Column("check"), Column("holds"), Column("seen")],
            [(row["check"], "yes" if row["holds"] else "NO", row["seen"]) for row in rows],
        )
    if not all(row["holds"] for row in rows):
        raise typer.Exit(1)


def _row(one: contract.Check) -> dict[str, str | bool]:
    try:
        return {"check": one.name, "holds": True, "seen": one()}
    except OptlabError as error:
        seen = "; ".join(
            f"{problem.what}{f' (fix: {problem.fix})' if problem.fix else ''}" for problem in error.problems
        )
        return {"check": one.name, "holds": False, "seen": seen}
