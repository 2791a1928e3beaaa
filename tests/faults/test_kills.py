"""Runs of processes that are killed at any instant can be read and resumed, with the same results."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command import TINY, optlab, write_tiny
from forks import Forks
from same_run import differences

from trainer.runs import checkpoint, rundir

RHYTHM = [
    "train.epochs=6",
    "train.checkpoint_every={steps: 2}",
    "train.eval_every={steps: 5}",
    "log.every=1",
    "model.dropout=0.2",
]
CONFIGS = {
    "sgd": ["optimizer.momentum=0.9", "scheduler={name: StepLR, step_size: 1, gamma: 0.7}"],
    "adam": ["optimizer=Adam", "train.accumulate=2", "train.epochs=12", "log.histograms=true"],
    "pair": ["optimizer=[{name: Muon, match: {min_ndim: 2}}, {name: AdamW, lr: 0.01}]", "data.shuffle=once"],
    "plateau": [
        "scheduler={name: ReduceLROnPlateau, patience: 0, factor: 0.5}",
        "train.early_stopping={patience: 2, min_delta: 0.2}",
    ],
    "bfloat16": ["train.precision=bfloat16", "data.augment=[random_rotation, mixup]"],
    "float16": ["train.precision=float16", "optimizer=RMSprop", "train.checkpoint_every=null"],
    "lbfgs": ["optimizer={name: LBFGS, max_iter: 3, history_size: 2}"],
    "seconds": ["train.checkpoint_every={seconds: 0.01}", "optimizer=Adagrad"],
}


def overrides(name: str) -> list[str]:
    own = CONFIGS[name]
    keys = {override.partition("=")[0] for override in own}
    return [override for override in RHYTHM if override.partition("=")[0] not in keys] + own


class Case:
    """One config, trained once without interruption, and killed repeatedly."""

    def __init__(self, forks: Forks, folder: Path, name: str) -> None:
        self.forks, self.folder = forks, folder
        self.config = write_tiny(folder, TINY.replace("limit: 200", "limit: 400"))
        self.command = ["train", str(self.config), *overrides(name), "--quiet", "--resume", "--run-dir"]
        ended = forks.run(folder, *self.command, "whole")
        assert ended.code == 0, ended.err
        self.count = ended.count
        self.runs = 0

    def kill_and_finish(self, *kills: float | tuple[str, int]) -> int:
        """Start a run, kill it at each of the instants, let it finish; return the kills that hit it."""
        self.runs += 1
        name, hits = f"killed{self.runs}", 0
        for kill in kills:
            if isinstance(kill, tuple):
                ended = self.forks.run(self.folder, *self.command, name, strike=kill)
            else:
                ended = self.forks.run(
                    self.folder, *self.command, name, kill_at=kill * self.count, slow=0.004
                )
            assert ended.code in (0, -signal.SIGKILL), ended.err
            hits += ended.code < 0
            self.check(self.folder / name)
        ended = self.forks.run(self.folder, *self.command, name)
        assert ended.code == 0, ended.err
        assert differences(self.folder / "whole", self.folder / name) == []
        return hits

    def check(self, run: Path) -> None:
        """Check that the files left after a kill can be read."""
        if rundir.read_status(run) is not None:
            assert rundir.load_run(run).status["status"] in ("interrupted", "completed", "early_stopped")
            assert not rundir.is_locked(run)
        for path in (run / "checkpoints").glob("*.pt"):
            checkpoint.load_checkpoint(path)


AIMS = [
    ("checkpoint: writing", 2),
    ("checkpoint: proving", 3),
    ("checkpoint: renaming", 3),
    ("mid-epoch", 13),
    ("checkpoint: renaming", 8),
    ("evaluation", 2),
    ("another file", 3),
    ("end", 1),
]


def test_twenty_kills(forks: Forks, tmp_path: Path) -> None:
    seed = random.randrange(10**6)
    draw = random.Random(seed)
    print(f"kills drawn with seed {seed}")
    hits = 0
    for name in ("sgd", "plateau"):
        folder = tmp_path / name
        folder.mkdir()
        case = Case(forks, folder, name)
        one, two, three, four = AIMS[name == "plateau" :: 2]
        hits += case.kill_and_finish(draw.random() / 2, one, draw.random() / 4, two, draw.random() / 4)
        hits += case.kill_and_finish(draw.random() / 2, three, draw.random() / 4, four, draw.random() / 4)
    assert hits >= 12, f"with seed {seed}"


def test_a_kill_of_the_installed_command(tmp_path: Path) -> None:
    command = [str(Path(sys.executable).parent / "optlab"), "train", str(write_tiny(tmp_path))]
    options = [
        "train.epochs=null",
        "train.steps=100000",
        "train.checkpoint_every={steps: 10}",
        "--run-dir",
        "run",
    ]
    process = subprocess.Popen([*command, *options], cwd=tmp_path, stderr=subprocess.DEVNULL)
    last = tmp_path / "run" / "checkpoints" / "previous.pt"
    deadline = time.monotonic() + 60
    while not last.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    step = checkpoint.load_checkpoint(tmp_path / "run" / "checkpoints" / "last.pt")["experiment"]["progress"][
        "step"
    ]
    end = f"train.steps={step + 25}"
    assert optlab("resume", tmp_path / "run", end, "--quiet").code == 0
    whole = optlab(
        "train", tmp_path / "tiny.yaml", *options[:-1], tmp_path / "whole", "--quiet", options[0], end
    )
    assert whole.code == 2  # the key is set twice
    options[1] = end
    assert optlab("train", tmp_path / "tiny.yaml", *options[:-1], tmp_path / "whole", "--quiet").code == 0
    assert differences(tmp_path / "whole", tmp_path / "run") == []


@pytest.mark.nightly
@pytest.mark.parametrize("name", CONFIGS)
def test_three_hundred_kills(forks: Forks, tmp_path: Path, name: str) -> None:
    case = Case(forks, tmp_path, name)
    draw = random.Random(name)
    hits = 0
    while hits < 38:
        kills: list[float | tuple[str, int]] = [draw.random() / (n + 1) for n in range(draw.randrange(1, 4))]
        if draw.random() < 0.3:
            phase, _ = draw.choice(AIMS[:6])
            kills.insert(0, (phase, draw.randrange(1, 9)))
        hits += case.kill_and_finish(*kills)
