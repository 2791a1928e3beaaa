"""A run that was interrupted and resumed is bit-identical to the uninterrupted run."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import yaml
from command import optlab, train, write_tiny
from same_run import copied_at, differences

from trainer import catalog
from trainer.runs import checkpoint, recorder, rundir
from trainer.runs.recorder import Recorder

BASE = [
    "train.epochs=3",
    "train.checkpoint_every={steps: 4}",
    "log.every=1",
    "log.histograms=true",
    "model.dropout=0.2",
]
STOPS_AT = 10  # of 21 steps; the last checkpoint is that of step 8, in the middle of the second epoch


def check(tmp_path: Path, *overrides: str, code: int = 0, step: int = STOPS_AT) -> None:
    """Train a run without interruption and another that stops at a step; resume the latter and compare."""
    config = write_tiny(tmp_path)
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    with copied_at(step, stopped):
        own = {override.partition("=")[0] for override in overrides}
        base = [override for override in BASE if override.partition("=")[0] not in own]
        train(config, *base, *overrides, run_dir=whole, code=code)
    status = rundir.read_status(stopped)
    assert status is not None
    assert status["status"] == "interrupted"
    done = optlab("resume", stopped, "--trust", "--quiet", "--json")  # it is a copy, at another path
    assert done.code == code, done.err
    assert differences(whole, stopped) == []


OPTIMIZERS = {
    "SGD": "{name: SGD, lr: 0.05, momentum: 0.9, nesterov: true}",
    "LBFGS": "{name: LBFGS, lr: 0.1, history_size: 3, max_iter: 4}",
    "Adam": "{name: Adam, lr: 0.01, amsgrad: true}",
    "RMSprop": "{name: RMSprop, lr: 0.01, momentum: 0.5, centered: true}",
    "Muon": "[{name: Muon, lr: 0.01, match: {min_ndim: 2}}, {name: AdamW, lr: 0.01}]",
}


@pytest.mark.parametrize("name", [name for name in catalog.names("optimizer") if name != "SparseAdam"])
def test_every_optimizer(tmp_path: Path, name: str) -> None:
    check(tmp_path, f"optimizer={OPTIMIZERS.get(name, f'{{name: {name}}}')}")


SCHEDULERS = {
    "ConstantLR": "total_iters: 9",
    "CosineAnnealingLR": "",
    "CosineAnnealingWarmRestarts": "T_0: 4, T_mult: 2",
    "CyclicLR": "base_lr: 0.001, step_size_up: 4, cycle_momentum: false",
    "ExponentialLR": "gamma: 0.9",
    "LambdaLR": "lr_lambda: lambdas.py:shrink",
    "LinearLR": "total_iters: 15",
    "MultiStepLR": "milestones: [5, 9, 14]",
    "MultiplicativeLR": "lr_lambda: lambdas.py:factor",
    "OneCycleLR": "max_lr: 0.1, cycle_momentum: false",
    "PolynomialLR": "total_iters: 15, power: 2.0",
    "ReduceLROnPlateau": "patience: 0, threshold: 0.5, factor: 0.5",
    "StepLR": "step_size: 3, gamma: 0.5",
    "inverse_time": "decay: 0.1",
    "piecewise": "table: {0: 0.1, 5: 0.05, 12: 0.01}",
}


def write_lambdas(folder: Path) -> None:
    (folder / "lambdas.py").write_text(
        "def shrink(step):\n    return 0.9**step\n\ndef factor(step):\n    return 0.95\n"
    )


@pytest.mark.parametrize("name", catalog.names("scheduler"))
def test_every_scheduler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    write_lambdas(tmp_path)
    monkeypatch.chdir(tmp_path)
    options = f"{{name: {name}, {SCHEDULERS[name]}, interval: step}}".replace(", ,", ",")
    check(tmp_path, f"scheduler={options}")


@pytest.mark.parametrize(
    "overrides",
    [
        ["scheduler={name: CosineAnnealingLR, interval: epoch}"],
        ["scheduler={name: CosineAnnealingLR, warmup: 6, interval: step}"],
        ["scheduler=[{name: LinearLR, total_iters: 6, until: 6, interval: step}, "
         "{name: MultiplicativeLR, lr_lambda: 'lambdas.py:factor', until: 12, interval: step}, "
         "{name: CosineAnnealingLR, interval: step}]"],
        ["optimizer=[{name: SGD, lr: 0.1, momentum: 0.9, label: first, match: 'hidden*'}, "
         "{name: Adam, lr: 0.01, groups: [{match: '*.bias', lr: 0.1}]}]",
         "scheduler={name: StepLR, step_size: 4, interval: step}"],
        ["train.accumulate=3", "train.epochs=6"],
        ["train.accumulate=2", "optimizer=LBFGS", "train.epochs=4"],
        ["data.shuffle=once"],
        ["data.shuffle=never", "data.drop_last=true"],
        ["data.repeat=2", "data.batch_size=full", "train.epochs=12"],
        ["train.precision=bfloat16"],
        ["train.precision=float16", "optimizer.momentum=0.9"],
        ["train.zero_grad=never", "optimizer.lr=0.001"],
        ["train.clip_grad_norm=0.1", "train.clip_grad_value=0.01", "log.gradients=true", "loss.l2=0.01"],
        ["data.augment=[{name: random_crop, padding: 1}, {name: random_horizontal_flip}, {name: mixup}]"],
        ["data.augment=[random_rotation, {name: cutout, size: 3}]"],
        ["train.early_stopping={patience: 4, min_delta: 0.5}", "train.eval_every={steps: 3}"],
        ["train.eval_every={steps: 3}", "train.eval_train=true"],
        ["train.checkpoint_every=null", "train.eval_every={steps: 4}", "train.check_finite=true"],
        ["train.epochs=null", "train.steps=19"],
        ["seed={init: 1, batches: 2, augmentation: 3, dropout: 4}", "model.batch_norm=true"],
        ["data.val_size=0", "train.test=never"],
    ],
    ids=lambda overrides: overrides[0][:40],
)  # fmt: skip
def test_every_component_with_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overrides: list[str]
) -> None:
    write_lambdas(tmp_path)
    monkeypatch.chdir(tmp_path)
    check(tmp_path, *overrides)


def test_a_run_that_diverges_does_so_at_the_same_step(tmp_path: Path) -> None:
    check(tmp_path, "optimizer.lr=0.5", "optimizer.momentum=0.99", "train.max_loss=2.5", code=3, step=1)


@pytest.mark.parametrize("step", [1, 7, 8, 20, 21])
def test_resuming_at_the_first_and_last_step_and_at_an_epoch_boundary(tmp_path: Path, step: int) -> None:
    check(tmp_path, step=step)


def small(tmp_path: Path, name: str, *overrides: str, code: int = 0) -> Path:
    folder = tmp_path / name
    train(write_tiny(tmp_path), *overrides, run_dir=folder, code=code)
    return folder


def refused(folder: Path, *overrides: str) -> str:
    """Return the error of `optlab resume`, which must not change the run."""
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "lock"}
    done = optlab("resume", folder, *overrides, "--quiet")
    assert done.code == 2, done.err
    assert "Traceback" not in done.err
    after = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "lock"}
    assert before == after
    return done.err


def test_a_finished_run_is_extended_to_the_longer_run(tmp_path: Path) -> None:
    schedule = "scheduler={name: StepLR, step_size: 1, gamma: 0.7}"
    longer = small(tmp_path, "longer", schedule, "train.epochs=3")
    extended = small(tmp_path, "extended", schedule)
    done = optlab("resume", extended, "train.epochs=3", "--quiet")
    assert done.code == 0, done.err
    assert differences(longer, extended) == []
    assert yaml.safe_load((extended / "config.yaml").read_text())["train"]["epochs"] == 3
    again = optlab("resume", extended, "--quiet")
    assert (again.code, "is finished: skipped" in again.err) == (0, True)


UNEVEN = {
    "plain": [],
    "plateau": ["scheduler={name: ReduceLROnPlateau, patience: 0, threshold: 0.9, factor: 0.5}"],
    "patience": ["train.early_stopping={patience: 2, min_delta: 0.5}", "optimizer.lr=0.001"],
    "lasting best": ["optimizer.lr=1.5", "optimizer.momentum=0.9", "train.select=val_loss"],
    "rhythm of checkpoints": ["train.checkpoint_every={steps: 5}", "log.histograms=true"],
}


def best_step(folder: Path) -> int:
    """Return the step of best.pt, which must agree with summary.json."""
    step: int = checkpoint.load_checkpoint(folder / "checkpoints" / "best.pt")["experiment"]["progress"][
        "step"
    ]
    assert step == json.loads((folder / "summary.json").read_text())["best"]["step"]
    return step


@pytest.mark.parametrize("name", UNEVEN)
def test_a_run_with_a_final_evaluation_outside_the_interval_equals_the_longer_run(
    tmp_path: Path, name: str
) -> None:
    """The run ends at step 10 with 7 steps per epoch, where a longer run has no evaluation."""
    longer = small(tmp_path, "longer", *UNEVEN[name], "train.epochs=2")
    extended = small(tmp_path, "extended", *UNEVEN[name], "train.epochs=null", "train.steps=10")
    assert rundir.load_run(extended).epochs["step"] == [0, 7, 10]
    if name == "lasting best":  # the longer run's best is that of step 7, which the end at step 10 replaced
        assert [best_step(longer), best_step(extended)] == [7, 10]
    done = optlab("resume", extended, "train.epochs=2", "train.steps=null", "--quiet")
    assert done.code == 0, done.err
    assert "discarding the former final evaluation at step 10" in done.err
    assert differences(longer, extended) == []


def test_the_last_evaluation_is_made_after_a_kill_before_it(tmp_path: Path) -> None:
    check(tmp_path, "train.epochs=null", "train.steps=10", "train.eval_every={epochs: 1}", step=10)


def test_a_final_evaluation_that_cannot_be_discarded_is_reported(tmp_path: Path) -> None:
    with mock.patch.object(Recorder, "save"):  # as if no checkpoint could be written
        folder = small(tmp_path, "run", "train.epochs=null", "train.steps=10")
    done = optlab("resume", folder, "train.steps=14", "--quiet")
    assert (done.code, "keeping the former final evaluation at step 10" in done.err) == (0, True)
    assert rundir.load_run(folder).epochs["step"] == [0, 7, 10, 14]


def test_more_patience_continues_a_run_that_stopped_early(tmp_path: Path) -> None:
    rule = "train.early_stopping={{patience: {}, min_delta: 0.5}}"
    rhythm = ["train.eval_every={steps: 2}", "train.epochs=2"]
    patient = small(tmp_path, "patient", rule.format(3), *rhythm)
    stopped = small(tmp_path, "stopped", rule.format(1), *rhythm)
    assert "stopped early" in refused(stopped, "train.epochs=4")
    assert optlab("resume", stopped, "train.early_stopping.patience=3", "--quiet").code == 0
    assert differences(patient, stopped) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["optimizer.lr=0.1"], "optimizer.0.lr: 0.05 in the existing run, 0.1 requested"),
        (["log.every=1"], "log.every: 2 in the existing run, 1 requested"),
        (["data.batch_size=16"], "data.batch_size: 32 in the existing run, 16 requested"),
        (["train.epochs=0.5"], "is already at step 7, and the run would end at step 4"),
        (["train.early_stopping={patience: 9}"], "train.early_stopping"),
        (["optimizer.lr=x"], "optimizer.lr"),
        (["nonsense=1"], "nonsense"),
    ],
)
def test_changes_that_affect_past_steps_are_refused(tmp_path: Path, changes: list[str], words: str) -> None:
    assert words in refused(small(tmp_path, "run"), *changes)


def test_a_schedule_keeps_the_length_derived_from_the_run(tmp_path: Path) -> None:
    folder = small(tmp_path, "run", "scheduler={name: CosineAnnealingLR, interval: step}")
    assert "scheduler.T_max depends on the run's length: 7 in the run, 14 now" in refused(
        folder, "train.epochs=2"
    )
    done = optlab("resume", folder, "train.epochs=2", "scheduler.T_max=7", "--quiet")
    assert done.code == 0, done.err


def test_a_diverged_run_cannot_be_resumed(tmp_path: Path) -> None:
    folder = small(tmp_path, "run", "optimizer.lr=1e30", code=3)
    assert "diverged" in refused(folder, "train.epochs=2")


def test_other_data_and_other_component_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("from torch.optim import SGD\nclass Mine(SGD):\n    pass\n")
    (tmp_path / "sub").mkdir()
    folder = small(tmp_path, "run", f"optimizer={{name: '{tmp_path}/mine.py:Mine', lr: 0.1}}")
    (tmp_path / "mine.py").write_text("from torch.optim import SGD\nclass Mine(SGD):\n    'changed'\n")
    message = refused(folder, "train.epochs=2")
    assert "mine.py: SHA-256 was" in message
    assert "components/mine.py" in message
    shutil.copy(folder / "components" / "mine.py", tmp_path / "mine.py")
    assert optlab("resume", folder, "train.epochs=2", "--quiet").code == 0

    around = folder / "environment.json"
    around.write_text(around.read_text().replace('"sha256": "', '"sha256": "0', 1))
    assert "data set is not the one" in refused(folder, "train.epochs=3")


def test_train_resume_starts_continues_and_skips(tmp_path: Path) -> None:
    config, folder, stopped = write_tiny(tmp_path), tmp_path / "run", tmp_path / "stopped"
    command = ["train", config, "train.epochs=2", "--resume", "--quiet", "--run-dir"]
    with copied_at(8, stopped):
        assert optlab(*command, folder).code == 0
    assert optlab(*command, stopped).code == 0
    assert differences(folder, stopped) == []
    assert "skipped" in optlab(*command, folder).err
    config.write_text(config.read_text().replace("lr: 0.05", "lr: 0.01"))
    done = optlab(*command, folder)
    assert (done.code, "0.05 in the existing run, 0.01 requested" in done.err) == (2, True)
    assert optlab("train", config, "--resume", "--force").code == 2


def test_resume_refuses_a_folder_that_is_not_a_run(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "absent"):
        done = optlab("resume", folder)
        assert (done.code, "not a run directory" in done.err) == (2, True)


def test_a_users_folder_is_never_emptied(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("x")
    for option in ("--force", "--quiet", "--resume", "--skip-existing"):
        done = optlab("train", write_tiny(tmp_path), "--run-dir", tmp_path / "home", option)
        assert (done.code, "not a run's" in done.err) == (2, True)
    assert [path.name for path in (tmp_path / "home").iterdir()] == ["thesis.tex"]


def test_changes_in_a_schedules_own_function_are_detected(tmp_path: Path) -> None:
    write_lambdas(tmp_path)
    own = f"{tmp_path}/lambdas.py:shrink"
    folder = small(tmp_path, "run", f"scheduler={{name: LambdaLR, lr_lambda: '{own}'}}")
    with open(tmp_path / "lambdas.py", "a") as file:
        file.write("# changed\n")
    assert "lambdas.py: SHA-256 was" in refused(folder, "train.epochs=2")


def test_skip_existing_resumes_interrupted_runs(tmp_path: Path) -> None:
    config, folder, stopped = write_tiny(tmp_path), tmp_path / "run", tmp_path / "stopped"
    settings = ["train.epochs=2", "train.checkpoint_every=1"]
    command = ["train", config, *settings, "--quiet", "--json", "--run-dir"]
    with copied_at(8, stopped):
        assert optlab(*command, folder).code == 0
    other = optlab(*command, stopped, "--skip-existing", "log.gradients=true")
    assert (other.code, "log.gradients: False in the existing run" in other.err) == (2, True)
    done = optlab(*command, stopped, "--skip-existing")
    assert (done.code, done.json["skipped"]) == (0, False), done.err
    assert "resuming after step" in (stopped / "train.log").read_text()
    assert differences(folder, stopped) == []
    assert optlab(*command, stopped, "--skip-existing").json["skipped"] is True


@pytest.mark.parametrize(("options", "steps"), [([], [0, 14]), (["train.checkpoint_every=1"], [0, 7, 14])])
def test_evaluations_save_at_most_once_per_second_by_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], steps: list[int]
) -> None:
    saved: list[int] = []

    def put(writer: checkpoint.Writer, path: Path, state: dict[str, Any], **others: Any) -> None:
        saved.extend([state["experiment"]["progress"]["step"]] * (path.name == checkpoint.LAST))

    monkeypatch.setattr(checkpoint.Writer, "put", put)
    monkeypatch.setattr(recorder, "_MIN_SAVE_SECONDS", math.inf)  # of a run that takes less than a second
    settings = ["train.epochs=2", "train.test=never", *options, "--quiet", "--run-dir"]
    assert optlab("train", write_tiny(tmp_path), *settings, tmp_path / "run").code == 0
    assert saved == steps
