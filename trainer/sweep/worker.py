"""A worker process: imports torch once, then receives tasks and sends replies."""

from __future__ import annotations

import gc
import os
import signal
import threading
from collections.abc import Mapping
from contextlib import suppress
from itertools import count
from multiprocessing import connection, parent_process
from multiprocessing.connection import Connection

from trainer import streams
from trainer.sweep.models import Variant

# During training the garbage collector ignores older objects, so a model in a reference cycle could stay in
# memory long after its run. A collection takes 0.2 s.
_RUNS_PER_COLLECTION = 20


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
