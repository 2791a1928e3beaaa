"""Whole sweeps with worker processes: the same runs as alone, nothing twice, nothing lost, outcomes told."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from same_run import differences
from small_sweeps import BASE, results, run, summary, write

from trainer import launch, rundir
from trainer.catalog import load_config
from trainer.errors import OptlabError
from trainer.sweep.tasks import worker_slots

OPTLAB = str(Path(sys.executable).with_name("optlab"))
SWEEP = {
    "base": "base.yaml",
    "name": "s",
    "seeds": 2,
    "variants": {
        "sgd": {"optimizer": {"name": "SGD"}},
        "adam": {"optimizer": {"name": "Adam"}, "optimizer.lr": [0.01, 1e30]},
    },
    "axes": {"optimizer.lr": [0.1, 0.5]},
    "final_seeds": 2,
}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A sweep file, and the directory of its sweep carried out with two workers."""
    folder = tmp_path_factory.mktemp("done")
    file = write(folder, SWEEP)
    assert run(file, runs=folder / "runs", workers=2) == 0
    return file, folder / "runs" / "s"


def times(root: Path) -> dict[Path, int]:
    """When every run of a sweep was ended, to see that it was not trained again."""
    return {path: path.stat().st_mtime_ns for path in root.glob("**/seed=*/status.json")} | {
        path: path.stat().st_mtime_ns for path in root.glob("**/*seed=*/status.json")
    }


def test_a_sweep_leaves_its_runs_tables_and_winners(done: tuple[Path, Path]) -> None:
    _, root = done
    assert (root / "sgd" / "lr=0.1,seed=0" / "summary.json").exists()
    rows = results(root)
    assert len(rows) == 2 * 2 * 2 + 2 * 2
    assert {row["status"] for row in rows if row["optimizer.lr"] == "1e+30"} == {"diverged"}
    search = [row for row in rows if row["stage"] == "search"]
    finals = [row for row in rows if row["stage"] == "final"]
    assert all(row.get("test_accuracy", "") == "" for row in search)
    assert all(0 < float(row["test_accuracy"]) <= 1 for row in finals)
    assert {row["seed"] for row in finals} == {"1000", "1001"}
    told = summary(root)
    assert told["status"] == "completed"
    assert told["variants"]["adam"]["best"]["values"] == {"optimizer.lr": 0.01}
    assert told["variants"]["adam"]["statuses"] == {"completed": 2, "diverged": 2}
    assert "extend it below" in told["variants"]["adam"]["edges"][0]
    assert told["variants"]["sgd"]["final"]["test_accuracy"]["values"] == [
        float(row["test_accuracy"]) for row in finals if row["variant"] == "sgd"
    ]
    best = told["variants"]["sgd"]["best"]
    mean = sum(best["per_seed"].values()) / 2
    assert best["val_accuracy"] == pytest.approx(mean)


def test_a_run_is_the_same_alone_and_from_its_saved_config(done: tuple[Path, Path], tmp_path: Path) -> None:
    _, root = done
    inside = root / "adam" / "lr=0.01,seed=1"
    launch.launch(load_config(inside / "config.yaml"), tmp_path / "alone")
    assert differences(inside, tmp_path / "alone") == []


def test_the_best_config_trains_again_to_what_the_winner_did(done: tuple[Path, Path], tmp_path: Path) -> None:
    _, root = done
    launch.launch(load_config(root / "sgd" / "best.yaml"), tmp_path / "again")
    winner = root / "final" / "sgd" / next(p.name for p in (root / "final" / "sgd").glob("*seed=1000"))
    assert differences(winner, tmp_path / "again") == []


def test_one_worker_and_the_resolved_sweep_give_the_same_runs(
    done: tuple[Path, Path], tmp_path: Path
) -> None:
    _, root = done
    assert run(root / "sweep.yaml", runs=tmp_path, workers=1) == 0
    for path in root.glob("*/*seed=*"):
        assert differences(path, tmp_path / "s" / path.relative_to(root)) == []
    assert [row["status"] for row in results(root)] == [row["status"] for row in results(tmp_path / "s")]


