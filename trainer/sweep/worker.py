"""A worker process: imports torch once, then trains one run after the other as it is told.

Knows nothing of the sweep's plan; it gets tasks and gives replies.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import connection, parent_process
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from trainer.records import RunResult, Status
from trainer.sweep.structure import Variant


@dataclass(frozen=True, slots=True)
class Task:
    """One run to train.

    Args:
        variant: whose.
        values, seed, overrides: what is laid on the variant's config.
        folder: the run directory.
        material: file with its data; None = load it.
        judged_by: metric that is sent after every evaluation, to be told whether to go on; None = never asks.
    """

    variant: str
    values: Mapping[str, Any]
    seed: int
    overrides: list[str]
    folder: Path
    material: Path | None = None
    judged_by: str | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """What a run came to: its status, its result where it has one, and why it failed.

    Status `running` = another process trains it, so this one did not.
    """

    status: Status
    result: RunResult | None
    message: str = ""
    skipped: bool = False


@dataclass(frozen=True, slots=True)
class Question:
    """Whether to go on, asked after an evaluation: all evaluations so far, by number from 1."""

    values: list[float] = field(default_factory=list)


def work(pipe: Connection, variants: Mapping[str, Variant]) -> None:
    """Train what comes through the pipe until None comes, or the parent is gone."""
    with suppress(OSError):
        os.setsid()  # Ctrl-C goes to the parent, which tells its workers
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_die_with_parent, daemon=True).start()

    from trainer.sweep.training import Trainer

    trainer = Trainer(pipe, variants)
    while (task := pipe.recv()) is not None:
        pipe.send(trainer.train(task))


def _die_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)
