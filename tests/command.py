"""Runs the command line in this process, because importing torch in a new process takes seconds."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from trainer import cli

TINY = """\
name: tiny
seed: 0
data:
  name: digits
  batch_size: 32
  val_size: 100
  limit: 200
model:
  name: mlp
  hidden: [16]
loss: cross_entropy
optimizer:
  name: SGD
  lr: 0.05
scheduler: null
train:
  epochs: 1
  threads: 1
log:
  every: 2
  plots: []
"""
"""A run of seven steps on 200 images, without figures: some hundredths of a second."""


@dataclass(frozen=True)
class Done:
    """The exit code and output of a command."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def optlab(*arguments: str | Path) -> Done:
    """Run `optlab ARGUMENTS` as the console script does, in this process."""
    out, err = io.StringIO(), io.StringIO()
    code = 0
    argv = ["optlab", *map(str, arguments)]
    with (
        mock.patch.object(sys, "argv", argv),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    return Done(code, out.getvalue(), err.getvalue())


def write_tiny(folder: Path, text: str = TINY, name: str = "tiny.yaml") -> Path:
    """Write a config and return its path."""
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def train(config: Path, *overrides: str, run_dir: Path, code: int = 0) -> dict[str, Any]:
    """Train into a directory and return the result printed by `--json`; the exit code must be `code`."""
    done = optlab("train", config, *overrides, "--run-dir", run_dir, "--quiet", "--json")
    assert done.code == code, done.err
    result: dict[str, Any] = done.json
    return result


def rows(path: Path) -> list[dict[str, str]]:
    """Return a CSV file's rows, cells as they are written."""
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def column(path: Path, name: str) -> list[str]:
    """Return one column of a CSV file, cells as they are written."""
    return [row[name] for row in rows(path)]
