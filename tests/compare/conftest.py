"""Run directories with known results, written without training."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

SGD = {"lr": 0.001, "momentum": 0, "weight_decay": 0, "nesterov": False}
ADAM = {"lr": 0.001, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0, "amsgrad": False}
DEFAULTS: dict[str, dict[str, Any]] = {"SGD": SGD, "Adam": ADAM, "AdamW": {**ADAM, "weight_decay": 0.01}}

WriteRun = Callable[..., Path]


def moment(epoch: int, steps: int, seconds: float, values: dict[str, float | None]) -> dict[str, Any]:
    return {"step": epoch * steps, "epoch": float(epoch), "train_seconds": seconds, "values": values}


def number(value: float | None) -> str:
    return "" if value is None else repr(value)


@pytest.fixture
def write_run(tmp_path: Path) -> WriteRun:
    """Write a run with the given validation results, one per epoch, the first before training."""

    def write(
        name: str,
        *,
        optimizer: str | dict[str, Any] = "SGD",
        seed: int = 0,
        val_accuracy: Sequence[float] | None = (0.1, 0.5, 0.9),
        val_loss: Sequence[float] | None = None,
        test_accuracy: float | None = None,
        status: str = "completed",
        steps_per_epoch: int = 10,
        ms_per_step: float = 1.0,
        state_bytes: int = 0,
        torch: str = "2.15.0",
        config: dict[str, Any] | None = None,
        digest: str = "d" * 64,
        losses: Sequence[float] | None = None,
        files: dict[str, str] | None = None,
        packages: dict[str, str] | None = None,
        engine: str = "eager",
        environment: dict[str, Any] | None = None,
    ) -> Path:
        folder = tmp_path / name
        folder.mkdir(parents=True)
        chosen = {"name": optimizer} if isinstance(optimizer, str) else dict(optimizer)
        full = {**DEFAULTS.get(chosen["name"], {}), **chosen, "label": None, "match": None, "groups": []}
        settings: dict[str, Any] = {
            "format": 1, "name": name.partition("/")[0], "seed": seed,
            "data": {"name": "digits", "batch_size": 32, "val_size": 0.2, "split_seed": 0, "augment": []},
            "model": {"name": "mlp", "hidden": [64], "dropout": 0.0}, "init": None,
            "loss": {"name": "cross_entropy", "l2": 0.0}, "optimizer": full, "scheduler": None,
            "train": {"epochs": 2.0, "steps": None, "device": "cpu", "threads": 1}, "log": {"every": 5},
        }  # fmt: skip
        for key, value in (config or {}).items():
            section = settings
            *parents, last = key.split(".")
            for parent in parents:
                section = section[parent]
            section[last] = value
        (folder / "config.yaml").write_text(yaml.safe_dump(settings))
        around = {
            "format": 1, "versions": {"optlab": "0.1.0", "torch": torch}, "device": "cpu", "threads": 1,
            "machine": {"processor": "x"}, "optimizer_defaults": DEFAULTS,
            "data": {"name": "digits", "sha256": digest, "input_shape": [1, 8, 8], "num_classes": 10},
            "components": [
                {"source": source, "copy": "components/x.py", "sha256": sha256}
                for source, sha256 in (files or {}).items()
            ],
            "packages": packages or {}, **(environment or {}),
        }  # fmt: skip
        (folder / "environment.json").write_text(json.dumps(around))
        (folder / "status.json").write_text(json.dumps({"format": 1, "status": status, "message": ""}))
        accuracies = list(val_accuracy) if val_accuracy is not None else None
        epochs = len(accuracies if accuracies is not None else val_loss or [0, 0]) - 1
        val_losses = (
            list(val_loss) if val_loss is not None else [2.3 / (1 + epoch) for epoch in range(epochs + 1)]
        )
        second = ms_per_step * steps_per_epoch / 1e3
        header = [
            "step",
            "epoch",
            "samples",
            "grad_evals",
            "train_seconds",
            "train_loss",
            "train_accuracy",
            "val_loss",
        ]
        header += ["val_accuracy"] if accuracies is not None else []
        lines, moments = [",".join(header)], []
        for epoch in range(epochs + 1):
            values: dict[str, float | None] = {"train_loss": val_losses[epoch] if epoch else None}
            values["train_accuracy"] = None
            values["val_loss"] = val_losses[epoch]
            if accuracies is not None:
                values["val_accuracy"] = accuracies[epoch]
            step = epoch * steps_per_epoch
            place = [step, float(epoch), step * 32, step, epoch * second]
            lines.append(",".join([*map(repr, place), *map(number, values.values())]))
            moments.append(moment(epoch, steps_per_epoch, epoch * second, values))
        (folder / "epochs.csv").write_text("\n".join(lines) + "\n")
        result = (
            list(losses)
            if losses is not None
            else [2.3 * 0.97**step for step in range(epochs * steps_per_epoch)]
        )
        rows = [
            f"{step},{step / steps_per_epoch},{step * 32},{step},{step * ms_per_step / 1e3},{loss!r},0.1"
            for step, loss in enumerate(result, start=1)
        ]
        (folder / "steps.csv").write_text(
            "\n".join(["step,epoch,samples,grad_evals,train_seconds,loss,lr", *rows]) + "\n"
        )
        total = epochs * steps_per_epoch
        finite = [one for one in moments if math.isfinite(one["values"]["val_loss"] or 0)]
        best = max(finite, key=lambda one: one["values"].get("val_accuracy") or 0) if finite else None
        summary = {
            "status": status, "steps": total, "epochs": float(epochs), "samples": total * 32,
            "grad_evals": total, "train_seconds": epochs * second, "total_seconds": epochs * second,
            "final": moments[-1], "best": best,
            "test": None if test_accuracy is None else
            {"loss": 1 - test_accuracy, "accuracy": test_accuracy, "checkpoint": "best", "step": total},
            "steps_per_second": 1e3 / ms_per_step, "samples_per_second": 32e3 / ms_per_step,
            "peak_memory_bytes": 1, "optimizer_state_bytes": state_bytes, "parameters": 10,
            "best_metric": "val_accuracy", "engine": engine, "message": "", "format": 1,
        }  # fmt: skip
        (folder / "summary.json").write_text(json.dumps(summary))
        return folder

    return write
