"""Implementation of `optlab init`: write or list packaged configs. Does not import torch."""

from __future__ import annotations

import shlex
import sys
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

    states, rows = {}, []
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
        rows.append((str(target), states[target], packaged.description(source)))
    if as_json:
        console.print_json([{"file": str(target), "state": state} for target, state in states.items()])
        return
    console.table([console.Column("file"), console.Column("state"), console.Column("contents")], rows)
    console.print_note("the comments at the top of each file show its commands; start with:")
    for verb, name in (("train", "my_optimizer.yaml"), ("sweep", "sweep_optimizers.yaml")):
        console.print_text(shlex.join(["optlab", verb, str(folder / name)]), file=sys.stderr)
