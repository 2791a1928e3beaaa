"""Disk errors injected where files are opened, written, synced and renamed."""

from __future__ import annotations

import builtins
import errno
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from command import Done, optlab, write_tiny
from same_run import differences

from trainer.runs import files, recorder, run_lock, rundir
from trainer.training.experiment import Experiment

RUN = ["train.checkpoint_every={steps: 2}", "log.every=1", "log.histograms=true", "--quiet"]


class Disk:
    """Counts disk operations and fails those for which `fails` returns true."""

    def __init__(self, fails: Callable[[int], bool], error: int) -> None:
        self.operations = 0
        self.refused: list[str] = []
        self._fails = fails
        self._error = error

    def ask(self, path: object) -> None:
        self.operations += 1
        if self._fails(self.operations):
            self.refused.append(str(path))
            raise OSError(self._error, os.strerror(self._error), str(path))

    def open(self, path: Any, mode: str = "r", **options: Any) -> Any:
        if mode[0] == "r":
            return builtins.open(path, mode, **options)
        self.ask(path)
        return File(self, builtins.open(path, mode, **options), str(path))

    @contextmanager
    def injected(self) -> Iterator[Disk]:
        fsync, replace = os.fsync, os.replace

        def faulty_fsync(descriptor: int) -> None:
            self.ask(os.readlink(f"/proc/self/fd/{descriptor}"))
            fsync(descriptor)

        def faulty_replace(source: Path, target: Path) -> None:
            self.ask(target)
            replace(source, target)

        with (
            mock.patch.object(files, "open", self.open, create=True),
            mock.patch.object(run_lock, "open", self.open, create=True),
            mock.patch.object(recorder, "open", self.open, create=True),
            mock.patch.object(os, "fsync", faulty_fsync),
            mock.patch.object(os, "replace", faulty_replace),
        ):
            yield self


class File:
    """A file whose writes can fail; a full disk accepts half of a raw write."""

    def __init__(self, disk: Disk, file: Any, path: str) -> None:
        self._disk, self._file, self._path = disk, file, path

    def write(self, data: Any) -> int:
        try:
            self._disk.ask(self._path)
        except OSError:
            half = data[: len(data) // 2]
            if half and self._path.endswith(".csv") and self._disk.operations % 2:
                return int(self._file.write(half))
            raise
        return int(self._file.write(data))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> File:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, int]:
    """A config, its run without disk errors, and the number of disk operations of that run."""
    folder = tmp_path_factory.mktemp("whole")
    config = write_tiny(folder)
    with Disk(lambda _: False, 0).injected() as disk:
        done = optlab("train", config, *RUN, "--run-dir", folder / "run")
    assert done.code == 0, done.err
    return config, folder / "run", disk.operations


def check_error(done: Done, run: Path) -> None:
    """Check that a failure is one error message that names a path."""
    assert done.code in (1, 2), done.out + done.err
    assert "Traceback" not in done.err
    assert "cannot" in done.err
    assert str(run.parent) in done.err


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO], ids=["full", "broken"])
@pytest.mark.parametrize("part", range(8))
def test_one_disk_error_is_retried_or_reported(
    whole: tuple[Path, Path, int], tmp_path: Path, error: int, part: int
) -> None:
    config, sound, operations = whole
    first = 1 + part if part < 4 else 9 + (operations - 9) * (2 * part - 7 + (error == errno.EIO)) // 9
    run = tmp_path / "run"
    with Disk(lambda number: number == first, error).injected() as disk:
        done = optlab("train", config, *RUN, "--run-dir", run)
    assert disk.refused
    if done.code:
        check_error(done, run)
        assert optlab("train", config, *RUN, "--run-dir", run, "--resume").code == 0
    assert differences(sound, run) == []


@pytest.mark.parametrize("share", [0.0, 0.05, 0.15, 0.3, 0.5, 0.7, 0.9, 0.97, 1.0])
def test_a_permanently_full_disk_loses_no_saved_data(
    whole: tuple[Path, Path, int], tmp_path: Path, share: float
) -> None:
    config, sound, operations = whole
    first = 1 + int(share * (operations - 1))
    run = tmp_path / "run"
    with Disk(lambda number: number >= first, errno.ENOSPC).injected():
        check_error(optlab("train", config, *RUN, "--run-dir", run), run)
    if rundir.read_status(run) is not None:
        assert rundir.load_run(run).status["status"] == "interrupted"
    done = optlab("train", config, *RUN, "--run-dir", run, "--resume")
    assert done.code == 0, done.err
    assert differences(sound, run) == []


def test_a_temporarily_full_disk_does_not_change_the_run(
    whole: tuple[Path, Path, int], tmp_path: Path
) -> None:
    config, sound, operations = whole
    run = tmp_path / "run"
    with Disk(lambda number: 0.4 < number / operations < 0.55, errno.ENOSPC).injected():
        done = optlab("train", config, *RUN, "--run-dir", run)
    assert done.code == 0, done.err
    assert done.err.count("the run continues and retries") >= 1
    assert "writes succeed again" in done.err
    assert differences(sound, run) == []
    assert "writes succeed again" in (run / "train.log").read_text()


def test_a_deleted_run_directory_is_reported(tmp_path: Path) -> None:
    run = tmp_path / "run"
    evaluate = Experiment.evaluate

    def removing(self: Experiment) -> Any:
        while self.progress.step and run.exists():  # the checkpoint's thread may write meanwhile
            shutil.rmtree(run, ignore_errors=True)
        return evaluate(self)

    with mock.patch.object(Experiment, "evaluate", removing):
        done = optlab("train", write_tiny(tmp_path), "--quiet", "--run-dir", run)
    assert done.code == 1
    assert f"{run} was moved or deleted during the run" in done.err
    assert "Traceback" not in done.err


def test_an_unwritable_run_directory_is_reported_before_training(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    for target in (tmp_path / "file" / "run", Path("/proc/run")):
        done = optlab("train", write_tiny(tmp_path), "--quiet", "--run-dir", target)
        assert done.code == 2
        assert str(target.parent) in done.err
        assert "Traceback" not in done.err


def test_a_checkpoint_is_written_before_a_failed_run_releases_its_directory(tmp_path: Path) -> None:
    write = files.write_atomically
    locked: list[bool] = []

    def slow(path: Path, content: Any, **options: Any) -> None:
        time.sleep(0.2)
        locked.append(rundir.is_locked(tmp_path / "run"))
        write(path, content, **options)

    def fail(*_: object) -> Any:
        raise RuntimeError("the step fails")

    with (
        mock.patch("trainer.runs.checkpoint.write_atomically", slow),
        mock.patch.object(Experiment, "advance", fail),
    ):
        done = optlab("train", write_tiny(tmp_path), "--quiet", "--run-dir", tmp_path / "run")
    assert "the step fails" in done.err
    assert locked == [True]
    assert (tmp_path / "run" / "checkpoints" / "last.pt").is_file()
