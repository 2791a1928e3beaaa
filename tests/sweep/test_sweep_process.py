"""Changes of a component to its worker and unwritable streams do not affect other runs of a sweep."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from same_run import differences
from small_sweeps import results, summary, write

import trainer
from trainer import cli
from trainer.catalog import load_config
from trainer.runs import launch
from trainer.sweep.pool import METHOD

COMPONENT = """\
import os, sys, torch

os.environ["OMP_NUM_THREADS"] = "7"

class Changes(torch.optim.SGD):
    def __init__(self, params, lr: float = 0.1):
        super().__init__(params, lr=lr)
        os.chdir("/")
        sys.path.insert(0, "/nowhere")
        print("printed by a component")

    calls = 0

    def step(self, closure=None):
        self.calls += 1
        if self.calls > 12:  # after the steps of the rehearsal
            torch.use_deterministic_algorithms(True)
            torch.set_default_dtype(torch.float64)
            torch.set_grad_enabled(False)
        return super().step(closure)
"""


class Full(io.StringIO):
    """A stream behind which the disk is full."""

    def write(self, text: str) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_run_is_unaffected_by_an_earlier_run_that_changed_the_process_and_by_missing_streams(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "changes.py").write_text(COMPONENT)
    variants = {"a": {"optimizer": {"name": "changes.py:Changes", "lr": 0.1}}, "b": {"optimizer.lr": 0.2}}
    file = write(tmp_path, {"base": "base.yaml", "name": "s", "seeds": 2, "variants": variants})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["optlab", "sweep", str(file), "--workers", "1", "--no-figures"])
    with (
        contextlib.redirect_stdout(Full()),
        contextlib.redirect_stderr(Full()),
        pytest.raises(SystemExit) as end,
    ):
        cli.main()
    assert end.value.code == 4  # a run in which gradients are disabled fails, also as a single run
    assert Path.cwd() == tmp_path
    root = tmp_path / "runs" / "s"
    assert [row["status"] for row in results(root)] == ["failed", "failed", "completed", "completed"]
    assert summary(root)["runs"] == {"done": 4, "planned": 4, "failed": 2}
    for seed in (0, 1):
        inside = root / "b" / f"seed={seed}"
        launch.launch(load_config(inside / "config.yaml"), tmp_path / f"alone{seed}")
        assert differences(inside, tmp_path / f"alone{seed}") == []


HANGING = """\
import sys, time

class Hangs:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            print("the fork server hangs", file=sys.stderr, flush=True)
            time.sleep(3600)

if any("forkserver" in argument for argument in sys.orig_argv):
    sys.meta_path.insert(0, Hangs())
"""


@pytest.mark.skipif(METHOD != "forkserver", reason="there is no fork server on this system")
def test_the_fork_server_ends_with_the_command_even_while_it_imports(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(HANGING)
    (tmp_path / "sweep.yaml").write_text("base: missing.yaml\nname: s\nseeds: 2\n")
    done = subprocess.run(
        [sys.executable, "-m", "trainer", "sweep", "sweep.yaml"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{Path(trainer.__file__).parents[1]}"},
        stdin=subprocess.DEVNULL,
        capture_output=True,  # returns when no process has the streams open
        text=True,
        timeout=120,
    )
    assert done.returncode == 2, done.stderr
    assert "the fork server hangs" in done.stderr
    assert "missing.yaml" in done.stderr
