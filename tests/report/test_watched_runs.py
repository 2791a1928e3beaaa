"""What the live page reads of runs: incrementally, of runs that grow, fail and vanish."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from command import train, write_tiny

from trainer.report import watched_runs
from trainer.report.watched_runs import MAX_ROWS, GrowingTable, WatchedRuns


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    train(write_tiny(folder), run_dir=folder / "run")
    return folder / "run"


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "runs" / "one"
    shutil.copytree(trained, folder)
    return folder


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watched_runs, "_WAIT", 0.0)
    monkeypatch.setattr(watched_runs, "SHARE", 1e9)


def set_status(folder: Path, **fields: Any) -> None:
    path = folder / "status.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def look(watched: WatchedRuns, since: int = 0) -> dict[str, Any]:
    watched.update()
    return watched.overview(since)


def test_a_table_is_read_from_where_the_last_reading_ended(tmp_path: Path) -> None:
    path = tmp_path / "steps.csv"
    table = GrowingTable(path)
    table.update()
    assert table.columns() == {}
    path.write_text("step,loss,grad_norm.0.weight\n0,1.5,2\n1,nan,2\n2,0.")
    table.update()
    assert table.columns() == {"step": [0, 1], "loss": [1.5, None]}
    with open(path, "a") as file:
        file.write("25,1\n3,inf,\n4,0.5\n")
    table.update()
    assert table.columns() == {"step": [0, 1, 2, 3], "loss": [1.5, None, 0.25, None]}
    shorter = tmp_path / "new"
    shorter.write_text("step,loss\n0,7\n1,8\n")
    os.replace(shorter, path)  # as a run that is resumed does
    table.update()
    assert table.columns() == {"step": [0, 1], "loss": [7, 8]}
    path.unlink()
    table.update()
    assert table.columns() == {}


def test_long_tables_are_thinned_and_keep_the_last_row(tmp_path: Path) -> None:
    path = tmp_path / "steps.csv"
    path.write_text("step,loss\n" + "".join(f"{i},{i}\n" for i in range(10 * MAX_ROWS)))
    table = GrowingTable(path)
    table.update()
    steps = table.columns()["step"]
    assert MAX_ROWS <= len(steps) <= 2 * MAX_ROWS + 1
    assert steps[0] == 0
    assert steps[-1] == 10 * MAX_ROWS - 1


def test_links_and_fifos_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("step,loss\n1,2\n")
    (tmp_path / "link").symlink_to(tmp_path / "secret")
    os.mkfifo(tmp_path / "fifo")
    for name in ("link", "fifo"):
        table = GrowingTable(tmp_path / name)
        table.update()
        assert table.columns() == {}


def test_a_running_run_has_progress_and_an_estimate(run: Path) -> None:
    set_status(run, status="running", ended=None)
    rows = (run / "steps.csv").read_text().splitlines(keepends=True)
    (run / "steps.csv").write_text("".join(rows[:3]))
    (run / "epochs.csv").write_text("".join((run / "epochs.csv").read_text().splitlines(keepends=True)[:2]))
    watched = WatchedRuns([str(run.parent)])
    (row,) = look(watched)["runs"]
    position = dict(zip(rows[0].strip().split(","), map(float, rows[2].strip().split(",")), strict=True))
    assert row["status"] == "running"  # no lock is held, as on another machine, but its files are new
    assert row["progress"] == pytest.approx(position["epoch"])
    left = position["train_seconds"] * (1 - position["epoch"]) / position["epoch"]
    assert row["left"] == pytest.approx(left, abs=0.06)
    assert row["values"]["loss"] == position["loss"]
    revision = look(watched)["revision"]
    assert look(watched, revision)["runs"] == []
    with open(run / "steps.csv", "a") as file:
        file.write(rows[3])
    (later,) = look(watched, revision)["runs"]
    assert later["step"] > row["step"]
    curves = watched.curves({row["id"]: 0})["curves"]
    assert len(curves[0]["steps"]["loss"]) == 3
    for name in ("steps.csv", "epochs.csv", "status.json", "config.yaml"):
        os.utime(run / name, (1, 1))
    (dead,) = look(watched)["runs"]
    assert dead["status"] == "interrupted"


def test_failures_have_their_message_and_runs_may_vanish(run: Path) -> None:
    other = run.parent / "two"
    shutil.copytree(run, other)
    set_status(other, status="failed", message="boom")
    watched = WatchedRuns([str(run.parent)])
    found = look(watched)
    assert {(row["status"], row["message"]) for row in found["runs"]} == {
        ("completed", ""),
        ("failed", "boom"),
    }
    (other / "status.json").write_text("{")
    (bad,) = look(watched, found["revision"])["runs"]
    assert bad["status"] == "unreadable"
    shutil.rmtree(other)
    assert len(look(watched)["ids"]) == 1
    shutil.rmtree(run.parent)
    assert look(watched)["ids"] == []
    assert WatchedRuns(["/does/not/exist"]).overview(0)["ids"] == []


def test_groups_leave_out_the_seed(run: Path) -> None:
    other = run.parent / "two"
    shutil.copytree(run, other)
    text = (other / "config.yaml").read_text()
    assert "seed: 0" in text
    (other / "config.yaml").write_text(text.replace("seed: 0", "seed: 1", 1))
    rows = look(WatchedRuns([str(run.parent)]))["runs"]
    assert [row["group"] for row in rows] == [0, 0]
    assert {row["seed"] for row in rows} == {"0", "1"}


def test_a_sweep_shows_its_progress(run: Path) -> None:
    variant = {"name": "SGD", "running": 0, "done": 1, "diverged": 0, "pruned": 0, "failed": 0}
    state = {"status": "done", "done": 1, "planned": 4, "failed": 0, "left_seconds": None}
    state["variants"] = [variant | {"planned": 4, "best": "x"}]
    (run.parent / "progress.json").write_text(json.dumps(state))
    (sweep,) = look(WatchedRuns([str(run.parent)]))["sweeps"]
    assert (sweep["done"], sweep["planned"], sweep["status"]) == (1, 4, "done")
    (run.parent / "progress.json").write_text("[" * 100_000)
    assert look(WatchedRuns([str(run.parent)]))["sweeps"] == []
