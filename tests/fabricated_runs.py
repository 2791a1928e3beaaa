"""Fabricates many run directories: copies of one trained run with other settings, seeds and values."""

from __future__ import annotations

import json
import os
import random
import re
from pathlib import Path
from typing import Any

from command import optlab, write_tiny

SETTINGS, SEEDS = 20, 10
"""Learning rates and seeds of each fabricated variant."""


def fabricate(folder: Path, count: int) -> Path:
    """Write `count` finished runs of 20 epochs to `folder`/runs, and return that directory.

    Each has all files of a run that takes part in a comparison: 70 rows in steps.csv, 21 in epochs.csv, and
    the folders of figures and checkpoints with a file each.
    """
    done = optlab("train", write_tiny(folder), "train.epochs=20", "--run-dir", folder / "one", "--quiet")
    assert done.code == 0, done.err
    original = folder / "one"
    texts = {path.name: path.read_text() for path in original.iterdir() if path.is_file()}
    summary = json.loads(texts["summary.json"])
    generator = random.Random(0)
    for number in range(count):
        variant, rest = divmod(number, SETTINGS * SEEDS)
        setting, seed = divmod(rest, SEEDS)
        lr, momentum = round(10 ** (-setting / 5), 6), variant / 100
        run = folder / "runs" / f"m={momentum}" / f"lr={lr},seed={seed}"
        run.mkdir(parents=True)
        shift = 1 + 0.01 * generator.random()
        changed = {
            "config.yaml": re.sub(r"  lr: .*", f"  lr: {lr}", texts["config.yaml"])
            .replace("seed: 0\n", f"seed: {seed}\n", 1)
            .replace("momentum: 0.0", f"momentum: {momentum}"),
            "summary.json": json.dumps(_scaled(summary, shift)),
            "steps.csv": _scaled_table(texts["steps.csv"], shift),
            "epochs.csv": _scaled_table(texts["epochs.csv"], shift),
        }
        for name in texts:
            if name in changed:
                (run / name).write_text(changed[name])
            else:
                os.link(original / name, run / name)
        for inner in ("plots/loss.png", "checkpoints/last.pt"):
            (run / inner).parent.mkdir()
            os.link(original / "train.log", run / inner)  # not read
    return folder / "runs"


def _scaled(summary: dict[str, Any], factor: float) -> dict[str, Any]:
    """Return a summary with other losses."""
    final = summary["final"]
    values = {name: value * factor if "loss" in name else value for name, value in final["values"].items()}
    return summary | {"final": final | {"values": values}}


def _scaled_table(text: str, factor: float) -> str:
    """Return a table whose losses are multiplied by a factor."""
    header, *lines = text.splitlines()
    losses = [number for number, name in enumerate(header.split(",")) if "loss" in name]
    rows = [line.split(",") for line in lines]
    for row in rows:
        for number in losses:
            row[number] = repr(float(row[number]) * factor) if row[number] else ""
    return "\n".join([header, *(",".join(row) for row in rows)]) + "\n"
