"""Sweeps with worker processes: the same runs as single runs, none twice, none lost, results reported."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
import yaml
from command import optlab
from same_run import differences
from small_sweeps import BASE, results, run, summary, write

from trainer.catalog import load_config
from trainer.errors import OptlabError
from trainer.runs import launch, rundir
from trainer.sweep.estimate import WORKER_START_SECONDS, measure, wall_seconds
from trainer.sweep.file import read_sweep
from trainer.sweep.plan import SharedData, check_variants, spec_for
from trainer.sweep.pool import METHOD
from trainer.sweep.tasks import worker_slots

OPTLAB = str(Path(sys.executable).with_name("optlab"))
SCRIPT = str(Path(__file__).resolve().parents[2] / "scripts" / "sweep_optimizers.sh")
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
    """A sweep file, and the directory of its sweep, run with two workers."""
    folder = tmp_path_factory.mktemp("done")
    file = write(folder, SWEEP)
    assert run(file, runs=folder / "runs", workers=2) == 0
    return file, folder / "runs" / "s"


def times(root: Path) -> dict[Path, int]:
    """Return when each run of a sweep ended, to check that it was not trained again."""
    return {path: path.stat().st_mtime_ns for path in root.glob("**/*seed=*/status.json")}


def test_a_sweep_compares_its_own_runs(tmp_path: Path) -> None:
    axes = {"optimizer": [{"name": "SGD", "lr": 0.1}, {"name": "Adam"}]}
    file = write(tmp_path, {"base": "base.yaml", "name": "s", "axes": axes})
    other = optlab(
        "train", tmp_path / "base.yaml", "name=s", "data.batch_size=40", "--runs", tmp_path / "runs"
    )
    assert other.code == 0, other.err
    assert run(file, runs=tmp_path / "runs", figures=True) == 0
    names = sorted(path.parent.name for path in (tmp_path / "runs/s").glob("*/*/status.json"))
    assert names == ["optimizer=Adam,seed=0", "optimizer=SGD,lr=0.1,seed=0"]
    table = (tmp_path / "runs/s/comparison/table.md").read_text()
    assert "Adam" in table
    assert "40" not in table


def test_a_sweep_writes_its_runs_tables_and_best_settings(done: tuple[Path, Path]) -> None:
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
    report = summary(root)
    assert report["status"] == "completed"
    assert report["variants"]["adam"]["best"]["values"] == {"optimizer.lr": 0.01}
    assert report["variants"]["adam"]["statuses"] == {"completed": 2, "diverged": 2}
    assert "extend it below" in report["variants"]["adam"]["edges"][0]
    assert report["variants"]["sgd"]["final"]["test_accuracy"]["values"] == [
        float(row["test_accuracy"]) for row in finals if row["variant"] == "sgd"
    ]
    best = report["variants"]["sgd"]["best"]
    mean = sum(best["per_seed"].values()) / 2
    assert best["val_accuracy"] == pytest.approx(mean)


def test_a_run_equals_a_single_run_and_one_of_its_saved_config(
    done: tuple[Path, Path], tmp_path: Path
) -> None:
    _, root = done
    inside = root / "adam" / "lr=0.01,seed=1"
    launch.launch(load_config(inside / "config.yaml"), tmp_path / "alone")
    assert differences(inside, tmp_path / "alone") == []


def test_training_the_best_config_reproduces_the_best_run(done: tuple[Path, Path], tmp_path: Path) -> None:
    _, root = done
    launch.launch(load_config(root / "sgd" / "best.yaml"), tmp_path / "again")
    winner = root / "final" / "sgd" / next(p.name for p in (root / "final" / "sgd").glob("*seed=1000"))
    assert differences(winner, tmp_path / "again") == []


def test_one_worker_and_the_resolved_sweep_give_the_same_runs_and_wait_for_another_process(
    done: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another process finishes one run while the sweep waits and abandons another, which the sweep trains."""
    _, root = done
    ends, breaks_off = (Path("sgd") / f"lr={lr},seed=0" for lr in (0.1, 0.5))
    others = 8 - 2 + 2  # those of the search, and the final runs of the other variant

    def elsewhere() -> None:
        while sum(status["status"] != "running" for status in statuses(tmp_path / "s")) < others:
            time.sleep(0.05)
        for path in (root / ends).iterdir():
            if path.is_dir():
                shutil.copytree(path, tmp_path / "s" / ends / path.name)
            elif path.name != "lock":
                shutil.copy(path, tmp_path / "s" / ends)

    with ThreadPoolExecutor() as pool, ExitStack() as held:
        for folder in (ends, breaks_off):
            held.enter_context(rundir.locked(tmp_path / "s" / folder))
        other = pool.submit(elsewhere)
        other.add_done_callback(lambda _: held.close())
        assert run(root / "sweep.yaml", runs=tmp_path, workers=1) == 0
        other.result()
    assert "another process trains it" in capsys.readouterr().err
    for path in root.glob("*/*seed=*"):
        assert differences(path, tmp_path / "s" / path.relative_to(root)) == []
    assert [row["status"] for row in results(root)] == [row["status"] for row in results(tmp_path / "s")]


