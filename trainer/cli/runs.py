"""Implementation of `optlab runs`: the progress of a sweep, then one row per run. Does not import torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trainer import console
from trainer.console import Column
from trainer.errors import OptlabError, RunError, unknown_name
from trainer.reading import read_regular
from trainer.runs import rundir

SHARDS = ".shards"
_MOST_PROGRESS_BYTES = 16 << 20
SWEEP_COLUMNS = (
    Column("variant"),
    Column("running", "right", omit=4),
    Column("done", "right"),
    Column("diverged", "right", omit=2),
    Column("pruned", "right", omit=3),
    Column("failed", "right", omit=1),
    Column("of", "right"),
    Column("best so far"),
)
UNREADABLE = "unreadable"
REASON_COLUMN = Column("reason", min_width=20)
RUN_COLUMNS = (
    Column("run", min_width=24, keep_end=True),
    Column("status"),
    Column("epochs", "right", ".4g", omit=4),
    Column("train_loss", "right", ".4g", omit=5),
    Column("val_loss", "right", ".4g", omit=3),
    Column("val_accuracy", "right", ".4f", omit=1),
    Column("test_accuracy", "right", ".4f", omit=2),
    Column("seconds", "right", ".1f", omit=6),
)


def list_runs(folders: Sequence[Path], *, sort: str, wide: bool, as_json: bool) -> None:
    """Print one row per run. A run whose files cannot be read has the status `unreadable` and a reason."""
    titles = [column.title for column in RUN_COLUMNS]
    column = sort.removeprefix("-")
    if column not in titles:
        raise unknown_name("column", column, titles, key="--sort")
    missing = [folder for folder in folders if not folder.is_dir()]
    if missing:
        raise RunError(f"there is no directory {missing[0]}", fix="train a run first, or use --runs DIR")
    if not as_json:
        for folder in folders:
            _print_sweep(folder)
    rows = [_run_row(folder) for folder in rundir.find_runs(folders)]
    known = [row for row in rows if row[column] is not None]
    known.sort(key=lambda row: row[column], reverse=sort.startswith("-"))
    rows = known + [row for row in rows if row[column] is None]
    if as_json:
        console.print_json(rows)
    else:
        shown = [*titles, *(["reason"] if any(row["reason"] for row in rows) else [])]
        columns = [*RUN_COLUMNS, REASON_COLUMN][: len(shown)]
        omitted = console.table(columns, [[row[title] for title in shown] for row in rows], wide=wide)
        if omitted:
            console.print_note(f"--wide also shows {', '.join(omitted)}")


def _run_row(folder: Path) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(column.title for column in RUN_COLUMNS)
    row |= {"run": str(folder), "reason": None}
    try:
        row["status"] = rundir.load_status(folder)["status"]
        # If a run was killed while it replaced another one, the summary is still the former run's.
        begins = row["status"] in ("running", "interrupted") and rundir.opening_of(folder)
        result = None if begins else rundir.read_result(folder)
    except OptlabError as error:
        fault = error.problems[0]
        return row | {"status": UNREADABLE, "reason": "; ".join(filter(None, (fault.what, fault.fix)))}
    if result is None:
        return row
    final = result.final.values if result.final else {}
    test = result.test or {}
    return row | {
        "epochs": result.epochs,
        "train_loss": final.get("train_loss"),
        "val_loss": final.get("val_loss"),
        "val_accuracy": final.get("val_accuracy"),
        "test_accuracy": test.get("accuracy"),
        "seconds": result.train_seconds,
    }


def _print_sweep(folder: Path) -> None:
    """Print the progress of the sweep in a folder, as its own display does; nothing if there is no sweep."""
    try:
        state = json.loads(read_regular(folder / "progress.json", _MOST_PROGRESS_BYTES))
        keys = ("name", "running", "done", "diverged", "pruned", "failed", "planned", "best")
        rows = [[variant[key] for key in keys] for variant in state["variants"]]
        going = state["status"] == "running"
        words = [f"{folder}: {state['done']} of {state['planned']} runs, {state['failed']} failed"]
        alive = any(map(rundir.is_locked, [folder, *(folder / SHARDS).glob("*")]))
        words.append(state["status"] if not going or alive else "exited without writing a status")
        if going and state["runs_per_minute"]:
            words.append(f"{state['runs_per_minute']:.3g} runs/min")
        if going and state["left_seconds"] is not None:
            words.append(f"left {console.format_seconds(state['left_seconds'])}")
    except (OptlabError, OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return
    console.table(SWEEP_COLUMNS, rows)
    console.print_text("; ".join(words) + "\n")
