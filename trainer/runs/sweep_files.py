"""Files in the folder of a sweep that other processes read. Does not import torch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.errors import OptlabError
from trainer.reading import read_regular
from trainer.runs import rundir

PROGRESS = "progress.json"
SHARDS = ".shards"
"""Folder with a lock for each part of a sweep that was started with `--shard`."""

_MAX_BYTES = 16 << 20
_VARIANT_KEYS = ("name", "running", "done", "diverged", "pruned", "failed", "planned", "best")


@dataclass(frozen=True, slots=True)
class SweepProgress:
    """The progress of a sweep.

    Args:
        status: as `running` or `completed`; `exited without writing a status` if its process was killed.
        done, planned, failed: numbers of runs.
        variants: per variant its name, the numbers of running, finished, diverged, pruned, failed and planned
            runs, and the best setting so far.
        runs_per_minute: None = not known yet, or the sweep has ended.
        left_seconds: the same for the estimate of the remaining time.
    """

    status: str
    done: int
    planned: int
    failed: int
    variants: list[list[Any]]
    runs_per_minute: float | None
    left_seconds: float | None


def read_progress(folder: Path) -> SweepProgress | None:
    """Return the progress of the sweep in a folder; None if there is no sweep or its file is damaged."""
    try:
        state = json.loads(read_regular(folder / PROGRESS, _MAX_BYTES))
        running = state["status"] == "running"
        alive = running and any(map(rundir.is_locked, [folder, *(folder / SHARDS).glob("*")]))
        return SweepProgress(
            status="exited without writing a status" if running and not alive else state["status"],
            done=state["done"],
            planned=state["planned"],
            failed=state["failed"],
            variants=[[variant[key] for key in _VARIANT_KEYS] for variant in state["variants"]],
            runs_per_minute=state["runs_per_minute"] if running else None,
            left_seconds=state["left_seconds"] if running else None,
        )
    except (OptlabError, OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
