"""Time per step of two optimizers on this machine, measured alternately."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle, islice

from trainer.device import Clock
from trainer.training.experiment import Experiment

ROUNDS = 9
STEPS = 20


def step_milliseconds(experiments: Sequence[Experiment]) -> list[float]:
    """Return the milliseconds per step of each experiment, in the fastest of several rounds.

    The experiments take turns, so that changes of the machine's load affect all of them; other processes only
    add time, so the fastest round is the least disturbed. Evaluations and records are not included.

    Args:
        experiments: built on the same data and model; their steps change them.
    """
    batches = [list(islice(cycle(one.remaining_batches()), STEPS)) for one in experiments]
    times: list[list[float]] = [[] for _ in experiments]
    for _ in range(ROUNDS):
        for number, one in enumerate(experiments):
            clock = Clock(one.state.device)
            clock.start()
            for batch in batches[number]:
                one.engine.step(batch)
            times[number].append(1e3 * clock.stop() / STEPS)
    return [min(each) for each in times]
