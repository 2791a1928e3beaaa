"""Runs cut off in the middle, and comparison of run directories in everything except times and paths."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from trainer.records import Record, Status
from trainer.runs.checkpoint import digest
from trainer.runs.recorder import Recorder

TIMES = ("_seconds", "_per_second", "peak_memory_bytes")


def timeless(value: Any) -> Any:
    """Return nested values without times and without table sizes, which depend on them."""
    if isinstance(value, Mapping):
        return {
            key: timeless(item)
            for key, item in value.items()
            if not (isinstance(key, str) and (key.endswith(TIMES) or key in ("tables", "sha256")))
        }
    if isinstance(value, list | tuple):
        return [timeless(item) for item in value]
    return value


def table(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return [
            {name: cell for name, cell in row.items() if not name.endswith(TIMES)}
            for row in csv.DictReader(file)
        ]


def differences(one: Path, other: Path) -> list[str]:
    """Return the names of the parts in which two runs differ."""
    found = [name for name in ("steps.csv", "epochs.csv") if table(one / name) != table(other / name)]
    for name in ("summary.json", "histograms.json", "examples.json"):
        if (one / name).exists() or (other / name).exists():
            both = [timeless(json.loads((run / name).read_text())) for run in (one, other)]
            found += [name] if both[0] != both[1] else []
    for name in ("last.pt", "best.pt"):
        paths = [run / "checkpoints" / name for run in (one, other)]
        if paths[0].exists() or paths[1].exists():
            states = [timeless(torch.load(path, weights_only=True)) for path in paths]
            for part in sorted(set(states[0]["experiment"]) | set(states[1]["experiment"])):
                if digest(states[0]["experiment"].get(part)) != digest(states[1]["experiment"].get(part)):
                    found.append(f"{name}:{part}")
            if digest(states[0]["recorder"]) != digest(states[1]["recorder"]):
                found.append(f"{name}:recorder")
    return found


@contextmanager
def copied_at(step: int, target: Path) -> Iterator[None]:
    """Copy the run directory right after the row of a step was written, as after a kill."""
    write: Callable[[Recorder, Record], Status | None] = Recorder.write

    def copying(self: Recorder, record: Record) -> Status | None:
        outcome = write(self, record)
        if record.step == step and not target.exists():
            self._writer.wait()
            shutil.copytree(self.folder, target)
        return outcome

    with mock.patch.object(Recorder, "write", copying):
        yield
