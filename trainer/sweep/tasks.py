"""Makes tasks of runs: what is laid on their configs, which processor they get, where their data lies."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from trainer.device import usable_cores
from trainer.sweep.models import Sweep
from trainer.sweep.plan import ExistingRuns, RunSpec, SharedData, VariantInfo, extras, load_run_config
from trainer.sweep.worker import Task


def worker_slots(
    workers: int | str, device: str, gpus: int, runs_per_gpu: int, cores: int
) -> list[str | None]:
    """Return one entry per worker process: the GPU it trains on, or None to leave the device as it is.

    GPUs are dealt out in turn, so that neighbours in the queue go to different ones.

    Args:
        workers: how many, or `auto`: one per core, or `runs_per_gpu` per GPU.
        device: the config's `train.device`.
        gpus: how many there are.
        runs_per_gpu: worker processes that share one.
        cores: usable CPU cores.
    """
    if device == "auto" and gpus:
        count = gpus * runs_per_gpu if workers == "auto" else int(workers)
        return [f"cuda:{number % gpus}" for number in range(count)]
    return [None] * (cores if workers == "auto" else int(workers))


def slots_here(sweep: Sweep, infos: Mapping[str, VariantInfo], workers: int | None) -> list[str | None]:
    """Return what every worker of a sweep trains on, on this machine.

    Args:
        sweep: the sweep.
        infos: what building its variants showed.
        workers: how many; None = the file's.
    """
    device = str(next(iter(infos.values())).config["train"]["device"])
    wanted: int | str = workers or sweep.config.workers
    per_gpu = sweep.config.runs_per_gpu
    return worker_slots(wanted, device, torch.cuda.device_count(), per_gpu, usable_cores())


class Tasks:
    """Makes tasks; lays each data set on the shared_data once.

    Args:
        sweep: the sweep.
        shared_data: the shared data.
        existing: knows the code of every run's parts.
    """

    def __init__(self, sweep: Sweep, shared_data: SharedData, existing: ExistingRuns) -> None:
        self._sweep = sweep
        self._shared_data = shared_data
        self._existing = existing
        self._files: dict[str, Path] = {}

    def task(self, spec: RunSpec, gpu: str | None, prune_metric: str | None) -> Task:
        """Return what a worker is told of a run."""
        laid = extras(self._sweep, self._sweep.variants[spec.variant], spec.stage)
        if gpu is not None:
            laid.append(f"train.device={gpu}")
        data = self.data_file(spec)
        code = self._existing.code(spec)
        return Task(spec.variant, dict(spec.values), spec.seed, laid, spec.folder, code, data, prune_metric)

    def data_file(self, spec: RunSpec) -> Path:
        """Return the file of a run's data: one per variant, or one per value of an axis of the data."""
        variant = self._sweep.variants[spec.variant]
        if any(axis.key.split(".")[0] == "data" for axis in variant.axes):
            return self._shared_data.put(load_run_config(self._sweep, spec))
        if spec.variant not in self._files:
            self._files[spec.variant] = self._shared_data.put(load_run_config(self._sweep, spec))
        return self._files[spec.variant]
