"""docs/run-directory.md describes the files of runs and sweeps that optlab writes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from command import TINY, optlab, rows, write_tiny
from pages import DOCS

PAGE = (DOCS / "run-directory.md").read_text(encoding="utf-8")
OWN = "def own(outputs, targets):\n    return (outputs.argmax(1) == targets).float()\n"


def described(heading: str) -> set[str]:
    """Return the names in the first column of a section's table."""
    section = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    cells = re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
    return {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that writes every file, column and key."""
    folder = tmp_path_factory.mktemp("described")
    (folder / "own.py").write_text(OWN, encoding="utf-8")
    text = TINY.replace("digits", "two_moons").replace(
        "loss: cross_entropy", "loss: {name: cross_entropy, l2: 0.001}"
    )
    text = text.replace(
        "every: 2", "every: 2\n  groups: true\n  gradients: true\n  histograms: true"
    ).replace("[]", "[png]")
    text = text.replace("scheduler: null", "scheduler: {name: OneCycleLR, interval: step, total_steps: 20}")
    text = text.replace("lr: 0.05", "lr: 0.05\n  momentum: 0.9")
    text += "train: {epochs: 1, threads: 1, eval_train: true, metrics: [{name: 'own.py:own', mode: max}]}\n"
    text = text.replace("train:\n  epochs: 1\n  threads: 1\n", "")
    config = write_tiny(folder, text)
    for arguments in (
        ["train", config, "--run-dir", folder / "run"],
        ["resume", folder / "run", "train.epochs=2"],
    ):
        done = optlab(*arguments, "--quiet")
        assert done.code == 0, done.err
    return folder / "run"


def test_every_file_is_described(run: Path) -> None:
    names = {path.name + "/" * path.is_dir() for path in run.iterdir()}
    table = PAGE.partition("\n## ")[0]
    assert names == set(re.findall(r"^\| `([^`]+)`", table, re.MULTILINE))


@pytest.mark.parametrize("name", ["status.json", "summary.json", "environment.json"])
def test_every_key_is_described(run: Path, name: str) -> None:
    content = json.loads((run / name).read_text(encoding="utf-8"))
    assert content["format"] == 1
    assert set(content) == described(name)


def test_every_column_is_described(run: Path) -> None:
    position = ["step", "epoch", "samples", "grad_evals", "train_seconds"]
    steps = list(rows(run / "steps.csv")[0])
    assert steps[:5] == position
    columns = {re.sub(r"^grad_norm\..*", "grad_norm.<parameter>", name) for name in steps}
    columns = {re.sub(r"^group\..*", "group.<option>", name) for name in columns}
    assert columns == described("steps.csv")
    epochs = list(rows(run / "epochs.csv")[0])
    assert epochs[:5] == position
    splits = {re.sub(r"(loss|accuracy|own)$", "<metric>", name) for name in epochs[5:]}
    assert splits == described("epochs.csv")


def test_the_files_of_a_sweep_are_described(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = write_tiny(tmp_path)
    done = optlab("sweep", config, "optimizer.lr=0.1,0.05", "--workers", "1", "--quiet")
    assert done.code == 0, done.err
    folder = tmp_path / "runs/tiny-lr"
    files = {path.name + "/" * path.is_dir() for path in folder.iterdir()} - {"tiny/", "lock"}
    assert files | {"<variant>/best.yaml"} == described("The folder of a sweep")
    assert (folder / "tiny/best.yaml").is_file()
    columns = list(rows(folder / "results.csv")[0])
    assert columns[:6] == ["variant", "stage", "trial", "optimizer.lr", "seed", "status"]
