"""Runs `optlab` commands in forked processes that can be killed, and records what they were doing then.

The server is a separate process: importing torch takes seconds, forking takes milliseconds. The child runs
the real command line, records its current phase in a shared byte, and kills itself where the request says so
(`strike`), for phases that are too short for a random kill.
"""

from __future__ import annotations

import json
import mmap
import os
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from command import optlab, write_tiny

PHASES = (
    "start",
    "mid-epoch",
    "evaluation",
    "table row",
    "checkpoint: packing",
    "checkpoint: writing",
    "checkpoint: proving",
    "checkpoint: renaming",
    "another file",
    "end",
)


MARKS = 8
"""Bytes of the shared file."""


class Marks:
    """Shared bytes: the phases of the main thread and the checkpoint thread (0 = none), and two counters.

    One counts all phases, the other the training steps started, so that kills and signals can be timed by
    them on a busy machine.
    """

    def __init__(self, path: Path) -> None:
        self.count = 0
        self._file = open(path, "r+b")  # noqa: SIM115 (lives as long as the process)
        self.bytes = mmap.mmap(self._file.fileno(), MARKS)

    def during(
        self, function: Callable[..., Any], phase: str, strike: Callable[[str], None]
    ) -> Callable[..., Any]:
        import threading

        number = PHASES.index(phase)

        def marked(*args: Any, **kwargs: Any) -> Any:
            slot = 0 if threading.current_thread() is threading.main_thread() else 1
            former, self.bytes[slot] = self.bytes[slot], number
            self.count += 1
            self.bytes[2:6] = self.count.to_bytes(4, "little")
            try:
                strike(phase)
                return function(*args, **kwargs)
            finally:
                self.bytes[slot] = former

        return marked


def instrument(
    marks: Path, strike: dict[str, Any] | None, slow: float, slow_from: int, hold_at: int | None
) -> None:
    """Wrap the phases of a run to record them, and kill or wait where requested."""
    from trainer.runs import checkpoint, rundir
    from trainer.runs.recorder import Recorder
    from trainer.training.engines.eager import EagerEngine
    from trainer.training.experiment import Experiment

    seen = steps = 0

    def hit(phase: str) -> None:
        nonlocal seen
        if strike and strike["phase"] == phase:
            seen += 1
            if seen == strike["count"]:
                os.kill(os.getpid(), signal.SIGKILL)

    mark = Marks(marks)
    step: Any = EagerEngine.step

    def slow_step(*args: Any, **kwargs: Any) -> Any:
        nonlocal steps
        steps += 1
        mark.bytes[6:8] = (steps % 2**16).to_bytes(2, "little")
        while steps == hold_at and not Path("go").exists():
            time.sleep(0.01)
        if slow and steps >= slow_from:
            time.sleep(slow)
        return step(*args, **kwargs)

    put: Any = setattr  # mypy does not allow these assignments
    put(EagerEngine, "step", mark.during(slow_step, "mid-epoch", hit))
    put(Experiment, "evaluate", mark.during(Experiment.evaluate, "evaluation", hit))
    put(rundir.Table, "_write", mark.during(rundir.Table._write, "table row", hit))
    put(checkpoint, "pack", mark.during(checkpoint.pack, "checkpoint: packing", hit))
    put(rundir, "write_json", mark.during(rundir.write_json, "another file", hit))
    put(Recorder, "read_test", mark.during(Recorder.read_test, "end", hit))
    for name, phase in (("link", "checkpoint: renaming"), ("replace", "checkpoint: renaming")):
        put(os, name, mark.during(getattr(os, name), phase, hit))
    put(Path, "read_bytes", mark.during(Path.read_bytes, "checkpoint: proving", hit))
    writer = mark.during(checkpoint.write_atomically, "checkpoint: writing", hit)
    put(checkpoint, "write_atomically", writer)


def child(request: dict[str, Any]) -> None:
    os.chdir(request["folder"])
    if request["most_seconds"] is not None:
        resource.setrlimit(resource.RLIMIT_CPU, (request["most_seconds"], request["most_seconds"]))
    for name, number in (("out", 1), ("err", 2)):
        descriptor = os.open(request[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(descriptor, number)
    instrument(
        Path(request["marks"]), request["strike"], request["slow"], request["slow_from"], request["hold_at"]
    )
    sys.argv = ["optlab", *request["arguments"]]
    from trainer import cli

    code: Any = 1
    try:
        cli.main()
        code = 0
    except SystemExit as stop:
        code = stop.code or 0
    except BaseException:
        import traceback

        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 1)


def wait(pid: int, most_bytes: int | None) -> tuple[int, float, int]:
    """Wait for a child; kill it if its memory grows by more than the limit.

    Returns:
        Its status, its processor time in seconds, and the peak growth of its memory in bytes.
    """
    began = resident(pid)
    while most_bytes is not None:
        done, status, usage = os.wait4(pid, os.WNOHANG)
        if done:
            break
        if resident(pid) - began > most_bytes:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.002)
    else:
        _, status, usage = os.wait4(pid, 0)
    return status, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024 - began


def resident(pid: int) -> int:
    """Return the resident memory of a process in bytes (0 if the system does not report it)."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * mmap.PAGESIZE
    except (OSError, IndexError):
        return 0


def serve() -> None:
    # The tests may have been started in the background or with nohup, which ignore these.
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    # Train once before forking, so that forks do not repeat imports, option models and first calls of torch.
    with tempfile.TemporaryDirectory() as folder:
        optlab("train", write_tiny(Path(folder)), "--run-dir", Path(folder) / "run", "--quiet")
    print("ready", flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        pid = os.fork()
        if pid == 0:
            child(request)
        print(pid, flush=True)
        print(*wait(pid, request["most_bytes"]), flush=True)


if __name__ == "__main__":
    serve()
