"""Implementation of `optlab resume`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from trainer.cli.commands.components import announce_code
from trainer.cli.commands.train import finish
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
    figures_wanted = False
    if saved.is_file():
        draft = read(saved, overrides)
        figures_wanted = draft.wants_figures()
        announce_code(*components_in(draft.tree.data))
    folder = run.absolute()  # a component may change the working directory
    with launch.progress_display(output.quiet) as progress, drawing.in_child_process(figures_wanted) as draw:
        options = RunOptions(progress=progress, draw=draw)
        done = resume_run(folder, overrides, options, trust=trust)
    displayed_folder = run if done.skipped else run.parent / rename_extended(folder).name
    return finish(replace(done, folder=displayed_folder), as_json=output.as_json)
