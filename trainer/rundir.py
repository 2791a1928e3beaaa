"""The run directory: where every file of a run lies, who may write it, and how it is read (floor 3).

CSV files are only ever appended to; everything else is written to a temporary name, synced and renamed, so
that a reader or a crash never meets half a file. No torch here.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import yaml
from pydantic import ValidationError

from trainer.config.structure import Config
from trainer.errors import BusyError, RunError, StorageError
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

_LOCK_TRIES, _LOCK_PAUSE_SECONDS = 5, 0.02
_MOST_PENDING = 64 << 20

FINISHED = ("completed", "early_stopped", "diverged")


def write_atomically(
    path: Path, content: str | bytes, *, former: Path | None = None, proved: bool = False
) -> None:
    """Write a file so that it is there whole or not at all: temporary name, fsync, rename.

    Args:
        path: the file.
        content: what it will hold.
        former: name that the file which is there now is kept under.
        proved: read the new file back and compare before it takes its place.

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
        if proved and temporary.read_bytes() != data:
            raise OSError(errno.EIO, "what was read back is not what was written")
        if former is not None:
            _keep(path, former)
        os.replace(temporary, path)
        if proved:
            _sync_folder(path.parent)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise StorageError(
            f"cannot write {path}: {error.strerror}",
            fix="free some space, or say --runs DIR to write elsewhere",
        ) from error


def _keep(path: Path, former: Path) -> None:
    """Give the file that is there a second name, so that at no moment there is none."""
    link = former.with_name(f".{former.name}.{os.getpid()}.tmp")
    link.unlink(missing_ok=True)
    try:
        os.link(path, link)
    except FileNotFoundError:
        return
    except OSError:  # a file system without hard links
        link.write_bytes(path.read_bytes())
    os.replace(link, former)


def _sync_folder(folder: Path) -> None:
    """Make a rename outlast a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(path: Path) -> None:
    """Make a folder within a run directory; StorageError when the disk will not have it."""
    try:
        path.mkdir(exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot make {path}: {error.strerror}", fix="free some space") from error


def remove_leftovers(path: Path) -> None:
    """Remove the temporary files that killed processes left in a run directory (its lock is held)."""
    for folder, _, files in os.walk(path):
        for name in files:
            if name.startswith(".") and name.endswith(".tmp"):
                (Path(folder) / name).unlink(missing_ok=True)


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


class VanishedError(StorageError):
    """A run's file is no longer where it was, so what is written goes nowhere."""


class Table:
    """An append-only CSV file with columns fixed from the start; the system gets every row at once.

    Rows that the disk will not take are kept and come first when it takes some again.

    Args:
        path: the file.
        columns: its header.
        size: bytes to keep of the file that is there; None = it starts anew.
    """

    def __init__(self, path: Path, columns: Sequence[str], size: int | None = None) -> None:
        self._path = path
        self.columns = tuple(columns)
        self._pending = b""
        self.failure: StorageError | None = None
        if not size:  # the header comes whole or not at all: a kill leaves no table that cannot be read
            header = format_header(self.columns).encode()
            write_atomically(path, header)
            size = len(header)
        try:
            self._file: IO[bytes] = open(path, "ab", buffering=0)  # noqa: SIM115 (closed by `close`)
            self._file.truncate(size)
        except OSError as error:
            raise self._refused(error) from error
        self._size = size

    def append(self, row: Mapping[str, Cell]) -> None:
        """Write one row; `failure` says why when the disk will not take it now.

        Raises:
            StorageError: more than 64 MiB are waiting.
        """
        self._write(format_row(self.columns, row))
        if self.failure and len(self._pending) > _MOST_PENDING:
            raise self.failure

    def _write(self, line: str) -> None:
        self._pending += line.encode()
        self.failure = None
        try:
            while self._pending:  # a disk that fills up takes a part
                written = self._file.write(self._pending)
                self._pending = self._pending[written:]
                self._size += written
        except OSError as error:
            self.failure = self._refused(error)

    def flush(self, *, sync: bool = False) -> int:
        """See that every row is with the system, or on the disk (`sync`); return the file's size in bytes.

        Raises:
            StorageError: the disk will not take it.
            VanishedError: the file is no longer where it was.
        """
        self._write("")
        if self.failure:
            raise self.failure
        try:
            if not os.path.samestat(os.stat(self._path), os.fstat(self._file.fileno())):
                raise FileNotFoundError(errno.ENOENT, "another file took its place")
            if sync:
                os.fsync(self._file.fileno())
        except FileNotFoundError as error:
            raise VanishedError(f"{self._path} vanished while the run was going on") from error
        except OSError as error:
            raise self._refused(error) from error
        return self._size

    def _refused(self, error: OSError) -> StorageError:
        return StorageError(f"cannot write {self._path}: {error.strerror}", fix="free some space")

    def __str__(self) -> str:
        """Return the file's path."""
        return str(self._path)

    def close(self) -> None:
        """Close the file; rows that still wait are lost."""
        with suppress(OSError):
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
def locked(path: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold a run directory's lock; a crash releases it.

    Args:
        path: the directory; it is made.
        wait: until whoever writes there is done.

    Raises:
        BusyError: another process writes there, and this one is not to wait.
        RunError: the directory cannot be written.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        file = open(path / LOCK, "a+", encoding="utf-8")  # noqa: SIM115 (closed by the block below)
    except OSError as error:
        raise RunError(f"cannot write in {path}: {error.strerror}", fix="choose another --run-dir") from error
    with file:
        try:
            _lock(file, wait)
        except OSError as error:
            file.seek(0)
            holder = file.read().strip()
            raise BusyError(
                f"{path} is being written by another process" + (f" ({holder})" if holder else ""),
                fix="say --wait to wait for it, or choose another --run-dir",
            ) from error
        with suppress(OSError):  # who holds it is for people; a full disk must not stop a run here
            file.truncate(0)
            file.write(f"pid {os.getpid()}\n")
            file.flush()
        yield


def _lock(file: IO[str], wait: bool) -> None:
    """Take the lock; a reader that looks whether it is held (`is_locked`) holds it for a moment itself."""
    for _ in range(_LOCK_TRIES):
        with suppress(BlockingIOError):
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        time.sleep(_LOCK_PAUSE_SECONDS)
    fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))


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
    # The status goes last: what a kill leaves in between is still known as a run, to be cleared again.
    for entry in sorted(path.iterdir(), key=lambda entry: entry.name == STATUS):
        if entry.name == LOCK:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def has_begun(path: Path) -> bool:
    """Return whether a directory holds more than the opening of a run that was killed before its start."""
    opening = {LOCK, CONFIG, ENVIRONMENT, COMPONENTS, LOG}
    entries = list(path.iterdir())
    if LOCK not in [entry.name for entry in entries]:  # then none of it is ours
        return bool(entries)
    for entry in entries:
        unused = entry.name in (CHECKPOINTS, PLOTS) and entry.is_dir() and not any(entry.iterdir())
        temporary = entry.name.startswith(".") and entry.name.endswith(".tmp")
        if entry.name not in opening and not unused and not temporary:
            return True
    return False


