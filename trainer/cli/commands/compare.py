"""Implementation of `optlab compare`: print the table and the tests, write figures."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

from trainer import console
from trainer.cli.options import AnalysisOptions, FigureFiles, LineOptions, SearchOptions
from trainer.compare import Comparison, compare_runs
from trainer.compare.table import caption, render_table, sections
from trainer.console import Column
from trainer.errors import ConfigError, FigureError, unknown_name
from trainer.plots.style import render
from trainer.runs import rundir

PICTURES = ("png", "svg", "pdf")
TABLES = {"csv": "csv", "md": "markdown", "tex": "latex", "json": "json"}
CHOICES: dict[str, tuple[str, ...]] = {
    "--x": ("step", "epoch", "samples", "seconds"),
    "--scale": ("semilogy", "semilogx", "linear", "loglog"),
    "--centre": ("mean", "median"),
    "--band": ("min-max", "std", "quantiles", "t", "bootstrap", "none"),
    "--table": ("text", "markdown", "csv", "latex", "json"),
}


def compare(
    runs: Sequence[str],
    analysis: AnalysisOptions,
    lines: LineOptions,
    search: SearchOptions,
    files: FigureFiles,
    *,
    table: str,
    as_json: bool,
) -> None:
    """Compare runs and print the results."""
    output, formats = files.output, files.formats or ["png"]
    band = lines.band
    chosen = {
        "--x": lines.x,
        "--scale": lines.scale,
        "--centre": lines.centre,
        "--band": band,
        "--table": table,
    }
    for option, value in chosen.items():
        if value is not None and value not in CHOICES[option]:
            raise unknown_name("choice", value, CHOICES[option], key=option)
    for file_format in formats:
        if file_format not in PICTURES:
            raise unknown_name("figure format", file_format, PICTURES, key="--format")
    ending = output.suffix.removeprefix(".").lower() if output and not output.is_dir() else ""
    known = (*PICTURES, *TABLES)
    if ending and ending not in known:
        raise ConfigError(
            f"{output}: unknown file extension .{ending}",
            key="--output",
            expected=f"a folder, or .{', .'.join(known)}",
        )
    if lines.centre == "median" and band == "t":
        raise ConfigError(
            "a Student t band requires the mean",
            key="--band",
            fix="use --band bootstrap or --centre mean",
        )
    labels = _labels(files.label or [])
    with console.waiting("Comparing the runs"):
        comparison = compare_runs(
            list(runs),
            **analysis.arguments(),
            within=_within(search.within),
            random_search=search.random,
            draw=output is not None and ending not in TABLES,
            x=cast(Any, lines.x),  # checked above
            scale=cast(Any, lines.scale),
            centre=cast(Any, lines.centre),
            band=None if band == "none" else cast(Any, band.replace("-", "_")),
            smooth=lines.smooth,
            multiples=lines.multiples,
            style=files.style,
            size=_size(files.size) if files.size else None,
            title="" if files.no_title else files.title,
            labels=labels,
        )
    written = partial(
        render_table,
        comparison.groups,
        comparison.targets,
        metrics=comparison.grouping.metrics,
        columns=files.column or (),
        labels=labels,
    )
    if output is not None:
        if ending in TABLES:
            _make_folder(output.parent)
            rundir.write_atomically(output, written(TABLES[ending]))
            console.print_note(f"wrote {output}")
        else:
            _write(comparison, output, ending, files.figure, formats)
    if as_json or table == "json":
        console.print_json(comparison.as_dict())
    elif table == "text":
        print_comparison(comparison)
    else:
        console.print_text(written(table))
    for note in comparison.notes:
        console.print_note(f"note: {note}")


def _within(percent: float) -> float:
    if not 0 <= percent < 1e6:
        raise ConfigError(f"got {percent:g}", key="--within", expected="a percentage, e.g. 5")
    return percent / 100


def _labels(texts: Sequence[str]) -> dict[str, str]:
    """Return labels by group; the last `=` separates them, since names of groups have some."""
    labels = {}
    for text in texts:
        name, separator, label = text.rpartition("=")
        if not separator or not name:
            raise ConfigError(f"{text!r} is not a label", key="--label", expected="GROUP=TEXT")
        labels[name] = label
    return labels


def _size(text: str) -> tuple[float, float]:
    try:
        width, height = (float(part) for part in text.lower().split("x"))
    except ValueError as error:
        raise ConfigError(
            f"{text!r} is not a size", key="--size", expected="WIDTHxHEIGHT in inches, e.g. 7x4"
        ) from error
    return width, height


def _write(
    comparison: Comparison, output: Path, ending: str, figure: str | None, formats: Sequence[str]
) -> None:
    """Write one figure, or everything, and print the paths."""
    if ending:
        if not comparison.figures:
            raise ConfigError("the runs have no data to draw", key="--output")
        names = list(comparison.figures)
        name = figure or next((one for one in names if one.startswith("val_loss")), names[0])
        if name not in names:
            raise unknown_name("figure", name, names, key="--figure")
        _make_folder(output.parent)
        try:
            rundir.write_atomically(output, render(comparison.figures[name], ending))
        except FigureError as error:
            raise FigureError(f"cannot draw {output}: {error}") from error
        others = [each for each in names if each != name]
        if others and figure is None:
            console.print_note(f"{output.name} is {name}; --figure NAME selects another: {', '.join(others)}")
        paths = [output]
    else:
        _make_folder(output)
        paths = comparison.save(output, formats)
    for path in paths:
        console.print_note(f"wrote {path}")


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"cannot create the folder {folder}: {error.strerror}",
            key="--output",
            fix="give a folder in a writable directory",
        ) from error


def print_comparison(comparison: Comparison) -> None:
    """Print the table in parts that fit a terminal, then the tests and the sensitivity."""
    for problem in comparison.grouping.problems:
        table = comparison.groups[comparison.groups["problem"] == problem]
        names, parts = sections(table, comparison.targets, comparison.grouping.metrics)
        for part in parts:
            columns = [Column(heading) for heading in names] + [Column(heading, "right") for heading in part]
            console.table(columns, zip(*names.values(), *part.values(), strict=True))
            console.print_text("")
    without_overhead = comparison.groups["overhead_ms"].isna()
    text = caption(comparison.confidence, overhead=not bool(without_overhead.all()))
    if comparison.targets:
        text += "\ntimes are medians over all runs: inf if half of them or more did not reach the target"
    if any(str(name).startswith("best_") for name in comparison.groups):
        text += "\nbest: at the evaluation that train.select chose"
    if bool(without_overhead.any()) and not bool(without_overhead.all()):
        text += "\nno overhead (-) if there are no runs of plain SGD (momentum 0) under the same conditions"
    console.print_sentence(text)
    if comparison.grouping.problems != ("",) and not len(comparison.differences):
        console.print_sentence("no test: no two groups have the same problem")
    lines = comparison.verdict_lines()
    for index, line in enumerate(lines):
        console.print_sentence(("" if index else "\n") + line)
    if comparison.tuning_lines:
        rules = {str(selection): problem for problem, selection in comparison.selections.items()}
        for rule, problem in rules.items():
            console.print_sentence(f"\nSensitivity{f' on {problem}' if len(rules) > 1 else ''}: {rule}")
        for line in comparison.tuning_lines:
            console.print_sentence(line)
