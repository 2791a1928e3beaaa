"""Packaged configs: their names, which file a name means, and configs that extend them."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from command import TINY, optlab, write_tiny

from trainer.catalog import load_config
from trainer.cli import completion
from trainer.config import packaged
from trainer.errors import ConfigError
from trainer.sweep.file import read_sweep


def test_names_are_unique_and_described() -> None:
    kinds = [packaged.names(kind) for kind in packaged.KINDS]
    assert sum(map(len, kinds)) == len(packaged.names())
    assert {"quickstart", "mnist_mlp", "quick", "04_momentum"} <= set(packaged.names())
    assert all(len(packaged.description(file)) > 10 for file in packaged.names().values())


def test_a_file_in_the_working_directory_takes_precedence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    name = Path("quickstart")
    assert packaged.find(name) == packaged.names()["quickstart"]
    name.mkdir()  # a folder is not a config
    assert packaged.find(name) == packaged.names()["quickstart"]
    name.rmdir()
    write_tiny(tmp_path, name="quickstart.yaml")
    assert packaged.find(name) == Path("quickstart.yaml")
    write_tiny(tmp_path, name="quickstart")
    assert packaged.find(name) == name
    assert packaged.find(Path("optlab:quickstart")) == packaged.names()["quickstart"]


@pytest.mark.parametrize(
    ("given", "fix"),
    [
        ("quikstart", "the packaged config quickstart"),
        ("configs/quickstart.yaml", "the packaged config quickstart"),
        ("mine.yml", "mine.yaml"),
        ("optlab:quikstart", "'quickstart'"),
    ],
)
def test_a_mistyped_name_gets_the_nearest(
    given: str, fix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_tiny(tmp_path, name="mine.yaml")
    for verb in ("train", "validate", "sweep"):
        done = optlab(verb, given)
        assert done.code == 2
        assert fix in " ".join(done.err.split())
    assert list(tmp_path.iterdir()) == [tmp_path / "mine.yaml"]


def test_a_config_extends_a_packaged_one(tmp_path: Path) -> None:
    file = write_tiny(tmp_path, "base: optlab:quickstart\nname: mine\ntrain: {epochs: 3}\n")
    config = load_config(file).config
    assert (config.name, config.train.epochs, config.data.name) == ("mine", 3, "digits")
    sweep = write_tiny(tmp_path, "base: optlab:quickstart\nname: mine\nseeds: 1\n", "sweep.yaml")
    assert read_sweep(sweep).variants["quickstart"].tree.data["data"]["name"] == "digits"
    file.write_text("base: optlab:quikstart\n")
    with pytest.raises(ConfigError, match="unknown packaged config") as caught:
        load_config(file)
    assert caught.value.problems[0].where.endswith("tiny.yaml:1")


def test_the_saved_config_of_an_extending_config_has_no_base(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    short = TINY.replace("name: tiny", "base: optlab:quickstart\nname: tiny")
    write_tiny(tmp_path, short)
    assert optlab("train", "tiny", "--quiet").code == 0
    saved = Path("runs/tiny/seed=0/config.yaml")
    assert "base" not in yaml.safe_load(saved.read_text())
    assert "optlab:" not in saved.read_text()
    assert optlab("train", "tiny", "--skip-existing").err.count("skipped") == 1
    assert optlab("train", saved, "--run-dir", "again", "--quiet").code == 0
    assert Path("again/steps.csv").read_text().count("\n") > 1


def test_completion_offers_packaged_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert list(completion.config_files("qui")) == ["quickstart"]
    assert list(completion.sweep_files("qui")) == ["quick", "quickstart"]
