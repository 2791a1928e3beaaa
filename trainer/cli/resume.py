"""What `optlab resume` does (floor 7)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trainer import drawing, launch, rundir
from trainer.cli.commands import finish
from trainer.config.load import read
from trainer.resume import resume as go_on


def resume(run: Path, overrides: Sequence[str], *, quiet: bool, as_json: bool) -> int:
    """Go on with a run and return the exit code."""
    saved = run / rundir.CONFIG
    wanted = saved.is_file() and read(saved, overrides).wants_figures()
    with launch.shown(quiet) as progress, drawing.beside(wanted) as draw:
        done = go_on(run, overrides, progress=progress, draw=draw)
    return finish(done, as_json=as_json)
