"""The stored baselines of the suite tiny: complete, paired with new runs, and challenged."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from broken_adam import BROKEN
from command import optlab

from trainer.config import packaged
from trainer.suites.baselines import Baselines, stored
from trainer.suites.pairing import pairing_digests
from trainer.sweep.file import read_sweeps
from trainer.sweep.plan import SharedData

TINY = packaged.names("suite")["tiny"]


@pytest.fixture
def baselines() -> Baselines:
    found = stored(TINY)
    assert found is not None
    return found


def needs_the_same_torch(baselines: Baselines) -> None:
    version = baselines.info["versions"]["torch"]
    if version.partition("+")[0] != torch.__version__.partition("+")[0]:
        pytest.skip(f"the baselines were computed with torch {version}")


def test_the_text_of_the_suite_has_every_sum_of_two_numbers_below_100() -> None:
    lines = [f"{a}+{b}={a + b}" for a in range(100) for b in range(100)]
    lines.sort(key=lambda line: hashlib.sha256(line.encode()).hexdigest())
    assert (TINY.parent / "sums.txt").read_text() == "\n".join(lines) + "\n"


def test_every_baseline_of_the_suite_is_stored(baselines: Baselines) -> None:
    sweeps = {sweep.config.name.partition("/")[2]: sweep for sweep in read_sweeps(TINY)}
    assert set(baselines.problems) == set(sweeps)
    for problem, sweep in sweeps.items():
        parts = baselines.problems[problem]["variants"]
        assert set(parts) == set(sweep.variants)
        assert {part["trials"] for part in parts.values()} == {10}
        assert list(map(int, baselines.problems[problem]["pairing"])) == sweep.final_seeds
    assert baselines.archive.stat().st_size < 2_000_000


def test_new_runs_are_paired_with_the_stored_ones(baselines: Baselines, tmp_path: Path) -> None:
    needs_the_same_torch(baselines)
    for sweep in read_sweeps(TINY, ["final_seeds=[1000]"]):
        info = baselines.problems[sweep.config.name.partition("/")[2]]
        digests = pairing_digests(sweep, sweep.variants["sgd"], SharedData(tmp_path))
        assert digests[1000] == info["pairing"]["1000"]


def verdicts(folder: Path) -> dict[tuple[str, str], dict[str, Any]]:
    found = json.loads((folder / "verdict.json").read_text())["verdicts"]
    return {(one["problem"], one["baseline"]): one for one in found}


def test_adam_is_not_different_from_the_stored_adam(baselines: Baselines, tmp_path: Path) -> None:
    needs_the_same_torch(baselines)
    lr = baselines.problems["quadratic"]["variants"]["adam"]["tuned"]["optimizer.lr"]
    options = ("--problems", "quadratic", "--search", f"lr={lr}", "--seeds", "3", "--quiet")
    done = optlab("challenge", "Adam", *options, "--out", tmp_path / "out")
    assert done.code == 0, done.err
    (one,) = (one for (_, name), one in verdicts(tmp_path / "out").items() if name == "adam")
    assert one["kind"] == "no difference detectable"


@pytest.mark.nightly
def test_all_problems_with_the_whole_budget(baselines: Baselines, tmp_path: Path) -> None:
    needs_the_same_torch(baselines)
    done = optlab("challenge", "torch.optim.Adam", "--out", tmp_path / "adam")
    assert done.code == 0, done.err
    found = verdicts(tmp_path / "adam")
    assert {found[problem, "adam"]["kind"] for problem in baselines.problems} == {"no difference detectable"}
    (tmp_path / "broken.py").write_text(BROKEN)
    done = optlab("challenge", f"{tmp_path / 'broken.py'}:Broken", "--out", tmp_path / "broken")
    assert done.code == 0, done.err
    found = verdicts(tmp_path / "broken")
    kinds = [found[problem, "adam"]["kind"] for problem in baselines.problems]
    assert "better" not in kinds
    assert kinds.count("worse") >= 3
