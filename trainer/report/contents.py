"""What a report shows, as plain values: groups, curves, results, settings, text, static figures."""

from __future__ import annotations

import base64
import json
import math
import shlex
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from trainer.compare import Comparison, tuning
from trainer.compare.curves import column_label, common_title
from trainer.compare.entries import Entry, is_number, metrics_of
from trainer.compare.figures import curve_metrics
from trainer.compare.groups import Group
from trainer.compare.objective import Selection
from trainer.compare.table import best_rows, caption, sections
from trainer.errors import FigureError
from trainer.metrics import find
from trainer.plots.style import render
from trainer.records import POSITION_COLUMNS
from trainer.report.charts import appearance, axis, charts_of
from trainer.report.details import details_of, samples_of
from trainer.report.downsampling import kept_rows
from trainer.report.numbers import number, numbers
from trainer.runs import rundir

MAX_NUMBERS = 1_200_000
"""Numbers of all curves together: about 8 MB of text."""
MAX_ROWS = 2000
"""Rows that are drawn of one table, where few runs are compared."""
MIN_ROWS = 60
MAX_SVG_BYTES = 400_000
MAX_SVG_POINTS = 20_000
"""Points of a figure from which its SVG is usually larger than `MAX_SVG_BYTES`."""

X_LABELS = {
    "step": "step",
    "epoch": "epoch",
    "samples": "training samples",
    "train_seconds": "seconds of training",
    "grad_evals": "gradient evaluations",
}
# What differs between the runs of one machine, or is shown with each run.
_OF_A_RUN = ("format", "command", "origin", "metrics", "optimizer_defaults", "components", "resumed")


def report_contents(
    comparison: Comparison, *, title: str = "", conclusions: Sequence[str] | None = None, command: str = ""
) -> dict[str, Any]:
    """Return everything that the page shows as JSON-serializable values.

    Curves are thinned if the runs together have more than `MAX_NUMBERS` numbers; the contents say so.

    Args:
        comparison: the comparison, with its figures.
        title: heading of the page; empty = what the runs have in common.
        conclusions: the conclusions as text; None = those of the comparison.
        command: the command that writes the page again.
    """
    groups = comparison.grouping.groups
    entries = [entry for group in groups for entry in group.entries]
    columns = _columns(groups)
    rows = _rows_per_table(entries, columns)
    curves = [_curves(entry, columns, rows) for entry in entries]
    thinned = sum(curve["thinned"] for curve in curves)
    notes = list(comparison.notes)
    if thinned:
        notes.append(
            f"the curves of {thinned} run{'s' * (thinned != 1)} are thinned: of each interval the rows with "
            "the smallest and the largest value are drawn; the run directories have all rows"
        )
    return {
        "format": 1,
        "title": title or common_title(groups),
        "optlab": _version(),
        "problems": list(comparison.grouping.problems),
        "groups": [_group(group, comparison.lines.groups[group.name]) for group in groups],
        "runs": [
            _run(entry, number, curve)
            for number, entry, curve in zip(_group_numbers(groups), entries, curves, strict=True)
        ],
        "columns": columns,
        "x": [{"name": name, "label": label} for name, label in X_LABELS.items()],
        "metric": comparison.metric,
        "verdicts": comparison.verdict_lines() if conclusions is None else list(conclusions),
        "tuning": list(comparison.tuning_lines),
        "notes": notes,
        "table": _table(comparison),
        "caption": caption(comparison.confidence),
        "results": _results(comparison),
        "search": _search(comparison),
        "charts": charts_of(comparison),
        "details": details_of(groups),
        "samples": samples_of(groups),
        "environment": _environment(entries),
        "commands": _commands(entries),
        "command": command,
        "keys": list(comparison.grouping.keys),
        "csv": {
            "groups": comparison.groups.to_csv(index=False, lineterminator="\n"),
            "differences": comparison.differences.to_csv(index=False, lineterminator="\n"),
            "runs": comparison.runs.to_csv(index=False, lineterminator="\n"),
        },
        "figures": _figures(comparison),
    }


