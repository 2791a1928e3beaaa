"""The loops that are measured, by name, and the process that each one runs in.

A process of its own gives every loop what its users have: its own threads, and memory that no other loop has
filled. The allocator's state alone changes a convolutional network's time by a tenth.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trainer import catalog
from trainer.bench import peers
from trainer.bench.peers import Run
from trainer.bench.task import LOG_EVERY, Setting, Task
from trainer.data.dataset import data_root
from trainer.data.torchvision_sets import mnist
from trainer.device import check_threads, default_threads, sparing_collector
from trainer.errors import OptlabError
from trainer.records import POSITION_COLUMNS, StepRecord
from trainer.runs import rundir
from trainer.training.building import build_experiment
from trainer.training.experiment import Experiment
from trainer.training.loop import train

BARE = "best bare eager loop"
JAX = "JAX + optax, one scan"
_MOST_NOISE = 10_000  # images


class Loop:
    """A loop in a process of its own, which begins to make itself ready.

    Args:
        name: one of `names`.
        root: folder of MNIST; None = the usual one.
        setting: what is trained.
        folder: where its files may lie; whoever gave it clears it away.

    Attributes:
        note: what there is to say, as the seconds of compiling.
        fell_back: whether it was to run compiled and does not.
    """

    note = ""
    fell_back = False

    def __init__(self, name: str, root: Path | None, setting: Setting, folder: Path) -> None:
        context = multiprocessing.get_context("spawn")
        self._name = name
        self._pipe, theirs = context.Pipe()
        arguments = (theirs, name, root, setting, folder)
        self._process = context.Process(target=_serve, args=arguments, daemon=True)
        self._process.start()
        theirs.close()

    def wait(self) -> None:
        """Wait until the loop is ready; OptlabError if it cannot run here."""
        self.note, self.fell_back = self._answer()

    def run(self, steps: int) -> float:
        """Train so many steps and return the seconds they took; OptlabError if the loop broke."""
        with suppress(OSError):  # it is gone, and has no answer
            self._pipe.send(steps)
        seconds: float = self._answer()
        return seconds

    def hang_up(self) -> None:
        """Tell the process to end."""
        self._pipe.close()

    def join(self) -> None:
        """Wait until the process has ended; by force where it is busy for long."""
        self._process.join(5)
        self._process.kill()
        self._process.join()

    def _answer(self) -> Any:
        try:
            answer = self._pipe.recv()
        except (EOFError, OSError):
            answer = OptlabError(f"the loop {self._name!r} ended unexpectedly")
        if isinstance(answer, OptlabError):
            raise answer
        return answer


def names(setting: Setting) -> list[str]:
    """Return the loops that can run here: optlab's own, torch's, and those whose packages are there."""
    return [*_ours(setting), *_others(setting)]


def _ours(setting: Setting) -> dict[str, list[str]]:
    """Return the overrides of optlab's own loops by their names."""
    found = {}
    for precision in ("float32", "bfloat16") if setting.model == "cnn" else ("float32",):
        for engine in ("eager", "compiled"):
            name = ", ".join(["optlab", engine, *([precision] if precision != "float32" else [])])
            found[name] = [f"train.engine={engine}", f"train.precision={precision}"]
    return found


def _others(setting: Setting) -> dict[str, Callable[[Task, Path, Path], Run]]:
    """Return the makers of the other loops by their names: (task, where its data is, folder) -> loop."""
    found: dict[str, Callable[[Task, Path, Path], Run]] = {BARE: lambda task, *_: peers.bare(task)}
    if setting.model == "mlp":
        found["matrix products alone"] = lambda task, *_: peers.products(task)
        found["textbook loop"] = lambda task, source, _: peers.textbook(task, source)
        if find_spec("jax") and find_spec("optax"):
            found[JAX] = lambda task, *_: peers.jax_scan(task)
        if find_spec("keras"):
            backend = "jax" if find_spec("jax") else "torch"
            found[f"Keras, {backend}"] = lambda task, *_: peers.keras_fit(task, backend)
    if find_spec("lightning"):
        found["Lightning"] = lambda task, _, folder: peers.lightning_fit(task, folder)
    return found


def _serve(pipe: Connection, name: str, root: Path | None, setting: Setting, folder: Path) -> None:
    """Make the loop, say what there is to say, then time as many steps as are asked for, again and again."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent closes the pipe
    if setting.threads and hasattr(os, "sched_setaffinity"):  # not every peer can be told a number of threads
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: setting.threads])
    torch.set_num_threads(check_threads(setting.threads or default_threads(), key="--threads"))
    with suppress(EOFError, OSError):  # the parent has hung up
        try:
            run, note, fell_back = _made(name, root, setting, folder)
        except Exception as error:  # whatever a package that is installed by halves does
            pipe.send(OptlabError(f"the loop {name!r} cannot run: {type(error).__name__}: {error}"))
            return
        pipe.send((note, fell_back))
        with sparing_collector():
            while True:
                pipe.send(run(pipe.recv()))


def _made(name: str, root: Path | None, setting: Setting, folder: Path) -> tuple[Run, str, bool]:
    """Return the loop, what there is to say of it, and whether it fell back to eager."""
    task, source = _task(root, folder, setting)
    overrides = _ours(setting).get(name)
    if overrides is not None:
        overrides += [f"train.threads={setting.threads}"] if setting.threads else []
        path = folder / "bench.yaml"
        path.write_text(task.config(str(source)), encoding="utf-8")
        experiment = build_experiment(catalog.load_config(path, overrides))
        note = experiment.compile() or ""
        fell_back = experiment.compile_seconds is not None and not experiment.is_compiled()
        return _trained(experiment, folder), note, fell_back
    return _others(setting)[name](task, source, folder), "", False


def _task(root: Path | None, folder: Path, setting: Setting) -> tuple[Task, Path]:
    """Return the task, and where optlab finds its data: MNIST's folder, or a file of noise."""
    model, optimizer, batch_size = setting.model, setting.optimizer, setting.batch_size
    if model == "mlp":
        split = mnist(root=root).train
        return Task(model, optimizer, batch_size, split.inputs, split.targets), data_root(root).absolute()
    path = folder / "noise.npz"
    drawn = np.random.default_rng(0)
    count = images_per_epoch(root, setting)
    images = drawn.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)
    labels = np.arange(count) % 10
    np.savez(path, x_train=images, y_train=labels, x_test=images[:10], y_test=labels[:10])
    return Task(model, optimizer, batch_size, torch.from_numpy(images), torch.from_numpy(labels)), path


def images_per_epoch(root: Path | None, setting: Setting) -> int:
    """Return how many images there are to train on; DataError where MNIST is not there."""
    if setting.model == "mlp":
        return len(mnist(root=root).train)
    wanted = max(setting.steps, LOG_EVERY) * setting.batch_size  # a round's steps, within reason
    return min(wanted, max(_MOST_NOISE, LOG_EVERY * setting.batch_size))


def _trained(experiment: Experiment, folder: Path) -> Run:
    """Return optlab's own loop with its records written to a table, as in a run."""
    table = rundir.Table(folder / "steps.csv", [*POSITION_COLUMNS, *experiment.step_columns()])
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
