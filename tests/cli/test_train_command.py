"""`optlab train` as a command: the files of a run, and the effect of the training options."""

from __future__ import annotations

import hashlib
import json
import math
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from command import TINY, column, optlab, rows, train, write_tiny

LAST_STEP = "7"  # 200 samples in batches of 32
POSITION = ["step", "epoch", "samples", "grad_evals", "train_seconds"]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("configs"))


@pytest.fixture(scope="module")
def plain(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the tiny config, two epochs, with its figures."""
    folder = tmp_path_factory.mktemp("plain") / "run"
    train(config, "train.epochs=2", "log.plots=[png]", run_dir=folder)
    return folder


def losses(folder: Path) -> list[str]:
    return column(folder / "steps.csv", "loss")


# ---- the run directory


def test_a_run_directory_holds_what_it_promises(plain: Path) -> None:
    there = {str(path.relative_to(plain)) for path in plain.rglob("*") if path.is_file()}
    assert there >= {
        "config.yaml",
        "environment.json",
        "lock",
        "status.json",
        "steps.csv",
        "epochs.csv",
        "summary.json",
        "train.log",
        "plots/loss.png",
        "plots/loss_logx.png",
        "plots/accuracy.png",
        "plots/lr.png",
        "checkpoints/last.pt",
        "checkpoints/best.pt",
    }
    assert not [name for name in there if "tmp" in name]


def test_steps_csv_has_the_first_step_and_every_second_one(plain: Path) -> None:
    found = rows(plain / "steps.csv")
    assert list(found[0]) == [*POSITION, "loss", "lr"]
    assert [int(row["step"]) for row in found] == [1, 2, 4, 6, 8, 10, 12, 14]
    assert [int(row["samples"]) for row in found] == [32, 64, 128, 192, 232, 296, 360, 400]
    assert [float(row["epoch"]) for row in found] == [round(n / 7, 6) for n in (1, 2, 4, 6, 8, 10, 12, 14)]
    assert {row["lr"] for row in found} == {"0.05"}
    seconds = [float(row["train_seconds"]) for row in found]
    assert seconds == sorted(seconds)
    # Ten classes, and weights that know nothing: the first loss is near log 10.
    assert float(found[0]["loss"]) == pytest.approx(math.log(10), abs=0.2)


def test_epochs_csv_begins_before_training(plain: Path) -> None:
    found = rows(plain / "epochs.csv")
    assert list(found[0]) == [*POSITION, "train_loss", "train_accuracy", "val_loss", "val_accuracy"]
    assert [(row["step"], row["epoch"]) for row in found] == [("0", "0.0"), ("7", "1.0"), ("14", "2.0")]
    assert found[0]["train_loss"] == ""
    assert found[0]["train_seconds"] == "0.0"
    assert all(0 <= float(row["val_accuracy"]) <= 1 for row in found)


def test_train_loss_is_the_sample_weighted_mean_over_the_epoch(config: Path, tmp_path: Path) -> None:
    train(config, "log.every=1", run_dir=tmp_path / "run")
    steps = rows(tmp_path / "run/steps.csv")
    sizes = [32] * 6 + [8]
    mean = sum(size * float(row["loss"]) for size, row in zip(sizes, steps, strict=True)) / sum(sizes)
    assert float(column(tmp_path / "run/epochs.csv", "train_loss")[1]) == pytest.approx(mean, rel=1e-6)


def test_status_and_summary_agree_with_the_tables(plain: Path) -> None:
    status = json.loads((plain / "status.json").read_text())
    assert (status["format"], status["status"]) == (1, "completed")
    assert status["started"] <= status["ended"]
    summary = json.loads((plain / "summary.json").read_text())
    assert summary["format"] == 1
    assert summary["status"] == "completed"
    assert (summary["steps"], summary["epochs"], summary["samples"], summary["grad_evals"]) == (
        14,
        2,
        400,
        14,
    )
    assert summary["parameters"] == 64 * 16 + 16 + 16 * 10 + 10
    last = rows(plain / "epochs.csv")[-1]
    for name, value in summary["final"]["values"].items():
        assert value == float(last[name])
    accuracies = [float(cell) for cell in column(plain / "epochs.csv", "val_accuracy")][1:]
    assert summary["best"]["values"]["val_accuracy"] == max(accuracies)
    assert summary["best"]["step"] == 7 * (1 + accuracies.index(max(accuracies)))
    assert summary["best_metric"] == "val_accuracy"
    assert summary["test"]["checkpoint"] == "best"
    assert summary["test"]["step"] == summary["best"]["step"]
    assert 0 <= summary["test"]["accuracy"] <= 1
    assert summary["train_seconds"] <= summary["total_seconds"]


@pytest.mark.parametrize("hidden", ["[100]", "[4000, 100]"])
def test_the_saved_config_gives_the_same_bits(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hidden: str
) -> None:
    """The initial weights come from a decomposition whose last bits depend on the number of threads."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    short = ["train.threads=auto", "init={weight: {name: orthogonal_}}", "train.steps=2", "train.epochs=null"]
    train(config, *short, f"model.hidden={hidden}", "data.normalize=dataset", run_dir=tmp_path / "first")
    train(tmp_path / "first/config.yaml", run_dir=tmp_path / "again")
    first, again = (
        torch.load(tmp_path / name / "checkpoints/last.pt", weights_only=True)["experiment"]["model"]
        for name in ("first", "again")
    )
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_the_saved_config_is_complete_and_resolved(plain: Path) -> None:
    saved = yaml.safe_load((plain / "config.yaml").read_text())
    assert saved["format"] == 1
    assert saved["train"]["device"] == ("cuda:0" if torch.cuda.is_available() else "cpu")
    assert saved["train"]["threads"] == 1
    assert saved["optimizer"]["momentum"] == 0
    assert {saved["optimizer"]["fused"], saved["optimizer"]["foreach"]} <= {True, False}
    assert saved["data"]["split_seed"] == 0
    assert saved["model"] == {
        "name": "mlp",
        "output": None,
        "hidden": [16],
        "activation": "relu",
        "dropout": 0.0,
        "batch_norm": False,
    }


def test_the_environment_names_versions_device_data_and_command(plain: Path) -> None:
    around = json.loads((plain / "environment.json").read_text())
    assert around["versions"]["torch"] == metadata.version("torch")
    assert around["command"][:2] == ["optlab", "train"]
    assert around["data"]["name"] == "digits"
    assert len(around["data"]["sha256"]) == 64


def test_checkpoints_are_read_with_weights_only(plain: Path) -> None:
    last = torch.load(plain / "checkpoints/last.pt", weights_only=True)
    best = torch.load(plain / "checkpoints/best.pt", weights_only=True)
    assert last["format"] == best["format"] == 1
    assert last["experiment"]["progress"]["step"] == 14
    assert set(last["experiment"]["model"]) == {
        "hidden1.weight",
        "hidden1.bias",
        "output.weight",
        "output.bias",
    }
    assert {"optimizers", "schedules", "scaler", "random"} <= set(last["experiment"])


def test_the_saved_config_trains_to_the_same_numbers(plain: Path, tmp_path: Path) -> None:
    train(plain / "config.yaml", run_dir=tmp_path / "again")
    assert losses(tmp_path / "again") == losses(plain)
    again, first = rows(tmp_path / "again/epochs.csv"), rows(plain / "epochs.csv")
    for row in (*again, *first):
        row.pop("train_seconds")
    assert again == first
    assert (tmp_path / "again/config.yaml").read_text() == (plain / "config.yaml").read_text()


# ---- seeds


def test_the_same_seed_gives_the_same_run_and_another_seed_another(config: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        train(config, f"seed={seed}", run_dir=tmp_path / name)
    assert losses(tmp_path / "a") == losses(tmp_path / "b")
    assert losses(tmp_path / "a")[0] != losses(tmp_path / "c")[0]


def test_every_optimizer_starts_from_the_same_weights_and_batches(config: Path, tmp_path: Path) -> None:
    for name in ("SGD", "Adam", "Rprop", "LBFGS"):
        train(config, f"optimizer={{name: {name}}}", run_dir=tmp_path / name)
    first = [rows(tmp_path / name / "steps.csv")[0]["loss"] for name in ("SGD", "Adam", "Rprop", "LBFGS")]
    before = [
        rows(tmp_path / name / "epochs.csv")[0]["val_loss"] for name in ("SGD", "Adam", "Rprop", "LBFGS")
    ]
    assert len(set(first)) == len(set(before)) == 1


def test_seed_streams_are_apart(config: Path, tmp_path: Path) -> None:
    train(config, run_dir=tmp_path / "0")
    train(config, "seed={init: 0, batches: 1, augmentation: 0, dropout: 0}", run_dir=tmp_path / "batches")
    train(config, "seed={init: 1, batches: 0, augmentation: 0, dropout: 0}", run_dir=tmp_path / "init")
    train(config, "seed={init: 0, batches: 0, augmentation: 9, dropout: 9}", run_dir=tmp_path / "unused")
    start = {name: column(tmp_path / name / "epochs.csv", "val_loss")[0] for name in ("0", "batches", "init")}
    assert start["0"] == start["batches"] != start["init"]
    assert losses(tmp_path / "0") != losses(tmp_path / "batches")
    assert losses(tmp_path / "0") == losses(tmp_path / "unused")


# ---- how a run ends


@pytest.mark.parametrize("overrides", [("optimizer.lr=1e38",), ("optimizer.lr=1e6", "train.max_loss=1000")])
def test_divergence_is_an_outcome(overrides: tuple[str, ...], config: Path, tmp_path: Path) -> None:
    result = train(config, *overrides, "train.epochs=3", run_dir=tmp_path / "run", code=3)
    assert result["status"] == "diverged"
    assert result["steps"] == 2
    assert result["test"] is None
    assert json.loads((tmp_path / "run/status.json").read_text())["status"] == "diverged"
    last = rows(tmp_path / "run/steps.csv")[-1]
    assert not float(last["loss"]) <= 1000
    assert rows(tmp_path / "run/epochs.csv")[-1]["step"] == "2"
    # A diverged run is a finished one: it is neither trained again nor overwritten.
    done = optlab(
        "train", config, *overrides, "train.epochs=3", "--run-dir", tmp_path / "run", "--skip-existing"
    )
    assert done.code == 3
    assert "skipped" in done.err


def test_early_stopping_ends_after_its_patience(config: Path, tmp_path: Path) -> None:
    overrides = (
        "optimizer.lr=1e-12",
        "train.early_stopping={patience: 2, min_delta: 1e-3}",
        "train.epochs=9",
    )
    result = train(config, *overrides, run_dir=tmp_path / "run")
    assert (result["status"], result["steps"]) == ("early_stopped", 14)
    assert "val_loss" in result["message"]
    assert result["test"] is not None


def test_without_validation_the_test_is_taken_at_the_end(config: Path, tmp_path: Path) -> None:
    result = train(config, "data.val_size=0", run_dir=tmp_path / "run")
    assert result["best"] is None
    assert result["test"]["checkpoint"] == "final"
    assert list(rows(tmp_path / "run/epochs.csv")[0]) == [*POSITION, "train_loss", "train_accuracy"]
    assert not (tmp_path / "run/checkpoints/best.pt").exists()


def test_the_test_split_can_be_left_unread(config: Path, tmp_path: Path) -> None:
    assert train(config, "train.test=never", run_dir=tmp_path / "run")["test"] is None


@pytest.mark.parametrize(
    ("overrides", "steps", "evaluated"),
    [
        (("train.steps=3",), 3, ["0", "3"]),
        (("train.epochs=1.5",), 11, ["0", "7", "11"]),
        (("train.eval_every={steps: 3}",), 7, ["0", "3", "6", "7"]),
        (("train.eval_every=0.5",), 7, ["0", "4", "7"]),
        (("train.epochs=3", "train.eval_every=2"), 21, ["0", "14", "21"]),
        (("train.accumulate=2",), 4, ["0", "4"]),
        (("data.batch_size=full",), 1, ["0", "1"]),
        (("data.drop_last=true",), 6, ["0", "6"]),
        (("data.repeat=3",), 19, ["0", "19"]),
        (("data.limit=null",), 44, ["0", "44"]),
        (("data.val_size=0.5", "data.limit=null"), 24, ["0", "24"]),
    ],
)
def test_lengths_and_rhythms(
    overrides: tuple[str, ...], steps: int, evaluated: list[str], config: Path, tmp_path: Path
) -> None:
    result = train(config, *overrides, run_dir=tmp_path / "run")
    assert result["steps"] == steps
    assert column(tmp_path / "run/epochs.csv", "step") == evaluated


def test_a_time_budget_ends_the_run(config: Path, tmp_path: Path) -> None:
    result = train(config, "train.epochs=null", "train.seconds=0.05", run_dir=tmp_path / "run")
    assert result["status"] == "completed"
    assert result["train_seconds"] >= 0.05
    assert column(tmp_path / "run/epochs.csv", "step")[-1] == str(result["steps"])


# ---- what the loop's options do


@pytest.mark.parametrize(
    "override",
    [
        "train.accumulate=2",
        "train.clip_grad_norm=0.1",
        "train.clip_grad_value=0.01",
        "train.zero_grad=never",
        "train.precision=bfloat16",
        "train.precision=float16",
        "data.shuffle=never",
        "data.normalize=dataset",
        "data.normalize={mean: [0.5], std: [0.5]}",
        "data.pad=1",
        "data.resize=6",
        "data.split_seed=1",
        "data.val_from=end",
        "data.augment=[{name: random_crop, padding: 1}]",
        "loss.l1=0.1",
        "loss.l2=0.1",
        "init={weight: orthogonal_, bias: zeros_}",
        "init={layers: [{match: output*, weight: zeros_}]}",
    ],
)
def test_an_option_changes_the_numbers(override: str, plain: Path, config: Path, tmp_path: Path) -> None:
    train(config, override, "train.epochs=2", run_dir=tmp_path / "run")
    assert losses(tmp_path / "run") != losses(plain)
    assert all(math.isfinite(float(loss)) for loss in losses(tmp_path / "run"))


@pytest.mark.parametrize(
    "override",
    [
        "train.eval_train=true",
        "train.eval_every={steps: 2}",
        "train.checkpoint_every={steps: 1}",
        "train.test=never",
        "train.select=val_loss",
        "train.deterministic=true",
        "train.early_stopping={patience: 50}",
        "log.gradients=true",
        "log.histograms=true",
        "data.eval_batch_size=7",
    ],
)
def test_looking_at_a_run_does_not_change_it(
    override: str, plain: Path, config: Path, tmp_path: Path
) -> None:
    """Also with dropout, whose masks come from the generator that evaluation could have used."""
    for name, extra in (("with", (override,)), ("without", ())):
        train(config, "model.dropout=0.5", *extra, run_dir=tmp_path / name)
    assert losses(tmp_path / "with") == losses(tmp_path / "without") != losses(plain)[:4]


def test_shuffle_once_repeats_its_order_and_each_epoch_does_not(config: Path, tmp_path: Path) -> None:
    # lr 0: the loss of a batch tells which samples are in it.
    for shuffle in ("each_epoch", "once", "never"):
        overrides = ("optimizer.lr=0.0", "train.epochs=2", "log.every=1", f"data.shuffle={shuffle}")
        train(config, *overrides, run_dir=tmp_path / shuffle)
    found = {name: losses(tmp_path / name) for name in ("each_epoch", "once", "never")}
    assert found["each_epoch"][:7] != found["each_epoch"][7:]
    assert found["once"][:7] == found["once"][7:] == found["each_epoch"][:7]
    assert found["never"][:7] == found["never"][7:] != found["once"][:7]


def test_accumulating_two_batches_of_16_is_one_of_32(config: Path, tmp_path: Path) -> None:
    train(config, "data.batch_size=16", "train.accumulate=2", run_dir=tmp_path / "two")
    train(config, run_dir=tmp_path / "one")
    two, one = losses(tmp_path / "two"), losses(tmp_path / "one")
    assert [float(loss) for loss in two] == pytest.approx([float(loss) for loss in one], rel=1e-5)
    assert column(tmp_path / "two/steps.csv", "grad_evals")[-1] == "12"


def test_gradient_norms_penalty_and_their_columns(config: Path, tmp_path: Path) -> None:
    train(config, "log.gradients=true", "loss.l2=0.5", run_dir=tmp_path / "run")
    found = rows(tmp_path / "run/steps.csv")
    parts = ["hidden1.weight", "hidden1.bias", "output.weight", "output.bias"]
    norms = [f"grad_norm.{name}" for name in parts]
    assert list(found[0]) == [*POSITION, "loss", "lr", "penalty", "grad_norm", *norms]
    for row in found:
        assert float(row["grad_norm"]) == pytest.approx(math.hypot(*(float(row[n]) for n in norms)), rel=1e-5)
        assert float(row["penalty"]) > 0


def test_histograms_are_written_and_drawn(config: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    train(config, "log.histograms=true", "log.plots=[svg]", run_dir=folder)
    kept = json.loads((folder / "histograms.json").read_text())
    assert [moment["step"] for moment in kept["moments"]] == [0, 7]
    assert sum(kept["moments"][0]["layers"]["hidden1.weight"]["counts"]) == 64 * 16
    drawn = {path.name for path in (folder / "plots").iterdir()}
    assert {"init_histograms.svg", "histograms.svg", "loss.svg"} <= drawn


def test_learning_rates_of_several_optimizers_and_groups(config: Path, tmp_path: Path) -> None:
    text = TINY.replace(
        "optimizer:\n  name: SGD\n  lr: 0.05\n",
        "optimizer:\n"
        "  - {name: Muon, label: muon, match: {ndim: 2}, lr: 0.02}\n"
        "  - name: AdamW\n"
        "    label: adamw\n"
        "    lr: 0.01\n"
        '    groups: [{match: "output*", label: head, lr: 0.001}]\n',
    ).replace("scheduler: null", "scheduler: {name: StepLR, step_size: 2, gamma: 0.5, interval: step}")
    train(write_tiny(tmp_path, text), run_dir=tmp_path / "run")
    found = rows(tmp_path / "run/steps.csv")
    assert list(found[0])[6:] == ["lr.muon", "lr.adamw.head", "lr.adamw.rest"]
    start = {"lr.muon": 0.02, "lr.adamw.head": 0.001, "lr.adamw.rest": 0.01}
    for row in found:
        for name, lr in start.items():
            assert float(row[name]) == pytest.approx(lr * 0.5 ** ((int(row["step"]) - 1) // 2))
    # Addressed by label from the command line.
    train(tmp_path / "tiny.yaml", "optimizer.muon.lr=0.5", run_dir=tmp_path / "other")
    assert rows(tmp_path / "other/steps.csv")[0]["lr.muon"] == "0.5"


def test_lbfgs_counts_every_evaluation_of_the_gradient(config: Path, tmp_path: Path) -> None:
    overrides = (
        "optimizer={name: LBFGS, lr: 0.1, max_iter: 4}",
        "model.dropout=0.2",
        "train.clip_grad_norm=1.0",
    )
    result = train(config, *overrides, run_dir=tmp_path / "run")
    assert result["steps"] == 7
    assert 7 < result["grad_evals"] <= 7 * 5


# ---- users' own parts and data

OWN = '''\
import torch
from torch import nn
from torch.nn import functional


class Damped(torch.optim.SGD):
    """SGD that divides its learning rate by `damping`."""

    def __init__(self, params, lr: float = 0.1, damping: float = 1.0):
        super().__init__(params, lr=lr / damping)


class Net(nn.Module):
    def __init__(self, input_shape, num_classes, width: int = 8):
        super().__init__()
        self.first = nn.Linear(input_shape[0] * input_shape[1] * input_shape[2], width)
        self.last = nn.Linear(width, num_classes)

    def forward(self, images):
        return self.last(torch.tanh(self.first(images.flatten(1))))


def loss(outputs, targets, scale: float = 1.0):
    return scale * functional.cross_entropy(outputs, targets)


def make_loss(scale: float = 1.0):
    return lambda outputs, targets: scale * functional.cross_entropy(outputs, targets)


class Halving(torch.optim.lr_scheduler.LRScheduler):
    def get_lr(self):
        return [base * 0.5**self.last_epoch for base in self.base_lrs]


def factor(step):
    return 0.5**step
'''


def test_users_own_files_beside_the_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/own.py").write_text(OWN)
    text = TINY.replace("name: mlp\n  hidden: [16]", "name: own.py:Net\n  width: 12")
    text = text.replace("loss: cross_entropy", "loss: {name: own.py:loss, scale: 2.0}")
    text = text.replace("name: SGD\n  lr: 0.05", "name: own.py:Damped\n  lr: 0.1\n  damping: 2.0")
    text = text.replace("scheduler: null", "scheduler: {name: own.py:Halving, interval: step}")
    config = write_tiny(tmp_path / "configs", text)
    monkeypatch.chdir(tmp_path)  # not where the files are
    result = train(config, run_dir=tmp_path / "run")
    assert result["parameters"] == 64 * 12 + 12 + 12 * 10 + 10
    lrs = [float(cell) for cell in column(tmp_path / "run/steps.csv", "lr")]
    assert lrs == pytest.approx([0.05, 0.025, 0.05 / 2**3, 0.05 / 2**5])
    assert float(losses(tmp_path / "run")[0]) == pytest.approx(2 * math.log(10), abs=0.4)

    # The same by a function that makes the loss and by LambdaLR, and from the command line.
    monkeypatch.chdir(tmp_path / "configs")
    other = ("loss={name: own.py:make_loss, scale: 2.0}",)
    other += ("scheduler={name: LambdaLR, lr_lambda: own.py:factor, interval: step}",)
    train(config, *other, run_dir=tmp_path / "other")
    assert losses(tmp_path / "other") == losses(tmp_path / "run")

    copied = json.loads((tmp_path / "run/environment.json").read_text())["components"]
    assert len(copied) == 1
    copy = tmp_path / "run" / copied[0]["copy"]
    assert copy.read_text() == OWN
    assert hashlib.sha256(copy.read_bytes()).hexdigest() == copied[0]["sha256"]
    train(tmp_path / "run/config.yaml", run_dir=tmp_path / "again")
    assert losses(tmp_path / "again") == losses(tmp_path / "run")


def test_torchs_own_by_import_path(config: Path, tmp_path: Path) -> None:
    train(config, "optimizer={name: 'torch.optim:Adam', lr: 0.01}", run_dir=tmp_path / "path")
    train(config, "optimizer={name: Adam, lr: 0.01}", run_dir=tmp_path / "name")
    assert losses(tmp_path / "path") == losses(tmp_path / "name")
    train(config, "loss={name: 'torch.nn.functional:cross_entropy'}", run_dir=tmp_path / "loss")
    train(config, run_dir=tmp_path / "plain")
    assert losses(tmp_path / "loss") == losses(tmp_path / "plain")


def test_real_targets_have_no_accuracy(tmp_path: Path) -> None:
    import numpy as np

    rng = np.random.default_rng(0)
    x = rng.normal(size=(120, 5)).astype(np.float32)
    y = (x @ rng.normal(size=(5, 2))).astype(np.float32)
    np.savez(tmp_path / "own.npz", x_train=x[:100], y_train=y[:100], x_test=x[100:], y_test=y[100:])
    text = TINY.replace("name: digits", "name: npz\n  path: own.npz").replace("limit: 200", "limit: null")
    text = text.replace("val_size: 100", "val_size: 20").replace("cross_entropy", "mse")
    result = train(write_tiny(tmp_path, text), "model=linear", "train.epochs=30", run_dir=tmp_path / "run")
    assert list(rows(tmp_path / "run/epochs.csv")[0])[5:] == ["train_loss", "val_loss"]
    assert result["best_metric"] == "val_loss"
    values = [float(cell) for cell in column(tmp_path / "run/epochs.csv", "val_loss")]
    assert values[-1] < 0.1 * values[0]


def test_folders_of_images(tmp_path: Path) -> None:
    from PIL import Image

    for place in ("train/dark", "train/light", "test/dark", "test/light"):
        (tmp_path / "images" / place).mkdir(parents=True)
        for number in range(10):
            shade = 3 * number + (180 if place.endswith("light") else 10)
            Image.new("RGB", (9, 8), (shade, shade, 30)).save(tmp_path / "images" / place / f"{number}.png")
    text = TINY.replace("name: digits", "name: image_folder\n  path: images\n  size: 8")
    text = text.replace("limit: 200", "limit: null").replace("val_size: 100", "val_size: 0")
    overrides = ("data.batch_size=4", "train.epochs=20")
    result = train(write_tiny(tmp_path, text), *overrides, run_dir=tmp_path / "run")
    assert result["test"]["accuracy"] == 1
    assert result["parameters"] == 3 * 64 * 16 + 16 + 16 * 2 + 2


@pytest.mark.real_data
def test_cifar_from_an_npz_file(cifar_npz: Path, tmp_path: Path) -> None:
    text = TINY.replace("name: digits", f"name: npz\n  path: {cifar_npz}")
    overrides = ("model={name: cnn}", "train.steps=2", "train.test=never")
    result = train(write_tiny(tmp_path, text), *overrides, run_dir=tmp_path / "run")
    assert result["steps"] == 2


# ---- where a run goes


def test_run_directories_are_named_by_overrides_and_seed(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def where(*arguments: str) -> str:
        done = optlab("train", config, *arguments, "--quiet", "--json")
        assert done.code == 0, done.err
        return str(done.json["run"])

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OPTLAB_RUNS", raising=False)
    assert where() == "runs/tiny/seed=0"
    assert where("optimizer.lr=0.1", "seed=2") == "runs/tiny/lr=0.1,seed=2"
    assert where("name=other", "--runs", "elsewhere") == "elsewhere/other/seed=0"
    monkeypatch.setenv("OPTLAB_RUNS", "environment")
    assert where() == "environment/tiny/seed=0"
    assert where("--run-dir", "exactly/here") == "exactly/here"
    # The number of threads says how, not what: the same name, and a finished run of it is left alone.
    again = optlab("train", config, "train.threads=1", "--skip-existing", "--json")
    assert again.code == 0
    assert again.json["skipped"] is True
    assert again.json["run"] == "environment/tiny/seed=0"


def test_force_throws_a_run_away_and_skip_existing_trains_what_is_unfinished(
    config: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    train(config, "train.steps=2", run_dir=folder)
    (folder / "plots/mine.png").write_text("the user's own")
    (folder / "plots/lr.png").write_text("of the run that is thrown away")
    assert optlab("train", config, "--run-dir", folder, "--quiet", "--force").code == 0
    assert (folder / "plots/mine.png").read_text() == "the user's own"
    assert not (folder / "plots/lr.png").exists()
    assert rows(folder / "epochs.csv")[-1]["step"] == LAST_STEP
    status = json.loads((folder / "status.json").read_text())
    (folder / "status.json").write_text(json.dumps(status | {"status": "failed"}))
    done = optlab("train", config, "--run-dir", folder, "--quiet", "--skip-existing", "--json")
    assert (done.code, done.json["skipped"]) == (0, False)


def test_a_dry_run_tells_and_writes_nothing(config: Path, tmp_path: Path) -> None:
    groups = 'optimizer.groups=[{match: "*.bias", label: biases, weight_decay: 0.0}]'
    done = optlab("train", config, groups, "--runs", tmp_path / "runs", "--dry-run")
    assert done.code == 0
    assert not (tmp_path / "runs").exists()
    config_text, _, plan = done.out.partition("# plan")
    shown = yaml.safe_load(config_text)
    assert shown["optimizer"]["lr"] == 0.05
    for words in ("seed=0", "1,210", "SGD/biases: 2 tensors, 26 parameters", "SGD/rest: 2 tensors, 1,184"):
        assert words in plan
    steps = [line for line in plan.splitlines() if line.strip().startswith("steps")]
    assert steps[0].split()[-1] == LAST_STEP


def test_progress_goes_to_stderr_and_json_to_stdout(config: Path, tmp_path: Path) -> None:
    done = optlab("train", config, "--run-dir", tmp_path / "run", "--json")
    assert done.json["status"] == "completed"
    lines = done.err.splitlines()
    assert "digits" in lines[0]
    assert "SGD lr=0.05" in lines[0]
    assert [line.split()[0] for line in lines[2:4]] == ["0", "1"]
    assert "\x1b" not in done.err
    quiet = optlab("train", config, "--run-dir", tmp_path / "quiet", "--quiet")
    assert quiet.err == ""
    assert "completed" in quiet.out


def test_a_failure_in_the_middle_is_recorded(config: Path, tmp_path: Path, monkeypatch: Any) -> None:
    from trainer.training.experiment import Experiment

    def breaks(self: Experiment) -> None:
        if self.progress.step == 4:
            raise MemoryError("no more")

    monkeypatch.setattr(Experiment, "step_schedules", breaks)
    done = optlab("train", config, "--run-dir", tmp_path / "run", "--quiet")
    assert (done.code, "MemoryError: no more" in done.err, "Traceback" in done.err) == (1, True, False)
    status = json.loads((tmp_path / "run/status.json").read_text())
    assert status["status"] == "failed"
    assert "no more" in status["message"]
    assert "Traceback" in (tmp_path / "run/train.log").read_text()
    assert column(tmp_path / "run/steps.csv", "step") == ["1", "2"]


def test_train_ends_with_its_figures_and_a_command_to_go_on_with(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    first = optlab("train", config, "log.plots=[png]")
    assert "figures  runs/tiny/seed=0/plots" in first.out
    assert first.err.endswith(f"train it with another seed: optlab train {config} 'log.plots=[png]' seed=1\n")
    second = optlab("train", config, "seed=1")
    assert "figures" not in second.out
    assert second.err.endswith("compare it with the runs beside it: optlab compare runs/tiny\n")
    assert "optlab" not in optlab("train", config, "seed=2", "--quiet").err


def test_a_run_that_cannot_be_compiled_says_so_without_a_progress_display(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    run = tmp_path / "run"
    done = optlab("train", write_tiny(tmp_path), "train.engine=compiled", "--quiet", "--run-dir", run)
    assert done.code == 0, done.err
    assert f"{run}: the steps run eager: there is no C++ compiler" in done.err
