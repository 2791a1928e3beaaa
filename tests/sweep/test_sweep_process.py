"""Changes of a component to its worker and unwritable streams do not affect other runs of a sweep."""

from __future__ import annotations

import contextlib
import errno
import io
import os
from pathlib import Path

import pytest
from same_run import differences
from small_sweeps import results, summary, write

from trainer import cli
from trainer.catalog import load_config
from trainer.runs import launch

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
