"""Runs of a sweep are identified by everything that makes them different runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_sweeps import BASE, results, run, write

from trainer.errors import RunError
from trainer.runs import rundir


def write_npz(path: Path, seed: int) -> None:
    random = np.random.default_rng(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, Any] = {}
    for part, count in (("train", 80), ("test", 20)):
        arrays[f"x_{part}"] = random.integers(0, 255, (count, 4, 4), dtype=np.uint8)
        arrays[f"y_{part}"] = np.arange(count) % 3
    np.savez(path, **arrays)


NPZ_BASE = BASE.replace("name: digits, limit: 200, val_size: 200", "name: npz, path: a/set.npz, val_size: 20")


def test_settings_that_differ_in_the_data_folder_have_separate_runs(tmp_path: Path) -> None:
    for number, folder in enumerate("ab"):
        write_npz(tmp_path / folder / "set.npz", number)
    paths = [str(tmp_path / folder / "set.npz") for folder in "ab"]
    sweep = {"base": "base.yaml", "name": "s", "axes": {"data.path": paths}}
    assert run(write(tmp_path, sweep, NPZ_BASE), runs=tmp_path / "runs") == 0
    rows = results(tmp_path / "runs" / "s")
    assert len({row["run"] for row in rows}) == 2
    assert len({row["train_loss"] for row in rows}) == 2
    digests = [rundir.read_environment(Path(row["run"]))["data"]["sha256"] for row in rows]
    assert len(set(digests)) == 2


@pytest.mark.parametrize(
    ("axis", "values"),
    [("train.threads", [1, 2]), ("log.every", [1, 2]), ("train.engine", ["eager", "auto"])],
)
def test_every_axis_is_part_of_the_run_name(tmp_path: Path, axis: str, values: list[object]) -> None:
    sweep = {"base": "base.yaml", "name": "s", "axes": {axis: values}}
    assert run(write(tmp_path, sweep), runs=tmp_path / "runs") == 0
    rows = results(tmp_path / "runs" / "s")
    folders = {Path(row["run"]).name for row in rows}
    assert folders == {f"{axis.rpartition('.')[2]}={value},seed=0" for value in values}
    if axis == "log.every":
        lengths = {len(rundir.load_run(row["run"]).steps["step"]) for row in rows}
        assert len(lengths) == 2


OWN = """\
import torch
from factor import FACTOR
class Own(torch.optim.SGD):
    def __init__(self, params, lr=0.1):
        super().__init__(params, lr=lr * FACTOR)
"""


def own_sweep(folder: Path, **more: object) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "own.py").write_text(OWN)
    (folder / "factor.py").write_text("FACTOR = 1\n")
    base = BASE.replace("{name: SGD, lr: 0.1}", "{name: own.py:Own, lr: 0.1}")
    sweep = {"base": "base.yaml", "name": "s", "seeds": 2, "axes": {"optimizer.lr": [0.1, 0.01]}} | more
    return write(folder, sweep, base)


@pytest.mark.parametrize("changed", ["own.py", "factor.py"])
def test_a_sweep_does_not_report_runs_of_former_code(tmp_path: Path, changed: str) -> None:
    file, runs = own_sweep(tmp_path), tmp_path / "runs"
    assert run(file, runs=runs) == 0
    before = [row["train_loss"] for row in results(runs / "s")]
    with open(tmp_path / changed, "a") as source:
        source.write("FACTOR = 2\n")
    with pytest.raises(RunError, match=r"4 of the runs in .*do not match this sweep(.|\n)*SHA-256"):
        run(file, runs=runs)
    with pytest.raises(RunError, match="do not match this sweep"):
        run(file, "seeds=3", runs=runs)
    assert run(file, runs=runs, force=True) == 0
    after = [row["train_loss"] for row in results(runs / "s")]
    assert all(one != other for one, other in zip(before, after, strict=True))


def test_a_sweep_does_not_report_runs_on_former_data(tmp_path: Path) -> None:
    write_npz(tmp_path / "a" / "set.npz", 0)
    file = write(
        tmp_path, {"base": "base.yaml", "name": "s", "axes": {"optimizer.lr": [0.1, 0.01]}}, NPZ_BASE
    )
    assert run(file, runs=tmp_path / "runs") == 0
    assert run(file, runs=tmp_path / "runs") == 0
    write_npz(tmp_path / "a" / "set.npz", 1)
    with pytest.raises(RunError, match="data content"):
        run(file, runs=tmp_path / "runs")


def test_code_that_changes_while_a_sweep_runs_fails_its_later_runs(tmp_path: Path) -> None:
    file = own_sweep(tmp_path)
    (tmp_path / "own.py").write_text(
        OWN + "    def step(self, closure=None):\n"
        "        import pathlib\n"
        "        file = pathlib.Path(__file__).parent / 'factor.py'\n"
        "        file.write_text(file.read_text() + '#')\n"
        "        return super().step(closure)\n"
    )
    assert run(file, runs=tmp_path / "runs") == 4
    messages = {row["message"] for row in results(tmp_path / "runs" / "s")}
    assert any("code changed while the sweep was running" in message for message in messages), messages
