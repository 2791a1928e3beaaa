"""Runs the loops in alternating rounds and tells medians and ratios. Prints nothing."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from trainer.bench import loops
from trainer.bench.loops import BARE, JAX, Loop
from trainer.bench.task import LOG_EVERY, Setting


@dataclass(frozen=True, slots=True)
class Row:
    """One loop's times.

    Args:
        name: the loop.
        microseconds: per step, one number per round.
        ratios: median over the rounds of its time over another loop's in the same round, by that loop's name.
        note: what there is to say, as the seconds of compiling.
        fell_back: whether it was to run compiled and does not.
    """

    name: str
    microseconds: list[float]
    ratios: Mapping[str, float]
    note: str = ""
    fell_back: bool = False

    @property
    def median(self) -> float:
        """Median microseconds per step."""
        return statistics.median(self.microseconds)

    @property
    def spread(self) -> float:
        """Half the range of the middle half of the rounds, in microseconds."""
        if len(self.microseconds) < 2:
            return 0.0
        low, _, high = statistics.quantiles(self.microseconds, n=4, method="inclusive")
        return (high - low) / 2


def measure(root: Path | None, setting: Setting) -> list[Row]:
    """Measure every loop that can run here: each round runs all of them one after the other.

    Args:
        root: folder of MNIST; None = the usual one. The cnn trains on noise of CIFAR-10's shape.
        setting: what is trained, and for how long.

    Raises:
        DataError: MNIST is not there.
        OptlabError: a loop cannot run here.
    """
    steps = _steps(root, setting)
    running: dict[str, Loop] = {}
    with tempfile.TemporaryDirectory() as temporary:
        try:
            for name in loops.names(setting):
                folder = Path(tempfile.mkdtemp(dir=temporary))
                running[name] = Loop(name, root, setting, folder)
            for loop in running.values():
                loop.wait()
            times = _rounds(running, steps, setting.rounds)
        finally:
            for loop in running.values():
                loop.hang_up()
            for loop in running.values():
                loop.join()
    return [
        Row(
            name,
            own,
            {
                other: statistics.median(a / b for a, b in zip(own, times[other], strict=True))
                for other in (BARE, JAX)
                if other in times
            },
            running[name].note,
            running[name].fell_back,
        )
        for name, own in times.items()
    ]


def _steps(root: Path | None, setting: Setting) -> int:
    """Return the steps per loop and round: an epoch's at most, and as many as end at a record."""
    steps = min(setting.steps, loops.images_per_epoch(root, setting) // setting.batch_size)
    return max(LOG_EVERY, steps - steps % LOG_EVERY)


def _rounds(running: Mapping[str, Loop], steps: int, rounds: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in running}
    for number in range(rounds + 1):
        for name, loop in running.items():
            seconds = loop.run(steps)
            if number:  # the first round warms up: JAX compiles, caches fill
                times[name].append(seconds / steps * 1e6)
    return times
