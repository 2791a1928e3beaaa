"""A worker process: imports torch once, then trains one run after the other as it is told.

Knows nothing of the sweep's plan; it gets tasks and gives replies.
"""

from __future__ import annotations

import gc
import os
import signal
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from multiprocessing import connection, parent_process
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from trainer import streams
from trainer.config.identity import Code
from trainer.records import RunResult, Status
from trainer.sweep.models import Variant

# While a run trains, the collector is kept off what existed before; a model in a cycle of references would
# outlive its run for long. A collection takes 0.2 s.
_RUNS_PER_COLLECTION = 20


@dataclass(frozen=True, slots=True)
class Task:
    """One run to train.

    Args:
        variant: whose.
        values, seed, overrides: what is laid on the variant's config.
        folder: the run directory.
        code: the code of the run's parts as it was when the sweep started.
        loaded_data: file with its data; None = load it.
        prune_metric: metric that is sent after every evaluation, to ask whether to go on; None = never.
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
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    streams.guard_worker()
    threading.Thread(target=_die_with_parent, daemon=True).start()

    from trainer.sweep.training import Trainer

    trainer = Trainer(pipe, variants)
    for done in count(1):
        if (task := pipe.recv()) is None:
            return
        pipe.send(trainer.train(task))
        if done % _RUNS_PER_COLLECTION == 0:
            gc.collect()


def _die_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)
