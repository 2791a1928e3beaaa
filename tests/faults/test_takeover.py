"""A run has one writer, also if its lock is deleted or another run replaces it."""

from __future__ import annotations

import errno
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from command import TINY, optlab, write_tiny
from forks import Forks
from same_run import differences
from test_disk import Disk

from trainer.catalog import load_config
from trainer.errors import OptlabError
from trainer.runs import launch, rundir

OPTIONS = ["train.epochs=3", "train.checkpoint_every={steps: 2}", "log.every=1", "--quiet", "--run-dir"]


def wait_for_rows(run: Path, rows: int) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if rundir.read_status(run) and len(rundir.load_run(run).steps.get("step", [])) >= rows:
            return
        time.sleep(0.01)
    raise AssertionError("the run did not write enough rows in time")


@pytest.mark.parametrize("taken", [True, False], ids=["taken over", "left alone"])
def test_a_run_whose_lock_is_deleted_has_one_writer(forks: Forks, tmp_path: Path, taken: bool) -> None:
    config, run = write_tiny(tmp_path), tmp_path / "run"
    assert optlab("train", config, *OPTIONS, tmp_path / "whole").code == 0
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(forks.run, tmp_path, "train", config, *OPTIONS, run, hold_at=11)
        try:
            wait_for_rows(run, 10)
            assert optlab("resume", run, "--quiet").code == 2
            (run / "lock").unlink()
            if taken:  # the second process ends before the first one makes its next step
                assert optlab("resume", run, "--quiet").code == 0
            before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
        finally:
            (tmp_path / "go").touch()
    ended = first.result()
    if taken:
        assert ended.code == 1, ended.err
        assert "was taken over by another process" in ended.err
        assert "Traceback" not in ended.err
        assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    else:
        assert ended.code == 0, ended.err
    assert differences(tmp_path / "whole", run) == []


def test_a_kill_while_a_run_replaces_another_leaves_exactly_one_run(forks: Forks, tmp_path: Path) -> None:
    config = write_tiny(tmp_path)
    old, new, run = tmp_path / "old", tmp_path / "new", tmp_path / "run"
    command = ["train", config, "optimizer.lr=0.1", "--quiet", "--run-dir"]
    for folder in (old, run):
        assert optlab("train", config, "--quiet", "--run-dir", folder).code == 0
    assert optlab(*command, new).code == 0
    (run / "NOTES.md").write_text("the user's")
    left = set()
    for count in range(1, 9):
        ended = forks.run(tmp_path, *command, run, "--force", strike=("checkpoint: renaming", count))
        assert ended.code == -signal.SIGKILL, ended.err
        found = rundir.load_run(run)
        rate = found.config["optimizer"]["lr"]
        left.add(rate)
        if rate == 0.05:
            assert found.status["status"] == "completed"
            assert differences(old, run) == []
        else:
            assert found.status["status"] == "interrupted"
            assert found.result is None
            assert optlab(*command, run, "--resume").code == 0
            assert differences(new, run) == []
            assert optlab("train", config, "--quiet", "--run-dir", run, "--force").code == 0
        assert (run / "NOTES.md").read_text() == "the user's"
    assert left == {0.05, 0.1}
    assert [path.name for path in run.iterdir() if path.name.startswith(".")] == []


def test_a_full_disk_keeps_the_run_to_be_replaced(tmp_path: Path) -> None:
    config, run = write_tiny(tmp_path), tmp_path / "run"
    assert optlab("train", config, "--quiet", "--run-dir", run).code == 0
    names = (
        "config.yaml",
        "environment.json",
        "status.json",
        "steps.csv",
        "summary.json",
        "checkpoints/best.pt",
    )
    before = [(run / name).read_bytes() for name in names]
    for first in range(1, 7):
        with Disk(lambda number, first=first: number >= first, errno.ENOSPC).injected():  # type: ignore[misc]
            done = optlab("train", config, "optimizer.lr=0.1", "--force", "--quiet", "--run-dir", run)
        assert done.code in (1, 2), done
        assert [(run / name).read_bytes() for name in names] == before, first


def test_a_folder_of_runs_is_not_a_run_directory(tmp_path: Path) -> None:
    config, runs = write_tiny(tmp_path, TINY.replace("name: tiny", "name: a/b")), tmp_path / "runs"
    assert optlab("train", config, "--quiet", "--runs", runs).code == 0
    before = {path: path.stat().st_mtime_ns for path in runs.rglob("*")}
    for folder in (runs, runs / "a", runs / "a" / "b"):
        done = optlab(
            "train", config, "--quiet", "--run-dir", folder, "--force", "--runs", tmp_path / "other"
        )
        assert (done.code, "contains other runs" in done.err) == (2, True), done.err
    done = optlab("train", config, "--quiet", "--run-dir", tmp_path / "root", "--runs", tmp_path / "root")
    assert (done.code, "contains all runs" in done.err) == (2, True), done.err
    assert {path: path.stat().st_mtime_ns for path in runs.rglob("*")} == before


@pytest.mark.parametrize(
    "name", ["../../x", "/tmp/x", "a/../b", "..", ".", "a/", "a//b", "a\\nb", "a\\eb", "a\\0b", "ä" * 150]
)
def test_a_run_name_cannot_leave_the_folder_of_runs(tmp_path: Path, name: str) -> None:
    config = write_tiny(tmp_path, TINY.replace("name: tiny", f'name: "{name}"'))
    done = optlab("train", config, "--quiet", "--runs", tmp_path / "runs")
    assert done.code == 2, done
    assert "tiny.yaml:1" in done.err
    assert "Traceback" not in done.err
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.yaml"]


def test_invalid_run_directory_names_are_errors(tmp_path: Path) -> None:
    done = optlab("train", write_tiny(tmp_path), "--quiet", "--run-dir", f"{tmp_path}/{'x' * 300}")
    assert done.code == 2, done
    assert "Traceback" not in done.err
    with pytest.raises(OptlabError):  # no command line can contain a NUL character, but a program's text can
        launch.launch(load_config(write_tiny(tmp_path)), Path(f"{tmp_path}/a\0b"))
