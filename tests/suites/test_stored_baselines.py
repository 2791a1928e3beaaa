"""The stored baselines of the suites: complete, free of paths, paired with new runs, and challenged."""

from __future__ import annotations

import hashlib
import json
import re
import tarfile
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

SUITES = packaged.names("suite")
TINY = SUITES["tiny"]
STORED = ("tiny", "small")
SAME_NUMBERS = ("2.14.1", "2.15.0")
"""Releases of torch that give the initial weights and batches of the stored baselines."""

ABSOLUTE = re.compile(r"""(?:^|[\s"':=\[])/\w+/""", re.MULTILINE)
"""An absolute path in a text."""


@pytest.fixture(params=STORED)
def suite(request: pytest.FixtureRequest) -> str:
    """Return the name of a suite with stored baselines."""
    name: str = request.param
    return name


@pytest.fixture
def baselines(suite: str) -> Baselines:
    found = stored(SUITES[suite])
    assert found is not None
    return found


@pytest.fixture
def data(suite: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Make the data of a suite the default: links to the real data, in the layout of a download."""
    if suite == "tiny":
        return
    real: Path = request.getfixturevalue("shared_data")
    root = tmp_path / "data"
    root.mkdir()
    (root / "MNIST").symlink_to(real / "mnist" / "MNIST")
    (root / "FashionMNIST").symlink_to(real / "fashion_mnist" / "FashionMNIST")
    (root / "tiny_shakespeare").symlink_to(real / "tiny_shakespeare")
    monkeypatch.setenv("OPTLAB_DATA", str(root))


def needs_the_same_numbers(baselines: Baselines) -> None:
    version, own = (
        text.partition("+")[0] for text in (baselines.info["versions"]["torch"], torch.__version__)
    )
    if version != own and not {version, own} <= set(SAME_NUMBERS):
        pytest.skip(f"torch {own} may draw other numbers than {version}, which computed the baselines")


def test_the_text_of_the_suite_has_every_sum_of_two_numbers_below_100() -> None:
    lines = [f"{a}+{b}={a + b}" for a in range(100) for b in range(100)]
    lines.sort(key=lambda line: hashlib.sha256(line.encode()).hexdigest())
    assert (TINY.parent / "sums.txt").read_text() == "\n".join(lines) + "\n"


def test_every_baseline_of_a_suite_is_stored(suite: str, baselines: Baselines) -> None:
    sweeps = {sweep.config.name.partition("/")[2]: sweep for sweep in read_sweeps(SUITES[suite])}
    assert set(baselines.problems) == set(sweeps)
    for problem, sweep in sweeps.items():
        parts = baselines.problems[problem]["variants"]
        assert set(parts) == set(sweep.variants)
        assert {part["trials"] for part in parts.values()} == {10}
        assert list(map(int, baselines.problems[problem]["pairing"])) == sweep.final_seeds
    assert baselines.archive.stat().st_size < 4_000_000


def test_no_stored_file_has_a_path_of_the_machine(baselines: Baselines) -> None:
    with tarfile.open(baselines.archive) as archive:
        for member in archive:
            file = archive.extractfile(member)
            assert file is not None
            assert not ABSOLUTE.search(file.read().decode()), member.name


def test_new_runs_are_paired_with_the_stored_ones(
    suite: str, baselines: Baselines, data: None, tmp_path: Path
) -> None:
    needs_the_same_numbers(baselines)
    for sweep in read_sweeps(SUITES[suite], ["final_seeds=[1000]"]):
        info = baselines.problems[sweep.config.name.partition("/")[2]]
        digests = pairing_digests(sweep, sweep.variants["sgd"], SharedData(tmp_path))
        assert digests[1000] == info["pairing"]["1000"]


def verdicts(folder: Path) -> dict[tuple[str, str], dict[str, Any]]:
    found = json.loads((folder / "verdict.json").read_text())["verdicts"]
    return {(one["problem"], one["baseline"]): one for one in found}


@pytest.mark.parametrize("suite", ["tiny"], indirect=True)
def test_adam_is_not_different_from_the_stored_adam(baselines: Baselines, tmp_path: Path) -> None:
    needs_the_same_numbers(baselines)
    lr = baselines.problems["quadratic"]["variants"]["adam"]["tuned"]["optimizer.lr"]
    options = ("--problems", "quadratic", "--search", f"lr={lr}", "--seeds", "3", "--quiet", "--no-figures")
    done = optlab("challenge", "Adam", *options, "--out", tmp_path / "out")
    assert done.code == 0, done.err
    (one,) = (one for (_, name), one in verdicts(tmp_path / "out").items() if name == "adam")
    assert one["kind"] == "no difference detectable"


@pytest.mark.nightly
@pytest.mark.parametrize("suite", ["tiny"], indirect=True)
def test_all_problems_with_the_whole_budget(baselines: Baselines, tmp_path: Path) -> None:
    needs_the_same_numbers(baselines)
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
