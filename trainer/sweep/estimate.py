"""Estimates the duration of a sweep from the measured duration of a few steps and the number of workers."""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice

from trainer.device import Clock
from trainer.sweep.models import Sweep
from trainer.sweep.plan import RunSpec, SharedData, VariantInfo, load_run_config
from trainer.training.building import build_experiment
from trainer.training.experiment import Experiment

MAX_STEPS = 200
MEASURED_SECONDS = 0.3
WORKER_START_SECONDS = 4.0  # importing torch; 2 to 5 s on the machines that were measured


@dataclass(frozen=True, slots=True)
class Cost:
    """Duration of one run of a variant, in seconds.

    Args:
        build: building the model and the batches.
        steps: all training steps, or the time limit of the config.
        evaluations: all evaluations of the training and validation splits, including the one before training.
        test: evaluating the test split (final runs only).
    """

    build: float
    steps: float
    evaluations: float
    test: float

    @property
    def search(self) -> float:
        """Seconds of a search run."""
        return self.build + self.steps + self.evaluations

    @property
    def final(self) -> float:
        """Seconds of a final run."""
        return self.search + self.test


def measure(sweep: Sweep, spec: RunSpec, infos: VariantInfo, shared_data: SharedData) -> Cost:
    """Estimate the cost of a run from one evaluation and 0.3 s of training steps."""
    loaded = load_run_config(sweep, spec)
    loaded_data = shared_data.loaded_data(loaded)
    began = time.perf_counter()
    experiment = build_experiment(loaded, loaded_data=loaded_data)
    build = time.perf_counter() - began
    steps = experiment.plan.seconds or 0.0
    if experiment.plan.steps is not None:
        steps = _seconds_of_a_step(experiment) * experiment.plan.steps
    evaluation = _seconds_of(experiment, experiment.evaluate)
    test = _seconds_of(experiment, lambda: experiment.measure("test"))
    return Cost(build, steps, evaluation * (infos.evaluations + 1), test)


def _seconds_of(experiment: Experiment, function: Callable[[], object]) -> float:
    clock = Clock(experiment.state.device)  # synchronizes with the GPU
    clock.start()
    function()
    return clock.stop()


def _seconds_of_a_step(experiment: Experiment) -> float:
    """Return the mean duration of a few steps after the first one, which includes one-time costs."""
    batches, clock, done = experiment.remaining_batches(), Clock(experiment.state.device), 0
    first = _seconds_of(experiment, lambda: experiment.engine.step(next(batches)))
    clock.start()
    for batch in islice(batches, MAX_STEPS):
        experiment.engine.step(batch)
        done += 1
        if clock.read() > MEASURED_SECONDS:
            break
    return clock.stop() / done if done else first


def wall_seconds(rounds: Sequence[Sequence[float]], workers: int) -> float:
    """Return the wall-clock seconds until the last run of the last round ends.

    Args:
        rounds: seconds of the runs of each round. A round starts when the previous one has ended: final runs
            start after the search, and a batch of a search after the previous batch.
        workers: number of workers; each run goes to the first free one.
    """
    total = 0.0
    for seconds in rounds:
        free = [0.0] * workers
        for cost in seconds:
            heapq.heapreplace(free, free[0] + cost)
        total += max(free)
    return total
