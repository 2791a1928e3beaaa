"""Schedules of users and of other packages: any object with a method `step`."""

from __future__ import annotations

from pathlib import Path

import pytest
from command import TINY, optlab, rows

PARTS = """\
import math
import numpy as np
from torch.optim.lr_scheduler import LambdaLR


class Counted:
    # As timm's: `step` gets the number of completed epochs, `step_update` that of updates.
    def __init__(self, optimizer, t_initial: int, lr_min: float = 0.0, t_in_epochs: bool = True):
        self.optimizer, self.t_in_epochs = optimizer, t_in_epochs
        self.t_initial, self.lr_min = t_initial, lr_min
        self.base = [group["lr"] for group in optimizer.param_groups]

    def state_dict(self):
        return {key: value for key, value in vars(self).items() if key != "optimizer"}

    def load_state_dict(self, state):
        vars(self).update(state)

    def _set(self, t):
        share = (1 + math.cos(math.pi * t / self.t_initial)) / 2
        for group, base in zip(self.optimizer.param_groups, self.base):
            group["lr"] = self.lr_min + (base - self.lr_min) * share

    def step(self, epoch, metric=None):
        if self.t_in_epochs:
            self._set(epoch)

    def step_update(self, num_updates, metric=None):
        if not self.t_in_epochs:
            self._set(num_updates)


class Stateless:
    # As pytorch_optimizer's: no state_dict, and rates of NumPy.
    def __init__(self, optimizer, t_max: int, max_lr: float):
        self.optimizer, self.total, self.max_lr, self.step_t = optimizer, t_max, max_lr, 0

    def step(self):
        self.step_t += 1
        for group in self.optimizer.param_groups:
            group["lr"] = np.float64(self.max_lr) * (1 - self.step_t / (self.total + 1))


def get_linear_schedule(optimizer, num_warmup_steps: int, num_training_steps: int, last_epoch: int = -1):
    # As those of transformers.
    def factor(step):
        if step < num_warmup_steps:
            return step / num_warmup_steps
        return (num_training_steps - step) / (num_training_steps - num_warmup_steps)

    return LambdaLR(optimizer, factor, last_epoch)


class Failing(Stateless):
    def step(self):
        raise ValueError("no rate")


class OwnPlateau:
    def __init__(self, optimizer, mode: str = "min"):
        self.optimizer, self.best = optimizer, math.inf

    def step(self, epoch, metric=None):
        for group in self.optimizer.param_groups:
            group["lr"] = metric / 100


class Nothing:
    def __init__(self, optimizer):
        pass
"""

STEPS = 14


def config(folder: Path, schedule: str) -> Path:
    (folder / "own.py").write_text(PARTS, encoding="utf-8")
    path = folder / "tiny.yaml"
    text = TINY.replace("scheduler: null", f"scheduler: {schedule}").replace("epochs: 1", "epochs: 2")
    path.write_text(text.replace("every: 2", "every: 1"), encoding="utf-8")
    return path


def rates(run: Path) -> list[float]:
    return [float(row["lr"]) for row in rows(run / "steps.csv")]


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("{name: 'own.py:Counted', interval: step}", {0: 0.05, 7: 0.025, 13: 0.000627}),
        ("{name: 'own.py:Counted'}", {0: 0.05, 6: 0.05, 7: 0.025}),
        ("{name: 'own.py:Counted', t_initial: 28, interval: step}", {0: 0.05, 7: 0.042678}),
        ("{name: 'own.py:Stateless', interval: step}", {0: 0.05, 7: 0.05 * 8 / 15}),
        (
            "{name: 'own.py:get_linear_schedule', num_warmup_steps: 4, interval: step}",
            {2: 0.025, 4: 0.05, 9: 0.025},
        ),
    ],
)
def test_lengths_are_those_of_the_run_and_a_resumed_run_is_the_same(
    schedule: str, expected: dict[int, float], tmp_path: Path
) -> None:
    path = config(tmp_path, schedule)
    done = optlab("train", path, "--run-dir", tmp_path / "whole", "--quiet")
    assert done.code == 0, done.err
    whole = rates(tmp_path / "whole")
    assert len(whole) == STEPS
    assert {step: whole[step] for step in expected} == pytest.approx(expected, rel=1e-3)
    done = optlab("train", path, "train.seconds=1e-9", "--run-dir", tmp_path / "part", "--quiet")
    assert done.code == 0, done.err
    assert len(rates(tmp_path / "part")) < STEPS
    done = optlab("resume", tmp_path / "part", "train.seconds=null", "--quiet")
    assert done.code == 0, done.err
    assert rates(tmp_path / "part") == whole


def test_a_longer_run_would_have_another_schedule(tmp_path: Path) -> None:
    path = config(tmp_path, "{name: 'own.py:Counted', interval: step}")
    done = optlab("train", path, "train.epochs=1", "--run-dir", tmp_path / "run", "--quiet")
    assert done.code == 0, done.err
    done = optlab("resume", tmp_path / "run", "train.epochs=2", "--quiet")
    assert done.code == 2
    assert "scheduler.t_initial depends on the run's length: 7 in the run, 14 now" in done.err
    assert optlab("resume", tmp_path / "run", "train.epochs=2", "scheduler.t_initial=7", "--quiet").code == 0


@pytest.mark.parametrize(
    ("schedule", "words"),
    [
        ("{name: 'own.py:Failing', interval: step}", "no rate"),
        ("{name: 'own.py:Nothing'}", "an object with the method step"),
        ("{name: 'own.py:Stateless', warmup: 1}", "not an LRScheduler"),
        ("{name: 'own.py:Counted', lr_mini: 0.1}", "lr_min"),
    ],
)
def test_what_cannot_work_is_refused_before_the_run(schedule: str, words: str, tmp_path: Path) -> None:
    done = optlab("train", config(tmp_path, schedule), "--run-dir", tmp_path / "run")
    assert done.code == 2
    assert words in done.err
    assert "tiny.yaml:" in done.err
    assert not (tmp_path / "run").exists()


def test_a_schedule_that_follows_a_metric_gets_it(tmp_path: Path) -> None:
    path = config(tmp_path, "{name: 'own.py:OwnPlateau'}")
    done = optlab("train", path, "--run-dir", tmp_path / "run", "--quiet")
    assert done.code == 0, done.err
    losses = [float(row["val_loss"]) for row in rows(tmp_path / "run" / "epochs.csv")]
    assert rates(tmp_path / "run")[7] == pytest.approx(losses[1] / 100)
    done = optlab("validate", path, "scheduler.mode=max")
    assert done.code == 2
    assert "mode 'max' would lower" in done.err


def test_numbers_of_numpy_can_be_saved(tmp_path: Path) -> None:
    (tmp_path / "rule.py").write_text(
        "import numpy\ndef rule(step):\n    return numpy.float64(0.9) ** step\n"
    )
    path = config(tmp_path, "{name: LambdaLR, lr_lambda: 'rule.py:rule'}")
    assert optlab("train", path, "--run-dir", tmp_path / "run", "--quiet").code == 0
