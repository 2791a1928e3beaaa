from __future__ import annotations

import pytest

from trainer.device import Clock, default_threads, resolve_device, usable_cores
from trainer.errors import ConfigError


@pytest.mark.parametrize(
    ("told", "threads"), [("3", 3), ("", None), ("many", None), ("0", None), (None, None)]
)
def test_threads_follow_omp_num_threads_where_it_is_a_number(
    monkeypatch: pytest.MonkeyPatch, told: str | None, threads: int | None
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if told is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", told)
    assert default_threads() == (threads or usable_cores())


def test_a_small_step_gets_one_thread_unless_omp_num_threads_says_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert default_threads(0) == default_threads(500_000) == 1
    assert default_threads(600_000) == default_threads(None) == usable_cores()
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert default_threads(0) == default_threads(600_000) == 3


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
