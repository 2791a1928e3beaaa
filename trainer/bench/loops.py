"""The loops to measure, by name, each run in its own process.

Separate processes give each loop the conditions of normal use: its own threads, and memory that no other loop
has fragmented. The state of the allocator alone changes the time of a convolutional network by a tenth.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trainer import catalog
from trainer.bench import peers
from trainer.bench.peers import Run
from trainer.bench.task import CONTEXT, LOG_EVERY, MLP_SIZES, TEXT_PARTS, VOCABULARY, Setting, Task
from trainer.child_process import ChildProcess
from trainer.data.dataset import data_root
from trainer.data.torchvision_sets import mnist
from trainer.device import check_threads, sparing_collector
from trainer.errors import OptlabError
from trainer.records import POSITION_COLUMNS, StepRecord
from trainer.runs import rundir
from trainer.training.building import build_experiment, set_up_run
from trainer.training.experiment import Experiment
from trainer.training.loop import train_alone

BARE = "best bare eager loop"
JAX = "JAX + optax, one scan"
_MAX_NOISE_SAMPLES = 10_000


class Loop:
    """A loop in its own process. The process starts to prepare the loop immediately.

    Args:
        name: one of `names`.
        root: folder of MNIST; None = the default folder.
        setting: the settings of the benchmark.
        folder: folder for its files; the caller removes it.
        threads: number of torch's threads.

    Attributes:
        note: remarks, such as the compile time.
        fell_back: whether a compiled loop runs eager instead.
        child: its process.
    """

    note = ""
    fell_back = False

    def __init__(self, name: str, root: Path | None, setting: Setting, folder: Path, threads: int) -> None:
        self._name = name
        self.child = ChildProcess(_serve, name, root, setting, folder, threads)

    def wait(self) -> None:
        """Wait until the loop is ready; raise OptlabError if it cannot run here."""
        self.note, self.fell_back = self._receive()

    def run(self, steps: int) -> float:
        """Train `steps` steps and return the seconds they took; raise OptlabError if the loop fails."""
        self.child.send(steps)
        seconds: float = self._receive()
        return seconds

    def _receive(self) -> Any:
        try:
            answer = self.child.receive()
        except EOFError:
            answer = OptlabError(f"the loop {self._name!r} ended unexpectedly")
        if isinstance(answer, OptlabError):
            raise answer
        return answer


def names(setting: Setting) -> list[str]:
    """Return the loops that can run here: optlab's, torch's, and those whose packages are installed."""
    return [*_ours(setting), *_others(setting)]


def _ours(setting: Setting) -> dict[str, list[str]]:
    """Return the names of optlab's own loops with their config overrides."""
    settings = {}
    for precision in ("float32", "bfloat16") if setting.model == "cnn" else ("float32",):
        for engine in ("eager", "compiled"):
            name = ", ".join(["optlab", engine, *([precision] if precision != "float32" else [])])
            settings[name] = [f"train.engine={engine}", f"train.precision={precision}"]
    return settings


def _others(setting: Setting) -> dict[str, Callable[[Task, Path, Path], Run]]:
    """Return the names of the other loops with their factories: (task, data path, folder) -> loop."""
    loops: dict[str, Callable[[Task, Path, Path], Run]] = {BARE: lambda task, *_: peers.bare(task)}
    if setting.model in MLP_SIZES:
        loops["matrix products only"] = lambda task, *_: peers.products(task)
        if find_spec("jax") and find_spec("optax"):
            loops[JAX] = lambda task, *_: peers.jax_scan(task)
    if setting.model == "mlp":
        loops["tutorial loop"] = lambda task, source, _: peers.tutorial(task, source)
        if find_spec("keras"):
            backend = "jax" if find_spec("jax") else "torch"
            loops[f"Keras, {backend}"] = lambda task, *_: peers.keras_fit(task, backend)
    if find_spec("lightning"):
        loops["Lightning"] = lambda task, _, folder: peers.lightning_fit(task, folder)
    return loops


