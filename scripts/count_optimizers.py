"""Count the optimizers of packages that train from a config by name and resume bit for bit.

    python scripts/count_optimizers.py [--json] [PACKAGE ...]

Every optimizer class that an installed package exports trains a small network for two epochs, and again with
an interruption after the first. The result is `ok`, `refused` (before the run, with the reason), or what went
wrong: a difference, or weights that did not change. Set TORCHDYNAMO_DISABLE=1, or packages that use
torch.compile take minutes.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import importlib
import inspect
import io
import json
import signal
import sys
import tempfile
import warnings
from collections import Counter
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from trainer import build_experiment, cli, load_config
from trainer.runs import recorder

PACKAGES = {
    "pytorch_optimizer": "pytorch-optimizer==4.1.0",
    "schedulefree": "schedulefree==1.4.1",
    "heavyball": "heavyball==3.2.1",
    "prodigyopt": "prodigyopt==1.1.2",
    "lion_pytorch": "lion-pytorch==0.2.5",
    "timm.optim": "timm==1.0.31",
    "torch_optimizer": "torch-optimizer==0.3.0",
    "dadaptation": "dadaptation==3.2",
    "madgrad": "madgrad==1.3",
    "adan_pytorch": "adan-pytorch==0.1.0",
    "came_pytorch": "came-pytorch==0.1.3",
    "adam_mini": "adam-mini==1.1.1",
    "ranger21": "ranger21==0.1.0",
    "pytorch_ranger": "pytorch-ranger==0.1.1",
    "adamp": "adamp==0.3.0",
    "bitsandbytes.optim": "bitsandbytes==0.50.2",
    "torchao.optim": "torchao==0.18.0",
    "optimi": "torch-optimi==0.3.3",
    "nadir": "nadir==0.1.1",
    "adam_atan2_pytorch": "adam-atan2-pytorch==0.4.1",
    "dog": "dog-optimizer==1.0.2",
    "kron_torch": "kron-torch==0.3.3",
    "prodigyplus": "prodigy-plus-schedule-free==2.0.1",
    "pogo": "pogo-torch==1.0.2",
}
"""The module that exports the optimizers of each package, and the version that docs/own-parts.md states."""

DEPENDENCIES = ["einops==0.8.2"]
"""What these packages import besides torch."""

_MUON = ", groups: [{match: {ndim: 2}, use_muon: true}, {match: {ndim: 1}, use_muon: false}]"
_BASE = ", base: {name: AdamW, lr: 1e-3}"
_ATTEMPTS = ("", _BASE, ", lr: 1e-3", ", lr: 1e-3, momentum: 0.9", ", lr: 1e-3" + _BASE, _MUON)
"""Further options to try, in this order: an inner optimizer, a learning rate, momentum, groups."""

_OPTIONS = {
    "ranger21:Ranger21": ", lr: 1e-3, num_epochs: 2, num_batches_per_epoch: 4",
    "ranger21:Ranger21abel": ", lr: 1e-3, num_epochs: 2, num_batches_per_epoch: 4",
    "heavyball:SAMWrapper": ", base: {name: 'heavyball:SFAdamW', lr: 1e-3}",
    "adam_mini:Adam_mini": ", dim: 16, n_heads: 4",
    "optimi:StableAdamW": ", lr: 1e-3, triton: false",
}

_CONFIG = """\
name: count
data: {{name: digits, batch_size: 32, val_size: 100, limit: 200}}
model: {{name: mlp, hidden: [16]}}
optimizer: {{name: "{name}"{options}}}
train: {{epochs: 2, threads: 1}}
log: {{every: 2, plots: []}}
"""


def classes_of(package: str) -> list[str]:
    """Return the import paths of the optimizer classes that a package exports, without abstract ones."""
    module = importlib.import_module(package)
    return sorted(
        f"{package}:{name}"
        for name, thing in vars(module).items()
        if inspect.isclass(thing)
        and issubclass(thing, torch.optim.Optimizer)
        and not thing.__module__.startswith("torch.optim")
        and not inspect.isabstract(thing)
        and not name.startswith("_")
    )


def optlab(*arguments: str | Path) -> tuple[int, str]:
    """Run a command of optlab in this process; return its exit code and its messages."""
    errors = io.StringIO()
    code: Any = 0
    with (
        mock.patch.object(sys, "argv", ["optlab", *map(str, arguments)]),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(errors),
    ):
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code
    return int(code or 0), errors.getvalue()


def outcome(name: str, options: str, folder: Path) -> tuple[str, str]:
    """Train with an optimizer, with and without an interruption; return the outcome and its reason."""
    config = folder / "config.yaml"
    config.write_text(_CONFIG.format(name=name, options=options), encoding="utf-8")
    code, errors = optlab("train", config, "--run-dir", folder / "whole", "--quiet")
    if code:
        return ("refused" if code == 2 else f"exit code {code}"), errors
    write = recorder.Recorder.write

    def interrupted(self: recorder.Recorder, record: Any) -> Any:
        if type(record).__name__ == "CheckpointDue" and record.step == 4:
            signal.raise_signal(signal.SIGTERM)
        return write(self, record)

    with mock.patch.object(recorder.Recorder, "write", interrupted):
        code, errors = optlab("train", config, "--run-dir", folder / "part", "--quiet")
    if code == 143:
        code, errors = optlab("resume", folder / "part", "--quiet")
    if code:
        return f"exit code {code} when resumed", errors
    if _numbers(folder / "whole") != _numbers(folder / "part"):
        return "differs when resumed", ""
    with contextlib.redirect_stdout(io.StringIO()):  # some packages print
        before = build_experiment(load_config(config)).model.state_dict()
    saved = torch.load(folder / "whole" / "checkpoints" / "last.pt", weights_only=True)
    after = saved["experiment"]["model"]
    moved = any(not torch.equal(value, after[name]) for name, value in before.items())
    return ("ok", "") if moved else ("does not change the weights", "")


def _numbers(run: Path) -> list[dict[str, str]]:
    rows = []
    for name in ("steps.csv", "epochs.csv"):
        with open(run / name, encoding="utf-8", newline="") as file:
            rows += list(csv.DictReader(file))
    return [{key: value for key, value in row.items() if key != "train_seconds"} for row in rows]


def first_success(name: str) -> tuple[str, str]:
    """Return the outcome with the first options that an optimizer accepts, or the reason why it fails."""
    failed: tuple[str, str] | None = None
    for options in (_OPTIONS[name],) if name in _OPTIONS else _ATTEMPTS:
        with tempfile.TemporaryDirectory() as folder:
            result = outcome(name, options, Path(folder))
        if result[0] == "ok":
            return result
        if failed is None or ("failed with" in result[1] and "failed with" not in failed[1]):
            failed = result  # an error of its code says more than a missing option
    assert failed is not None
    return failed


def main() -> None:
    """Count, and print a line for every optimizer that does not train and resume."""
    parser = argparse.ArgumentParser()
    parser.add_argument("packages", nargs="*", default=list(PACKAGES))
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    outcomes: dict[str, tuple[str, str]] = {}
    for package in arguments.packages:
        try:
            names = classes_of(package)
        except ImportError as error:
            print(f"{package}: {error}", file=sys.stderr)
            continue
        for name in names:
            outcomes[name] = first_success(name)
            if outcomes[name][0] != "ok":
                reason = next(iter(outcomes[name][1].strip().splitlines()), "")
                line = f"{name}: {outcomes[name][0]}: {reason.partition('optimizer')[2] or reason}"
                print(line, file=sys.stderr if arguments.json else sys.stdout, flush=True)
    counts = Counter(kind for kind, _ in outcomes.values())
    if arguments.json:
        print(json.dumps(outcomes))
    else:
        print(f"{counts['ok']} of {len(outcomes)} train and resume bit for bit: {dict(counts)}")


if __name__ == "__main__":
    main()
