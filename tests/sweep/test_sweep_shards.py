"""Several commands share one search, as on several machines with one file system."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from same_run import differences
from small_sweeps import BASE, run, summary, write

from trainer.runs import rundir
from trainer.sweep.search import open_storage

OPTLAB = str(Path(sys.executable).with_name("optlab"))
SEARCH = {
    "base": "base.yaml", "name": "s", "strategy": "tpe", "trials": 16, "batch": 4, "prune": "median",
    "objective": "val_loss", "final_seeds": 2, "variants": {"sgd": {}},
    "axes": {"optimizer.lr": {"log_uniform": [1e-4, 3.0]}},
}  # fmt: skip


def trials(root: Path) -> list[Any]:
    """Return the parameters, state and reported values of all trials."""
    storage = open_storage(root)
    (study,) = storage.get_all_studies()
    found = storage.get_all_trials(study._study_id)
    return [(one.params, one.state, one.values, one.intermediate_values) for one in found]


@pytest.mark.nightly
def test_two_commands_share_a_search_with_pruning_and_final_runs(tmp_path: Path) -> None:
    file = write(tmp_path, SEARCH, BASE.replace("epochs: 2", "epochs: 6"))
    assert run(file, runs=tmp_path / "alone", workers=2) == 0
    shards = [
        subprocess.Popen(
            [OPTLAB, "sweep", file, "--runs", tmp_path / "both", "--workers", "1", "--shard", f"{part}/2"],
            stderr=subprocess.PIPE,
            text=True,
        )
        for part in (1, 2)
    ]
    reports = [shard.communicate(timeout=600)[1] for shard in shards]
    assert [shard.returncode for shard in shards] == [0, 0], reports
    alone, both = tmp_path / "alone" / "s", tmp_path / "both" / "s"
    runs = [path.relative_to(alone) for path in rundir.find_runs([alone])]
    assert len(runs) == 18
    assert [path.relative_to(both) for path in rundir.find_runs([both])] == runs
    assert {str(path): differences(alone / path, both / path) for path in runs} == {
        str(path): [] for path in runs
    }
    assert trials(both) == trials(alone)
    assert summary(both)["variants"] == summary(alone)["variants"]
    assert summary(both)["variants"]["sgd"]["statuses"]["pruned"] > 0
    trained = [len(re.findall(r"^\[\d+/", report, re.MULTILINE)) for report in reports]
    assert sum(trained) == 18
    assert min(trained) > 0


@pytest.mark.nightly
def test_the_documented_job_array_trains_every_part(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "clusters.md").read_text(encoding="utf-8")
    match = re.search(r"sbatch --array=1-(\d+) .*--wrap '(.+)'$", page, re.MULTILINE)
    assert match
    axes = {"optimizer.lr": [0.1 * number for number in range(1, 5)]}
    file = write(
        tmp_path, {"base": "base.yaml", "name": "s", "seeds": 2, "variants": {"a": {}}, "axes": axes}
    )
    script = match[2].replace("optlab sweep optimizers", f"{OPTLAB} sweep {file}")
    assert script != match[2]
    for part in range(1, int(match[1]) + 1):
        environment = {"SLURM_ARRAY_TASK_ID": str(part), "PATH": "/usr/bin:/bin"}
        subprocess.run(
            ["/bin/sh", "-c", script],
            env=os.environ | environment,
            cwd=tmp_path,
            check=True,
            capture_output=True,
            timeout=300,
        )
    assert summary(tmp_path / "runs" / "s")["runs"] == {"done": 8, "planned": 8, "failed": 0}


def test_a_search_is_completed_by_one_shard_alone(tmp_path: Path) -> None:
    """The runs of a shard that never starts are trained by the others."""
    file = write(tmp_path, SEARCH | {"trials": 4, "prune": None})
    assert run(file, runs=tmp_path / "alone") == 0
    assert run(file, runs=tmp_path / "part", shard="2/3") == 0
    alone, part = tmp_path / "alone" / "s", tmp_path / "part" / "s"
    assert summary(part)["variants"] == summary(alone)["variants"]
    assert trials(part) == trials(alone)
