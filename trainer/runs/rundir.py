"""The run directory: where every file of a run lies, and how it is read.

What in it may be replaced or deleted is told in `ownership`, who may write it in `claim`. No torch here.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from trainer.runs import run_files
from trainer.runs.claim import Claim as Claim
from trainer.runs.claim import LostError as LostError
from trainer.runs.claim import is_locked as is_locked
from trainer.runs.claim import locked as locked
from trainer.config.models import Config
from trainer.errors import RunError
from trainer.runs.files import Table as Table
from trainer.runs.files import VanishedError as VanishedError
from trainer.runs.files import kind as kind
from trainer.runs.files import make_folder as make_folder
from trainer.runs.files import write_atomically as write_atomically
from trainer.runs.files import write_json as write_json
from trainer.records import RunResult, read_table
from trainer.runs.run_files import CHECKPOINTS as CHECKPOINTS
from trainer.runs.run_files import COMPONENTS as COMPONENTS
from trainer.runs.run_files import CONFIG as CONFIG
from trainer.runs.run_files import ENVIRONMENT as ENVIRONMENT
from trainer.runs.run_files import EPOCHS as EPOCHS
from trainer.runs.run_files import HISTOGRAMS as HISTOGRAMS
from trainer.runs.run_files import LOCK as LOCK
from trainer.runs.run_files import LOG as LOG
from trainer.runs.run_files import PLOTS as PLOTS
from trainer.runs.run_files import STATUS as STATUS
from trainer.runs.run_files import STEPS as STEPS
from trainer.runs.run_files import SUMMARY as SUMMARY
from trainer.runs.run_files import read_config as read_config
from trainer.runs.run_files import read_environment as read_environment
from trainer.runs.run_files import read_histograms as read_histograms
from trainer.runs.run_files import read_result as read_result

OPENING = ".opening-"
"""Begins the name of the folder in which a run lays out its first files; `ownership` tells how."""

FINISHED = ("completed", "early_stopped", "diverged")


def prepare_root(path: Path) -> None:
    """Make the directory that holds runs and see that it can be written; RunError when it cannot."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".probe.{os.getpid()}"
        probe.unlink(missing_ok=True)
        probe.write_bytes(b"optlab")
        probe.unlink()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = error.strerror if isinstance(error, OSError) else error
        raise RunError(
            f"cannot write in {path}: {reason}",
            fix="say --runs DIR (or OPTLAB_RUNS) to put runs elsewhere",
        ) from error


def load_status(path: Path) -> dict[str, Any]:
    """Return status.json; `running` is told as `interrupted` when nobody holds the lock.

    Raises:
        RunError: there is none, it is damaged, or it has another format.
    """
    status = run_files.read_status(path).model_dump()
    if status["status"] == "running" and not is_locked(path):
        status["status"] = "interrupted"
        status["message"] = "the process is gone without a word (killed, or the power failed)"
    return status


def read_status(path: Path) -> dict[str, Any] | None:
    """Return what `load_status` does, and None where that raises."""
    try:
        return load_status(path)
    except RunError:
        return None


def opening_of(folder: Path) -> Path | None:
    """Return the folder in which the first files of a run still lie; None when they are in their places."""
    status = read_status(folder)
    return _opening(folder, status["uuid"]) if status else None


def _opening(folder: Path, uuid: str | None) -> Path | None:
    opening = folder / f"{OPENING}{uuid}"
    begun = uuid is not None and kind(opening) == "directory" and kind(opening / CONFIG) == "file"
    return opening if begun else None


@dataclass(frozen=True, slots=True)
class Run:
    """A run as read from its directory.

    Args:
        path: the run directory.
        status: status.json.
        config: config.yaml, resolved and complete, as plain values.
        steps, epochs: steps.csv and epochs.csv by column; None = an empty cell.
        result: summary.json; None while the run has not ended.
        environment: environment.json; empty where there is none.
    """

    path: Path
    status: Mapping[str, Any]
    config: Mapping[str, Any]
    steps: Mapping[str, list[float | None]]
    epochs: Mapping[str, list[float | None]]
    result: RunResult | None
    environment: Mapping[str, Any]


def load_run(path: str | Path) -> Run:
    """Read a run directory, finished or still going.

    Raises:
        RunError: it is no run directory, or one of its files is damaged (the message names it).
    """
    folder = Path(path)
    status = load_status(folder)
    place = _opening(folder, status["uuid"]) or folder
    return Run(
        path=folder,
        status=status,
        config=read_config(place),
        steps=_rows(place / STEPS),
        epochs=_rows(place / EPOCHS),
        result=read_result(place),
        environment=read_environment(place),
    )


def _rows(path: Path) -> dict[str, list[float | None]]:
    """Return a table's columns; none when the run has only just begun, or was killed there."""
    return read_table(path) if os.path.lexists(path) else {}


def load_config(path: Path) -> Config:
    """Return the config of a run; RunError when it is damaged or incomplete."""
    config = read_config(opening_of(path) or path)
    try:
        return Config.model_validate(config)  # with the defaults of keys that are newer
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        key = ".".join(map(str, problem["loc"]))
        raise RunError(f"{path / CONFIG} is not the config of a run: {key}: {problem['msg']}") from error


def is_finished(path: Path) -> bool:
    """Return whether a run is there that has come to its end."""
    status = read_status(path)
    return status is not None and status["status"] in FINISHED


def copy_components(path: Path, files: Mapping[str, str]) -> list[dict[str, str]]:
    """Copy the users' own Python files beside the config; return where each came from, and its SHA-256.

    Args:
        path: the run directory.
        files: SHA-256 by absolute path, as the files were when the run was built.

    Raises:
        RunError: a file has changed since.
    """
    copied = []
    for number, (source, digest) in enumerate(files.items()):
        try:
            content = Path(source).read_bytes()
        except OSError as error:
            raise RunError(f"cannot read {source}: {error.strerror}") from error
        if hashlib.sha256(content).hexdigest() != digest:
            raise RunError(f"{source} changed while the run was being built", fix="start the run again")
        target = path / COMPONENTS / (f"{number}_{Path(source).name}" if number else Path(source).name)
        make_folder(target.parent)
        write_atomically(target, content)
        copied.append({"source": source, "copy": str(target.relative_to(path)), "sha256": digest})
    return copied


def find_runs(roots: Iterable[Path]) -> list[Path]:
    """Return the run directories at or below the given folders, sorted by path; never follows links.

    A folder that only looks like a run's is among them (reading it tells), and hides no run below it.
    """
    return sorted({place for root in roots for place in walk(root)})


def walk(root: Path, *, most: int | None = None) -> Iterator[Path]:
    """Yield the run directories at or below a folder as they are met; look into so many folders at most."""
    for number, (folder, subfolders, files) in enumerate(os.walk(root)):
        if most is not None and number >= most:
            return
        if STATUS in files and CONFIG in files:
            yield Path(folder)
            subfolders[:] = [name for name in subfolders if name not in (PLOTS, CHECKPOINTS, COMPONENTS)]
