"""SIGINT, SIGTERM and SIGHUP finish the step and save; a second SIGINT exits at once; all can be resumed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from command import optlab, write_tiny
from forks import Forks
from same_run import differences

from trainer.runs import checkpoint, rundir

LONG = ["train.epochs=3", "train.checkpoint_every={steps: 2}", "log.every=1", "--quiet", "--run-dir"]


def step_of(run: Path) -> int:
    state = checkpoint.load_checkpoint(run / "checkpoints" / "last.pt")
    step: int = state["experiment"]["progress"]["step"]
    return step


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_signal_stops_the_run_after_the_step_and_it_can_be_resumed(
    forks: Forks, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    config = write_tiny(tmp_path)
    assert optlab("train", config, *LONG, tmp_path / "whole").code == 0
    ended = forks.run(
        tmp_path, "train", config, *LONG, "run", signal_at_step=(5, number), slow=0.5, slow_from=5
    )
    run = tmp_path / "run"
    assert ended.code == code, ended.err
    assert "resume with: optlab resume run" in ended.err
    status = rundir.read_status(run)
    assert status is not None
    assert status["status"] == "interrupted"
    steps = rundir.load_run(run).steps["step"]
    assert status["message"] == f"{number.name} after step {step_of(run)}"
    assert steps[-1] == step_of(run)
    assert json.loads((run / "summary.json").read_text())["test"] is None
    assert optlab("resume", run, "--quiet").code == 0
    assert differences(tmp_path / "whole", run) == []


def test_a_second_sigint_exits_at_once(forks: Forks, tmp_path: Path) -> None:
    config = write_tiny(tmp_path)
    assert optlab("train", config, *LONG, tmp_path / "whole").code == 0
    run = tmp_path / "run"
    ended = forks.run(
        tmp_path, "train", config, *LONG, "run", signal_at_step=(6, signal.SIGINT), again_after=0.3,
        slow=60.0, slow_from=6,
    )  # fmt: skip
    assert ended.code == 130, ended.err
    assert "Traceback" not in ended.err
    assert ended.seconds < 60  # the duration of the current step
    found = rundir.load_run(run)
    assert (found.status["status"], found.status["message"]) == ("interrupted", "interrupted twice")
    assert optlab("resume", run, "--quiet").code == 0
    assert differences(tmp_path / "whole", run) == []


def test_training_time_excludes_the_time_a_process_is_stopped(forks: Forks, tmp_path: Path) -> None:
    config = write_tiny(tmp_path)
    ended = forks.run(tmp_path, "train", config, *LONG, "run", pause_at_step=(6, 3.0), slow=0.02)
    assert ended.code == 0, ended.err
    assert ended.seconds > 3
    result = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert 21 * 0.02 * 0.9 < result["train_seconds"] < 3
    assert result["total_seconds"] > 3


def test_ctrl_c_suppressed_by_an_import_ends_the_command_before_any_write(tmp_path: Path) -> None:
    """A component's file catches the first SIGINT; the run must not start nevertheless."""
    part = tmp_path / "part.py"
    part.write_text(
        "import os, signal, torch\n"
        "try:\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "except BaseException:\n"
        "    print('swallowed', flush=True)\n"
        "class Part(torch.optim.SGD):\n"
        "    def __init__(self, params, lr: float = 0.1):\n"
        "        super().__init__(params, lr=lr)\n"
    )
    optimizer = f"optimizer={{name: '{part}:Part'}}"
    arguments = ["train", write_tiny(tmp_path), optimizer, "--run-dir", tmp_path / "run"]
    script = "import sys; from trainer.cli import script; sys.argv[0] = 'optlab'; script()"
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)], capture_output=True, text=True
    )
    assert "swallowed" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.returncode == 130
    assert not (tmp_path / "run").exists()
