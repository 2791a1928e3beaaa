"""Implementation of `optlab export`: send runs to trackers, once or while they train."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer import catalog, console
from trainer.cli.commands.components import component_options
from trainer.config.paths import absolute_import_path
from trainer.errors import ConfigError, OptlabError, RunError
from trainer.reading import file_version
from trainer.runs import rundir
from trainer.runs.exporting import Tracker, send

_WAIT = 2.0
_WAIT_AFTER_FAILURE = 30.0
_SHARE = 0.1
"""Part of the time that `--follow` exports: some trackers write a run anew every time."""


@dataclass(frozen=True, slots=True)
class Target:
    """A tracker with its options."""

    name: str
    tracker: Tracker
    options: Mapping[str, Any]


def export(runs: Sequence[str], to: Sequence[str], options: Sequence[str], *, follow: bool) -> None:
    """Export runs and print their paths."""
    if options and len(to) > 1:
        raise ConfigError(
            "--option with several trackers", expected="one --to", fix="use one command per tracker"
        )
    targets = [_target(absolute_import_path(name, Path.cwd()), options) for name in to]
    sent: dict[Path, object] = {}
    while True:
        started = time.monotonic()
        changed = {
            folder: version
            for folder in rundir.find_runs(rundir.folders_of(runs))
            if (version := _version(folder)) != sent.get(folder)
        }
        if not changed and not sent and not follow:
            raise RunError(
                f"no runs in {', '.join(runs)}", fix="train a model first: optlab train quickstart"
            )
        failed = [folder for folder in changed if not _export(folder, targets, again=folder in sent)]
        if not follow:
            break
        sent |= {folder: version for folder, version in changed.items() if folder not in failed}
        wait = _WAIT_AFTER_FAILURE if failed else _WAIT
        time.sleep(max(wait, (time.monotonic() - started) * (1 - _SHARE) / _SHARE))
    if failed:
        raise OptlabError(
            f"{len(failed)} of {len(changed)} runs were not exported", fix="see the messages above"
        )


def _target(name: str, options: Sequence[str]) -> Target:
    tracker = catalog.find("tracker", name)
    checked = component_options("tracker", name, options)
    catalog.check_values("tracker", name, checked)
    return Target(name, tracker, checked)


def _export(folder: Path, targets: Sequence[Target], *, again: bool) -> bool:
    """Send a run to every tracker; return whether that succeeded."""
    complete = True
    for target in targets:
        try:
            with console.waiting(f"Exporting {folder} to {target.name}"):
                send(folder, target.name, target.tracker, target.options)
        except OptlabError as error:
            console.print_error(error)
            complete = False
    if complete and not again:
        console.print_text(console.one_line(str(folder)))
    return complete


def _version(folder: Path) -> object:
    """Return a value that changes when the files of a run do."""
    names = (rundir.STATUS, rundir.STEPS, rundir.EPOCHS, rundir.SUMMARY)
    return [file_version(folder / name) for name in names]
