"""The state of runs and sweeps for the live page, read from their files only.

Finding out that nothing has changed costs one directory listing and four `stat` calls per run. Tables are
read from where the last reading ended, and only while a page shows their curves.
"""

from __future__ import annotations

import csv
import errno
import math
import os
import stat
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

from trainer.errors import OptlabError
from trainer.plots.titles import seed_text, title
from trainer.reading import FileVersion, file_version
from trainer.records import POSITION_COLUMNS
from trainer.report.charts import appearance
from trainer.runs import run_files, rundir
from trainer.runs.sweep_files import read_progress

MAX_ROWS = 1000
"""Rows of a table that are drawn; from twice as many on, every second one is left out."""
SHARE = 0.05
"""Part of one core that finding and reading runs may take."""
_WAIT = 1.0
_ALIVE_SECONDS = 60.0
_TAIL_BYTES, _HEAD_BYTES, _MAX_CHUNK = 1 << 14, 1 << 20, 1 << 26
_FILES = (rundir.STATUS, rundir.CONFIG, rundir.STEPS, rundir.EPOCHS)


class GrowingTable:
    """The rows of a CSV file that grows, thinned to at most `2 * MAX_ROWS` rows.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = (0, 0)
        self._forget()

    def _forget(self) -> None:
        self._offset, self._count, self._stride = 0, 0, 1
        self._columns: list[str] = []
        self._rows: list[list[float | None]] = []
        self._last: list[float | None] = []

    def update(self) -> None:
        """Read the complete lines that were added; read a file that was replaced or cut from its start."""
        try:
            with _open(self._path) as file:
                status = os.fstat(file.fileno())
                if (status.st_dev, status.st_ino) != self._file or status.st_size < self._offset:
                    self._forget()
                    self._file = (status.st_dev, status.st_ino)
                if status.st_size == self._offset:
                    return
                file.seek(self._offset)
                content = file.read(min(status.st_size - self._offset, _MAX_CHUNK))
        except OSError:
            self._forget()
            return
        content = content[: content.rfind(b"\n") + 1]
        self._offset += len(content)
        lines = csv.reader(content.decode("utf-8", errors="replace").splitlines())
        for cells in lines:
            if not self._columns:
                self._columns = cells
            elif len(cells) == len(self._columns):
                self._append(list(map(_number, cells)))

    def _append(self, row: list[float | None]) -> None:
        self._last = row
        if self._count % self._stride == 0:
            self._rows.append(row)
        self._count += 1
        if len(self._rows) > 2 * MAX_ROWS:
            self._rows = self._rows[::2]
            self._stride *= 2

    def columns(self) -> dict[str, list[float | None]]:
        """Return the drawn rows and the last one by column, without the norms of single parameters."""
        rows = self._rows + ([self._last] if self._rows and self._rows[-1] is not self._last else [])
        return {
            name: [row[number] for row in rows]
            for number, name in enumerate(self._columns)
            if not name.startswith(("grad_norm.", "group."))
        }


def _number(text: str) -> float | None:
    """Return a finite number, or None: JSON has no others."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


@dataclass(slots=True)
class _Watched:
    """A run, the version of its files that was read, and what the page shows of it."""

    number: int
    version: Sequence[FileVersion]
    row: dict[str, Any] = field(default_factory=dict)
    changed: int = 0
    limits: Mapping[str, float] = field(default_factory=dict)
    config_version: FileVersion | None = None
    tables: dict[str, GrowingTable] = field(default_factory=dict)


