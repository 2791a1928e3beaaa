from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command import TINY

from trainer.errors import BusyError, RunError, StorageError
from trainer.records import format_header, format_row, read_table
from trainer.runs import files, run_lock, rundir


def test_a_table_reads_back_bit_for_bit(tmp_path: Path) -> None:
    table = rundir.Table(tmp_path / "steps.csv", ["step", "loss", "lr"])
    rows = [
        {"step": 1, "loss": 0.1 + 0.2, "lr": 1e-300},
        {"step": 2, "loss": math.inf},
        {"step": 3, "loss": -0.0},
    ]
    for row in rows:
        table.append(row)
    table.close()
    read = read_table(tmp_path / "steps.csv")
    assert read == {"step": [1, 2, 3], "loss": [0.1 + 0.2, math.inf, -0.0], "lr": [1e-300, None, None]}


LONG = format_header(["step", "loss"]) + "".join(f"{step},{step / 3!r}\n" for step in range(4000))
"""A table that is long enough for the faster reader."""


def test_a_long_table_reads_back_bit_for_bit(tmp_path: Path) -> None:
    path = tmp_path / "steps.csv"
    path.write_text(LONG + "4000,inf\n4001,nan\n4002,5e-324\n4003,1")
    read = read_table(path)
    assert read["step"] == list(range(4003))
    assert read["loss"][:4001] == [*(step / 3 for step in range(4000)), math.inf]
    assert math.isnan(read["loss"][4001] or 0)
    assert read["loss"][4002] == 5e-324
    path.write_text(LONG + "4000,\n")
    assert read_table(path)["loss"][-2:] == [3999 / 3, None]


@pytest.mark.parametrize("line", ["\n", "1\n", "1,2,3\n", "1,x\n", "1,2#3\n"])
def test_a_damaged_long_table_is_an_error_with_the_line(tmp_path: Path, line: str) -> None:
    path = tmp_path / "steps.csv"
    path.write_text(LONG + line + "4000,1\n")
    with pytest.raises(RunError, match=":4002"):
        read_table(path)


def test_rows_are_written_at_once_and_reopening_truncates(tmp_path: Path) -> None:
    path = tmp_path / "steps.csv"
    first = rundir.Table(path, ["step"])
    first.append({"step": 1})
    assert path.read_text() == "step\n1\n"
    size = first.flush()
    first.append({"step": 2})
    first.close()
    rundir.Table(path, ["step"], size).append({"step": 3})
    assert path.read_text() == "step\n1\n3\n"