def _version() -> str:
    try:
        return version("optlab")
    except PackageNotFoundError:
        return ""


def _group(group: Group, line: int) -> dict[str, Any]:
    return appearance(line) | {
        "name": group.name,
        "problem": group.problem,
        "settings": _plain(group.settings),
        "all_settings": _plain(group.entries[0].settings),
        "diverged": group.diverged,
    }


def _group_numbers(groups: Sequence[Group]) -> list[int]:
    return [number for number, group in enumerate(groups) for _ in group.entries]


def _columns(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """Return the columns that can be drawn: losses and metrics first, then what steps.csv has beside them."""
    entries = [entry for group in groups for entry in group.entries]
    metrics = metrics_of(entries)
    columns = []
    for name in curve_metrics(groups):
        metric = find(name, metrics)
        columns.append(
            {"name": name, "label": column_label(name, metric), "log": metric.log, "scale": metric.scale}
        )
    known = {column["name"] for column in columns} | set(POSITION_COLUMNS)
    for name in dict.fromkeys(name for entry in entries for name in entry.run.steps):
        if name not in known and (name.startswith("lr") or name == "grad_norm"):
            columns.append({"name": name, "label": name.replace("_", " "), "log": True, "scale": 1})
    return columns


def _rows_per_table(entries: Sequence[Entry], columns: Sequence[Mapping[str, Any]]) -> int:
    width = len(columns) + len(X_LABELS)
    return min(MAX_ROWS, max(MIN_ROWS, MAX_NUMBERS // (width * max(1, len(entries)))))


def _curves(entry: Entry, columns: Sequence[Mapping[str, Any]], limit: int) -> dict[str, Any]:
    """Return the drawn rows of a run's tables by column, and whether rows were left out."""
    tables: dict[str, Any] = {"thinned": False}
    for name, table in (("steps", entry.run.steps), ("epochs", entry.run.epochs)):
        drawn = [
            column["name"]
            for column in columns
            if column["name"] in table and not (name == "steps" and column["name"] in entry.run.epochs)
        ]
        # Reading a column reads the file: a table is read once. An empty cell, None, becomes NaN.
        cells = {key: np.array(table[key], dtype=np.float64) for key in (*X_LABELS, *drawn) if key in table}
        if not drawn:
            tables[name] = {}
            continue
        kept = kept_rows([cells[key] for key in drawn], limit)
        tables["thinned"] |= len(kept) < len(cells["step"])
        tables[name] = {key: numbers(values[kept]) for key, values in cells.items()}
    return tables


def _run(entry: Entry, group: int, curve: Mapping[str, Any]) -> dict[str, Any]:
    status = entry.run.status
    return {
        "path": str(entry.run.path),
        "group": group,
        "seed": entry.seed,
        "status": str(status.get("status")),
        "message": str(status.get("message") or ""),
        "steps": curve["steps"],
        "epochs": curve["epochs"],
        "again": f"optlab train {shlex.quote(str(entry.run.path / rundir.CONFIG))}",
    }


def _table(comparison: Comparison) -> dict[str, Any]:
    """Return the table of the comparison as text, and the rows with the best value of each column."""
    names, parts = sections(comparison.groups, comparison.targets, comparison.grouping.metrics)
    cells = {heading: column for part in (names, *parts) for heading, column in part.items()}
    best = best_rows(comparison.groups, comparison.targets, comparison.grouping.metrics)
    return {
        "headings": list(cells),
        "rows": [list(values) for values in zip(*cells.values(), strict=True)],
        "best": [sorted(best.get(heading, ())) for heading in cells],
    }


def _results(comparison: Comparison) -> dict[str, Any]:
    """Return the compared result of every run, in the order of the runs, and its axis on each problem."""
    metrics = {name: find(name, comparison.grouping.metrics) for name in comparison.metrics.values()}
    rows = comparison.runs.to_dict("records")
    values = [
        row[name] * metrics[name].scale for row in rows for name in [comparison.metrics[row["problem"]]]
    ]
    axes = {
        problem: {"label": metrics[name].with_unit(name.replace("_", " ")), "log": metrics[name].log}
        for problem, name in comparison.metrics.items()
    }
    return {"axes": axes, "values": numbers(np.array(values, dtype=np.float64))}


def _search(comparison: Comparison) -> dict[str, Any]:
    """Return what was searched: families of groups, and every run with its settings and score."""
    search, grouping = comparison.search, comparison.search.grouping
    selections = search.selections
    families = [
        family for problem in grouping.problems for family in tuning.families(grouping, search.swept, problem)
    ]
    points = [
        {
            "family": number,
            "seed": entry.seed,
            "status": str(entry.run.status.get("status")),
            "value": None
            if entry.run.status["status"] == "diverged"
            else _scaled(entry, selections[group.problem]),
            "settings": [_number(entry.settings.get(key)) for key in search.swept],
        }
        for number, family in enumerate(families)
        for group in family.groups
        for entry in group.entries
    ]
    return {
        "axes": {
            problem: {"label": one.metric.with_unit(one.label), "log": one.metric.log}
            for problem, one in selections.items()
        },
        "keys": [
            axis(key, _known(group.settings.get(key) for group in grouping.groups)) for key in search.swept
        ],
        "families": [
            appearance(comparison.lines.families[problem, family.name])
            | {"name": family.name or "all", "problem": problem}
            | {"groups": list(comparison.lines.members[problem, family.name])}
            for family in families
            for problem in [family.groups[0].problem]
        ],
        "points": points if search.swept else [],
    }


def _scaled(entry: Entry, selection: Selection) -> float | str | None:
    value = selection.value(entry)
    return None if value is None or not math.isfinite(value) else number(selection.metric.scale * value)


def _number(value: Any) -> float | None:
    return float(value) if value is not None and is_number(value) else None


def _known(values: Iterable[Any]) -> list[float]:
    return [known for value in values if (known := _number(value)) is not None]


def _environment(entries: Sequence[Entry]) -> list[list[Any]]:
    """Return each key of environment.json with its values, and how many runs have each."""
    found: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for entry in entries:
        for name, part in entry.environment.items():
            values = part if isinstance(part, Mapping) else {"": part}
            for key, value in values.items() if name not in _OF_A_RUN else ():
                text = value if isinstance(value, str) else json.dumps(value, default=str)
                found[f"{name} {key}".strip()][text] += 1
    return [[key, list(counts.items())] for key, counts in found.items()]


def _commands(entries: Sequence[Entry]) -> list[list[Any]]:
    """Return the commands that trained the runs, and how many runs each."""
    counts: dict[str, int] = defaultdict(int)
    for entry in entries:
        command = entry.environment.get("command")
        text = shlex.join(map(str, command)) if isinstance(command, list) else str(command or "")
        counts[text] += 1
    return [[text, runs] for text, runs in counts.items() if text]


def _figures(comparison: Comparison) -> list[dict[str, str]]:
    """Return the figures of `optlab compare` as base64 text: SVG, or PNG where that would be large."""
    figures = []
    for name, figure in comparison.figures.items():
        with suppress(FigureError):  # what cannot be drawn is left out, as in `Comparison.save`
            points = sum(np.size(line.get_xdata()) for axes in figure.axes for line in axes.lines)
            kind = "svg" if points <= MAX_SVG_POINTS else "png"
            content = render(figure, kind)
            if kind == "svg" and len(content) > MAX_SVG_BYTES:
                kind, content = "png", render(figure, "png")
            figures.append({"name": name, "format": kind, "content": base64.b64encode(content).decode()})
    return figures


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings as JSON-serializable values."""
    plain: dict[str, Any] = json.loads(json.dumps(dict(settings), default=str))
    return plain