class WatchedRuns:
    """The runs and sweeps below folders; `update` reads what has changed.

    Args:
        paths: run directories, folders of runs, or globs; ones that do not exist yet are allowed.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        self._paths = paths
        self._runs: dict[Path, _Watched] = {}
        self._groups: list[str] = []
        self._sections = run_files.Sections()
        self._revision = 0
        self._numbers = 0
        self._next = 0.0
        self._lock = threading.Lock()
        self._sweeps: list[dict[str, Any]] = []

    def update(self) -> None:
        """Read what has changed, unless that would take more than `SHARE` of a core."""
        with self._lock:
            started, spent = time.monotonic(), time.thread_time()
            if started < self._next:
                return
            self._revision += 1
            found = self._find()
            for folder in [folder for folder in self._runs if folder not in found]:
                del self._runs[folder]
            for folder in found:
                self._update_run(folder)
            self._sweeps = [sweep for folder in self._roots() if (sweep := _sweep(folder))]
            spent = time.thread_time() - spent
            self._next = started + max(_WAIT, spent / SHARE)

    def _roots(self) -> list[Path]:
        roots = []
        for path in self._paths:
            with suppress(OptlabError):  # nothing is there yet, or any more
                roots += rundir.folders_of([path])
        return roots

    def _find(self) -> list[Path]:
        return rundir.find_runs(self._roots())

    def _update_run(self, folder: Path) -> None:
        version = tuple(file_version(folder / name) for name in _FILES)
        run = self._runs.get(folder)
        if run is None:
            self._numbers += 1
            run = self._runs[folder] = _Watched(self._numbers, ())
        elif run.version == version and run.row.get("status") != "running":
            return
        row = self._read(folder, run, version)
        run.version = version
        if row != run.row:
            run.row, run.changed = row, self._revision

    def _read(self, folder: Path, run: _Watched, version: Sequence[FileVersion]) -> dict[str, Any]:
        row: dict[str, Any] = {"id": run.number, "path": str(folder)}
        try:
            status = run_files.read_status(folder)
            row |= {"status": status.status, "message": status.message}
            # The lock of a process on another machine cannot be seen, but its files change.
            quiet = time.time() - max(changed for _, _, changed in version) / 1e9
            if status.status == "running" and not rundir.is_locked(folder) and quiet > _ALIVE_SECONDS:
                row["status"] = "interrupted"
            if run.config_version != version[1]:
                self._read_config(folder, run, row)
                run.config_version = version[1]
            row |= {key: run.row[key] for key in ("group", "seed", "name") if key not in row}
        except (OptlabError, OSError, KeyError, TypeError) as error:
            return row | {"status": "unreadable", "message": str(error), "group": 0, "seed": "", "values": {}}
        position = _last_row(folder / rundir.STEPS)
        evaluated = _last_row(folder / rundir.EPOCHS)
        later = max(position, evaluated, key=lambda values: values.get("step") or 0)
        row |= {name: later.get(name) for name in ("step", "epoch", "train_seconds")}
        row["values"] = {
            name: value
            for values in (position, evaluated)
            for name, value in values.items()
            if name not in POSITION_COLUMNS and not name.startswith(("lr", "grad_norm", "group."))
        }
        done = [(later.get(key) or 0) / limit for key, limit in run.limits.items()]
        row["progress"] = min(1.0, max(done, default=0.0))
        if row["status"] != "running":
            row["progress"] = 1.0 if row["status"] in rundir.FINISHED else row["progress"]
        elif row["progress"] and status.started:
            trained = later.get("train_seconds") or 0
            row["left"] = round(trained * (1 - row["progress"]) / row["progress"], 1)
        return row

    def _read_config(self, folder: Path, run: _Watched, row: dict[str, Any]) -> None:
        config = run_files.read_config(folder, self._sections)
        length = config.get("train", {})
        names = {"step": "steps", "epoch": "epochs", "train_seconds": "seconds"}
        run.limits = {key: float(length[name]) for key, name in names.items() if length.get(name)}
        group = title({key: value for key, value in config.items() if key != "seed"}, width=1000)
        if group not in self._groups:
            self._groups.append(group)
        row["group"] = self._groups.index(group)
        row["seed"] = seed_text(config.get("seed"))
        row["name"] = str(config.get("name", ""))

    def overview(self, since: int) -> dict[str, Any]:
        """Return the sweeps, and the runs that have changed after a revision; 0 = all."""
        with self._lock:
            return {
                "revision": self._revision,
                "ids": [run.number for run in self._runs.values()],
                "runs": [run.row for run in self._runs.values() if run.changed > since],
                "groups": [appearance(at) | {"name": name} for at, name in enumerate(self._groups)],
                "sweeps": self._sweeps,
                "now": datetime.now().astimezone().isoformat(timespec="seconds"),
            }

    def curves(self, wanted: Mapping[int, int]) -> dict[str, Any]:
        """Return the curves of runs that have changed since the revision with which a page read them.

        Args:
            wanted: the revision by the number of the run.
        """
        with self._lock:
            found = []
            for folder, run in self._runs.items():
                if run.number not in wanted:
                    run.tables.clear()
                elif run.changed > wanted[run.number]:
                    for name in (rundir.STEPS, rundir.EPOCHS):
                        run.tables.setdefault(name, GrowingTable(folder / name)).update()
                    steps, epochs = run.tables[rundir.STEPS].columns(), run.tables[rundir.EPOCHS].columns()
                    found.append({"id": run.number, "steps": steps, "epochs": epochs})
            return {"revision": self._revision, "curves": found}


def _open(path: Path) -> BinaryIO:
    """Open a regular file. Raise OSError for a symbolic link; opening a FIFO does not block."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is not a regular file")
    return open(descriptor, "rb")


def _last_row(path: Path) -> dict[str, float | None]:
    """Return the last complete row of a table; empty if there is none."""
    try:
        with _open(path) as file:
            head = file.readline(_HEAD_BYTES)
            size = os.fstat(file.fileno()).st_size
            file.seek(max(len(head), size - _TAIL_BYTES))
            tail = file.read()
    except OSError:
        return {}
    lines = tail[: tail.rfind(b"\n") + 1].splitlines()
    texts = [line.decode("utf-8", errors="replace") for line in (head, *lines[-1:])]
    columns, *rows = csv.reader(texts)
    if not rows or len(rows[0]) != len(columns):
        return {}
    return dict(zip(columns, map(_number, rows[0]), strict=True))


def _sweep(folder: Path) -> dict[str, Any] | None:
    """Return the progress of the sweep in a folder; None if there is none."""
    state = read_progress(folder)
    if state is None:
        return None
    return {
        "path": str(folder),
        "status": state.status,
        "done": state.done,
        "planned": state.planned,
        "failed": state.failed,
        "left": state.left_seconds,
        "variants": state.variants,
    }
