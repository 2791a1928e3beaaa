"""`--wait` waits for the process that writes to the run directory, also with `--resume` and `--force`."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from command import optlab, train, write_tiny
from same_run import differences

from trainer.runs import rundir


@contextmanager
def written_by_another(run: Path, seconds: float) -> Iterator[None]:
    """Hold the lock of a run directory in another thread for some time."""
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with rundir.locked(run):
            held.set()
            done.wait(seconds)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    try:
        yield
    finally:
        done.set()
        thread.join()


@pytest.mark.parametrize("option", ["--resume", "--force"])
def test_a_run_that_is_being_written_is_waited_for(tmp_path: Path, option: str) -> None:
    config, run = write_tiny(tmp_path), tmp_path / "run"
    train(config, run_dir=run)
    longer = ("train", config, "train.epochs=2", "--run-dir")
    assert optlab(*longer, tmp_path / "longer", "--quiet").code == 0
    with written_by_another(run, 60):
        done = optlab(*longer, run, option, "--quiet")
        assert (done.code, "is being written by another process" in done.err) == (2, True)
    with written_by_another(run, 0.5):
        done = optlab(*longer, run, option, "--wait", "--quiet", "--json")
    assert (done.code, done.json["skipped"]) == (0, False)
    assert differences(run, tmp_path / "longer") == []