def read_status(path: Path) -> dict[str, Any] | None:
    """Return status.json; `running` is told as `interrupted` when nobody holds the lock. None = not a run."""
    try:
        status: dict[str, Any] = json.loads((path / STATUS).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(status, dict) or not isinstance(status.get("status"), str):
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
        # libyaml where PyYAML has it: 0.4 ms per config instead of 2.7, and sweeps have thousands.
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        config = yaml.load((folder / CONFIG).read_text(encoding="utf-8"), Loader=loader)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise RunError(f"cannot read {folder / CONFIG}: {error}") from error
    if not isinstance(config, dict):
        raise RunError(f"{folder / CONFIG} is damaged: it is no mapping")
    return Run(folder, status, config, _rows(folder / STEPS), _rows(folder / EPOCHS), read_result(folder))


def _rows(path: Path) -> dict[str, list[float | None]]:
    """Return a table's columns; none when the run has only just begun, or was killed there."""
    return read_table(path) if path.exists() else {}


def read_result(path: Path) -> RunResult | None:
    """Return summary.json; None when there is none yet, RunError when it is damaged."""
    try:
        return RunResult.from_dict(json.loads((path / SUMMARY).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise RunError(f"{path / SUMMARY} is damaged: {error}") from error


def load_config(path: Path) -> Config:
    """Return the config of a run; RunError when it is damaged or incomplete."""
    try:
        return Config.model_validate(load_run(path).config)  # with the defaults of keys that are newer
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        key = ".".join(map(str, problem["loc"]))
        raise RunError(f"{path / CONFIG} is not the config of a run: {key}: {problem['msg']}") from error


def is_finished(path: Path) -> bool:
    """Return whether a run is there that has come to its end."""
    status = read_status(path)
    return status is not None and status["status"] in FINISHED


def read_environment(path: Path) -> dict[str, Any]:
    """Return environment.json; empty when it cannot be read, since no number depends on it."""
    try:
        around: dict[str, Any] = json.loads((path / ENVIRONMENT).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return around if isinstance(around, dict) else {}


def read_histograms(path: Path) -> list[dict[str, Any]]:
    """Return the moments of histograms.json; none when the run wrote none."""
    try:
        moments: list[dict[str, Any]] = json.loads((path / HISTOGRAMS).read_text(encoding="utf-8"))["moments"]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise RunError(f"{path / HISTOGRAMS} is damaged: {error}") from error
    return moments


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
    """Return the run directories at or below the given folders, sorted by path; never follows links."""
    found = set()
    for root in roots:
        for folder, subfolders, files in os.walk(root):
            if STATUS in files and CONFIG in files:
                found.add(Path(folder))
                subfolders.clear()
    return sorted(found)
