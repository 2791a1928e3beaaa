"""Implementation of `optlab resume`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from trainer.cli.commands import announce_code, finish
from trainer.cli.options import OutputOptions
from trainer.config.identity import components_in
from trainer.config.load import read
from trainer.runs import drawing, launch, ownership, rundir
from trainer.runs.options import RunOptions
from trainer.runs.rename import rename_extended
from trainer.runs.resume import resume as resume_run


def resume(run: Path, overrides: Sequence[str], output: OutputOptions, *, trust: bool) -> int:
    """Resume a run and return the exit code."""
    ownership.require_run(run)
    saved = run / rundir.CONFIG
    wanted = False
    if saved.is_file():
        draft = read(saved, overrides)
        wanted = draft.wants_figures()
        announce_code(*components_in(draft.tree.data))
    whole = run.absolute()  # a component may change the working directory
    with launch.shown(output.quiet) as progress, drawing.in_child_process(wanted) as draw:
        options = RunOptions(progress=progress, draw=draw)
        done = resume_run(whole, overrides, options, trust=trust)
    shown = run if done.skipped else run.parent / rename_extended(whole).name
    return finish(replace(done, folder=shown), as_json=output.as_json)
