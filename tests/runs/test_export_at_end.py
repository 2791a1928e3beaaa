"""`log.export`: a run that ends is exported in a process of its own, which cannot harm the run."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.command import optlab, train, write_tiny
from trainer.runs import exporting

SINK = """\
import os
import time
from pathlib import Path

HERE = Path(__file__).parent


def keep(run, *, name: str = "kept"):
    (HERE / f"{run.id}.{name}").write_text(f"{run.status} {len(run.epoch_rows())}")


def fail(run):
    raise KeyError("no such server")


def hang(run):
    if os.fork() == 0:
        time.sleep(60)
        os._exit(0)
    time.sleep(60)


def crash(run):
    os._exit(3)
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "sink.py").write_text(SINK)
    return write_tiny(tmp_path)


def test_a_run_is_exported_when_it_ends(config: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    own = "{name: sink.py:keep, name2: 1}"
    done = optlab("train", config, f"log.export=[{own}]", "--run-dir", folder, "--quiet")
    assert done.code == 2
    assert "name2" in done.err
    text = config.read_text().replace(
        "  plots: []\n", "  plots: []\n  export: [sink.py:keep, sink.py:fail]\n"
    )
    config.write_text(text)
    done = optlab("train", config, "--run-dir", folder)
    assert done.code == 0
    assert "no such server" in done.err
    (kept,) = tmp_path.glob("*.kept")
    assert kept.read_text() == "completed 2"
    saved = yaml.safe_load((folder / "config.yaml").read_text())
    assert [each["name"] for each in saved["log"]["export"]] == [
        f"{tmp_path}/sink.py:{x}" for x in ("keep", "fail")
    ]
    assert not list(folder.glob("components/*"))  # a tracker does not belong to the identity of a run
    (tmp_path / "sink.py").write_text(SINK + "\n# changed\n")
    assert optlab("train", config, "--run-dir", folder, "--skip-existing", "--quiet").code == 0


@pytest.mark.parametrize(
    ("name", "limit", "message"),
    [("hang", 3, "was stopped after 3 s"), ("crash", exporting.TIME_LIMIT, "without a result")],
)
def test_a_tracker_that_hangs_or_crashes_is_reported(
    config: Path, tmp_path: Path, name: str, limit: float, message: str
) -> None:
    folder = tmp_path / "run"
    train(config, run_dir=folder)
    tracker = {"name": f"{tmp_path}/sink.py:{name}"}
    (failure,) = exporting.export_at_end(folder, [tracker], limit)
    assert message in failure


def test_passwords_are_refused(config: Path, tmp_path: Path) -> None:
    done = optlab("validate", config, "log.export=[{name: mlflow, uri: 'http://me:secret@host'}]")
    assert done.code == 2
    assert "environment variable" in done.err
