"""Small sweeps on digits for the tests of this folder."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import yaml

from trainer.cli.commands import sweep as sweep_command
from trainer.cli.options import OutputOptions, SweepOptions

BASE = """\
data: {name: digits, limit: 200, val_size: 200, batch_size: 20}
model: {name: mlp, hidden: [8]}
optimizer: {name: SGD, lr: 0.1}
train: {epochs: 2}
log: {every: 3}
"""


def write(folder: Path, sweep: Any, base: str = BASE) -> Path:
    """Write base.yaml and sweep.yaml in one folder; return the path of sweep.yaml."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "base.yaml").write_text(base)
    text = sweep if isinstance(sweep, str) else yaml.safe_dump(sweep, sort_keys=False)
    (folder / "sweep.yaml").write_text(text)
    return folder / "sweep.yaml"


def run(file: Path, *overrides: str, runs: Path, **options: Any) -> int:
    """Run a sweep from this process, with its own workers; return the exit code."""
    output = OutputOptions(as_json=options.pop("as_json", False))
    given: dict[str, Any] = {"workers": 1, "figures": False}
    return sweep_command.sweep(file, overrides, runs, SweepOptions(**given | options), output)


def results(folder: Path) -> list[dict[str, str]]:
    """Return the rows of results.csv."""
    with open(folder / "results.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def summary(folder: Path) -> dict[str, Any]:
    """Return summary.json."""
    actual: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return actual
