"""Reads runs for trackers, and sends a run that has ended in a process of its own. Does not import torch."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from filelock import FileLock

from trainer.child_process import ChildProcess
from trainer.config.paths import split_import_path
from trainer.errors import OptlabError, RunError, first_line
from trainer.plots.titles import listed, part_name, seed_text, title
from trainer.runs import rundir
from trainer.trackers import TRACKERS
from trainer.trackers.exported_run import ExportedRun

TIME_LIMIT = 120.0
"""Seconds after which an export at the end of a run is stopped."""

Tracker = Callable[..., Any]


def read_for_export(folder: Path) -> ExportedRun:
    """Return what trackers receive of a run. Raise RunError if the directory cannot be read."""
    run = rundir.load_run(folder)
    config = run.config
    without_seed = {key: value for key, value in config.items() if key != "seed"}
    figures = folder / rundir.PLOTS
    folder = folder.absolute()
    return ExportedRun(
        id=_id(run, folder),
        name=f"{config['name']}/{folder.name}",
        project=str(config["name"]),
        group=title(without_seed, defaults=run.environment.get("optimizer_defaults"), width=10_000),
        tags={
            "data": part_name(config["data"]),
            "model": part_name(config["model"]),
            "optimizer": " + ".join(map(part_name, listed(config["optimizer"]))),
            "seed": seed_text(config.get("seed")),
        },
        folder=folder,
        status=run.status["status"],
        message=run.status["message"] or "",
        started=_seconds(run.status["started"]),
        config=config,
        environment=run.environment,
        steps=run.steps,
        epochs=run.epochs,
        summary=None if run.result is None else run.result.as_dict(),
        figures=sorted(figures.glob("*.png")) if rundir.kind(figures) == "directory" else (),
    )


def _id(run: rundir.Run, folder: Path) -> str:
    """Return the random id of a run."""
    if run.status["uuid"] is None:
        raise RunError(
            f"{folder} has no id, because an early release of optlab wrote it", fix="train it again"
        )
    return str(run.status["uuid"])


def _seconds(started: str | None) -> float:
    try:
        return datetime.fromisoformat(started or "").timestamp()
    except ValueError:
        return 0.0


def send(folder: Path, name: str, tracker: Tracker, options: Mapping[str, Any]) -> None:
    """Send a run to one tracker; two processes do not send the same run at the same time.

    Raises:
        RunError: the run cannot be read, or the tracker's package is missing.
        OptlabError: the tracker failed.
    """
    run = read_for_export(folder)
    source = name.replace(os.sep, "_").replace(":", "_")[-100:]
    lock = Path(tempfile.gettempdir()) / f"optlab-export-{os.getuid()}-{run.id}-{source}.lock"
    try:
        with FileLock(lock):
            tracker(run, **options)
    except OptlabError:
        raise
    except Exception as error:  # a tracker can raise anything
        raise OptlabError(f"{folder} was not exported to {name}: {first_line(error)}") from error
    finally:
        lock.unlink(missing_ok=True)


def export_at_end(
    folder: Path, trackers: Sequence[Mapping[str, Any]], limit: float = TIME_LIMIT
) -> list[str]:
    """Send a run that has ended to trackers, in a process that is killed after a time limit.

    Args:
        folder: the run directory.
        trackers: the components of `log.export` as plain values.
        limit: seconds for all trackers together.

    Returns a line for each export that failed.
    """
    again = f"; try again with: optlab export {folder} --to NAME"
    try:
        child = ChildProcess(_serve, folder.absolute(), [dict(one) for one in trackers])
    except OSError as error:
        return [f"the run was not exported: {error}{again}"]
    try:
        if not child.pipe.poll(limit):
            return [f"the export of the run was stopped after {limit:g} s{again}"]
        failures: list[str] = child.receive()
    except EOFError:
        return [f"the export of the run ended without a result{again}"]
    finally:
        with suppress(OSError):
            os.killpg(child.process.pid or 0, signal.SIGKILL)  # with the processes that trackers started
        child.kill()
    return failures


def _serve(pipe: Connection, folder: Path, trackers: Sequence[dict[str, Any]]) -> None:
    """Send the run to the trackers; send the failures to the parent."""
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (1, 2):  # trackers print
        os.dup2(null, descriptor)
    failures = []
    for options in trackers:
        name = options.pop("name")
        try:
            send(folder, name, find_tracker(name), options)
        except OptlabError as error:
            failures.append(str(error))
    pipe.send(failures)


def find_tracker(name: str) -> Tracker:
    """Return a tracker by its name or import path. Raise ConfigError if there is none."""
    if split_import_path(name) is None:
        return TRACKERS[name]
    from trainer.catalog import find  # imports torch

    return find("tracker", name)
