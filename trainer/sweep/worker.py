"""A worker process: imports torch once, then receives tasks and sends replies."""

from __future__ import annotations

import gc
from collections.abc import Mapping
from itertools import count
from multiprocessing.connection import Connection

from trainer.sweep.models import Variant

# During training the garbage collector ignores older objects, so a model in a reference cycle could stay in
# memory long after its run. A collection takes 0.2 s.
_RUNS_PER_COLLECTION = 20


def work(pipe: Connection, variants: Mapping[str, Variant]) -> None:
    """Train tasks from the pipe until it is closed."""
    from trainer.sweep.training import Trainer

    trainer = Trainer(pipe, variants)
    for done in count(1):
        pipe.send(trainer.train(pipe.recv()))
        if done % _RUNS_PER_COLLECTION == 0:
            gc.collect()
