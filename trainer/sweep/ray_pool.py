"""A pool of workers on a Ray cluster, each an actor with a worker process on its node.

Ray places the actors where the CPUs and GPUs of a run are free, and reports lost nodes. A worker that is lost
with its node is replaced where there is room. Decisions stay with the sweep: the actors only train runs.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from uuid import uuid4

import ray
from ray.exceptions import RayActorError, RayError

from trainer.device import usable_cores
from trainer.errors import BusyError, OptlabError, RunError, first_line
from trainer.records import Status
from trainer.runs import ownership, rundir
from trainer.sweep.messages import Reply, Task
from trainer.sweep.models import Sweep
from trainer.sweep.pool import Event
from trainer.sweep.ray_worker import Message, RayWorker, WorkerInfo, versions
from trainer.sweep.run_copies import Files, read_files, remove_other_files, write_files

PROBE = ".shared-files"
"""File in the sweep directory from which each worker tells whether it shares the file system."""

_FILL_SECONDS = 2.0
_REMOVE_SECONDS = 5.0


@dataclass(slots=True)
class _Worker:
    """An actor on the cluster.

    Args:
        actor: its handle.
        call: the call that it has not answered yet.
        info: where it is; None = it has not started yet.
        task: its task.
        lock: the lock of the run directory, if the run is trained on a copy.
        held: releases that lock.
        data: data files of which it has a copy.
    """

    actor: Any
    call: Any
    info: WorkerInfo | None = None
    task: Task | None = None
    lock: rundir.RunLock | None = None
    held: ExitStack = field(default_factory=ExitStack)
    data: set[Path] = field(default_factory=set)

    def write(self, files: Files) -> None:
        """Write the files of its run, if it is trained on a copy."""
        if self.lock and self.task:
            write_files(self.task.folder, files, self.lock.check)

    def release(self) -> None:
        """Release the task and its lock."""
        self.task = self.lock = self.call = None
        self.held.close()


class RayPool:
    """Workers on a Ray cluster, each with a number.

    Args:
        address: the cluster; None = that of `RAY_ADDRESS`, or a new one on this machine.
        sweep: the sweep.
        count: number of workers; None = as many as the cluster has room for.
        root: the sweep directory.
        device: `train.device` of the config.
        note: shows a note.

    Raises:
        RunError: there is no such cluster, or it has no room for a run.
    """

    def __init__(
        self,
        address: str | None,
        sweep: Sweep,
        count: int | None,
        root: Path,
        device: str,
        note: Callable[[str], None],
    ) -> None:
        self._root = root
        self._count = count
        self._note = note
        self._workers: dict[int, _Worker] = {}
        self._created = 0
        self._stopping = False
        self._filled = -_FILL_SECONDS
        self._events: list[Event] = []
        self._data: dict[Path, Any] = {}
        self._notes: set[str] = set()
        self._probe, self._content = write_probe(root)
        self._connected = _connect(address)
        wants_gpu = device == "auto" or device.startswith("cuda")
        self._cpus = float(sweep.config.resources.cpus)
        self._gpus = sweep.config.gpus_per_run if wants_gpu and ray.cluster_resources().get("GPU") else 0
        self._actor: Any = ray.remote(RayWorker)
        self._variants = ray.put(dict(sweep.variants))
        if not self._room():
            needed = f"{self._cpus:g} CPUs" + (f" and {self._gpus:g} GPUs" if self._gpus else "")
            self.__exit__()
            raise RunError(
                f"no node of the Ray cluster has {needed}",
                fix="change `resources` in the sweep file, or start a larger node",
            )
        self._fill()

    def __enter__(self) -> Self:
        """Return the pool."""
        return self

    def __exit__(self, *error: object) -> None:
        """Stop all workers, busy ones at once, and disconnect from the cluster."""
        calls = [
            worker.actor.remove_copies.remote()
            for worker in self._workers.values()
            if worker.info and not worker.info.shares_files
        ]
        if calls:
            ray.wait(calls, num_returns=len(calls), timeout=_REMOVE_SECONDS)  # not longer: a node may be lost
        for number in list(self._workers):
            self._remove(number)
        with suppress(OSError):
            self._probe.unlink()
        if self._connected:
            ray.shutdown()

    def idle(self) -> list[int]:
        """Return the numbers of the idle workers."""
        return [n for n, worker in self._workers.items() if worker.info and worker.task is None]

    def busy(self) -> list[Task]:
        """Return the tasks in progress."""
        return [worker.task for worker in self._workers.values() if worker.task is not None]

    def device(self, number: int) -> str | None:
        """Return the device of a worker's runs: Ray shows each worker only its own GPU."""
        return "cuda:0" if self._gpus else None

    def assign(self, number: int, task: Task) -> None:
        """Send a task to an idle worker. If it is lost, the next `wait` reports that."""
        worker = self._workers[number]
        worker.task = task
        assert worker.info
        if worker.info.shares_files:
            worker.call = worker.actor.train.remote(task, None, None)
            return
        try:
            files, data = self._locked_files(worker, task), self._new_data(worker, task.loaded_data)
        except OptlabError as error:
            status: Status = "running" if isinstance(error, BusyError) else "failed"
            self._events.append(Event(number, task, Reply(status, None, str(error))))
            worker.release()
            return
        worker.call = worker.actor.train.remote(task, files, data)

    def _locked_files(self, worker: _Worker, task: Task) -> Files:
        """Lock a run directory for a worker that trains on a copy; return the files of the run."""
        ownership.refuse_foreign(task.folder)
        rundir.prepare_root(task.folder.parent)
        worker.lock = worker.held.enter_context(rundir.locked(task.folder))
        ownership.complete_opening(task.folder)
        return read_files(task.folder, {})

    def _new_data(self, worker: _Worker, path: Path | None) -> Any:
        """Return the content of a data file as an object of Ray, unless the worker has it."""
        if path is None or path in worker.data:
            return None
        if path not in self._data:
            self._data[path] = ray.put(path.read_bytes())
        worker.data.add(path)
        return self._data[path]

    def answer(self, number: int, verdict: bool) -> None:
        """Answer a worker's question."""
        worker = self._workers.get(number)
        if worker is not None:
            worker.call = worker.actor.answer.remote(verdict)

    def wait(self, timeout: float) -> Sequence[Event]:
        """Return the events of at most `timeout` seconds; replace workers that were lost."""
        if not self._stopping:
            self._fill()
        events, self._events = self._events, []
        calls = {worker.call: n for n, worker in self._workers.items() if worker.call is not None}
        if not calls:
            if not events:
                time.sleep(timeout)
            return events
        ready, _ = ray.wait(list(calls), num_returns=1, timeout=0 if events else timeout)
        if ready:  # those that are ready as well
            ready, _ = ray.wait(list(calls), num_returns=len(calls), timeout=0)
        for call in ready:
            event = self._receive(calls[call], call)
            if event is not None:
                events.append(event)
        return events

    def _receive(self, number: int, call: Any) -> Event | None:
        """Return the event of a call that has ended; None if it concerns only the pool."""
        worker = self._workers[number]
        task = worker.task
        try:
            message = ray.get(call)
            if isinstance(message, WorkerInfo):
                worker.info, worker.call = message, None
                self._check(message)
                return None
            worker.write(message.files)
        except RayActorError as error:
            self._remove(number)
            if worker.info is None:
                self._note(f"a worker could not start: {first_line(error)}")
                return Event(number, None)
            return Event(number, task, lost=True) if task else None
        except OptlabError as error:  # the run directory was lost, or the disk is full
            worker.release()
            self._remove(number)
            return Event(number, task, Reply("failed", None, str(error)))
        return self._event(number, worker, message)

    def _event(self, number: int, worker: _Worker, message: Message) -> Event | None:
        task, content = worker.task, message.content
        if content is None:
            worker.call = worker.actor.receive.remote()
            return None
        if isinstance(content, int):
            worker.release()
            return Event(number, task, exit_code=content)
        if not isinstance(content, Reply):
            worker.call = None
            return Event(number, task, question=content)
        if worker.lock and task and message.names:
            remove_other_files(task.folder, dict.fromkeys(message.names))
        worker.release()
        return Event(number, task, content)

    def interrupt(self) -> None:
        """Ask busy workers to save and stop after the current step. No workers are started any more."""
        self._stopping = True
        for number, worker in list(self._workers.items()):
            if worker.task is not None:
                worker.actor.interrupt.remote()
            elif worker.info is None:
                self._remove(number)

    # ---- workers

    def _room(self) -> int:
        """Return how many runs the nodes have room for, if nothing else uses them."""
        count = 0
        for node in ray.nodes():
            if node["Alive"]:
                resources = node["Resources"]
                of_cpus = int(resources.get("CPU", 0) / self._cpus + 1e-9)
                of_gpus = int(resources.get("GPU", 0) / self._gpus + 1e-9) if self._gpus else of_cpus
                count += min(of_cpus, of_gpus)
        return count

    def _fill(self) -> None:
        """Start workers up to the requested number, or to as many as there is room for."""
        if time.monotonic() - self._filled < _FILL_SECONDS:
            return
        self._filled = time.monotonic()
        for _ in range(len(self._workers), self._count or self._room()):
            options = {"num_cpus": self._cpus, "num_gpus": self._gpus, "max_concurrency": 2}
            actor = self._actor.options(**options).remote(self._variants)
            call = actor.describe.remote(self._probe, self._content)
            self._workers[self._created] = _Worker(actor, call)
            self._created += 1

    def _remove(self, number: int) -> None:
        worker = self._workers.pop(number)
        with suppress(RayError, ValueError):
            ray.kill(worker.actor)
        with suppress(OSError):
            worker.release()

    def _check(self, info: WorkerInfo) -> None:
        """Note once whether runs are copied; refuse other versions, which give other numbers."""
        own = versions()
        other = [f"{name} {version}" for name, version in info.versions.items() if own[name] != version]
        if other:
            raise RunError(
                f"the node {info.host} has {', '.join(other)}",
                expected=", ".join(f"{name} {own[name]}" for name in info.versions),
                fix="install the same versions on all nodes",
            )
        text = f"workers on {info.host} share the file system: they write to {self._root}"
        if not info.shares_files:
            text = f"workers on {info.host} do not see {self._root}: their runs are copied to it"
        if text not in self._notes:
            self._notes.add(text)
            self._note(text)


def write_probe(root: Path) -> tuple[Path, bytes]:
    """Write a file in the sweep directory by which workers notice that they share it; return its content."""
    path, content = root / PROBE, uuid4().hex.encode()
    rundir.write_atomically(path, content)
    return path, content


def _connect(address: str | None) -> bool:
    """Connect to a cluster; return whether this process was not connected before."""
    if ray.is_initialized():
        return False
    former = signal.getsignal(signal.SIGTERM)  # Ray replaces the handler
    local: Mapping[str, Any] = {}
    if address is None and "RAY_ADDRESS" not in os.environ:
        local = {"num_cpus": usable_cores(), "include_dashboard": False}
    try:
        ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False, **local)
    except (RayError, ConnectionError, OSError, ValueError, RuntimeError) as error:
        raise RunError(
            f"cannot connect to the Ray cluster {address or ''}: {first_line(error)}",
            fix="start one with `ray start --head`, and give its address: --on ray:HOST:6379",
        ) from error
    finally:
        signal.signal(signal.SIGTERM, former)
    return True
