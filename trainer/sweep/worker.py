"""A worker process: imports torch once, then receives tasks and sends replies."""

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

# During training the garbage collector ignores older objects, so a model in a reference cycle could stay in
# memory long after its run. A collection takes 0.2 s.
_RUNS_PER_COLLECTION = 20


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


def work(pipe: Connection, variants: Mapping[str, Variant]) -> None:
    """Train tasks from the pipe until it receives None or the parent exits."""
    with suppress(OSError):
        os.setsid()  # Ctrl-C reaches only the parent, which then stops its workers
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
