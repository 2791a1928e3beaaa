"""Requests `optlab` processes from the server in `forking.py` and sends them signals."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forking import MARKS, PHASES

FELL: Counter[str] = Counter()


@dataclass(frozen=True)
class Ended:
    """The result of a command.

    Args:
        code: exit code; the negative signal number if a signal killed it.
        phase: its phase when it was killed.
        seconds: its duration.
        count: number of phases entered (steps, rows, files ...).
        cpu_seconds: its processor time.
        memory: peak growth of its memory, in bytes.
    """

    code: int
    out: str
    err: str
    phase: str
    seconds: float
    count: int
    cpu_seconds: float
    memory: int


class Forks:
    """Runs `optlab` in forked processes, one at a time, with signals sent at given seconds."""

    def __init__(self) -> None:
        path = Path(__file__).parent / "forking.py"
        self._server = subprocess.Popen(
            [sys.executable, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        assert self._line() == "ready"

    def _line(self) -> str:
        assert self._server.stdout is not None
        return self._server.stdout.readline().strip()

    def run(
        self,
        folder: Path,
        *arguments: str | Path,
        kill_at: float | None = None,
        signal_at_step: tuple[int, int] | None = None,
        again_after: float | None = None,
        pause_at_step: tuple[int, float] | None = None,
        strike: tuple[str, int] | None = None,
        slow: float = 0.0,
        slow_from: int = 1,
        hold_at: int | None = None,
        most_seconds: int | None = None,
        most_bytes: int | None = None,
    ) -> Ended:
        """Run a command in a folder.

        Args:
            kill_at: SIGKILL after this number of phases; the fraction is a delay in milliseconds.
            signal_at_step: (step, signal): send the signal when the training step has started.
            again_after: seconds after which it is sent again; repeated if the system merged both signals.
            pause_at_step: (step, seconds): stop the process (SIGSTOP) for some seconds in this step.
            strike: (phase, count): the process kills itself when it enters the phase for the count-th time.
            slow: duration of every training step in seconds, from step `slow_from` on.
            hold_at: training step that waits until the folder contains a file `go`.
            most_seconds: maximum processor time; the process is then killed.
            most_bytes: maximum growth of its memory; the process is then killed.
        """
        marks = folder / "marks"
        marks.write_bytes(bytes(MARKS))
        request: dict[str, Any] = {
            "folder": str(folder),
            "arguments": [str(argument) for argument in arguments],
            "out": str(folder / "out"),
            "err": str(folder / "err"),
            "marks": str(marks),
            "strike": {"phase": strike[0], "count": strike[1]} if strike else None,
            "slow": slow,
            "slow_from": slow_from,
            "hold_at": hold_at,
            "most_seconds": most_seconds,
            "most_bytes": most_bytes,
        }
        assert self._server.stdin is not None
        began = time.monotonic()
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        pid = int(self._line())
        if kill_at is not None:
            self._send(pid, marks, slice(2, 6), kill_at, signal.SIGKILL)
        if pause_at_step is not None:
            self._send(pid, marks, slice(6, 8), pause_at_step[0], signal.SIGSTOP)
            time.sleep(pause_at_step[1])
            os.kill(pid, signal.SIGCONT)
        if signal_at_step is not None:
            self._send(pid, marks, slice(6, 8), *signal_at_step)
            pause = again_after
            while pause is not None and not self._ended_within(pause):
                with suppress(ProcessLookupError):  # the test checks how it ended
                    os.kill(pid, signal_at_step[1])
                pause = 3.0
        status, cpu_seconds, memory = self._line().split()
        main, thread, *count = marks.read_bytes()[:6]
        phase = PHASES[thread or main]
        code = os.waitstatus_to_exitcode(int(status))
        if code == -signal.SIGKILL:
            FELL[phase] += 1
        return Ended(
            code,
            (folder / "out").read_text(),
            (folder / "err").read_text(),
            phase,
            time.monotonic() - began,
            int.from_bytes(bytes(count), "little"),
            float(cpu_seconds),
            int(memory),
        )

    def _ended_within(self, seconds: float) -> bool:
        assert self._server.stdout is not None
        return bool(select.select([self._server.stdout], [], [], seconds)[0])

    def _send(self, pid: int, marks: Path, counter: slice, at: float, number: int) -> None:
        while int.from_bytes(marks.read_bytes()[counter], "little") < int(at):
            if self._ended_within(0.0002):
                return
        time.sleep(at % 1 / 1000)
        with suppress(ProcessLookupError):
            os.kill(pid, number)

    def close(self) -> None:
        assert self._server.stdin is not None
        self._server.stdin.close()
        self._server.kill()  # it is not needed any more
        self._server.wait()
