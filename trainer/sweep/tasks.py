"""Creates the tasks of workers: config overrides, device and data file of each run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from trainer.device import usable_cores
from trainer.sweep.messages import Task
from trainer.sweep.models import Sweep
from trainer.sweep.plan import (
    ExistingRuns,
    RunSpec,
    SharedData,
    VariantInfo,
    default_overrides,
    load_run_config,
)


def worker_slots(
    workers: int | str, device: str, gpus: int, runs_per_gpu: int, cores: int
) -> list[str | None]:
    """Return one entry per worker process: its GPU, or None to leave the device unchanged.

    GPUs are assigned round-robin, so that consecutive runs use different GPUs.

    Args:
        workers: number of workers, or `auto`: one per core, or `runs_per_gpu` per GPU.
        device: `train.device` of the config.
        gpus: number of GPUs.
        runs_per_gpu: number of worker processes that share a GPU; 0 = the runs use no GPU.
        cores: number of runs for which there are CPU cores.
    """
    if device == "auto" and gpus and not runs_per_gpu:
        return ["cpu"] * (cores if workers == "auto" else int(workers))
    if device == "auto" and gpus:
        count = gpus * runs_per_gpu if workers == "auto" else int(workers)
        return [f"cuda:{number % gpus}" for number in range(count)]
    return [None] * (cores if workers == "auto" else int(workers))


def sweep_slots(sweep: Sweep, infos: Mapping[str, VariantInfo], workers: int | None) -> list[str | None]:
    """Return `worker_slots` of a sweep on this machine.

    Args:
        sweep: the sweep.
        infos: from `check_variants`.
        workers: number of workers; None = as in the file.
    """
    device = str(next(iter(infos.values())).config["train"]["device"])
    num_workers: int | str = workers or sweep.config.workers
    share = sweep.config.gpus_per_run
    cores = max(1, int(usable_cores() / sweep.config.resources.cpus))
    per_gpu = int(1 / share + 1e-9) if share else 0
    return worker_slots(num_workers, device, torch.cuda.device_count(), per_gpu, cores)


class Tasks:
    """Creates tasks; writes each data set to the shared data once.

    Args:
        sweep: the sweep.
        shared_data: the shared data.
        existing: provides the code of the components of each run.
    """

    def __init__(self, sweep: Sweep, shared_data: SharedData, existing: ExistingRuns) -> None:
        self._sweep = sweep
        self._shared_data = shared_data
        self._existing = existing
        self._files: dict[str, Path] = {}

    def task(self, spec: RunSpec, gpu: str | None, prune_metric: str | None) -> Task:
        """Return the task of a run."""
        overrides = default_overrides(self._sweep, self._sweep.variants[spec.variant], spec.stage)
        if gpu is not None:
            overrides.append(f"train.device={gpu}")
        data = self.data_file(spec)
        code = self._existing.code(spec)
        return Task(
            spec.variant, dict(spec.values), spec.seed, overrides, spec.folder, code, data, prune_metric
        )

    def data_file(self, spec: RunSpec) -> Path:
        """Return the data file of a run: one per variant, or one per value of an axis of the data."""
        variant = self._sweep.variants[spec.variant]
        if any(axis.key.split(".")[0] == "data" for axis in variant.axes):
            return self._shared_data.put(load_run_config(self._sweep, spec))
        if spec.variant not in self._files:
            self._files[spec.variant] = self._shared_data.put(load_run_config(self._sweep, spec))
        return self._files[spec.variant]
