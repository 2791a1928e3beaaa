"""Saves and restores process-wide settings that a component may change.

A process may train many runs, and tries components before a run. Each run must give the same results as in a
process of its own. Changes that cannot be detected or undone (such as patched functions of other packages)
remain.
"""

from __future__ import annotations

import gc
import locale
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from trainer import seeding

_USER_MODULES = "optlab_user:"


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting of the process.

    Args:
        read: returns its value, which is compared with `==`.
        restore: sets it to a value from `read`.
    """

    read: Callable[[], Any]
    restore: Callable[[Any], object]


SETTINGS: dict[str, Setting] = {
    "working directory": Setting(os.getcwd, os.chdir),
    "environment variables": Setting(lambda: dict(os.environ), lambda value: _replace(os.environ, value)),
    "file mode mask": Setting(lambda: _umask(), os.umask),
    "locale": Setting(
        lambda: locale.setlocale(locale.LC_ALL), lambda value: locale.setlocale(locale.LC_ALL, value)
    ),
    "sys.path": Setting(lambda: list(sys.path), lambda value: sys.path.__setitem__(slice(None), value)),
    "sys.argv": Setting(lambda: list(sys.argv), lambda value: sys.argv.__setitem__(slice(None), value)),
    "streams": Setting(lambda: (sys.stdin, sys.stdout, sys.stderr), lambda value: _set_streams(value)),
    "recursion limit": Setting(sys.getrecursionlimit, sys.setrecursionlimit),
    "garbage collection": Setting(
        lambda: (gc.isenabled(), gc.get_threshold()), lambda value: _set_collection(*value)
    ),
    "signal handlers": Setting(lambda: _handlers(), lambda value: _set_handlers(value)),
    "timer": Setting(
        lambda: signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0),
        lambda value: signal.setitimer(signal.ITIMER_REAL, 0.0),
    ),
    "numpy errors": Setting(np.geterr, lambda value: np.seterr(**value)),
    "default dtype": Setting(torch.get_default_dtype, torch.set_default_dtype),
    "default device": Setting(
        torch.get_default_device,
        lambda device: torch.set_default_device(None if device.type == "cpu" else device),
    ),
    "gradients enabled": Setting(torch.is_grad_enabled, lambda value: torch.set_grad_enabled(value)),
    "anomaly detection": Setting(torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly),
    "threads": Setting(torch.get_num_threads, torch.set_num_threads),
    "deterministic algorithms": Setting(
        lambda: (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
        ),
        lambda value: torch.use_deterministic_algorithms(value[0], warn_only=value[1]),
    ),
    "matmul precision": Setting(torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    "cudnn": Setting(
        lambda: (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic),
        lambda value: _set_cudnn(*value),
    ),
}


@contextmanager
def settings_preserved() -> Iterator[None]:
    """Restore all settings at the end of the block."""
    before: dict[str, Any] = {}
    for name, setting in SETTINGS.items():
        with suppress(OSError):  # the working directory was removed
            before[name] = setting.read()
    try:
        yield
    finally:
        for name, value in before.items():
            _restore(SETTINGS[name], value)


@contextmanager
def preserved() -> Iterator[None]:
    """Restore all settings, the global random generators and the warning filters at the end of the block."""
    with warnings.catch_warnings(), seeding.preserved(), settings_preserved():
        yield


@contextmanager
def user_modules_removed() -> Iterator[None]:
    """Remove user files imported in the block from `sys.modules`, so that every run executes them again."""
    kept = {name for name in sys.modules if name.startswith(_USER_MODULES)}
    try:
        yield
    finally:
        for name in [name for name in sys.modules if name.startswith(_USER_MODULES) and name not in kept]:
            del sys.modules[name]


def _restore(setting: Setting, value: Any) -> None:
    try:
        changed = setting.read() != value
    except OSError:
        changed = True
    if changed:
        with suppress(OSError):
            setting.restore(value)


def _replace(mapping: Any, value: dict[str, str]) -> None:
    for name in [name for name in mapping if name not in value]:
        del mapping[name]
    mapping.update(value)


def _umask() -> int:
    value = os.umask(0o077)
    os.umask(value)
    return value


def _set_streams(streams: tuple[Any, Any, Any]) -> None:
    sys.stdin, sys.stdout, sys.stderr = streams


def _set_collection(enabled: bool, threshold: tuple[int, int, int]) -> None:
    gc.set_threshold(*threshold)
    (gc.enable if enabled else gc.disable)()


def _handlers() -> dict[int, Any]:
    if threading.current_thread() is not threading.main_thread():
        return {}
    handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}
    return {number: handler for number, handler in handlers.items() if handler is not None}  # None: set in C


def _set_handlers(handlers: dict[int, Any]) -> None:
    for number, handler in handlers.items():
        if signal.getsignal(number) != handler:
            signal.signal(number, handler)


def _set_cudnn(benchmark: bool, deterministic: bool) -> None:
    torch.backends.cudnn.benchmark = benchmark
    torch.backends.cudnn.deterministic = deterministic
