"""Runs the loops in alternating rounds and tells medians and ratios (floor 6). Prints nothing."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from trainer import catalog, rundir
from trainer.bench import peers
from trainer.bench.peers import Run
from trainer.bench.task import LOG_EVERY, Setting, Task
from trainer.building import build_experiment
from trainer.data.dataset import data_root
from trainer.data.torchvision_sets import mnist
from trainer.device import sparing_collector
from trainer.experiment import Experiment
from trainer.loop import train
from trainer.records import POSITION_COLUMNS, StepRecord

BARE = "best bare eager loop"
JAX = "JAX + optax, one scan"
_MOST_NOISE = 10_000  # images


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
    """
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as stack:
        folder = Path(temporary)
        task, source = _task(root, folder, setting)
        steps = min(setting.steps, len(task.images) // setting.batch_size)
        steps = max(LOG_EVERY, steps - steps % LOG_EVERY)  # a call ends at a record
        experiments = _experiments(task, source, folder, setting.threads)
        runs = _peers(task, source, folder)
        notes = {}
        for name, experiment in experiments.items():
            table = rundir.Table(folder / f"{name}.csv", [*POSITION_COLUMNS, *experiment.step_columns()])
            stack.callback(table.close)
            runs[name] = _ours(experiment, table)
            notes[name] = experiment.compile() or ""
        with sparing_collector():
            times = _rounds(runs, steps, setting.rounds)
    return [
        Row(
            name,
            own,
            {
                other: statistics.median(a / b for a, b in zip(own, times[other], strict=True))
                for other in (BARE, JAX)
                if other in times
            },
            notes.get(name, ""),
            name in experiments and _fell_back(experiments[name]),
        )
        for name, own in times.items()
    ]


def _fell_back(experiment: Experiment) -> bool:
    return experiment.compile_seconds is not None and not experiment.is_compiled()


def _rounds(runs: Mapping[str, Run], steps: int, rounds: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, run in runs.items():
            seconds = run(steps)
            if number:  # the first round warms up: JAX compiles, caches fill
                times[name].append(seconds / steps * 1e6)
    return times


def _task(root: Path | None, folder: Path, setting: Setting) -> tuple[Task, Path]:
    """Return the task, and where optlab finds its data: MNIST's folder, or a file of noise."""
    model, optimizer, batch_size = setting.model, setting.optimizer, setting.batch_size
    if model == "cnn":
        path = folder / "noise.npz"
        drawn = np.random.default_rng(0)
        count = min(max(setting.steps, LOG_EVERY) * batch_size, max(_MOST_NOISE, LOG_EVERY * batch_size))
        images = drawn.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)
        labels = np.arange(count) % 10
        np.savez(path, x_train=images, y_train=labels, x_test=images[:10], y_test=labels[:10])
        return Task(model, optimizer, batch_size, torch.from_numpy(images), torch.from_numpy(labels)), path
    split = mnist(root=root).train
    return Task(model, optimizer, batch_size, split.inputs, split.targets), data_root(root).absolute()


def _experiments(task: Task, source: Path, folder: Path, threads: int | None) -> dict[str, Experiment]:
    """Return optlab's own ways to train the task, by what they are called."""
    path = folder / "bench.yaml"
    path.write_text(task.config(str(source)), encoding="utf-8")
    found = {}
    for precision in ("float32", "bfloat16") if task.model == "cnn" else ("float32",):
        for engine in ("eager", "compiled"):
            overrides = [f"train.engine={engine}", f"train.precision={precision}"]
            overrides += [f"train.threads={threads}"] if threads else []
            name = ", ".join(["optlab", engine, *([precision] if precision != "float32" else [])])
            found[name] = build_experiment(catalog.load_config(path, overrides))
    return found


def _peers(task: Task, source: Path, folder: Path) -> dict[str, Run]:
    """Return the loops of others: the torch ones, and those whose packages are there."""
    runs = {BARE: peers.bare(task)}
    if task.model == "mlp":
        runs["matrix products alone"] = peers.products(task)
        runs["textbook loop"] = peers.textbook(task, source)
        if find_spec("jax") and find_spec("optax"):
            runs[JAX] = peers.jax_scan(task)
        if find_spec("keras"):
            backend = "jax" if find_spec("jax") else "torch"
            runs[f"Keras, {backend}"] = peers.keras_fit(task, backend)
    if find_spec("lightning"):
        runs["Lightning"] = peers.lightning_fit(task, folder)
    return runs


def _ours(experiment: Experiment, table: rundir.Table) -> Run:
    """Return optlab's own loop with its records written to a table, as in a run."""
    records = train(experiment)
    next(records), next(records)  # the evaluation before the first step, and its checkpoint

    def run(steps: int) -> None:
        target = experiment.progress.step + steps
        for record in records:
            if isinstance(record, StepRecord):
                table.append(record.row())
            if record.step >= target:
                return

    return peers.timed(run)
