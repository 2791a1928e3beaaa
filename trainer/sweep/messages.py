"""The messages between a sweep's main process and its workers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainer.config.identity import Code
from trainer.records import RunResult, Status


@dataclass(frozen=True, slots=True)
class Task:
    """One run to train.

    Args:
        variant: name of its variant.
        values, seed, overrides: changes to the config of the variant.
        folder: the run directory.
        code: the code of the components of the run when the sweep started.
        loaded_data: file with its data; None = load it.
        prune_metric: metric to send to the parent after every evaluation for pruning; None = no pruning.
    """

    variant: str
    values: Mapping[str, Any]
    seed: int
    overrides: list[str]
    folder: Path
    code: Code
    loaded_data: Path | None = None
    prune_metric: str | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """The outcome of a task: status, result if any, and error message.

    Status `running` means that another process trains the run.
    """

    status: Status
    result: RunResult | None
    message: str = ""
    skipped: bool = False


@dataclass(frozen=True, slots=True)
class Question:
    """Asks the parent whether to prune the run; `values` are all evaluations so far."""

    values: list[float] = field(default_factory=list)