def test_a_finished_sweep_trains_nothing_again_and_an_extended_one_only_what_is_new(
    done: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    file, root = done
    before = times(root)
    assert run(file, runs=root.parent) == 0
    assert times(root) == before
    assert run(file, "seeds=3", "final_seeds=0", runs=root.parent) == 0
    after = times(root)
    assert {path: after[path] for path in before} == before
    assert len(after) == len(before) + 4
    assert "there already" in capsys.readouterr().err


def test_another_config_under_the_same_names_is_refused_and_forced(tmp_path: Path) -> None:
    file = write(tmp_path, {**SWEEP, "variants": {"sgd": {}}, "seeds": 1, "final_seeds": 0})
    assert run(file, runs=tmp_path / "runs") == 0
    with pytest.raises(OptlabError, match=r"train\.epochs"):
        run(file, "train.epochs=1", runs=tmp_path / "runs")
    assert run(file, "train.epochs=1", runs=tmp_path / "runs", force=True) == 0
    assert {row["epochs"] for row in results(tmp_path / "runs" / "s")} == {"1.0"}


OWN = """
import os, signal
from multiprocessing import parent_process
from pathlib import Path
from torch import nn

HERE = Path(__file__).parent

class Dies(nn.Sequential):
    '''Kills its worker the first time, so that a marker file tells it was there.'''
    def __init__(self, input_shape, num_classes, often: int = 1):
        super().__init__(nn.Flatten(), nn.Linear(64, num_classes))
        deaths = len(list(HERE.glob("death.*")))
        if parent_process() is not None and deaths < often:
            (HERE / f"death.{deaths}").touch()
            os.kill(os.getpid(), signal.SIGKILL)

class Breaks(nn.Sequential):
    def __init__(self, input_shape, num_classes):
        super().__init__(nn.Flatten(), nn.Linear(64, num_classes))
    def forward(self, x):
        if parent_process() is not None and self.training:
            raise ValueError("it broke")
        return super().forward(x)
"""


def test_a_killed_worker_costs_its_run_alone_and_the_run_is_tried_once_more(tmp_path: Path) -> None:
    variants: dict[str, Any] = {"good": {"optimizer": {"name": "Adam"}}}
    for name, often in (("once", 1), ("always", 99)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "own.py").write_text(OWN)
        variants[name] = {"model": {"name": f"{name}/own.py:Dies", "often": often}}
    file = write(tmp_path, {"base": "base.yaml", "name": "s", "variants": variants})
    assert run(file, runs=tmp_path / "runs") == 4
    rows = {row["variant"]: row for row in results(tmp_path / "runs" / "s")}
    assert {name: row["status"] for name, row in rows.items()} == {
        "good": "completed",
        "once": "completed",
        "always": "failed",
    }
    assert "SIGKILL" in rows["always"]["message"]
    assert len(list(tmp_path.glob("*/death.*"))) == 3


def test_a_failure_is_an_outcome_and_the_rest_goes_on_unless_told_to_stop(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN)
    variants = {"bad": {"model": {"name": "own.py:Breaks"}}, "good": {"optimizer": {"name": "Adam"}}}
    sweep = {"base": "base.yaml", "name": "s", "seeds": 2, "variants": variants}
    file = write(tmp_path, sweep)
    assert run(file, runs=tmp_path / "all") == 4
    rows = results(tmp_path / "all" / "s")
    assert [row["status"] for row in rows] == ["failed", "failed", "completed", "completed"]
    assert "it broke" in rows[0]["message"]
    assert run(file, runs=tmp_path / "fast", fail_fast=True) == 4
    assert "missing" in {row["status"] for row in results(tmp_path / "fast" / "s")}


def test_shards_share_the_grid_and_a_last_call_brings_the_finals(tmp_path: Path) -> None:
    file = write(tmp_path, SWEEP)
    for part in ("1/2", "2/2"):
        assert run(file, runs=tmp_path / "runs", shard=part) == 0
    root = tmp_path / "runs" / "s"
    before = times(root)
    assert len(before) == 8
    assert run(file, runs=tmp_path / "runs", only=["sgd"]) == 0
    after = times(root)
    assert {path: after[path] for path in before} == before
    assert len(after) == 10


def test_a_dry_run_lists_the_runs_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(write(tmp_path, SWEEP), runs=tmp_path / "runs", dry_run=True) == 0
    told = capsys.readouterr().out
    assert told.count("seed=") == 8
    assert "2 settings x 2 seeds, the best on 2 fresh seeds" in told
    assert "estimate" in told
    assert not (tmp_path / "runs").exists()


SLOW = {
    **SWEEP,
    "variants": {"sgd": {}},
    "axes": {"optimizer.lr": [0.1, 0.2, 0.3]},
    "seeds": 1,
    "final_seeds": 0,
}


def started(file: Path, runs: Path) -> subprocess.Popen[str]:
    """Start a sweep of long runs in a process of its own and wait until one is going on."""
    command = [OPTLAB, "sweep", str(file), "--runs", str(runs), "--workers", "2"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    for _ in range(600):
        if len(list(runs.glob("s/sgd/*/checkpoints/last.pt"))) == 2:
            return process
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    raise AssertionError("the sweep does not get going")


def test_a_sweep_goes_on_after_ctrl_c_and_after_its_process_was_killed(tmp_path: Path) -> None:
    """Interrupted politely, then killed, then carried out: the runs equal those that were left in peace."""
    file = write(tmp_path, SLOW, BASE.replace("epochs: 2", "epochs: 300"))
    runs = tmp_path / "runs"
    process = started(file, runs)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130, told
    statuses = [rundir.read_status(path) for path in sorted((runs / "s" / "sgd").glob("lr*"))]
    assert [status["status"] for status in statuses if status] == ["interrupted", "interrupted"]
    assert summary(runs / "s")["status"] == "interrupted"

    process = started(file, runs)
    process.kill()
    process.communicate(timeout=60)
    for _ in range(100):  # the workers notice that their parent is gone
        if not any(rundir.is_locked(path) for path in (runs / "s" / "sgd").glob("lr*")):
            break
        time.sleep(0.1)
    assert run(file, runs=runs, workers=2) == 0
    assert not (runs / "s" / ".data").exists()
    rows = results(runs / "s")
    assert [row["status"] for row in rows] == ["completed"] * 3
    log = (runs / "s" / "sgd" / "lr=0.1,seed=0" / "train.log").read_text()
    assert "goes on after step" in log
    config = load_config(runs / "s" / "sgd" / "lr=0.1,seed=0" / "config.yaml")
    launch.launch(config, tmp_path / "peace")
    assert differences(runs / "s" / "sgd" / "lr=0.1,seed=0", tmp_path / "peace") == []


def test_pruned_runs_are_marked_and_can_be_trained_to_their_end(tmp_path: Path) -> None:
    from trainer.resume import resume

    sweep = {
        **SWEEP,
        "variants": {"sgd": {}},
        "axes": {"optimizer.lr": {"log_uniform": [1e-6, 1.0]}},
        "strategy": "random",
        "trials": 16,
        "prune": "median",
        "seeds": 1,
        "final_seeds": 0,
    }
    assert run(write(tmp_path, sweep), "train.epochs=4", runs=tmp_path / "runs", workers=2) == 0
    root = tmp_path / "runs" / "s"
    pruned = [row for row in results(root) if row["status"] == "pruned"]
    assert pruned
    folder = Path(pruned[0]["run"])
    assert float(pruned[0]["epochs"]) < 4
    assert resume(folder).result.epochs == 4
    launch.launch(load_config(folder / "config.yaml"), tmp_path / "whole")
    assert differences(folder, tmp_path / "whole") == []


def test_two_processes_never_train_the_same_run(tmp_path: Path) -> None:
    config = tmp_path / "base.yaml"
    config.write_text("name: twice\n" + BASE.replace("epochs: 2", "epochs: 100"))
    command = [OPTLAB, "train", str(config), "--runs", str(tmp_path), "--quiet"]
    processes = [
        subprocess.Popen([*command, option], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for option in ("--skip-existing", "--wait", "--wait")
    ]
    told = [process.communicate(timeout=200)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert sum("skipped" in text for text in told) == 2
    log = (tmp_path / "twice" / "seed=0" / "train.log").read_text()
    assert log.count("step 0 epoch 0") == 1


@pytest.mark.parametrize(
    ("workers", "device", "gpus", "per_gpu", "expected"),
    [
        ("auto", "auto", 0, 1, [None] * 4),
        (3, "auto", 0, 1, [None] * 3),
        ("auto", "auto", 2, 2, ["cuda:0", "cuda:1", "cuda:0", "cuda:1"]),
        (3, "auto", 2, 1, ["cuda:0", "cuda:1", "cuda:0"]),
        ("auto", "cpu", 2, 1, [None] * 4),
    ],
)
def test_gpus_are_dealt_out_in_turn(
    workers: Any, device: str, gpus: int, per_gpu: int, expected: list[str | None]
) -> None:
    assert worker_slots(workers, device, gpus, per_gpu, cores=4) == expected


def test_the_sweep_file_that_is_kept_says_how_it_was_searched(done: tuple[Path, Path]) -> None:
    _, root = done
    kept = yaml.safe_load((root / "sweep.yaml").read_text())
    assert kept["strategy"] == "grid"
    assert kept["objective"] == {"metric": "val_accuracy", "mode": None, "over_seeds": "mean"}
    assert kept["variants"]["sgd"]["train"]["threads"] == 1
    assert os.path.isabs(kept["variants"]["sgd"]["data"].get("root", "/"))
