"""Worker processes: starting them, giving them tasks, hearing from them, noticing that one died.

Knows no sweep: who is to do what next is the caller's business.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import connection, forkserver, resource_tracker
from typing import Any

from trainer.sweep.models import Variant
from trainer.sweep.worker import Question, Reply, Task, work


@dataclass(frozen=True, slots=True)
class Event:
    """Something a worker did: it replied, asked, or died (`exit_code`, negative = killed by that signal)."""

    worker: int
    task: Task | None
    reply: Reply | None = None
    question: Question | None = None
    exit_code: int | None = None


# A server that imports torch once and forks workers from it: the second worker, and one that replaces a dead
# one, cost hundredths of a second instead of seconds, and they share what was imported. It starts no CUDA, so
# that its children may. Forking is not safe on a Mac, whose system libraries keep threads.
METHOD = "forkserver" if sys.platform == "linux" else "spawn"


def _prepare() -> None:
    """Start the server that workers are forked from, where there is to be one."""
    if METHOD != "forkserver":
        return
    multiprocessing.get_context(METHOD).set_forkserver_preload(["trainer.sweep.training"])
    # The server lives in this process's group: a signal to the group must not end it before the workers have
    # saved their state. It and its children inherit the mask; a worker lifts it for SIGTERM.
    resource_tracker.ensure_running()  # it would be started with the server, and lift the mask
    former = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, former)


class _Worker:
    def __init__(self, variants: Mapping[str, Variant]) -> None:
        context: Any = multiprocessing.get_context(METHOD)
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=work, args=(theirs, variants), daemon=True)
        self.process.start()
        theirs.close()
        self.task: Task | None = None


class Pool:
    """Persistent worker processes, each with a number from 0.

    Args:
        count: how many.
        variants: what tasks refer to.
    """

    def __init__(self, count: int, variants: Mapping[str, Variant]) -> None:
        _prepare()
        self._variants = variants
        self._workers = {number: _Worker(variants) for number in range(count)}
        self._stopping = False

    def __enter__(self) -> Pool:
        """Return itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """End every worker: idle ones by word, busy ones by force."""
        for worker in self._workers.values():
            if worker.task is None:
                with suppress(OSError):
                    worker.pipe.send(None)
            else:
                worker.process.kill()
        for worker in self._workers.values():
            worker.process.join(5)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
            worker.pipe.close()

    def idle(self) -> list[int]:
        """Return the workers that have nothing to do."""
        return [number for number, worker in self._workers.items() if worker.task is None]

    def busy(self) -> list[Task]:
        """Return what is being done."""
        return [worker.task for worker in self._workers.values() if worker.task is not None]

    def give(self, number: int, task: Task) -> None:
        """Give an idle worker a task; one that died meanwhile shows in the next `wait`."""
        worker = self._workers[number]
        worker.task = task
        with suppress(OSError):
            worker.pipe.send(task)

    def answer(self, number: int, verdict: bool) -> None:
        """Answer a worker's question."""
        with suppress(OSError):
            self._workers[number].pipe.send(verdict)

    def wait(self, timeout: float) -> Sequence[Event]:
        """Return what happened, after at most `timeout` seconds; a worker that died is replaced."""
        by_handle: dict[Any, int] = {}
        for number, worker in self._workers.items():
            by_handle[worker.pipe] = number
            by_handle[worker.process.sentinel] = number
        ready = connection.wait(list(by_handle), timeout)
        return [
            event
            for number in dict.fromkeys(by_handle[handle] for handle in ready)
            if (event := self._hear(number)) is not None
        ]

    def _hear(self, number: int) -> Event | None:
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
            self._workers[number] = _Worker(self._variants)
        return Event(number, task, exit_code=exit_code)

    def interrupt(self) -> None:
        """Ask the busy workers to stop after their step and to save; from now on none is replaced."""
        self._stopping = True
        for worker in self._workers.values():
            if worker.task is not None and worker.process.pid and worker.process.is_alive():
                with suppress(ProcessLookupError):
                    os.kill(worker.process.pid, signal.SIGTERM)
