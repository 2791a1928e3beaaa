"""The run directory: where every file of a run lies, who may write it, and how it is read (floor 3).

CSV files are only ever appended to; everything else is written to a temporary name, synced and renamed, so
that a reader or a crash never meets half a file. No torch here.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import yaml

from trainer.errors import RunError, StorageError
from trainer.records import FORMAT, Cell, RunResult, format_header, format_row, read_table

CONFIG = "config.yaml"
ENVIRONMENT = "environment.json"
LOCK = "lock"
STATUS = "status.json"
STEPS = "steps.csv"
EPOCHS = "epochs.csv"
SUMMARY = "summary.json"
HISTOGRAMS = "histograms.json"
LOG = "train.log"
PLOTS = "plots"
CHECKPOINTS = "checkpoints"
COMPONENTS = "components"

FINISHED = ("completed", "early_stopped", "diverged")


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file so that it is there whole or not at all: temporary name, fsync, rename.

    Raises:
        StorageError: the disk is full or the directory is gone; the former file is untouched.
    """
    data = content.encode() if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise StorageError(
            f"cannot write {path}: {error.strerror}",
            fix="free some space, or say --runs DIR to write elsewhere",
        ) from error


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON atomically; NaN and infinity, which JSON has not, become null."""
    write_atomically(path, json.dumps(_finite(content), indent=2) + "\n")


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


class Table:
    """An append-only CSV file with columns fixed from the start; the system gets every row at once."""

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self._path = path
        self.columns = tuple(columns)
        self._file: IO[str] = open(path, "a", encoding="utf-8")  # noqa: SIM115 (closed by `close`)
        if self._file.tell() == 0:
            self._write(format_header(self.columns))

    def append(self, row: Mapping[str, Cell]) -> None:
        """Write one row; StorageError when the disk will not take it."""
        self._write(format_row(self.columns, row))

    def _write(self, line: str) -> None:
        try:
            self._file.write(line)
            self._file.flush()
        except OSError as error:
            raise StorageError(
                f"cannot write {self._path}: {error.strerror}", fix="free some space"
            ) from error

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def prepare_root(path: Path) -> None:
    """Make the directory that holds runs and see that it can be written; RunError when it cannot."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".probe.{os.getpid()}"
        probe.write_bytes(b"optlab")
        probe.unlink()
    except OSError as error:
        raise RunError(
            f"cannot write in {path}: {error.strerror}",
            fix="say --runs DIR (or OPTLAB_RUNS) to put runs elsewhere",
        ) from error


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a run directory's lock; RunError when another process writes there. A crash releases it."""
    path.mkdir(parents=True, exist_ok=True)
    with open(path / LOCK, "a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            holder = file.read().strip()
            raise RunError(
                f"{path} is being written by another process" + (f" ({holder})" if holder else ""),
                fix="wait for it, or choose another --run-dir",
            ) from error
        file.truncate(0)
        file.write(f"pid {os.getpid()}\n")
        file.flush()
        yield


def is_locked(path: Path) -> bool:
    """Return whether a living process writes this run directory now."""
    try:
        with open(path / LOCK, encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def clear(path: Path) -> None:
    """Empty a run directory but for its lock, which the caller holds."""
    for entry in path.iterdir():
        if entry.name == LOCK:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def read_status(path: Path) -> dict[str, Any] | None:
    """Return status.json; `running` is told as `interrupted` when nobody holds the lock. None = not a run."""
    try:
        status: dict[str, Any] = json.loads((path / STATUS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if status.get("status") == "running" and not is_locked(path):
        status["status"] = "interrupted"
        status["message"] = "the process is gone without a word (killed, or the power failed)"
    return status


@dataclass(frozen=True, slots=True)
class Run:
    """A run as read from its directory.

    Args:
        path: the run directory.
        status: status.json.
        config: config.yaml, resolved and complete, as plain values.
        steps, epochs: steps.csv and epochs.csv by column; None = an empty cell.
        result: summary.json; None while the run has not ended.
    """

    path: Path
    status: Mapping[str, Any]
    config: Mapping[str, Any]
    steps: Mapping[str, list[float | None]]
    epochs: Mapping[str, list[float | None]]
    result: RunResult | None


def load_run(path: str | Path) -> Run:
    """Read a run directory, finished or still going.

    Raises:
        RunError: it is no run directory, or one of its files is damaged (the message names it).
    """
    folder = Path(path)
    status = read_status(folder)
    if status is None:
        raise RunError(f"{folder} is not a run directory: it has no readable {STATUS}")
    if status.get("format") != FORMAT:
        raise RunError(f"{folder} has format {status.get('format')!r}", expected=f"format {FORMAT}")
    try:
        config = yaml.safe_load((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise RunError(f"cannot read {folder / CONFIG}: {error}") from error
    return Run(
        folder, status, config, read_table(folder / STEPS), read_table(folder / EPOCHS), read_result(folder)
    )


def read_result(path: Path) -> RunResult | None:
    """Return summary.json; None when there is none yet, RunError when it is damaged."""
    try:
        return RunResult.from_dict(json.loads((path / SUMMARY).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path / SUMMARY} is damaged: {error}") from error


def read_environment(path: Path) -> dict[str, Any]:
    """Return environment.json; empty when it cannot be read, since no number depends on it."""
    try:
        around: dict[str, Any] = json.loads((path / ENVIRONMENT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return around


def read_histograms(path: Path) -> list[dict[str, Any]]:
    """Return the moments of histograms.json; none when the run wrote none."""
    try:
        moments: list[dict[str, Any]] = json.loads((path / HISTOGRAMS).read_text(encoding="utf-8"))["moments"]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError) as error:
        raise RunError(f"{path / HISTOGRAMS} is damaged: {error}") from error
    return moments


def copy_components(path: Path, files: Sequence[Path]) -> list[dict[str, str]]:
    """Copy the users' own Python files beside the config; return where each came from, and its SHA-256."""
    copied = []
    for number, file in enumerate(files):
        content = file.read_bytes()
        target = path / COMPONENTS / (f"{number}_{file.name}" if number else file.name)
        target.parent.mkdir(exist_ok=True)
        write_atomically(target, content)
        digest = hashlib.sha256(content).hexdigest()
        copied.append({"source": str(file), "copy": str(target.relative_to(path)), "sha256": digest})
    return copied


def find_runs(roots: Iterable[Path]) -> list[Path]:
    """Return the run directories at or below the given folders, sorted by path; never follows links."""
    found = set()
    for root in roots:
        for folder, subfolders, files in os.walk(root):
            if STATUS in files and CONFIG in files:
                found.add(Path(folder))
                subfolders.clear()
    return sorted(found)
