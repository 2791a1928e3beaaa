"""Run the loops in interleaved rounds and compute medians and ratios."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from trainer import child_process
from trainer.bench import loops
from trainer.bench.loops import BARE, JAX, Loop
from trainer.bench.task import LOG_EVERY, Setting
from trainer.console import waiting


@dataclass(frozen=True, slots=True)
class Row:
    """The times of one loop.

    Args:
        name: name of the loop.
        microseconds: time per step, one value per round.
        ratios: name of another loop -> median over rounds of the ratio of this loop's time to the other's.
        note: remarks, such as the compile time.
        fell_back: whether a compiled loop ran eager instead.
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
        """Half the interquartile range over the rounds, in microseconds."""
        if len(self.microseconds) < 2:
            return 0.0
        low, _, high = statistics.quantiles(self.microseconds, n=4, method="inclusive")
        return (high - low) / 2


def measure(root: Path | None, setting: Setting, threads: int) -> list[Row]:
    """Measure all loops that can run here. Each round runs every loop once.

    Args:
        root: folder of MNIST; None = the default folder. The cnn trains on noise of CIFAR-10's shape,
            the transformer on a text of random characters.
        setting: the settings of the benchmark.
        threads: number of torch's threads in every loop.

    Raises:
        DataError: MNIST is not found.
        OptlabError: a loop cannot run here.
    """
    steps = _steps(root, setting)
    running: dict[str, Loop] = {}
    with tempfile.TemporaryDirectory() as temporary:
        try:
            with waiting("Starting the loops"):
                for name in loops.names(setting):
                    folder = Path(tempfile.mkdtemp(dir=temporary))
                    running[name] = Loop(name, root, setting, folder, threads)
                for loop in running.values():
                    loop.wait()
            times = _rounds(running, steps, setting.rounds)
        finally:
            child_process.stop(loop.child for loop in running.values())
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
    """Return the steps per loop and round: at most one epoch, and a multiple of `LOG_EVERY`."""
    steps = min(setting.steps, loops.samples_per_epoch(root, setting) // setting.batch_size)
    return max(LOG_EVERY, steps - steps % LOG_EVERY)


def _rounds(running: Mapping[str, Loop], steps: int, rounds: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in running}
    for number in range(rounds + 1):
        for name, loop in running.items():
            with waiting(f"Round {number} of {rounds}: {name}" if number else f"Warming up: {name}"):
                seconds = loop.run(steps)
            if number:  # the first round is a warm-up (JAX compiles, caches fill)
                times[name].append(seconds / steps * 1e6)
    return times
