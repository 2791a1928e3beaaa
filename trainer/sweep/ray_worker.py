"""The actor of a Ray cluster that runs a worker process on its node and relays messages. Does not import ray.

The process is that of the local pool, so a run is trained, interrupted and measured in the same way.
"""

from __future__ import annotations

import platform
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path

from trainer.reading import FileVersion
from trainer.sweep.messages import Question, Reply, Task
from trainer.sweep.models import Variant
from trainer.sweep.pool import Worker, start_server
from trainer.sweep.run_copies import Files, read_files, write_files

COPY_SECONDS = 5.0
"""Interval in which the changed files of a run are sent to a host that does not share the file system."""


PACKAGES = ("optlab", "torch", "numpy")
"""Packages whose versions must be the same on all nodes."""


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """Where a worker is.

    Args:
        host: its host name.
        versions: the versions of the packages that numbers depend on.
        shares_files: whether it sees the sweep directory.
    """

    host: str
    versions: Mapping[str, str]
    shares_files: bool


def versions() -> dict[str, str]:
    """Return the versions of `PACKAGES` in this process."""
    return {name: metadata.version(name) for name in PACKAGES}


@dataclass(frozen=True, slots=True)
class Message:
    """What a worker sends.

    Args:
        content: a question, a reply, the exit code of its process, or None if it sends only files.
        files: changed files of the run, if it does not share the file system.
        names: with a reply, the names of all files.
    """

    content: Question | Reply | int | None
    files: Files
    names: tuple[str, ...] = ()


class RayWorker:
    """A worker process on this node. `interrupt` may be called while another call waits.

    Args:
        variants: the variants of the tasks, by name.
    """

    def __init__(self, variants: Mapping[str, Variant]) -> None:
        start_server()
        self._variants = variants
        self._process = Worker(variants)
        self._copies: _Copies | None = None

    def describe(self, probe: Path, content: bytes) -> WorkerInfo:
        """Return where this worker is, and whether it reads this content from a file of the sweep."""
        try:
            shares = probe.read_bytes() == content
        except OSError:
            shares = False
        return WorkerInfo(platform.node(), versions(), shares)

    def train(self, task: Task, files: Files | None, data: bytes | None) -> Message:
        """Start a task and return the first message.

        Args:
            task: the task.
            files: files of an interrupted run, if this node does not share the file system; else None.
            data: content of the task's data file, in the first task with that file.
        """
        if files is not None:
            self._copies = self._copies or _Copies()
            task = self._copies.begin(task, files, data)
        elif self._copies:
            self._copies.folder = None
        self._process.send(task)
        return self.receive()

    def answer(self, verdict: bool) -> Message:
        """Answer a question and return the next message."""
        self._process.send(verdict)
        return self.receive()

    def receive(self) -> Message:
        """Return the next message."""
        copies = self._copies if self._copies and self._copies.folder else None
        while copies and not self._process.pipe.poll(COPY_SECONDS):
            if files := copies.changed():
                return Message(None, files)
        try:
            content: Question | Reply | int = self._process.receive()
        except EOFError:
            self._process.process.join(5)
            content = self._process.process.exitcode or 0
            self._process.kill()
            self._process = Worker(self._variants)
        if not copies:
            return Message(content, {})
        return Message(content, copies.changed(), tuple(copies.versions))

    def interrupt(self) -> None:
        """Ask the process to save its run and to stop it after the current step."""
        self._process.interrupt()

    def remove_copies(self) -> None:
        """Stop the process and delete its copies of runs and data."""
        self._process.kill()
        if self._copies:
            self._copies.remove()


class _Copies:
    """Run directories and data in a temporary folder of this node."""

    def __init__(self) -> None:
        self._root = Path(tempfile.mkdtemp(prefix="optlab-"))
        self.folder: Path | None = None
        self.versions: dict[str, FileVersion] = {}

    def begin(self, task: Task, files: Files, data: bytes | None) -> Task:
        """Write the files of a task; return the task with their paths."""
        if self.folder:
            shutil.rmtree(self.folder, ignore_errors=True)
        self.folder = self._root / task.folder.parent.name / task.folder.name
        self.folder.mkdir(parents=True, exist_ok=True)
        write_files(self.folder, files)
        self.versions = {}
        read_files(self.folder, self.versions)
        if task.loaded_data is None:
            return replace(task, folder=self.folder)
        copy = self._root / task.loaded_data.name
        if data is not None:
            copy.write_bytes(data)
        return replace(task, folder=self.folder, loaded_data=copy)

    def remove(self) -> None:
        """Delete the temporary folder."""
        shutil.rmtree(self._root, ignore_errors=True)

    def changed(self) -> Files:
        """Return the files of the run that changed since the last call."""
        assert self.folder
        return read_files(self.folder, self.versions)
