"""Finds and reads the runs to compare; runs that cannot be read are reported and left out."""

from __future__ import annotations

import os
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import yaml

from trainer.errors import OptlabError, RunError
from trainer.reading import collector_paused, read_regular
from trainer.records import read_table
from trainer.runs import rundir
from trainer.runs.run_files import Sections
from trainer.runs.rundir import Run

MAX_NUMBERS_IN_MEMORY = 40_000_000
"""Numbers of step tables that are kept while runs are compared (320 MB); further tables are read again."""

PRUNED = "its sweep pruned it"
SWEEP = "sweep.yaml"
FINAL = "final"
_MAX_BYTES = 64 << 20  # size limit of a sweep.yaml


@dataclass(frozen=True, slots=True)
class LoadedRuns:
    """Runs that were found.

    Args:
        runs: finished runs that can be read, ordered by path. Equal sections of their configs are the same
            objects.
        notes: a sentence for each run that was left out and for each anomaly.
    """

    runs: tuple[Run, ...]
    notes: tuple[str, ...]


class StepTable(Mapping[str, list[float | None]]):
    """The columns of a run's steps.csv, in memory as float64 or read from disk when a column is accessed.

    Args:
        path: path of steps.csv, already checked to be readable.
        columns: column names of the header.
        kept: the columns without empty cells; a missing column is read from disk.
    """

    def __init__(
        self, path: Path, columns: tuple[str, ...], kept: Mapping[str, array[float]] | None = None
    ) -> None:
        self._path, self._columns, self._kept = path, columns, kept or {}

    def __getitem__(self, column: str) -> list[float | None]:
        if column not in self._columns:
            raise KeyError(column)
        if (values := self._kept.get(column)) is not None:
            return list(values)
        status = self._path.stat()
        return _table(self._path, status.st_mtime_ns, status.st_size)[column]

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __len__(self) -> int:
        return len(self._columns)

    def __contains__(self, column: object) -> bool:
        return column in self._columns


@lru_cache(maxsize=8)
def _table(path: Path, changed: int, size: int) -> dict[str, list[float | None]]:
    """Read a table; `changed` and `size` identify its version in the cache."""
    return read_table(path)


@collector_paused()
def find(paths: Iterable[str | Path]) -> LoadedRuns:
    """Read every run at or below the given directories or globs.

    Diverged runs are kept, because divergence is a result. Running, interrupted and failed runs and runs with
    a damaged file are left out and reported.

    Raises:
        RunError: a path does not exist, or no run is left.
    """
    _sweep_above.cache_clear()
    folders = rundir.folders_of(paths)
    run_folders = rundir.find_runs(folders)
    if not run_folders:
        raise RunError(
            f"no runs in {', '.join(map(str, folders))}",
            expected="run directories, or folders that contain some",
            fix="train a model first: optlab train quickstart",
        )
    runs, notes, pruned, numbers = [], [], 0, 0
    sections = Sections()
    for folder in run_folders:
        try:
            run = rundir.load_run(folder, sections)
        except (OptlabError, UnicodeDecodeError) as error:
            notes.append(f"left out {folder}: {_first_line(error)}")
            continue
        if fault := _exclusion_reason(run):
            if fault == PRUNED:
                pruned += 1
            else:
                notes.append(f"left out {folder}: {fault}")
            continue
        notes += [
            f"{folder / table}: the last line is incomplete and was left out"
            for table in _incomplete_tables(folder)
        ]
        # Thousands of step tables would take gigabytes.
        numbers += sum(map(len, run.steps.values()))
        kept = _as_arrays(run.steps) if numbers <= MAX_NUMBERS_IN_MEMORY else {}
        runs.append(replace(run, steps=StepTable(folder / rundir.STEPS, tuple(run.steps), kept)))
    if pruned:
        notes.append(f"left out {pruned} run{'s' * (pruned != 1)} that the sweep pruned")
    if not runs:
        raise RunError(
            f"none of {len(folders)} runs can be compared:\n    " + "\n    ".join(notes),
            fix="wait until running runs have finished; train the others again",
        )
    return LoadedRuns(tuple(runs), (*notes, *_mixed_notes(runs)))


def _as_arrays(table: Mapping[str, list[float | None]]) -> dict[str, array[float]]:
    """Return the columns that have no empty cell, with 8 bytes per number."""
    arrays: dict[str, array[float]] = {}
    for name, column in table.items():
        with suppress(TypeError):  # the column contains None
            arrays[name] = array("d", cast(list[float], column))
    return arrays


def sweep_of(run: Run) -> Path | None:
    """Return the directory of the sweep that a run belongs to, or None if it belongs to none."""
    return _sweep_above(run.path.parent)


