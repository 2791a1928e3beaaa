"""The machine below an experiment: device, precision, threads, a clock that waits for the GPU."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

from trainer.errors import ConfigError

PRECISIONS: dict[str, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


# Two threads break even with one at 0.6 million multiplications in convolutions, at 3 million in an mlp; and
# where the other core has gone to sleep, waking it doubles the time of a step.
_FOR_ONE_THREAD = 2**19


def resolve_device(name: str) -> torch.device:
    """Return the device that `auto | cpu | cuda | cuda:N` names; ConfigError when it is not there."""
    if name == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    if name == "cpu":
        return torch.device("cpu")
    kind, _, index = name.partition(":")
    if kind != "cuda" or not (index == "" or index.isdigit()):
        raise ConfigError(
            f"unknown device {name!r}", key="train.device", expected="auto, cpu, cuda or cuda:N"
        )
    found = torch.cuda.device_count()
    if int(index or 0) >= found:
        raise ConfigError(
            f"device {name!r} is not there: torch sees {found} CUDA device{'' if found == 1 else 's'}",
            key="train.device",
            expected="auto, cpu" + "".join(f", cuda:{i}" for i in range(found)),
            fix="say train.device=auto, or look at `optlab doctor`",
        )
    return torch.device("cuda", int(index or 0))


def usable_cores() -> int:
    """Return how many CPU cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def most_threads() -> int:
    """Return how many threads a run may ask for: four for every core, or 256 on a small machine.

    Each is a thread of the system with a stack of its own; torch does not survive what the system refuses.
    """
    return max(256, 4 * (os.cpu_count() or 1))


def check_threads(threads: int, *, key: str = "train.threads", what: str = "") -> int:
    """Return the number of threads; ConfigError when it is more than the machine may be asked for.

    Args:
        threads: how many.
        key: who asks, for the message.
        what: the value as the user wrote it; empty = the number.
    """
    if threads > most_threads():
        raise ConfigError(
            f"got {what or threads}",
            key=key,
            expected=f"1 to {most_threads()} on this machine, which has {os.cpu_count() or 1} cores",
        )
    return threads


def default_threads(multiplications: int | None = None) -> int:
    """Return OMP_NUM_THREADS where the user has set it to a number, else one for small steps, else the cores.

    Args:
        multiplications: by weights, in the forward pass of a step; None = many.
    """
    told = os.environ.get("OMP_NUM_THREADS", "")
    if told.isdigit() and int(told) > 0:
        return int(told)
    small = multiplications is not None and multiplications <= _FOR_ONE_THREAD
    return 1 if small else usable_cores()


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """Return the context for the forward pass: nothing for float32, torch's autocast otherwise."""
    dtype = PRECISIONS[precision]
    if dtype is torch.float32:
        return nullcontext()
    return torch.autocast(device.type, dtype=dtype)


class Clock:
    """Adds up the seconds spent between `start` and `stop`; waits for the GPU at both ends.

    While a clock is stopped nothing counts, so that evaluation, logging and checkpointing never appear in
    the training time. Nor does the time for which the whole process was stopped (SIGSTOP, Ctrl-Z): see
    `skip_stop`. While the machine sleeps, the system's own clock stands still.
    """

    def __init__(self, device: torch.device, elapsed: float = 0.0) -> None:
        self._device = device
        self._started: float | None = None
        self._ticked = 0.0
        self.elapsed = elapsed

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()

    def start(self) -> None:
        """Begin or go on counting."""
        assert self._started is None, "the clock runs already"
        self._started = self._now()

    def tick(self) -> None:
        """Note that the process runs; called after every step."""
        self._ticked = time.perf_counter()

    def skip_stop(self) -> None:
        """Leave out the time since the last tick: the process was stopped in it, and goes on now (SIGCONT).

        When it was stopped cannot be known, so up to a step of training is left out as well.
        """
        if self._started is None:
            return
        now = time.perf_counter()
        self._started += now - max(self._ticked, self._started)
        self._ticked = now

    def read(self) -> float:
        """Return the seconds counted so far, running or not, without waiting for the GPU."""
        return self.elapsed + (0.0 if self._started is None else time.perf_counter() - self._started)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stand still for the block."""
        self.stop()
        try:
            yield
        finally:
            self.start()

    def stop(self) -> float:
        """Stop counting and return all the seconds counted so far."""
        assert self._started is not None, "the clock does not run"
        self.elapsed += self._now() - self._started
        self._started = None
        return self.elapsed


@contextmanager
def sparing_collector() -> Iterator[None]:
    """Keep Python's garbage collector off all that exists already, for the block.

    Autograd makes so many objects that the collector runs every few hundred steps; walking over everything
    that torch has imported took a fifth of the time at batch size 1.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
