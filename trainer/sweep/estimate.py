"""How long a sweep will take: what a run costs, measured on some steps, and how runs fill the workers."""

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

MOST_STEPS = 200
MEASURED_SECONDS = 0.3
WORKER_START_SECONDS = 4.0  # importing torch; two to five on the machines that were tried


@dataclass(frozen=True, slots=True)
class Cost:
    """What one run of a variant takes, in seconds.

    Args:
        build: making the model and the batches.
        steps: all training steps, or the budget of time that the config gives.
        evaluations: all evaluations of the training and validation splits, the one before training too.
        test: reading the test split, which final runs do.
    """

    build: float
    steps: float
    evaluations: float
    test: float

    @property
    def search(self) -> float:
        """Seconds of a run that settings are chosen by."""
        return self.build + self.steps + self.evaluations

    @property
    def final(self) -> float:
        """Seconds of a run of a winner."""
        return self.search + self.test


def measure(sweep: Sweep, spec: RunSpec, infos: VariantInfo, shared_data: SharedData) -> Cost:
    """Return what a run costs, from a third of a second of its first steps and one evaluation."""
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


def _seconds_of(experiment: Experiment, act: Callable[[], object]) -> float:
    clock = Clock(experiment.device)  # it waits for the GPU
    clock.start()
    act()
    return clock.stop()


def _seconds_of_a_step(experiment: Experiment) -> float:
    """Return the mean of some steps after the first, which carries what happens once (unless it is alone)."""
    batches, clock, done = experiment.remaining_batches(), Clock(experiment.device), 0
    first = _seconds_of(experiment, lambda: experiment.engine.step(next(batches)))
    clock.start()
    for batch in islice(batches, MOST_STEPS):
        experiment.engine.step(batch)
        done += 1
        if clock.read() > MEASURED_SECONDS:
            break
    return clock.stop() / done if done else first


def wall_seconds(rounds: Sequence[Sequence[float]], workers: int) -> float:
    """Return when the last run of the last round ends.

    Args:
        rounds: the runs' seconds, round by round; a round begins when the one before is over, as the winners'
            runs do after the search, and a search's batch after the batch before.
        workers: each run goes to the worker that is free first.
    """
    total = 0.0
    for seconds in rounds:
        free = [0.0] * workers
        for cost in seconds:
            heapq.heapreplace(free, free[0] + cost)
        total += max(free)
    return total
