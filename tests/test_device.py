from __future__ import annotations

import pytest

from trainer import device
from trainer.device import Clock, resolve_device
from trainer.errors import ConfigError


@pytest.mark.parametrize(
    ("told", "threads"), [("3", 3), ("99", 8), ("", 8), ("many", 8), ("0", 8), ("\u00b2", 8), (None, 8)]
)
def test_usable_threads_are_bounded_by_the_cores_and_omp_num_threads(
    monkeypatch: pytest.MonkeyPatch, told: str | None, threads: int
) -> None:
    monkeypatch.setattr(device, "usable_cores", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if told is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", told)
    assert device.usable_threads() == threads


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "cuda:99", "cpu:0", ""])
def test_a_device_that_is_not_there_is_refused_with_its_key(name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve_device(name)
    assert caught.value.problems[0].key == "train.device"


def test_a_clock_counts_what_runs_and_not_its_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    clock = Clock(resolve_device("cpu"), elapsed=10.0)
    clock.start()
    now[0] = 1.0
    with clock.paused():
        now[0] = 100.0
    now[0] = 102.0
    assert clock.read() == 13.0
    assert clock.stop() == 13.0
    now[0] = 500.0
    assert clock.read() == 13.0