def _serve(
    pipe: Connection, name: str, root: Path | None, setting: Setting, folder: Path, threads: int
) -> None:
    """Prepare the loop, send its note, then time the requested numbers of steps until the pipe closes."""
    if setting.threads and hasattr(os, "sched_setaffinity"):  # some loops have no option for threads
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: setting.threads])
    torch.set_num_threads(threads)
    try:
        run, note, fell_back = _build_loop(name, root, setting, folder, threads)
    except Exception as error:  # for example, a partly installed package
        pipe.send(OptlabError(f"the loop {name!r} cannot run: {type(error).__name__}: {error}"))
        return
    pipe.send((note, fell_back))
    with sparing_collector():
        while True:
            pipe.send(run(pipe.recv()))


def choose_threads(root: Path | None, setting: Setting) -> int:
    """Return the number of threads of all loops: as set, else what `train.threads: auto` is for the task."""
    if setting.threads:
        return check_threads(setting.threads, key="--threads")
    with tempfile.TemporaryDirectory() as folder:
        task, source = _task(root, Path(folder), setting)
        config = _write_config(task, source, Path(folder))
        threads = set_up_run(catalog.load_config(config)).config.train.threads
    assert threads != "auto"
    return threads


def _write_config(task: Task, source: Path, folder: Path) -> Path:
    path = folder / "bench.yaml"
    path.write_text(task.config(str(source)), encoding="utf-8")
    return path


def _build_loop(
    name: str, root: Path | None, setting: Setting, folder: Path, threads: int
) -> tuple[Run, str, bool]:
    """Return the loop, its note, and whether it fell back to eager."""
    task, source = _task(root, folder, setting)
    overrides = _ours(setting).get(name)
    if overrides is not None:
        config = _write_config(task, source, folder)
        experiment = build_experiment(catalog.load_config(config, [*overrides, f"train.threads={threads}"]))
        note = experiment.compile() or ""
        fell_back = experiment.compilation.requested and not experiment.engine.ready
        return _trained(experiment, folder), note, fell_back
    return _others(setting)[name](task, source, folder), "", False


def _task(root: Path | None, folder: Path, setting: Setting) -> tuple[Task, Path]:
    """Return the task and the path of its data for optlab: the MNIST folder, or a file of noise or text."""
    model, optimizer, batch_size = setting.model, setting.optimizer, setting.batch_size
    if model == "mlp":
        split = mnist(root=root).train
        return Task(model, optimizer, batch_size, split.inputs, split.targets), data_root(root).absolute()
    drawn = np.random.default_rng(0)
    count = samples_per_epoch(root, setting)
    if model == "transformer":
        path = folder / "noise.txt"
        length = int((count + 1) * CONTEXT / TEXT_PARTS[0]) + 1
        tokens = drawn.integers(0, VOCABULARY, length)
        path.write_text("".join(chr(ord("0") + token) for token in tokens), encoding="utf-8")
        windows = torch.from_numpy(tokens[: count * CONTEXT + 1])
        inputs, targets = windows[:-1].view(count, CONTEXT), windows[1:].view(count, CONTEXT)
        return Task(model, optimizer, batch_size, inputs, targets), path
    path = folder / "noise.npz"
    shape = (count, 1, 8, 8) if model == "tiny" else (count, 3, 32, 32)
    images = drawn.integers(0, 256, shape, dtype=np.uint8)
    labels = np.arange(count) % 10
    np.savez(path, x_train=images, y_train=labels, x_test=images[:10], y_test=labels[:10])
    return Task(model, optimizer, batch_size, torch.from_numpy(images), torch.from_numpy(labels)), path


def samples_per_epoch(root: Path | None, setting: Setting) -> int:
    """Return the number of training samples; raise DataError if MNIST is not found."""
    if setting.model == "mlp":
        return len(mnist(root=root).train)
    samples = max(setting.steps, LOG_EVERY) * setting.batch_size  # enough for one round, up to a limit
    most = 16 * _MAX_NOISE_SAMPLES if setting.model == "tiny" else _MAX_NOISE_SAMPLES
    return min(samples, max(most, LOG_EVERY * setting.batch_size))


def _trained(experiment: Experiment, folder: Path) -> Run:
    """Return optlab's own loop, which writes its records to a table as in a run."""
    table = rundir.Table(folder / "steps.csv", [*POSITION_COLUMNS, *experiment.records.step_columns()])
    records = train_alone(experiment)
    next(records), next(records)  # the evaluation before the first step, and its checkpoint

    def run(steps: int) -> None:
        target = experiment.progress.step + steps
        for record in records:
            if isinstance(record, StepRecord):
                table.append(record.row())
            if record.step >= target:
                return

    return peers.timed(run)
