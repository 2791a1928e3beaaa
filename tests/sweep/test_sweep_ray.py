"""Sweeps on Ray give the runs of the local pool, bit for bit, also if nodes or the driver are lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from same_run import differences
from small_sweeps import BASE, results, run, summary, write

from trainer.runs import rundir

pytest.importorskip("ray", reason="Ray is not installed: pip install 'optlab[ray]'")

SEARCH = {
    "base": "base.yaml", "name": "s", "strategy": "tpe", "trials": 16, "batch": 4, "prune": "median",
    "objective": "val_loss", "final_seeds": 2, "variants": {"sgd": {}},
    "axes": {"optimizer.lr": {"log_uniform": [1e-4, 3.0]}},
}  # fmt: skip
LONG = {
    "base": "base.yaml", "name": "s", "seeds": 2, "variants": {"sgd": {}},
    "axes": {"optimizer.lr": [0.1, 0.01]},
}  # fmt: skip
LONG_BASE = BASE.replace("epochs: 2", "epochs: 300, checkpoint_every: {steps: 20}")


def assert_same_runs(one: Path, other: Path) -> int:
    """Compare the runs of two sweeps; return their number."""
    runs = [path.relative_to(one) for path in rundir.find_runs([one])]
    assert runs == [path.relative_to(other) for path in rundir.find_runs([other])]
    assert {str(path): differences(one / path, other / path) for path in runs} == {str(p): [] for p in runs}
    rows = [
        [{key: row[key] for key in ("variant", "stage", "trial", "seed", "status")} for row in results(sweep)]
        for sweep in (one, other)
    ]
    assert rows[0] == rows[1]
    return len(runs)


def test_a_search_with_pruning_and_final_runs_is_the_same_on_ray(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path, SEARCH, BASE.replace("epochs: 2", "epochs: 6"))
    assert run(file, runs=tmp_path / "local", workers=2) == 0
    assert run(file, runs=tmp_path / "ray", workers=2, on="ray") == 0
    assert "share the file system" in capsys.readouterr().err
    assert assert_same_runs(tmp_path / "local" / "s", tmp_path / "ray" / "s") == 18
    statuses = summary(tmp_path / "ray" / "s")["variants"]["sgd"]["statuses"]
    assert statuses["pruned"] > 0
    assert not (tmp_path / "ray" / "s" / ".shared-files").exists()


@pytest.fixture
def cluster() -> Iterator[Any]:
    """A cluster of a head without CPUs and two nodes of one CPU each."""
    import ray
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    made.two = [made.add_node(num_cpus=1) for _ in range(2)]
    yield made
    ray.shutdown()
    made.shutdown()


def wait_for(condition: Callable[[], bool], seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def saved(root: Path) -> bool:
    """Whether two runs of a sweep have written checkpoints."""
    return len(list(root.glob("s/sgd/*/checkpoints/last.pt"))) >= 2


def copies() -> set[Path]:
    """Return the folders with copies of runs on this machine."""
    return set(Path(tempfile.gettempdir()).glob("optlab-*/"))


@pytest.mark.nightly
@pytest.mark.parametrize("shared", [True, False], ids=["shared files", "copies"])
def test_a_lost_node_costs_only_the_steps_since_the_last_checkpoint(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shared: bool
) -> None:
    from trainer.sweep import ray_pool

    if not shared:
        monkeypatch.setattr(ray_pool, "write_probe", lambda root: (root / "not there", b""))
    # Checkpoints are copied every 5 seconds.
    file = write(tmp_path, LONG, LONG_BASE if shared else LONG_BASE.replace("epochs: 300", "epochs: 1200"))
    assert run(file, runs=tmp_path / "local", workers=2) == 0
    former = copies()

    def lose_a_node() -> None:
        wait_for(lambda: saved(tmp_path / "ray"))
        cluster.remove_node(cluster.two[0], allow_graceful=False)

    losing = threading.Thread(target=lose_a_node)
    losing.start()
    code = run(file, runs=tmp_path / "ray", workers=None, on=f"ray:{cluster.address}")
    losing.join()
    assert code == 0
    assert assert_same_runs(tmp_path / "local" / "s", tmp_path / "ray" / "s") == 4
    logs = [path.read_text() for path in (tmp_path / "ray" / "s" / "sgd").glob("*/train.log")]
    assert sum(text.count("resuming after step") for text in logs) == 1
    assert len(copies() - former) <= (0 if shared else 1)  # those of the lost node


def driver(file: Path, runs: Path, address: str) -> subprocess.Popen[str]:
    """Start a sweep on a cluster in a process of its own."""
    command = [str(Path(sys.executable).with_name("optlab")), "sweep", str(file), "--runs", str(runs)]
    return subprocess.Popen(
        [*command, "--on", f"ray:{address}", "--no-figures"], stderr=subprocess.PIPE, text=True
    )


@pytest.mark.nightly
def test_a_driver_that_is_interrupted_or_killed_continues_later(cluster: Any, tmp_path: Path) -> None:
    file, root = write(tmp_path, LONG, LONG_BASE), tmp_path / "ray" / "s"
    assert run(file, runs=tmp_path / "local", workers=2) == 0
    process = driver(file, tmp_path / "ray", cluster.address)
    wait_for(lambda: saved(tmp_path / "ray"))
    process.send_signal(signal.SIGINT)
    _, report = process.communicate(timeout=300)
    assert process.returncode == 130, report
    started = [rundir.load_status(path) for path in rundir.find_runs([root])]
    assert {status["status"] for status in started} <= {"interrupted", "completed"}
    assert any("SIGTERM after step" in status["message"] for status in started)
    assert summary(root)["status"] == "interrupted"

    process = driver(file, tmp_path / "ray", cluster.address)
    logs = [path / "train.log" for path in rundir.find_runs([root])]
    wait_for(lambda: any("resuming after step" in path.read_text() for path in logs))
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)

    process = driver(file, tmp_path / "ray", cluster.address)
    _, report = process.communicate(timeout=600)
    assert process.returncode == 0, report
    assert assert_same_runs(tmp_path / "local" / "s", root) == 4


@pytest.mark.nightly
def test_two_hundred_runs_are_the_same_on_two_nodes(cluster: Any, tmp_path: Path) -> None:
    axes = {"optimizer.lr": [10 ** (-number / 4) for number in range(10)], "optimizer.momentum": [0, 0.9]}
    sweep = {"base": "base.yaml", "name": "s", "seeds": 10, "variants": {"sgd": {}}, "axes": axes}
    file = write(tmp_path, sweep)
    assert run(file, runs=tmp_path / "local", workers=2) == 0
    assert run(file, runs=tmp_path / "ray", workers=None, on=f"ray:{cluster.address}") == 0
    assert assert_same_runs(tmp_path / "local" / "s", tmp_path / "ray" / "s") == 200


SEES_GPUS = """\
import os

