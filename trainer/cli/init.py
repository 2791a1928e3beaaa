"""The verb `init`: write a first set of configs, or list the packaged ones. Does not import torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trainer.cli.options import AsJson


def init(
    folder: Annotated[
        Path,
        typer.Argument(help="Folder to write the files to.", metavar="[FOLDER]"),
    ] = Path(),
    show_list: Annotated[bool, typer.Option("--list", help="List the packaged configs instead.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write example configs with comments: a quick run, MNIST, a sweep, and an optimizer to edit.

    Existing files are never changed.

    The packaged configs can be used without writing them: `optlab train NAME`, `optlab sweep NAME`, or
    `base: optlab:NAME` in a config.

    Examples:

        optlab init experiments

        optlab init --list
    """
    if show_list:
        _list(as_json=as_json)
    else:
        _write(folder, as_json=as_json)


def _list(*, as_json: bool) -> None:
    from trainer import console
    from trainer.config import packaged

    rows = [
        (kind, name, packaged.description(file))
        for kind in packaged.KINDS
        for name, file in packaged.names(kind).items()
    ]
    if as_json:
        console.print_json([dict(zip(("kind", "name", "description"), row, strict=True)) for row in rows])
    else:
        console.table([console.Column("kind"), console.Column("name"), console.Column("description")], rows)


def _write(folder: Path, *, as_json: bool) -> None:
    from trainer import console
    from trainer.config import packaged
    from trainer.errors import RunError

    states = {}
    for source in packaged.first_files():
        target = folder / source.name
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with target.open("xb") as file:
                file.write(source.read_bytes())
            states[target] = "written"
        except FileExistsError as error:
            if not folder.is_dir():
                raise RunError(f"{folder} is not a folder") from error
            states[target] = "exists, not changed"
        except OSError as error:
            raise RunError(f"cannot write {target}: {error.strerror}") from error
    if as_json:
        console.print_json([{"file": str(target), "state": state} for target, state in states.items()])
        return
    console.print_pairs("", {console.one_line(str(target)): state for target, state in states.items()})
    console.print_note(f"next: optlab train {folder / 'quickstart.yaml'}")