def is_final(run: Run) -> bool:
    """Return whether a run is a final run of a sweep on fresh seeds: `<sweep>/final/<variant>/<run>`."""
    sweep = sweep_of(run)
    return sweep is not None and os.path.realpath(run.path).startswith(f"{sweep / FINAL}{os.sep}")


def plan_of(sweep: Path) -> Mapping[str, Any]:
    """Return the contents of the sweep.yaml in a directory; empty if it is damaged."""
    try:
        plan = yaml.safe_load(read_regular(sweep / SWEEP, _MAX_BYTES))
    except (OSError, RunError, ValueError, RecursionError, yaml.YAMLError):
        return {}
    return plan if isinstance(plan, Mapping) else {}


@lru_cache(
    maxsize=1 << 14
)  # cached: called several times per run, and a folder can contain thousands of runs
def _sweep_above(folder: Path) -> Path | None:
    """Return the nearest sweep folder at or above the given one; `find` clears the cache."""
    real_path = Path(os.path.realpath(folder))
    return next((one for one in (real_path, *real_path.parents) if os.path.isfile(one / SWEEP)), None)


def _exclusion_reason(run: Run) -> str:
    """Return why a run cannot be compared; empty if it can."""
    status = run.status.get("status")
    if status == "running":
        return "it is still running"
    if status == "pruned":
        return PRUNED
    if status not in ("completed", "early_stopped", "diverged"):
        message = str(run.status.get("message") or "").partition("\n")[0]
        return f"it is {status}" + (f" ({message})" if message else "")
    if run.result is None:
        return f"it has no {rundir.SUMMARY}"
    if unresolved := _malformed_section(run.config):
        return f"{rundir.CONFIG} is not a resolved config: {unresolved}"
    missing = [name for name in ("step", "epoch", "samples", "train_seconds") if name not in run.epochs]
    missing += [name for name in ("step", "loss") if name not in run.steps]
    return f"missing columns: {', '.join(missing)}" if missing else ""


def _malformed_section(config: Mapping[str, Any]) -> str:
    """Return which section of a config is missing or malformed; empty if none is."""
    for section in ("data", "model", "optimizer"):
        if section not in config:
            return f"it has no {section}"
    for section, value in config.items():
        several = section in ("optimizer", "scheduler") and isinstance(value, list)
        if section in ("data", "model", "loss") or (section == "optimizer" and not several):
            sound = _is_component(value)
        elif section == "optimizer":
            sound = bool(value) and all(map(_is_component, value))
        elif section == "scheduler":
            sound = value is None or all(map(_is_component, value if several else [value]))
        elif section in ("train", "log"):
            sound = isinstance(value, Mapping)
        elif section == "name":
            sound = isinstance(value, str)
        elif section == "seed":
            streams = list(value.values()) if isinstance(value, Mapping) else [value]
            sound = bool(streams) and all(isinstance(one, int) for one in streams)
        else:
            sound = isinstance(section, str)
        if not sound:
            return f"{section} is {str(value)[:40]}"
    return ""


def _is_component(value: Any) -> bool:
    return isinstance(value, Mapping) and isinstance(value.get("name"), str)


def _incomplete_tables(folder: Path) -> list[str]:
    """Return the tables whose last line is not complete; an empty table has none."""
    tables = (rundir.STEPS, rundir.EPOCHS)
    return [table for table in tables if _last_byte(f"{folder}/{table}") not in (b"", b"\n")]


def _last_byte(path: str) -> bytes:
    """Return the last byte of a file, or none of an empty one. Unbuffered: for thousands of runs."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return os.pread(descriptor, 1, max(os.fstat(descriptor).st_size - 1, 0))
    finally:
        os.close(descriptor)


def _mixed_notes(runs: Sequence[Run]) -> list[str]:
    """Return a note for each difference in versions or machines between the runs."""
    environments = [run.environment for run in runs]
    notes = []
    for name in ("optlab", "torch"):
        counted = Counter(str((one.get("versions") or {}).get(name, "unknown")) for one in environments)
        if len(counted) > 1:
            text = ", ".join(f"{name} {version} ({count} runs)" for version, count in sorted(counted.items()))
            notes.append(f"runs of mixed versions: {text}")
    counts = Counter(_machine(one) for one in environments)
    if len(counts) > 1:
        text = "; ".join(f"{location} ({count} runs)" for location, count in sorted(counts.items()))
        notes.append(f"runs of different machines, so seconds cannot be compared: {text}")
    return notes


def _machine(environment: Mapping[str, Any]) -> str:
    processor = (environment.get("machine") or {}).get("processor", "unknown processor")
    device, threads = environment.get("device", "unknown device"), environment.get("threads", "?")
    return f"{device}, {threads} threads, {processor}"


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
