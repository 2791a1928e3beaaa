"""Device, precision and threads of an experiment, and a clock that synchronizes with the GPU."""

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


def resolve_device(name: str) -> torch.device:
    """Return the device named `auto`, `cpu`, `cuda` or `cuda:N`; raise ConfigError if it does not exist."""
    if name == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    if name == "cpu":
        return torch.device("cpu")
    kind, _, index = name.partition(":")
    if kind != "cuda" or not (index == "" or index.isdigit()):
        raise ConfigError(
            f"unknown device {name!r}", key="train.device", expected="auto, cpu, cuda or cuda:N"
        )
    num_devices = torch.cuda.device_count()
    if int(index or 0) >= num_devices:
        raise ConfigError(
            f"device {name!r} does not exist: torch finds {num_devices} CUDA "
            f"device{'' if num_devices == 1 else 's'}",
            key="train.device",
            expected="auto, cpu" + "".join(f", cuda:{i}" for i in range(num_devices)),
            fix="set train.device=auto, or run `optlab doctor`",
        )
    return torch.device("cuda", int(index or 0))


def usable_cores() -> int:
    """Return the number of CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def max_threads() -> int:
    """Return the maximum number of threads of a run: four per core, but at least 256.

    Each is a thread of the operating system; torch crashes if the system cannot create one.
    """
    return max(256, 4 * (os.cpu_count() or 1))


def check_threads(threads: int, *, key: str = "train.threads") -> int:
    """Return the number of threads; raise ConfigError for the config key if it exceeds `max_threads()`."""
    if threads > max_threads():
        raise ConfigError(
            f"got {threads}",
            key=key,
            expected=f"1 to {max_threads()} on this machine, which has {os.cpu_count() or 1} cores",
        )
    return threads


def usable_threads() -> int:
    """Return the number of usable cores, or OMP_NUM_THREADS if it is a smaller positive number."""
    variable = os.environ.get("OMP_NUM_THREADS", "")
    allowed = int(variable) if variable.isdecimal() else 0
    return min(allowed, usable_cores()) if allowed else usable_cores()


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """Return the context of the forward pass: torch's autocast, or a null context for float32."""
    dtype = PRECISIONS[precision]
    if dtype is torch.float32:
        return nullcontext()
    return torch.autocast(device.type, dtype=dtype)


class Clock:
    """Measures the total time between `start` and `stop`; both synchronize with the GPU.

    The clock is stopped during evaluation, logging and checkpoints, so training time does not include them.
    It also excludes the time for which the whole process was stopped (SIGSTOP, Ctrl-Z), see `skip_stop`. The
    system's clock does not advance while the machine sleeps.
    """

    def __init__(self, device: torch.device, elapsed: float = 0.0) -> None:
        self._device = device
        self._started: float | None = None
        self._last_tick = 0.0
        self.elapsed = elapsed

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()

    def start(self) -> None:
        """Start or continue measuring."""
        assert self._started is None, "the clock is already running"
        self._started = self._now()

    def tick(self) -> None:
        """Record that the process is running; called after every step."""
        self._last_tick = time.perf_counter()

    def skip_stop(self) -> None:
        """Exclude the time since the last tick; called when a stopped process continues (SIGCONT).

        The time of the stop is unknown, so up to one step of training is excluded as well.
        """
        if self._started is None:
            return
        now = time.perf_counter()
        self._started += now - max(self._last_tick, self._started)
        self._last_tick = now

    def read(self) -> float:
        """Return the seconds measured so far, without synchronizing with the GPU."""
        return self.elapsed + (0.0 if self._started is None else time.perf_counter() - self._started)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stop the clock for the block."""
        self.stop()
        try:
            yield
        finally:
            self.start()

    def stop(self) -> float:
        """Stop the clock and return the total of seconds."""
        assert self._started is not None, "the clock is not running"
        self.elapsed += self._now() - self._started
        self._started = None
        return self.elapsed


@contextmanager
def sparing_collector() -> Iterator[None]:
    """Exclude all existing objects from garbage collection for the block.

    Autograd creates so many objects that the collector runs every few hundred steps. Traversing all objects
    that torch has imported took a fifth of the time at batch size 1.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