@pytest.mark.parametrize("cut", range(1, 9))
def test_an_incomplete_last_line_is_ignored(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "steps.csv"
    whole = format_header(["step", "loss"]) + "".join(
        format_row(["step", "loss"], {"step": step, "loss": 0.123}) for step in (1, 2)
    )
    path.write_text(whole[:-cut])
    assert read_table(path) == {"step": [1], "loss": [0.123]}


@pytest.mark.parametrize(
    ("text", "where"), [("step,loss\n1\n2,3\n", ":2"), ("step\n1\nx\n", ":3"), ("", "header")]
)
def test_a_damaged_table_is_an_error_with_the_line(tmp_path: Path, text: str, where: str) -> None:
    path = tmp_path / "steps.csv"
    path.write_text(text)
    with pytest.raises(RunError, match=where):
        read_table(path)


def test_a_file_is_replaced_atomically(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    rundir.write_json(path, {"loss": math.nan, "many": [1.0, math.inf]})
    assert json.loads(path.read_text()) == {"loss": None, "many": [1.0, None]}
    with pytest.raises(StorageError, match=r"summary\.json"):
        rundir.write_json(tmp_path / "gone" / "summary.json", {})
    assert [entry.name for entry in tmp_path.iterdir()] == ["summary.json"]


def test_there_is_one_writer_at_a_time_and_a_crash_releases_the_lock(tmp_path: Path) -> None:
    code = (
        "import sys, os; from pathlib import Path; from trainer.runs import rundir\n"
        "with rundir.locked(Path(sys.argv[1])):\n"
        "    print('held', flush=True); sys.stdin.readline(); os._exit(1)\n"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    assert rundir.is_locked(tmp_path)
    with pytest.raises(RunError, match=f"another process.*{holder.pid}"), rundir.locked(tmp_path):
        pass
    holder.communicate("\n")
    assert not rundir.is_locked(tmp_path)
    with rundir.locked(tmp_path):
        assert (tmp_path / rundir.LOCK).read_text() == f"pid {os.getpid()} on {files.HOST}\n"


@pytest.fixture
def per_host_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system on which an flock does not exclude processes of other hosts."""
    monkeypatch.setattr(run_lock.fcntl, "flock", lambda *arguments: None)


@pytest.mark.usefixtures("per_host_locks")
def test_a_lock_of_another_host_is_held_until_its_heartbeat_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rundir.write_json(tmp_path / rundir.STATUS, {"format": 1, "status": "running"})
    with rundir.locked(tmp_path) as first:
        monkeypatch.setattr(run_lock, "HOST", "elsewhere")
        assert rundir.load_status(tmp_path)["status"] == "running"
        with pytest.raises(BusyError, match=str(os.getpid())), rundir.locked(tmp_path):
            pass
        first.check()
        silent = time.time() - run_lock.STALE_SECONDS - 1
        os.utime(tmp_path / rundir.LOCK, (silent, silent))
        assert rundir.load_status(tmp_path)["status"] == "interrupted"
        with rundir.locked(tmp_path) as second:
            with pytest.raises(rundir.LostError):
                first.check()
            second.check()
    assert not rundir.is_locked(tmp_path)
    monkeypatch.undo()
    with rundir.locked(tmp_path) as third:  # another host released it, so there is nothing to wait for
        third.check()


@pytest.mark.usefixtures("per_host_locks")
def test_a_held_lock_has_a_heartbeat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_lock, "HEARTBEAT_SECONDS", 0.01)
    with rundir.locked(tmp_path):
        os.utime(tmp_path / rundir.LOCK, (0, 0))
        monkeypatch.setattr(run_lock, "HOST", "elsewhere")
        deadline = time.monotonic() + 30
        while not rundir.is_locked(tmp_path):
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_a_running_run_without_a_process_is_shown_as_interrupted(tmp_path: Path) -> None:
    rundir.write_json(tmp_path / rundir.STATUS, {"format": 1, "status": "running"})
    with rundir.locked(tmp_path):
        status = rundir.read_status(tmp_path)
        assert status is not None
        assert status["status"] == "running"
    status = rundir.read_status(tmp_path)
    assert status is not None
    assert status["status"] == "interrupted"


def test_a_folder_that_is_not_a_run_is_an_error(tmp_path: Path) -> None:
    assert rundir.read_status(tmp_path) is None
    with pytest.raises(RunError, match="not a run directory"):
        rundir.load_run(tmp_path)
    assert rundir.find_runs([tmp_path]) == []


def test_a_run_killed_before_its_tables_exist_can_be_read(tmp_path: Path) -> None:
    rundir.write_json(tmp_path / rundir.STATUS, {"format": 1, "status": "running"})
    (tmp_path / rundir.CONFIG).write_text(f"format: 1\n{TINY}")
    run = rundir.load_run(tmp_path)
    assert (run.status["status"], run.steps, run.epochs, run.result) == ("interrupted", {}, {}, None)
    assert rundir.find_runs([tmp_path]) == [tmp_path]


def test_a_new_table_is_created_with_its_header(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "open", _refuse, raising=False)
    monkeypatch.setattr(files, "write_atomically", lambda path, data, guard: path.write_bytes(data))
    with pytest.raises(StorageError, match=r"steps\.csv"):
        rundir.Table(tmp_path / "steps.csv", ["step"])
    assert read_table(tmp_path / "steps.csv") == {"step": []}


def _refuse(*_arguments: object, **_options: object) -> None:
    raise OSError(28, "No space left on device")
