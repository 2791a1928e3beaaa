"""Implementation of `optlab init`: write or list packaged configs. Does not import torch."""

from __future__ import annotations

from pathlib import Path

from trainer import console
from trainer.config import packaged
from trainer.errors import RunError


def list_configs(*, as_json: bool) -> None:
    """Print the packaged configs, sweeps and lessons."""

    rows = [
        (kind, name, packaged.description(file))
        for kind in packaged.KINDS
        for name, file in packaged.names(kind).items()
    ]
    if as_json:
        console.print_json([dict(zip(("kind", "name", "description"), row, strict=True)) for row in rows])
    else:
        console.table([console.Column("kind"), console.Column("name"), console.Column("description")], rows)


def write_configs(folder: Path, *, as_json: bool) -> None:
    """Write the first configs to a folder; leave existing files as they are."""

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
