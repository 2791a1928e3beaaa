"""What `optlab bench` prints (floor 7)."""

from __future__ import annotations

from datetime import date
from pathlib import Path

from trainer import console
from trainer.bench.measure import BARE, measure
from trainer.console import Column
from trainer.environment import environment


def bench(
    root: Path | None, *, batch_size: int, steps: int, rounds: int, threads: int | None, as_json: bool
) -> None:
    """Measure, and print a table or JSON, fastest loop first."""
    rows = measure(root, batch_size=batch_size, steps=steps, rounds=rounds, threads=threads)
    rows.sort(key=lambda row: row.median)
    if as_json:
        console.print_json(
            {
                "date": date.today().isoformat(),
                "environment": environment(),
                "batch_size": batch_size,
                "rounds": rounds,
                "loops": [
                    {
                        "name": row.name,
                        "microseconds_per_step": row.microseconds,
                        "median": row.median,
                        "spread": row.spread,
                        "to_bare": row.to_bare,
                        "note": row.note,
                    }
                    for row in rows
                ],
            }
        )
        return
    columns = [
        Column("loop"),
        Column("us per step", "right", ",.0f"),
        Column("+-", "right", ",.0f"),
        Column(f"to {BARE}", "right", ".2f"),
        Column("note"),
    ]
    console.table(columns, [[row.name, row.median, row.spread, row.to_bare, row.note] for row in rows])
    console.print_note(f"batch size {batch_size}, medians of {rounds} rounds; +- is half the middle half")
