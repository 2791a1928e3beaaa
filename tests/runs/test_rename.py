"""An extended run gets the name of a run of its length."""

from __future__ import annotations

from pathlib import Path

import pytest
from command import TINY, optlab, write_tiny

from trainer.runs import rundir

OWN = "import torch\n\n\nclass Own(torch.optim.SGD):\n    pass\n"


def test_an_extended_run_is_named_by_its_length_and_stays_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(OWN)
    write_tiny(tmp_path, TINY.replace("name: SGD", "name: 'own.py:Own'"))
    assert optlab("train", "tiny", "train.epochs=1", "optimizer.lr=0.1", "--quiet").code == 0
    write_tiny(tmp_path, name="sweep.yaml")  # a file of the user, not of a sweep's folder
    former = Path("runs/tiny/lr=0.1,epochs=1,seed=0")
    done = optlab("resume", former, "train.epochs=2", "--quiet", "--json")
    assert done.code == 0, done.err
    extended = Path("runs/tiny/lr=0.1,epochs=2,seed=0")
    assert done.json["run"] == str(extended)
    assert "renamed" in done.err
    assert not former.exists()
    same = ("train", "tiny", "train.epochs=2", "optimizer.lr=0.1")
    assert "skipped" in optlab(*same, "--skip-existing").err
    again = optlab("resume", extended, "train.epochs=3", "--quiet", "--json")  # without --trust
    assert again.json["run"] == "runs/tiny/lr=0.1,epochs=3,seed=0"
    assert rundir.read_result(Path(again.json["run"])) is not None


def test_the_runs_of_a_sweep_keep_their_names(tmp_path: Path) -> None:
    config = write_tiny(tmp_path)
    sweep = tmp_path / "sweep"
    for place in (sweep / "a", sweep / "final" / "a"):
        folder = place / "epochs=1,seed=0"
        assert optlab("train", config, "--run-dir", folder, "--quiet").code == 0
        (sweep / "sweep.yaml").write_text("name: sweep\n")
        done = optlab("resume", folder, "train.epochs=2", "--quiet", "--json")
        assert done.json["run"] == str(folder), done.err


def test_a_run_keeps_its_name_if_the_new_one_is_taken_or_has_no_length(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_tiny(tmp_path)
    for overrides in ([], ["train.epochs=2"], ["train.epochs=1"]):
        assert optlab("train", "tiny", *overrides, "--quiet").code == 0
    plain = optlab("resume", "runs/tiny/seed=0", "train.epochs=2", "--quiet", "--json")
    assert plain.json["run"] == "runs/tiny/seed=0"
    taken = optlab("resume", "runs/tiny/epochs=1,seed=0", "train.epochs=2", "--quiet", "--json")
    assert taken.json["run"] == "runs/tiny/epochs=1,seed=0"
    assert "keeps its name" in taken.err