def statuses(root: Path) -> list[dict[str, Any]]:
    """The status of every run of a sweep that has one."""
    actual = [rundir.read_status(path.parent) for path in root.glob("**/*seed=*/status.json")]
    return [status for status in actual if status]


def test_a_finished_sweep_trains_nothing_and_an_extended_one_only_new_runs(
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
    assert "finished runs kept" in capsys.readouterr().err


def test_a_changed_config_is_refused_unless_forced(tmp_path: Path) -> None:
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


def test_a_failed_run_or_killed_worker_affects_only_its_run_unless_fail_fast(tmp_path: Path) -> None:
    variants: dict[str, Any] = {"good": {"optimizer": {"name": "Adam"}}}
    for name, model in (("bad", "Breaks"), ("once", "Dies"), ("always", "Dies")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "own.py").write_text(OWN)
        variants[name] = {"model": {"name": f"{name}/own.py:{model}"}}
    variants["always"]["model"]["often"] = 99
    file = write(tmp_path, {"base": "base.yaml", "name": "s", "variants": variants})
    assert run(file, runs=tmp_path / "runs") == 4
    rows = {row["variant"]: row for row in results(tmp_path / "runs" / "s")}
    assert {name: row["status"] for name, row in rows.items()} == {
        "good": "completed",
        "bad": "failed",
        "once": "completed",
        "always": "failed",
    }
    assert "it broke" in rows["bad"]["message"]
    assert "SIGKILL" in rows["always"]["message"]
    assert len(list(tmp_path.glob("*/death.*"))) == 3  # a run is retried once

    assert run(file, "seeds=2", runs=tmp_path / "fast", fail_fast=True, only=["bad"]) == 4
    states = [row["status"] for row in results(tmp_path / "fast" / "s") if row["variant"] == "bad"]
    assert states == ["failed", "missing"]


def test_shards_split_a_grid_of_two_axes_and_the_last_call_trains_the_final_runs(
    tmp_path: Path,
) -> None:
    axes = {"optimizer.lr": [0.1, 0.3, 1.0], "data.batch_size": [10, 20, 40]}
    sweep = {**SWEEP, "variants": {"sgd": {}}, "axes": axes, "seeds": 1, "final_seeds": 1}
    file = write(tmp_path, sweep)
    root = tmp_path / "runs" / "s"
    for part, count in (("1/2", 5), ("2/2", 9)):
        assert run(file, runs=tmp_path / "runs", shard=part) == 0
        assert len(times(root)) == count
        assert [row["status"] for row in results(root)].count("completed") == count
    before = times(root)
    assert run(file, runs=tmp_path / "runs", figures=True) == 0
    after = times(root)
    assert {path: after[path] for path in before} == before
    assert len(after) == 10
    figure = plt.imread(root / "comparison" / "heat_map.png")
    colours = np.unique(figure.reshape(-1, figure.shape[2])[:, :3].round(1), axis=0)
    assert len(colours) > 5
    # Rerunning a shard keeps the final runs in the tables.
    assert run(file, runs=tmp_path / "runs", shard="2/2") == 0
    assert [row["stage"] for row in results(root)].count("final") == 1


def test_a_dry_run_lists_the_runs_and_writes_nothing(
    done: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, root = done
    assert run(file, runs=tmp_path / "runs", dry_run=True) == 0
    report = capsys.readouterr().out
    assert report.count("seed=") == 8
    assert "2 settings x 2 seeds, the best setting on 2 fresh seeds" in report
    assert "on 1 workers" in report
    assert "evaluations" in report
    assert not (tmp_path / "runs").exists()
    before = times(root)
    assert run(file, "final_seeds=3", runs=root.parent, workers=2, dry_run=True, as_json=True) == 0
    plan = json.loads(capsys.readouterr().out)
    assert {entry["state"] for entry in plan["runs"]} == {"completed", "diverged"}
    assert (plan["new_runs"], plan["workers"]) == (2, 2)
    assert WORKER_START_SECONDS < plan["seconds"] < WORKER_START_SECONDS + 60
    assert times(root) == before


@pytest.mark.parametrize(
    ("rounds", "workers", "seconds"),
    [
        ([[3.0, 1.0, 1.0, 1.0]], 1, 6.0),
        ([[3.0, 1.0, 1.0, 1.0]], 2, 3.0),
        ([[1.0, 1.0, 1.0, 3.0]], 2, 4.0),  # the long one starts last
        ([[2.0] * 5], 4, 4.0),
        ([[2.0], [2.0, 2.0]], 8, 4.0),  # a round waits for the previous one
        ([[], []], 2, 0.0),
    ],
)
def test_the_duration_of_a_sweep_is_computed_from_rounds_and_workers(
    rounds: list[list[float]], workers: int, seconds: float
) -> None:
    assert wall_seconds(rounds, workers) == seconds


def test_the_estimate_includes_steps_evaluations_and_the_test(tmp_path: Path) -> None:
    sweep = read_sweep(write(tmp_path, {**SWEEP, "seeds": 1}))
    shared_data = SharedData(tmp_path / "data")
    infos = check_variants(sweep, shared_data)["sgd"]
    assert infos.evaluations == 2
    spec = spec_for(tmp_path, sweep.variants["sgd"], "search", 0, {"optimizer.lr": 0.1}, 0)
    short, long = (
        measure(sweep, spec, replace(infos, evaluations=evaluations), shared_data)
        for evaluations in (2, 2999)
    )
    assert min(short.build, short.steps, short.evaluations, short.test) > 0
    assert long.evaluations > 10 * short.evaluations  # three of them against three thousand
    assert short.final == short.build + short.steps + short.evaluations + short.test


SLOW = {
    **SWEEP,
    "variants": {"sgd": {}},
    "axes": {"optimizer.lr": [0.1, 0.2, 0.3]},
    "seeds": 1,
    "final_seeds": 0,
}


NAPS = """
import time
from multiprocessing import parent_process
from pathlib import Path
from torch import nn

HERE = Path(__file__).parent
SLEPT = HERE / "slept"

class Naps(nn.Sequential):
    # Sleeps for ten minutes in the first step of the run, once, and not while the run is built.
    def __init__(self, input_shape, num_classes):
        super().__init__(nn.Flatten(), nn.Linear(64, num_classes))
    def forward(self, x):
        begun = list(HERE.glob("runs/s/naps/*/steps.csv"))
        if parent_process() is not None and self.training and begun and not SLEPT.exists():
            SLEPT.touch()
            time.sleep(600)
        return super().forward(x)
"""


def started(file: Path, runs: Path, sign: str, count: int = 1) -> subprocess.Popen[str]:
    """Start a sweep in a separate process and wait for files that show that it is running."""
    command = [OPTLAB, "sweep", str(file), "--runs", str(runs), "--workers", "2"]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    for _ in range(600):
        if len(list(runs.parent.glob(sign))) >= count:
            return process
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    raise AssertionError("the sweep does not get going")


def descendants(pid: int) -> set[int]:
    """The descendants of a process, from `ps`."""
    lines = subprocess.run(["ps", "-e", "-o", "pid=,ppid="], capture_output=True, text=True, check=True)
    pairs = [tuple(map(int, line.split())) for line in lines.stdout.splitlines()]
    actual, grown = {pid}, True
    while grown:
        more = {child for child, parent in pairs if parent in actual} - actual
        actual |= more
        grown = bool(more)
    return actual - {pid}


def gone(pids: set[int]) -> bool:
    """Whether all of these processes end within some seconds."""
    for _ in range(100):
        if not any(map(alive, pids)):
            return True
        time.sleep(0.1)
    return False


def alive(pid: int) -> bool:
    """Whether a process runs; zombies do not count."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout
    return bool(state.strip()) and not state.startswith("Z")


def test_a_sweep_continues_after_a_signal_to_its_process_group_and_after_a_kill(tmp_path: Path) -> None:
    """Interrupt a sweep, kill it, then run it to its end: its runs equal those of an uninterrupted sweep."""
    file = write(tmp_path, SLOW, BASE.replace("epochs: 2", "epochs: 150"))
    runs = tmp_path / "runs"
    process = started(file, runs, "runs/s/sgd/*/checkpoints/last.pt", 2)
    table = optlab("runs", runs / "s").out
    os.killpg(process.pid, signal.SIGTERM)  # to the whole group, as `timeout` and job schedulers do
    _, report = process.communicate(timeout=120)
    assert process.returncode == 143, report
    assert "of 3 runs, 0 failed; running" in table
    assert [line.split()[1] for line in table.splitlines() if "lr=" in line] == ["running", "running"]
    actual = [rundir.read_status(path) for path in sorted((runs / "s" / "sgd").glob("lr*"))]
    assert [status["status"] for status in actual if status] == ["interrupted", "interrupted"]
    assert summary(runs / "s")["status"] == "interrupted"

    logs = [path.parent.parent / "train.log" for path in runs.glob("s/sgd/*/checkpoints/last.pt")]
    context: Any = multiprocessing.get_context(METHOD)
    killed = context.Process(target=run, args=(file,), kwargs={"runs": runs, "workers": 2})
    killed.start()
    for _ in range(600):
        if all("resuming after step" in path.read_text() for path in logs):
            break
        assert killed.is_alive()
        time.sleep(0.1)
    killed.kill()
    killed.join(60)
    for _ in range(100):  # the workers notice that their parent has ended
        if not any(rundir.is_locked(path) for path in (runs / "s" / "sgd").glob("lr*")):
            break
        time.sleep(0.1)
    assert run(file, runs=runs, workers=2) == 0
    assert not (runs / "s" / ".data").exists()
    rows = results(runs / "s")
    assert [row["status"] for row in rows] == ["completed"] * 3
    assert [path.read_text().count("resuming after step") for path in logs] == [2, 2]
    config = load_config(runs / "s" / "sgd" / "lr=0.1,seed=0" / "config.yaml")
    launch.launch(config, tmp_path / "peace")
    assert differences(runs / "s" / "sgd" / "lr=0.1,seed=0", tmp_path / "peace") == []


def test_a_second_ctrl_c_exits_at_once_and_leaves_readable_files(tmp_path: Path) -> None:
    """A step of ten minutes delays the first Ctrl-C, so that only the second can end the sweep."""
    (tmp_path / "naps.py").write_text(NAPS)
    variants = {"good": {}, "naps": {"model": {"name": "naps.py:Naps"}}}
    file = write(tmp_path, {"base": "base.yaml", "name": "s", "variants": variants})
    process = started(file, tmp_path / "runs", "slept")
    below = descendants(process.pid)
    assert len(below) >= 2
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    for line in process.stderr:
        if "stopping" in line:
            break
    time.sleep(1)
    assert process.poll() is None  # it waits for the step
    process.send_signal(signal.SIGINT)
    _, report = process.communicate(timeout=60)
    assert process.returncode == 130, report
    assert gone(below)
    root = tmp_path / "runs" / "s"
    assert not any(rundir.is_locked(path) for path in [root, *root.glob("*/seed=*")])
    assert rundir.load_run(root / "naps" / "seed=0").status["status"] == "interrupted"
    assert "exited without writing a status" in optlab("runs", root).out
    assert run(file, runs=tmp_path / "runs") == 0
    assert [row["status"] for row in results(root)] == ["completed"] * 2


def test_pruned_runs_are_marked_and_can_be_trained_to_their_end(tmp_path: Path) -> None:
    from trainer.runs.resume import resume

    sweep = {
        **SWEEP,
        "variants": {"sgd": {}},
        "axes": {"optimizer.lr": {"log_uniform": [1e-6, 1.0]}},
        "strategy": "random",
        "trials": 12,
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


def test_two_processes_of_the_shell_script_train_each_run_once(tmp_path: Path) -> None:
    config = tmp_path / "base.yaml"
    config.write_text("name: shell\n" + BASE.replace("epochs: 2", "epochs: 100"))
    path = f"{Path(OPTLAB).parent}{os.pathsep}{os.environ['PATH']}"
    around = {"PATH": path, "OPTLAB_RUNS": str(tmp_path / "runs"), "SEEDS": "0 0", "JOBS": "2"}
    done = subprocess.run(
        [SCRIPT, str(config), "model.hidden=[4]"],
        env={**os.environ, **around, "OPTIMIZERS": "Adam", "RATES": "0.01"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "runs" / "shell").iterdir()
    assert folder.name == "hidden=[4],lr=0.01,name=Adam,seed=0"
    assert (folder / "train.log").read_text().count("step 0 epoch 0") == 1
    first = done.stdout.splitlines()[0]
    if shutil.which("jq"):
        assert first == f"best: {folder}"
    assert f"{folder}  completed" in done.stdout


@pytest.mark.parametrize(
    ("workers", "device", "gpus", "per_gpu", "expected"),
    [
        ("auto", "auto", 0, 1, [None] * 4),
        (3, "auto", 0, 1, [None] * 3),
        ("auto", "auto", 2, 2, ["cuda:0", "cuda:1", "cuda:0", "cuda:1"]),
        (3, "auto", 2, 1, ["cuda:0", "cuda:1", "cuda:0"]),
        ("auto", "cpu", 2, 1, [None] * 4),
        ("auto", "auto", 2, 0, ["cpu"] * 4),
    ],
)
def test_gpus_are_assigned_round_robin(
    workers: Any, device: str, gpus: int, per_gpu: int, expected: list[str | None]
) -> None:
    assert worker_slots(workers, device, gpus, per_gpu, cores=4) == expected


def test_the_saved_sweep_file_states_the_search(done: tuple[Path, Path]) -> None:
    _, root = done
    kept = yaml.safe_load((root / "sweep.yaml").read_text())
    assert kept["strategy"] == "grid"
    assert kept["objective"] == {"metric": "val_accuracy", "mode": None, "over_seeds": "mean"}
    assert kept["variants"]["sgd"]["train"]["threads"] == 1
    assert os.path.isabs(kept["variants"]["sgd"]["data"].get("root", "/"))
