"""A pool of workers: starts them, sends tasks, receives replies, replaces workers that exited.

The caller decides which task runs next. `LocalPool` has worker processes on this machine, `ray_pool.RayPool`
on the nodes of a Ray cluster.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import connection
from typing import Any, Protocol, Self

from trainer import child_process
from trainer.child_process import ChildProcess
from trainer.sweep.messages import Question, Reply, Task
from trainer.sweep.models import Variant
from trainer.sweep.worker import work


@dataclass(frozen=True, slots=True)
class Event:
    """A reply or question of a worker, or its end.

    Args:
        worker: its number.
        task: the task that it has; None = it was idle.
        reply, question: what it sent.
        exit_code: its process exited with this code (negative = killed by that signal).
        lost: the worker is lost together with its node; the task is not the cause.
    """

    worker: int
    task: Task | None
    reply: Reply | None = None
    question: Question | None = None
    exit_code: int | None = None
    lost: bool = False


class Pool(Protocol):
    """Workers with numbers. Leaving its context stops them, busy ones at once."""

    def __enter__(self) -> Self:
        """Return the pool."""

    def __exit__(self, *error: object) -> None:
        """Stop all workers."""

    def idle(self) -> list[int]:
        """Return the numbers of the idle workers."""

    def busy(self) -> list[Task]:
        """Return the tasks in progress."""

    def device(self, number: int) -> str | None:
        """Return the device of a worker's runs; None = as in their config."""

    def assign(self, number: int, task: Task) -> None:
        """Send a task to an idle worker. If it has died, the next `wait` reports that."""

    def answer(self, number: int, verdict: bool) -> None:
        """Answer a worker's question."""

    def wait(self, timeout: float) -> Sequence[Event]:
        """Return the events of at most `timeout` seconds; replace workers that died."""

    def interrupt(self) -> None:
        """Ask busy workers to save and stop after the current step. Dead workers are no longer replaced."""


# The fork server imports torch once and forks the workers. Starting another worker takes hundredths of a
# second instead of seconds, and workers share the imported modules. The server does not initialize CUDA, so
# its children can. Forking is not safe on macOS, whose system libraries run threads.
METHOD = "forkserver" if sys.platform == "linux" else "spawn"


def start_server() -> None:
    """Start the fork server, which imports torch while this process goes on.

    Started early, it is ready when the first worker is needed. It ends with this process.
    """
    if METHOD == "forkserver":
        multiprocessing.set_forkserver_preload(["trainer.sweep.end_with_command", "trainer.sweep.preload"])
        child_process.start_fork_server()


class Worker(ChildProcess):
    """A worker process, and the task that it has."""

    def __init__(self, variants: Mapping[str, Variant]) -> None:
        super().__init__(work, variants, method=METHOD)
        self.task: Task | None = None

    def interrupt(self) -> None:
        """Ask a running process to save its run and to stop it after the current step."""
        if self.process.pid and self.process.is_alive():
            with suppress(ProcessLookupError):
                os.kill(self.process.pid, signal.SIGTERM)


class LocalPool:
    """Persistent worker processes on this machine, each with a number from 0.

    Args:
        slots: the device of each worker's runs; None = as in their config.
        variants: the variants of the tasks, by name.
    """

    def __init__(self, slots: Sequence[str | None], variants: Mapping[str, Variant]) -> None:
        start_server()
        self._slots = slots
        self._variants = variants
        self._workers = {number: Worker(variants) for number in range(len(slots))}
        self._stopping = False

    def __enter__(self) -> Self:
        """Return the pool."""
        return self

    def __exit__(self, *error: object) -> None:
        """Stop all workers; kill busy ones at once."""
        for worker in self._workers.values():
            if worker.task is not None:
                worker.process.kill()
        child_process.stop(self._workers.values())

    def idle(self) -> list[int]:
        """Return the numbers of the idle workers."""
        return [number for number, worker in self._workers.items() if worker.task is None]

    def busy(self) -> list[Task]:
        """Return the tasks in progress."""
        return [worker.task for worker in self._workers.values() if worker.task is not None]

    def device(self, number: int) -> str | None:
        """Return the device of a worker's runs; None = as in their config."""
        return self._slots[number]

    def assign(self, number: int, task: Task) -> None:
        """Send a task to an idle worker. If it has died, the next `wait` reports that."""
        worker = self._workers[number]
        worker.task = task
        worker.send(task)

    def answer(self, number: int, verdict: bool) -> None:
        """Answer a worker's question."""
        self._workers[number].send(verdict)

    def wait(self, timeout: float) -> Sequence[Event]:
        """Return the events of at most `timeout` seconds; replace workers that died."""
        by_handle: dict[Any, int] = {}
        for number, worker in self._workers.items():
            by_handle[worker.pipe] = number
            by_handle[worker.process.sentinel] = number
        ready = connection.wait(list(by_handle), timeout)
        return [
            event
            for number in dict.fromkeys(by_handle[handle] for handle in ready)
            if (event := self._receive(number)) is not None
        ]

    def _receive(self, number: int) -> Event | None:
        worker = self._workers[number]
        task = worker.task
        try:
            if worker.pipe.poll():
                message = worker.pipe.recv()
                if isinstance(message, Question):
                    return Event(number, task, question=message)
                worker.task = None
                return Event(number, task, reply=message)
        except (EOFError, OSError):
            pass
        worker.process.join(5)
        exit_code = worker.process.exitcode
        worker.pipe.close()
        if self._stopping:
            del self._workers[number]
        else:
            self._workers[number] = Worker(self._variants)
        return Event(number, task, exit_code=exit_code)

    def interrupt(self) -> None:
        """Ask busy workers to save and stop after the current step. Dead workers are no longer replaced."""
        self._stopping = True
        for worker in self._workers.values():
            if worker.task is not None:
                worker.interrupt()
