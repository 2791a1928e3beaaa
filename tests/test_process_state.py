"""Changes of a component to the process state are undone before the next run of the same worker."""

from __future__ import annotations

import gc
import io
import locale
import os
import random
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from trainer.process_state import SETTINGS, preserved


def _change_environment() -> None:
    os.environ["OPTLAB_TEST"] = "left behind"
    del os.environ["PATH"]


CHANGES: dict[str, Callable[[], Any]] = {
    "working directory": lambda: os.chdir("/"),
    "environment variables": _change_environment,
    "file mode mask": lambda: os.umask(0o777),
    "locale": lambda: locale.setlocale(locale.LC_ALL, "C" if "UTF" in _locale() else "C.UTF-8"),
    "sys.path": lambda: sys.path.insert(0, "/nowhere"),
    "sys.argv": lambda: sys.argv.append("more"),
    "streams": lambda: setattr(sys, "stdout", io.StringIO()),
    "recursion limit": lambda: sys.setrecursionlimit(5000),
    "garbage collection": gc.disable,
    "signal handlers": lambda: signal.signal(signal.SIGTERM, signal.SIG_IGN),
    "timer": lambda: signal.setitimer(signal.ITIMER_REAL, 1000.0),
    "numpy errors": lambda: np.seterr(all="raise"),
    "default dtype": lambda: torch.set_default_dtype(torch.float64),
    "default device": lambda: torch.set_default_device("meta"),
    "gradients enabled": lambda: torch.set_grad_enabled(False),
    "anomaly detection": lambda: torch.autograd.set_detect_anomaly(True),
    "threads": lambda: torch.set_num_threads(torch.get_num_threads() + 1),
    "deterministic algorithms": lambda: torch.use_deterministic_algorithms(True, warn_only=True),
    "matmul precision": lambda: torch.set_float32_matmul_precision("medium"),
    "cudnn": lambda: setattr(torch.backends.cudnn, "benchmark", True),
}


def _locale() -> str:
    return locale.setlocale(locale.LC_ALL)


@pytest.mark.parametrize("name", SETTINGS)
def test_each_setting_is_restored(name: str) -> None:
    before = SETTINGS[name].read()
    with preserved():
        CHANGES[name]()
        assert SETTINGS[name].read() != before
    assert SETTINGS[name].read() == before


def test_generators_and_warning_filters_are_restored() -> None:
    filters = list(warnings.filters)
    before = random.getstate(), torch.get_rng_state()
    with preserved():
        random.random()
        torch.rand(3)
        warnings.simplefilter("error")
    assert random.getstate() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])
    assert list(warnings.filters) == filters


def test_settings_are_restored_after_an_error_and_without_a_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()

    @preserved()
    def fail() -> None:
        torch.set_grad_enabled(False)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert torch.is_grad_enabled()