from torch import nn

class Net(nn.Sequential):
    def __init__(self, in_features: int, num_classes: int, log: str = ""):
        super().__init__(nn.Flatten(), nn.Linear(in_features, num_classes))
        with open(log, "a") as file:
            print(os.getpid(), os.environ.get("CUDA_VISIBLE_DEVICES"), file=file)
"""


@pytest.mark.nightly
def test_runs_share_the_gpus_of_a_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The node only claims to have GPUs: Ray assigns them, and the runs use the CPU."""
    import ray
    from ray.cluster_utils import Cluster

    from trainer.sweep.ray_pool import RayPool

    devices: set[str | None] = set()
    device = RayPool.device
    monkeypatch.setattr(RayPool, "device", lambda pool, number: devices.add(device(pool, number)))
    (tmp_path / "net.py").write_text(SEES_GPUS)
    log = tmp_path / "log"
    model = f"{{name: '{tmp_path / 'net.py'}:Net', log: '{log}'}}"
    sweep = {"base": "base.yaml", "name": "s", "seeds": 12, "resources": {"cpus": 1, "gpus": 0.5}}
    base = BASE.replace("{name: mlp, hidden: [8]}", model).replace("epochs: 2", "epochs: 60")
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 8, "num_gpus": 2, "include_dashboard": False}
    )
    try:
        place = f"ray:{cluster.address}"
        assert run(write(tmp_path, sweep, base), runs=tmp_path / "runs", workers=None, on=place) == 0
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert devices == {"cuda:0"}
    workers = {line for line in log.read_text().splitlines() if not line.startswith(f"{os.getpid()} ")}
    assert sorted(line.split()[1] for line in workers) == ["0", "0", "1", "1"]


def test_an_unknown_place_is_an_error(tmp_path: Path) -> None:
    from trainer.errors import ConfigError

    for place in ("rya", "ray:", "local:1"):
        with pytest.raises(ConfigError, match="expected: local, ray or ray:HOST:PORT"):
            run(write(tmp_path, LONG), runs=tmp_path / "runs", on=place)
    assert not (tmp_path / "runs").exists()
