"""Configs saved by earlier releases are read with the current names of their keys; other configs are not."""

from __future__ import annotations

from pathlib import Path

import pytest
from command import TINY, optlab, train, write_tiny
from same_run import differences

from trainer import load_config
from trainer.config.models import Config
from trainer.config.renamed_keys import CURRENT_NAMES
from trainer.errors import ConfigError
from trainer.runs import rundir
from trainer.runs.run_files import Sections

FORMER = TINY.replace("train:\n", "train:\n  detect_anomaly: true\n")


def make_older(run: Path) -> None:
    """Give the saved config of a run the former name of its key."""
    text = (run / "config.yaml").read_text(encoding="utf-8")
    assert "check_finite" in text
    (run / "config.yaml").write_text(text.replace("check_finite", "detect_anomaly"), encoding="utf-8")


def test_current_names_are_keys_and_former_names_are_not() -> None:
    for (head, former), (section, current) in CURRENT_NAMES.items():
        fields = Config.model_fields[head].annotation.model_fields
        assert (head, current in fields, former in fields) == (section, True, False)


@pytest.mark.parametrize("text", [FORMER, TINY])
def test_in_a_users_config_a_former_name_is_an_unknown_key(tmp_path: Path, text: str) -> None:
    overrides = [] if text == FORMER else ["train.detect_anomaly=true"]
    with pytest.raises(ConfigError) as caught:
        load_config(write_tiny(tmp_path, text), overrides)
    (problem,) = caught.value.problems
    assert problem.what == "unknown key 'detect_anomaly'"
    assert (problem.key, problem.fix) == ("train.detect_anomaly", "did you mean 'check_finite'?")


def test_a_saved_config_is_loaded_and_keeps_the_location_of_the_value(tmp_path: Path) -> None:
    loaded = load_config(write_tiny(tmp_path, "format: 1\n" + FORMER))
    assert loaded.config.train.check_finite
    line = ("format: 1\n" + FORMER).splitlines().index("  detect_anomaly: true") + 1
    assert loaded.where("train.check_finite").endswith(f":{line}")


def test_a_run_of_an_earlier_release_is_read_skipped_and_extended(tmp_path: Path) -> None:
    config, run = write_tiny(tmp_path), tmp_path / "run"
    train(config, "train.check_finite=true", run_dir=run)
    train(config, "train.check_finite=true", "train.epochs=2", run_dir=tmp_path / "longer")
    make_older(run)
    known = Sections()
    for _ in range(2):  # the second time, the section is known
        assert rundir.load_run(run, known=known).config["train"]["check_finite"] is True
    skipped = optlab("train", config, "train.check_finite=true", "--run-dir", run, "--skip-existing")
    assert (skipped.code, "is finished: skipped" in skipped.err) == (0, True)
    done = optlab("resume", run, "train.epochs=2", "--quiet")
    assert done.code == 0, done.err
    assert differences(run, tmp_path / "longer") == []
    assert "detect_anomaly" not in (run / "config.yaml").read_text(encoding="utf-8")
