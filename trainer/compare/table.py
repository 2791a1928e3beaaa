"""The table of a comparison, one row per group, as terminal text, Markdown, LaTeX, CSV or JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import pandas as pd

from trainer.compare.measures import UNITS, AnyTarget
from trainer.errors import unknown_name
from trainer.metrics import BUILT_IN, LOSS, Metric, find

Format = Literal["text", "markdown", "csv", "latex", "json"]
KNOWN = tuple(BUILT_IN.values())
FORMATS = ("text", "markdown", "csv", "latex", "json")

Columns = dict[str, list[str]]


def caption(confidence: float, *, overhead: bool = True) -> str:
    """Return a caption that says what ± means in a table."""
    method = "Student t; overhead: Welch" if overhead else "Student t"
    return f"mean ± half-width of its {100 * confidence:.4g} % confidence interval over the seeds ({method})"


def sections(
    table: pd.DataFrame, targets: Sequence[AnyTarget] = (), metrics: Sequence[Metric] = KNOWN
) -> tuple[Columns, list[Columns]]:
    """Return the columns of the table as text: group names, results, targets and cost.

    Means are formatted as `97.31 ± 0.42` (see `caption`). The median time to a target is `inf` if half of the
    runs or more never reached it.

    Args:
        table: the result of `measures.group_frame`.
        targets: the targets in it.
        metrics: the metrics in it.
    """
    records = table.to_dict("records")
    names: Columns = {"problem": [row["problem"] for row in records]} if any(table["problem"]) else {}
    names["group"] = [row["group"] for row in records]
    metric_columns = [
        name for name in _displayed_results(metrics) if name in table and bool(table[name].notna().any())
    ]
    metric_columns = metric_columns or [name for name in ("final_train_loss", "test_loss") if name in table]
    results: Columns = {
        "n": ["one seed" if row["n"] == 1 else str(row["n"]) for row in records],
        "diverged": [str(row["diverged"]) for row in records],
        **{
            _heading(name, metric): [_result(row, name, metric.scale) for row in records]
            for name, metric in ((name, find(name, metrics)) for name in metric_columns)
        },
    }
    times: list[Columns] = [
        {f"reached {target}": [f"{row[f'reached {target}']} of {row['n']}" for row in records]}
        | {
            f"median {unit} to {target}": [_time(row[f"{unit} to {target}"], unit) for row in records]
            for unit in UNITS
        }
        for target in targets
    ]
    cost: Columns = {
        "ms per step": [_milliseconds(row, "ms_per_step") for row in records],
        "overhead, ms over plain SGD": [_milliseconds(row, "overhead_ms", sign="+") for row in records],
        "optimizer state": [_bytes(int(row["state_bytes"])) for row in records],
    }
    if not bool(table["overhead_ms"].notna().any()):
        del cost["overhead, ms over plain SGD"]
    return names, [results, *times, cost]


def _displayed_results(metrics: Sequence[Metric]) -> list[str]:
    """Return the results that are shown to readers; CSV and JSON have every column."""
    names = [metric.name for metric in metrics]
    validation = [f"{prefix}_val_{name}" for prefix in ("final", "best") for name in names]
    return [*validation, *(f"test_{name}" for name in names if name != LOSS.name)]


def _heading(result: str, metric: Metric) -> str:
    """Return the heading of a result: `best_val_accuracy` -> `best val acc %`."""
    return metric.heading(result.removesuffix(metric.name).replace("_", " ").strip())


def render_table(
    table: pd.DataFrame,
    targets: Sequence[AnyTarget],
    file_format: str,
    metrics: Sequence[Metric] = KNOWN,
    *,
    columns: Sequence[str] = (),
    labels: Mapping[str, str] | None = None,
) -> str:
    """Return the table as Markdown, LaTeX (booktabs), CSV or JSON.

    CSV and JSON contain unrounded numbers, with the ends of the intervals in separate columns and their level
    in `confidence`. Markdown and LaTeX end with a caption that says what ± means; the best mean of a column
    is bold.

    Args:
        table: the result of `measures.group_frame`.
        targets: the targets in it.
        file_format: markdown, latex, csv or json.
        metrics: the metrics in it.
        columns: headings of the columns of Markdown and LaTeX, beside the group; empty = all.
        labels: labels of groups by their names, in Markdown and LaTeX.

    Raises:
        ConfigError: there is no such column.
    """
    if file_format == "csv":
        return table.to_csv(index=False, lineterminator="\n")
    if file_format == "json":
        return json.dumps([_plain(row) for row in table.to_dict("records")], indent=2) + "\n"
    names, parts = sections(table, targets, metrics)
    names["group"] = [(labels or {}).get(name, name) for name in names["group"]]
    found = {heading: cells for part in parts for heading, cells in part.items()}
    for heading in columns:
        if heading not in found:
            raise unknown_name("column", heading, list(found), key="--column")
    bold = "**{}**" if file_format == "markdown" else _BOLD_START + "{}"
    for heading, best in best_rows(table, targets, metrics).items():
        if heading in found:
            found[heading] = [
                bold.format(cell) if row in best else cell for row, cell in enumerate(found[heading])
            ]
    everything = names | {heading: found[heading] for heading in columns or found}
    headings, rows = list(everything), [list(row) for row in zip(*everything.values(), strict=True)]
    below = caption(table["confidence"].iloc[0], overhead=bool(table["overhead_ms"].notna().any()))
    if file_format == "markdown":
        return _markdown(headings, rows) + f"\n{below}\n"
    assert file_format == "latex", file_format
    return _latex(headings, rows, below)


def best_rows(
    table: pd.DataFrame, targets: Sequence[AnyTarget], metrics: Sequence[Metric]
) -> dict[str, set[int]]:
    """Return the rows with the best value of each problem, by the heading of the column."""
    columns = {"ms per step": ("ms_per_step", "min"), "overhead, ms over plain SGD": ("overhead_ms", "min")}
    columns["optimizer state"] = ("state_bytes", "min")
    columns |= {
        f"median {unit} to {target}": (f"{unit} to {target}", "min") for target in targets for unit in UNITS
    }
    for name in _displayed_results(metrics):
        metric = find(name, metrics)
        columns[_heading(name, metric)] = (name, metric.mode)
    best: dict[str, set[int]] = {}
    problems = table["problem"].tolist()
    for heading, (name, mode) in columns.items():
        values = table[name].tolist() if name in table else []
        for problem in set(problems):
            known = {
                row: value
                for row, value in enumerate(values)
                if problems[row] == problem and math.isfinite(value)
            }
            if problems.count(problem) > 1 and known:
                winner = (max if mode == "max" else min)(known.values())
                best.setdefault(heading, set()).update(row for row in known if known[row] == winner)
    return best


def _markdown(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    first = [i for i, heading in enumerate(headings) if heading in ("problem", "group")]
    rule = ["---" if i in first else "---:" for i in range(len(headings))]
    lines = [headings, rule, *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


_BOLD_START = "\0"  # no cell begins with it

_LATEX = {"\\": r"\textbackslash{}", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}"} | {
    sign: f"\\{sign}" for sign in "&%$#_{}"
}


def _latex(headings: Sequence[str], rows: Sequence[Sequence[str]], below: str) -> str:
    def cell(text: str) -> str:
        if text.startswith(_BOLD_START):
            return rf"\textbf{{{cell(text.removeprefix(_BOLD_START))}}}"
        escaped = "".join(_LATEX.get(sign, sign) for sign in text)
        if escaped == "inf":
            return r"$\infty$"
        return escaped.replace("±", r"$\pm$").replace(" - ", " -- ")

    align = "".join("l" if heading in ("problem", "group") else "r" for heading in headings)
    lines = [
        rf"\begin{{tabular}}{{{align}}}",
        r"\toprule",
        " & ".join(map(cell, headings)) + r" \\",
        r"\midrule",
    ]
    lines += [" & ".join(map(cell, row)) + r" \\" for row in rows]
    lines += [r"\bottomrule", rf"\multicolumn{{{len(headings)}}}{{l}}{{\footnotesize {cell(below)}}} \\"]
    return "\n".join([*lines, r"\end{tabular}"]) + "\n"


def _result(row: Any, name: str, scale: float) -> str:
    """Return mean and half-width as text, or the mean and the number of runs if some lack the result."""
    num_finite, n = int(row[f"{name}_n"]), int(row["n"])
    if not num_finite:
        return "-"
    half = (row[f"{name}_high"] - row[f"{name}_low"]) / 2 * scale
    text = with_half_width(row[name] * scale, half)
    return text if num_finite == n else f"{text} ({num_finite} of {n})"


def with_half_width(value: float, half: float) -> str:
    """Return `0.1234 ± 0.0056`: the half-width to two digits, the value to the same decimal place."""
    if math.isnan(half):
        return f"{value:.4g}"
    if half <= 1e-12 * abs(value):
        return f"{value:.4g} ± 0"
    places = 1 - math.floor(math.log10(half))
    if places > 8 or abs(value) >= 1e6 or half >= 1e6:
        return f"{value:.4g} ± {half:.2g}"
    places = max(places, 0)
    return f"{value:.{places}f} ± {half:.{places}f}"


def _time(value: float, unit: str) -> str:
    if math.isinf(value):
        return "inf"
    return f"{value:,.0f}" if unit == "steps" else f"{value:.3g}"


def _milliseconds(row: Any, name: str, sign: str = "") -> str:
    value, half = row[name], (row[f"{name}_high"] - row[f"{name}_low"]) / 2
    return "-" if math.isnan(value) else (sign if value > 0 else "") + with_half_width(value, half)


def _bytes(count: int) -> str:
    size = float(count)
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.3g} {unit}"
        size /= 1024
    return f"{size:.3g} GiB"


def _plain(row: Any) -> dict[str, Any]:
    """Return a row for JSON: NaN as null, infinity (an unreached target) as the string `inf`."""
    plain: dict[str, Any] = {}
    for key, value in row.items():
        if isinstance(value, float) and math.isnan(value):
            plain[str(key)] = None
        elif isinstance(value, float) and math.isinf(value):
            plain[str(key)] = "inf" if value > 0 else "-inf"
        else:
            plain[str(key)] = value.item() if hasattr(value, "item") else value
    return plain


def plain_records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of a frame as JSON-serializable values."""
    return [_plain(row) for row in table.to_dict("records")]
