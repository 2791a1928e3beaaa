"""A child process that serves requests of this process through a pipe.

The child is in a session of its own, so that Ctrl-C in a terminal reaches only this process, which then stops
the child. The child exits when the pipe is closed and when this process ends in any way.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import connection, forkserver, parent_process, resource_tracker
from multiprocessing.connection import Connection
from typing import Any

from trainer import streams

# A signal to the process group of this process must not end a child that starts or saves its state.
_BLOCKED = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}


class ChildProcess:
    """A running child process.

    Args:
        serve: function of a module, called in the child with its end of the pipe and `args`. It returns or
            raises EOFError when the pipe is closed.
        args: further arguments, which are pickled.
        method: how the process is started: `spawn`, or `forkserver` on Linux.

    Attributes:
        pipe: this process's end of the pipe.
        process: the process.

    Raises:
        OSError: the system cannot start another process.
    """

    def __init__(self, serve: Callable[..., None], *args: Any, method: str = "spawn") -> None:
        context: Any = multiprocessing.get_context(method)
        self.pipe: Connection
        self.pipe, child_pipe = context.Pipe()
        self.process = context.Process(target=_main, args=(serve, child_pipe, *args), daemon=True)
        try:
            with _signals_blocked():
                self.process.start()
        finally:
            child_pipe.close()

    def send(self, message: Any) -> None:
        """Send a message. If the child has ended, `receive` reports that."""
        with suppress(OSError):
            self.pipe.send(message)

    def receive(self) -> Any:
        """Wait for a message of the child and return it; raise EOFError if the child has ended."""
        try:
            return self.pipe.recv()
        except OSError as error:
            raise EOFError from error

    def kill(self) -> None:
        """Kill the child immediately."""
        self.process.kill()
        self.process.join()
        self.pipe.close()


def start_fork_server() -> None:
    """Start the server that forks children with the method `forkserver`, if it is not running."""
    with _signals_blocked():
        forkserver.ensure_running()


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """Block the signals that must not end a child while it starts, which inherits the mask."""
    resource_tracker.ensure_running()  # it would reset the mask if it were started with the child
    former = signal.pthread_sigmask(signal.SIG_BLOCK, _BLOCKED)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, former)


def stop(children: Iterable[ChildProcess]) -> None:
    """Close the pipes, which ends idle children; kill a child that has not exited after 5 seconds."""
    children = list(children)
    for child in children:
        child.pipe.close()
    for child in children:
        child.process.join(5)
        child.kill()


def _main(serve: Callable[..., None], pipe: Connection, *args: Any) -> None:
    with suppress(OSError):
        os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    streams.guard_worker()
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):  # the parent has closed the pipe
        serve(pipe, *args)


def _exit_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)
