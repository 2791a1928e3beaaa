"""Implementation of `optlab runs`: the progress of a sweep, then one row per run. Does not import torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trainer import console
from trainer.console import Column
from trainer.errors import OptlabError, RunError, unknown_name
from trainer.metrics import BUILT_IN, LEADING, LOSS, find, metric_name
from trainer.runs import rundir
from trainer.runs.sweep_files import read_progress

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
)
LAST_COLUMN = Column("seconds", "right", ".1f", omit=6)


def list_runs(folders: Sequence[Path], *, sort: str, wide: bool, as_json: bool) -> None:
    """Print one row per run. A run whose files cannot be read has the status `unreadable` and a reason."""
    missing = [folder for folder in folders if not folder.is_dir()]
    if missing:
        raise RunError(f"there is no directory {missing[0]}", fix="train a run first, or use --runs DIR")
    if not as_json:
        for folder in folders:
            _print_sweep(folder)
    run_rows = [_run_row(folder) for folder in rundir.find_runs(folders)]
    columns = [*RUN_COLUMNS, *_metric_columns(run_rows), LAST_COLUMN]
    titles = [column.title for column in columns]
    rows: list[dict[str, Any]] = [dict.fromkeys(titles) | row for row in run_rows]
    column = sort.removeprefix("-")
    if column not in titles:
        raise unknown_name("column", column, titles, key="--sort")
    known = [row for row in rows if row[column] is not None]
    known.sort(key=lambda row: row[column], reverse=sort.startswith("-"))
    rows = known + [row for row in rows if row[column] is None]
    if as_json:
        console.print_json(rows)
    else:
        columns += [REASON_COLUMN] if any(row["reason"] for row in rows) else []
        cells = [[row[column.title] for column in columns] for row in rows]
        omitted = console.table(columns, cells, wide=wide)
        if omitted:
            console.print_note(f"--wide also shows {', '.join(omitted)}")


def _metric_columns(rows: Sequence[Mapping[str, Any]]) -> list[Column]:
    """Return the columns of every metric beside the loss; those of accuracy if no run has one."""
    titles = {key for row in rows for key in row if key.startswith(("val_", "test_"))}
    names = {name for title in titles if (name := metric_name(title)) != LOSS.name} or {LEADING[0]}
    order = [*(name for name in BUILT_IN if name in names), *sorted(names - set(BUILT_IN))]
    return [
        Column(f"{split}_{name}", "right", ".4f" if find(name).unit == "%" else ".4g", omit=omit)
        for number, name in enumerate(order)
        for omit, split in enumerate(("val", "test"), start=7 + number if number else 1)
    ]


def _run_row(folder: Path) -> dict[str, Any]:
    row: dict[str, Any] = {"run": str(folder), "status": None, "reason": None}
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
    row |= {"epochs": result.epochs, "train_loss": final.get("train_loss"), "seconds": result.train_seconds}
    row |= {name: value for name, value in final.items() if name.startswith("val_")}
    return row | {f"test_{name}": value for name, value in result.test_values().items() if name != LOSS.name}


def _print_sweep(folder: Path) -> None:
    """Print the progress of the sweep in a folder, as its own display does; nothing if there is no sweep."""
    state = read_progress(folder)
    if state is None:
        return
    texts = [f"{folder}: {state.done} of {state.planned} runs, {state.failed} failed", state.status]
    if state.runs_per_minute:
        texts.append(f"{state.runs_per_minute:.3g} runs/min")
    if state.left_seconds is not None:
        texts.append(f"left {console.format_seconds(state.left_seconds)}")
    console.table(SWEEP_COLUMNS, state.variants)
    console.print_text("; ".join(texts) + "\n")
