"""`optlab init`, `--version` and `python -m trainer`."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from command import optlab

from trainer.catalog import load_config
from trainer.config import packaged


def test_init_writes_a_set_that_works_and_changes_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = optlab("init", "new/folder", "--json")
    assert done.code == 0, done.err
    files = [Path(each["file"]) for each in done.json]
    assert {file.name for file in files} == {
        *("quickstart.yaml", "mnist.yaml", "sweep_optimizers.yaml", "my_optimizer.py", "my_optimizer.yaml")
    }
    folder = files[0].parent
    (folder / "mnist.yaml").write_text("name: mine\n")
    (folder / "sweep_optimizers.yaml").unlink()
    again = {Path(each["file"]).name: each["state"] for each in optlab("init", folder, "--json").json}
    assert {name for name, state in again.items() if state == "written"} == {"sweep_optimizers.yaml"}
    assert (folder / "mnist.yaml").read_text() == "name: mine\n"
    assert optlab("validate", folder / "my_optimizer.yaml").code == 0
    assert optlab("sweep", folder / "sweep_optimizers.yaml", "--dry-run", "--json").json["new_runs"] == 45
    trained = optlab("train", folder / "my_optimizer.yaml", "train.epochs=1", "--quiet", "--json")
    assert trained.json["status"] == "completed"
    assert load_config(folder / "quickstart.yaml").config == load_config(Path("optlab:quickstart")).config


def test_init_describes_its_files_and_names_commands_that_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = optlab("init")
    assert done.code == 0, done.err
    _, *rows = done.out.splitlines()
    assert len(rows) == len(list(tmp_path.iterdir()))
    assert all(len(row.split("written")[1].split()) > 3 for row in rows)  # a description of a few words
    commands = [line.split()[1:] for line in done.err.splitlines() if line.startswith("optlab ")]
    assert [verb for verb, _ in commands] == ["train", "sweep"]
    for verb, name in commands:
        assert optlab(verb, name, "--dry-run").code == 0


def test_init_refuses_a_file_in_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = optlab("init", tmp_path / "file")
    assert done.code == 2
    assert "not a folder" in done.err
    assert (tmp_path / "file").read_text() == ""


def test_the_list_has_every_packaged_config() -> None:
    listed = optlab("init", "--list", "--json").json
    assert [each["name"] for each in listed] == list(packaged.names())
    assert all(each["description"] for each in listed)
    assert "quickstart" in optlab("init", "--list").out


def test_the_version_and_the_module() -> None:
    assert optlab("--version").out == f"optlab {metadata.version('optlab')}\n"
    command = [sys.executable, "-m", "trainer", "--version"]
    assert subprocess.run(command, capture_output=True, text=True).stdout.startswith("optlab ")
