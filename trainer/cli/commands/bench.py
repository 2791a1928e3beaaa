"""Implementation of `optlab bench`: the table and the figure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

from trainer import console
from trainer.bench.figure import draw
from trainer.bench.loops import BARE, JAX, choose_threads
from trainer.bench.measure import Row, measure
from trainer.bench.task import Setting
from trainer.console import Column
from trainer.errors import ConfigError
from trainer.plots.style import METADATA
from trainer.runs.environment import environment


def bench(root: Path | None, setting: Setting, *, output: Path | None, as_json: bool) -> None:
    """Measure all loops and print them, fastest first; draw a figure if `output` is given."""
    if output and (output.suffix.removeprefix(".") not in METADATA or not output.parent.is_dir()):
        raise ConfigError(
            f"cannot write a figure to {output}",
            expected=f"a file in an existing folder, ending in {', '.join(f'.{name}' for name in METADATA)}",
        )
    with console.waiting("Measuring the number of threads"):
        threads = choose_threads(root, setting)
    rows = sorted(measure(root, setting, threads), key=lambda row: row.median)
    heading = (
        f"{setting.model}, {setting.optimizer}, batch size {setting.batch_size}, {setting.rounds} rounds, "
        f"{threads} thread{'' if threads == 1 else 's'}"
    )
    if output:
        draw(rows, heading, output)
    if as_json:
        console.print_json(asdict(setting) | {"threads": threads} | _as_json(rows))
        return
    columns = [Column("loop"), Column("us per step", "right", ",.0f"), Column("+-", "right", ",.0f")]
    others = [name for name in (BARE, JAX) if any(row.name == name for row in rows)]
    columns += [Column(f"to {name}", "right", ".2f") for name in others]
    columns += [Column("note")]
    console.table(
        columns,
        [
            [row.name, row.median, row.spread, *[row.ratios[name] for name in others], row.note]
            for row in rows
        ],
    )
    console.print_note(f"{heading}; medians, +- is half the interquartile range")
    compiled = [row for row in rows if "compiled" in row.name]
    console.print_note(
        f"{sum(row.fell_back for row in compiled)} of {len(compiled)} compiled loops fell back to eager"
    )


def _as_json(rows: Sequence[Row]) -> dict[str, Any]:
    return {
        "format": 1,
        "date": date.today().isoformat(),
        "environment": environment(),
        "fell_back": sum(row.fell_back for row in rows),
        "loops": [
            {
                "name": row.name,
                "microseconds_per_step": row.microseconds,
                "median": row.median,
                "spread": row.spread,
                "ratios": dict(row.ratios),
                "note": row.note,
            }
            for row in rows
        ],
    }
