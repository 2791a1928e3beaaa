"""Invalid user input gives one error message with its location, exit code 2 and no run directory."""

from __future__ import annotations

import errno
import io
import shutil
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from command import TINY, Done, optlab, write_tiny
from PIL import Image

from trainer.runs import rundir


class Case(NamedTuple):
    """An invalid input and what its error message must contain."""

    name: str
    says: tuple[str, ...]
    old: str = ""
    new: str = ""
    overrides: tuple[str, ...] = ()
    files: dict[str, str] = {}  # noqa: RUF012 (never changed)


def refused(folder: Path, *arguments: str | Path) -> Done:
    """Run `optlab train` in a folder and check what all rejections have in common."""
    done = optlab("train", *arguments, "--runs", folder / "runs", "--quiet")
    assert done.code == 2, done
    assert done.out == ""
    assert "Traceback" not in done.err
    assert done.err.startswith("error: ")
    assert not (folder / "runs").exists(), "a run directory was made"
    return done


def check(case: Case, tmp_path: Path) -> None:
    assert case.old in TINY
    config = write_tiny(tmp_path, TINY.replace(case.old, case.new) if case.old else TINY + case.new)
    for name, text in case.files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    done = refused(tmp_path, config, *case.overrides)
    for words in case.says:
        assert words in done.err, f"{words!r} is not in:\n{done.err}"


def cases(*found: Case) -> Any:
    return pytest.mark.parametrize("case", found, ids=[case.name for case in found])


@cases(
    Case("unknown section", ("tiny.yaml:22: optimiser", "did you mean 'optimizer'?"), new="optimiser: SGD\n"),
    Case("unknown key", ("tiny.yaml:18: train.thread", "'threads'?"), "threads: 1", "thread: 1"),
    Case("unknown option", ("tiny.yaml:10: model.hiden", "did you mean 'hidden'?"), "hidden:", "hiden:"),
    Case("unknown optimizer", ("tiny.yaml:13: optimizer.name", "'SGD'?", "AdamW"), "name: SGD", "name: SDG"),
    Case("unknown model", ("tiny.yaml:9: model.name", "did you mean 'mlp'?"), "name: mlp", "name: mlpp"),
    Case(
        "unknown data set",
        ("tiny.yaml:4: data.name", "'digits'?", "image_folder"),
        "name: digits",
        "name: d1gits",
    ),
    Case("unknown loss", ("tiny.yaml:11: loss", "'cross_entropy'?"), "cross_entropy", "crossentropy"),
    Case("text for a number", ("tiny.yaml:14: optimizer.lr: got 'fast'", "a number"), "0.05", "fast"),
    Case("number for a list", ("tiny.yaml:10: model.hidden", "a list"), "[16]", "16"),
    Case("text for a section", ("tiny.yaml:16: train", "a mapping"), "\n  epochs: 1\n  threads: 1", " yes"),
    Case("lr below 0", ("tiny.yaml:14: optimizer.lr", "-0.05"), "0.05", "-0.05"),
    Case("lr not a number", ("tiny.yaml:14: optimizer.lr: got nan", "finite"), "0.05", ".nan"),
    Case("epochs 0", ("tiny.yaml:17: train.epochs: got 0", "above 0"), "epochs: 1", "epochs: 0"),
    Case("dropout above 1", ("tiny.yaml:11: model.dropout: got 1.5",), "[16]", "[16]\n  dropout: 1.5"),
    Case("momentum below 0", ("tiny.yaml:15: optimizer.momentum",), "0.05", "0.05\n  momentum: -1.0"),
    Case(
        "momentum without meaning",
        ("tiny.yaml:14: optimizer.momentum: unknown key",),
        "name: SGD",
        "name: Adam\n  momentum: 0.9",
    ),
    Case(
        "nesterov without momentum",
        ("tiny.yaml:15: optimizer.nesterov: SGD: ", "optlab show optimizer SGD"),
        "0.05",
        "0.05\n  nesterov: true",
    ),
    Case("YAML syntax", ("tiny.yaml:11: this is not YAML",), "[16]", "[16"),
    Case("tab", ("tiny.yaml:14: this is not YAML", "indent with spaces"), "  lr: 0.05", "\tlr: 0.05"),
    Case("duplicate key", ("tiny.yaml:15: the key 'lr'", "line 14"), "lr: 0.05", "lr: 0.05\n  lr: 0.1"),
    Case("a tag", ("tiny.yaml:22: unknown tag",), new="x: !!python/object:os.system {}\n"),
    Case(
        "missing base", ("tiny.yaml:1: base: there is no file", "nope.yaml"), "name: tiny", "base: nope.yaml"
    ),
    Case(
        "circular base",
        ("base: the bases form a cycle", "tiny.yaml -> ", "b.yaml -> "),
        "name: tiny",
        "base: b.yaml",
        files={"b.yaml": "base: tiny.yaml\n"},
    ),
    Case("missing section", ("'model' is missing",), "model:\n  name: mlp\n  hidden: [16]\n", ""),
    Case("no length", ("tiny.yaml:16: train", "no length"), "epochs: 1\n", "epochs: null\n"),
    Case("two lengths", ("epochs and steps are both set",), "epochs: 1", "epochs: 1\n  steps: 3"),
)
def test_a_config_that_cannot_be_read_or_understood(case: Case, tmp_path: Path) -> None:
    check(case, tmp_path)


def test_all_problems_are_told_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = TINY.replace("hidden", "hiddn").replace("0.05", "fast").replace("epochs: 1", "epochs: -1")
    done = refused(tmp_path, write_tiny(tmp_path, text))
    lines = [line for line in done.err.splitlines() if "tiny.yaml:" in line]
    assert done.err.startswith("error: 3 problems")
    assert [line.split("tiny.yaml:")[1].split(":")[0] for line in lines] == ["10", "14", "17"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "tiny.yaml:1: found nothing"),
        (b"- a\n", "tiny.yaml:1: found a list"),
        (b"\xff\xfe\x00", "not UTF-8"),
        (b"name: \xe9\n", "tiny.yaml:1: byte 0xe9 is not UTF-8"),
    ],
)
def test_a_file_that_is_no_config(content: bytes, says: str, tmp_path: Path) -> None:
    config = tmp_path / "tiny.yaml"
    config.write_bytes(content)
    assert says in refused(tmp_path, config).err


def test_a_config_that_is_not_there(tmp_path: Path) -> None:
    assert "there is no such file" in refused(tmp_path, tmp_path / "nope.yaml").err
    assert "this is not a file" in refused(tmp_path, tmp_path).err


@cases(
    Case("no such key", ("optimizer.lrr=1", "did you mean optimizer.lr=1?"), overrides=("optimizer.lrr=1",)),
    Case("no such section", ("optimzer.lr=1", "'optimizer'"), overrides=("optimzer.lr=1",)),
    Case("no equals sign", ("'optimizer.lr': this is not an override",), overrides=("optimizer.lr",)),
    Case("no value", ("'optimizer.lr=': there is no value",), overrides=("optimizer.lr=",)),
    Case("below a number", ("optimizer.lr is 0.05, which has no keys",), overrides=("optimizer.lr.x=1",)),
    Case("not YAML", ("'model.hidden=[1': this is not YAML",), overrides=("model.hidden=[1",)),
    Case("twice", ("also set by 'train.epochs=2'",), overrides=("train.epochs=2", "train.epochs=3")),
    Case("option of another", ("unknown key 'hidden'",), overrides=("model.name=linear", "model.hidden=[3]")),
)
def test_an_override_that_matches_nothing(case: Case, tmp_path: Path) -> None:
    check(case, tmp_path)


# ---- data


def npz_bytes(**changes: Any) -> bytes:
    rng = np.random.default_rng(0)
    arrays = {
        "x_train": rng.integers(0, 256, (60, 8, 8), dtype=np.uint8),
        "y_train": np.arange(60) % 4,
        "x_test": rng.integers(0, 256, (20, 8, 8), dtype=np.uint8),
        "y_test": np.arange(20) % 4,
    }
    file = io.BytesIO()
    np.savez(file, **{name: array for name, array in (arrays | changes).items() if array is not None})
    return file.getvalue()


NPZ = TINY.replace("name: digits", "name: npz\n  path: own.npz").replace("val_size: 100", "val_size: 10")
NPZ = NPZ.replace("limit: 200", "limit: null")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        pytest.param(None, ("tiny.yaml:5: data.path: there is no file",), id="absent"),
        pytest.param(npz_bytes()[:2000], ("own.npz", "not a valid .npz file"), id="cut short"),
        pytest.param(b"hello", ("own.npz", "not a valid .npz file"), id="another format"),
        pytest.param(npz_bytes(y_test=None), ("own.npz", "no array y_test", "np.savez"), id="no y_test"),
        pytest.param(
            npz_bytes(y_test=np.full(20, 9)),
            ("own.npz: y_test", "label 9", "from 0 to 3"),
            id="unknown class",
        ),
        pytest.param(npz_bytes(y_train=np.full(60, -1)), ("own.npz: y_train", "label -1"), id="below 0"),
        pytest.param(npz_bytes(y_train=np.arange(59)), ("60 rows", "59"), id="one target short"),
        pytest.param(
            npz_bytes(x_test=np.zeros((0, 8, 8), np.uint8), y_test=np.zeros(0, int)),
            ("own.npz: x_test", "[0, 8, 8]"),
            id="empty test split",
        ),
        pytest.param(npz_bytes(x_train=np.full((60, 8, 8), np.nan)), ("x_train", "NaN"), id="NaN"),
        pytest.param(npz_bytes(y_train=np.array([{}] * 60)), ("y_train", "pickled"), id="pickled objects"),
        pytest.param(
            npz_bytes(y_train=np.linspace(0, 1, 60), y_test=np.linspace(0, 1, 20)),
            ("tiny.yaml:12: loss.name: cross_entropy needs classes", "loss=mse"),
            id="real targets for the default loss",
        ),
    ],
)
def test_a_data_file_that_is_absent_damaged_or_wrong(
    content: bytes | None, says: tuple[str, ...], tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / "own.npz").write_bytes(content)
    done = refused(tmp_path, write_tiny(tmp_path, NPZ))
    for words in says:
        assert words in done.err


def test_a_byte_that_changed_in_a_data_file(tmp_path: Path) -> None:
    content = bytearray(npz_bytes())
    content[300] ^= 255
    (tmp_path / "own.npz").write_bytes(content)
    done = refused(tmp_path, write_tiny(tmp_path, NPZ))
    assert f"{tmp_path / 'own.npz'}: data: not a valid .npz file" in done.err


def test_folders_of_images_that_are_damaged_or_incomplete(tmp_path: Path) -> None:
    text = TINY.replace("name: digits", "name: image_folder\n  path: images").replace(
        "limit: 200", "limit: null"
    )
    config = write_tiny(tmp_path, text.replace("val_size: 100", "val_size: 2").replace("size: 32", "size: 4"))
    assert "tiny.yaml:5: data.path: cannot read the folder" in refused(tmp_path, config).err
    for place in ("train/a", "train/b", "test/a", "test/b"):
        (tmp_path / "images" / place).mkdir(parents=True)
        for number in range(4):
            Image.new("L", (8, 8), 40 * number).save(tmp_path / "images" / place / f"{number}.png")
    first = tmp_path / "images/train/a/0.png"
    whole = first.read_bytes()
    first.write_bytes(whole[:40])
    done = refused(tmp_path, config)
    assert str(first) in done.err
    assert "repair or remove the file" in done.err
    first.write_bytes(whole)
    shutil.rmtree(tmp_path / "images/test/b")
    (tmp_path / "images/test/zz").mkdir()
    assert "classes without training images: zz" in refused(tmp_path, config).err


def test_a_set_that_is_not_on_disk_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*_: Any, **__: Any) -> Any:
        raise urllib.error.URLError(OSError(errno.ENETUNREACH, "Network is unreachable"))

    monkeypatch.setattr(urllib.request, "urlopen", no_network)
    text = TINY.replace("name: digits", "name: mnist\n  root: nowhere")
    done = refused(tmp_path, write_tiny(tmp_path, text))
    assert "tiny.yaml:4: data.name: mnist is not on disk" in done.err
    assert "optlab prepare mnist" in done.err
    assert "data.name=digits" in done.err
    assert not (tmp_path / "nowhere/MNIST/raw/train-images-idx3-ubyte").exists()


@pytest.mark.real_data
def test_an_mnist_file_that_is_cut_short(tmp_path: Path, mnist_root: Path) -> None:
    shutil.copytree(mnist_root, tmp_path / "data")
    file = tmp_path / "data/MNIST/raw/train-labels-idx1-ubyte"
    file.write_bytes(file.read_bytes()[:1000])
    text = TINY.replace("name: digits", "name: mnist\n  root: data\n  download: false")
    done = refused(tmp_path, write_tiny(tmp_path, text))
    assert "train-labels-idx1-ubyte" in done.err
    assert "to download it again" in done.err


@cases(
    Case("all validate", ("data.val_size", "none is left to train on"), overrides=("data.val_size=1501",)),
    Case("none validates", ("data.val_size", "empty validation split"), overrides=("data.val_size=1e-5",)),
    Case("limit above all", ("data.limit", "1 to 1,401"), overrides=("data.limit=1402",)),
    Case("batch above all", ("data.batch_size", "at most 200"), overrides=("data.batch_size=201",)),
    Case(
        "three means, one channel",
        ("data.normalize.mean", "1 number"),
        overrides=("data.normalize={mean: [0.1, 0.2, 0.3], std: [1.0, 1.0, 1.0]}",),
    ),
    Case("std 0", ("data.normalize.std.0",), overrides=("data.normalize={mean: [0.1], std: [0.0]}",)),
    Case("unknown augmentation", ("'cutout'?",), overrides=("data.augment=[{name: cutuot}]",)),
    Case(
        "probability 3",
        ("data.augment.0.p: got 3.0",),
        overrides=("data.augment=[{name: random_horizontal_flip, p: 3.0}]",),
    ),
)
def test_splits_and_samples_that_do_not_fit(case: Case, tmp_path: Path) -> None:
    check(case, tmp_path)


# ---- models, losses, initial weights

MODEL = """\
from torch import nn

class Net(nn.Module):
    def __init__(self, input_shape, num_classes):
        super().__init__()
        {body}

    def forward(self, images):
        return self.fc(images.flatten(1))
"""
OWN_MODEL = ("name: mlp\n  hidden: [16]", "name: own.py:Net")


@cases(
    Case(
        "images too small", ("model.name: 3c3d", "of conv2", "data.resize"), overrides=("model={name: 3c3d}",)
    ),
    Case(
        "a layer that does not fit",
        ("tiny.yaml:9: model.name", "layer fc (Linear)", "[N, 64]", "expected  [N, 100]"),
        *OWN_MODEL,
        files={"own.py": MODEL.format(body="self.fc = nn.Linear(100, num_classes)")},
    ),
    Case(
        "other classes",
        ("tiny.yaml:9: model.name", "[N, 7]", "expected  logits [N, 10]"),
        *OWN_MODEL,
        files={"own.py": MODEL.format(body="self.fc = nn.Linear(64, 7)")},
    ),
    Case(
        "a constructor that fails",
        ("tiny.yaml:9: model.name: Net failed with ZeroDivisionError", "own.py:6"),
        *OWN_MODEL,
        files={"own.py": MODEL.format(body="1 / 0")},
    ),
    Case(
        "nothing to train",
        ("no trainable parameters",),
        *OWN_MODEL,
        files={"own.py": MODEL.format(body="self.fc = nn.Identity(); self.fc.forward = lambda x: x[:, :10]")},
    ),
    Case(
        "a loss per sample",
        ("tiny.yaml:11: loss.name: the loss returned a Tensor of shape [2]", "mean over the samples"),
        "cross_entropy",
        "own.py:loss",
        files={"own.py": "import torch\ndef loss():\n    return torch.nn.NLLLoss(reduction='none')\n"},
    ),
    Case(
        "a loss that fails",
        ("tiny.yaml:11: loss.name: loss failed with IndexError: boom", "own.py:2"),
        "cross_entropy",
        "own.py:loss",
        files={"own.py": "def loss(outputs, targets):\n    raise IndexError('boom')\n"},
    ),
    Case("smoothing 2", ("loss.label_smoothing: got 2.0",), overrides=("loss.label_smoothing=2.0",)),
    Case(
        "init of a bias",
        ("init.bias", "hidden1.bias", "init.layers"),
        overrides=("init={bias: {name: kaiming_uniform_}}",),
    ),
    Case(
        "init of no layer",
        ("init.layers.0.match", "hidden1.weight"),
        overrides=('init={layers: [{match: "conv*", weight: ones_}]}',),
    ),
)
def test_models_losses_and_initial_weights_that_do_not_fit(case: Case, tmp_path: Path) -> None:
    check(case, tmp_path)


# ---- optimizers

OPTIMIZER = "import torch\n\n{body}\n"
OWN_OPTIMIZER = ("name: SGD", "name: own.py:Mine")


@cases(
    Case(
        "syntax error",
        ("tiny.yaml:13: optimizer.name", "SyntaxError", "own.py:3"),
        *OWN_OPTIMIZER,
        files={"own.py": OPTIMIZER.format(body="class Mine(:")},
    ),
    Case(
        "failing import",
        ("tiny.yaml:13: optimizer.name", "ModuleNotFoundError", "own.py:3"),
        *OWN_OPTIMIZER,
        files={"own.py": OPTIMIZER.format(body="import not_there")},
    ),
    Case(
        "no such class",
        ("has no 'Mine'", "one of Other"),
        *OWN_OPTIMIZER,
        files={"own.py": OPTIMIZER.format(body="class Other(torch.optim.SGD): pass")},
    ),
    Case(
        "no optimizer",
        ("tiny.yaml:13: optimizer.name", "Mine returned a NoneType"),
        *OWN_OPTIMIZER,
        files={"own.py": OPTIMIZER.format(body="def Mine(params, lr: float): pass")},
    ),
    Case("no file", ("tiny.yaml:13: optimizer.name: there is no file",), *OWN_OPTIMIZER),
    Case("no module", ("there is no module not_there.optim",), "name: SGD", "name: not_there.optim:Mine"),
    Case("SparseAdam", ("sparse gradients",), overrides=("optimizer={name: SparseAdam}",)),
    Case(
        "differentiable", ("optimizer.differentiable", "leaf"), overrides=("optimizer.differentiable=true",)
    ),
    Case("capturable", ("on the CPU",), overrides=("optimizer={name: Adam, capturable: true}",)),
    Case(
        "fused and foreach",
        ("optimizer.foreach: SGD: ",),
        overrides=("optimizer.fused=true", "optimizer.foreach=true"),
    ),
    Case("Muon on biases", ("hidden1.bias [16]", "ndim: 2"), overrides=("optimizer={name: Muon}",)),
    Case(
        "LBFGS in groups",
        ("optimizer.groups", "no parameter groups"),
        overrides=('optimizer={name: LBFGS, groups: [{match: "*.bias", lr: 0.1}]}',),
    ),
    Case(
        "LBFGS with a scaler",
        ("float16",),
        overrides=("optimizer={name: LBFGS}", "train.precision=float16"),
    ),
    Case(
        "group of nothing",
        ("optimizer.groups.0.match", "hidden1.weight"),
        overrides=('optimizer.groups=[{match: "conv*", lr: 0.1}]',),
    ),
    Case(
        "group emptied before",
        ("optimizer.groups.1.match", "narrower pattern first"),
        overrides=('optimizer.groups=[{match: "*", lr: 0.1}, {match: "*.bias", lr: 0.2}]',),
    ),
    Case(
        "group with a bad lr",
        ("optimizer.groups.0.lr", "-0.1"),
        overrides=('optimizer.groups=[{match: "*.bias", lr: -0.1}]',),
    ),
    Case(
        "two claim one",
        ("'b' and 'a' both claim hidden1.bias",),
        overrides=('optimizer=[{name: SGD, label: a, match: "*"}, {name: Adam, label: b, match: "*.bias"}]',),
    ),
    Case(
        "nobody claims one",
        ("no optimizer owns output.bias",),
        overrides=('optimizer=[{name: SGD, match: "*.weight"}, {name: Adam, match: "hidden*.bias"}]',),
    ),
    Case(
        "one label twice",
        ("unique `label`",),
        overrides=('optimizer=[{name: SGD, match: "*.weight"}, {name: SGD}]',),
    ),
)
def test_optimizers_that_are_refused(case: Case, tmp_path: Path) -> None:
    check(case, tmp_path)


# ---- schedules, metrics, devices


@cases(
    Case(
        "ends before the run",
        ("scheduler.total_steps", "ends after 3 steps", "the run after 7"),
        overrides=("scheduler={name: OneCycleLR, interval: step, total_steps: 3, cycle_momentum: false}",),
    ),
    Case(
        "warm-up beyond the run",
        ("scheduler.warmup", "the run ends after 7 steps"),
        overrides=("scheduler={name: StepLR, step_size: 2, interval: step, warmup: 100}",),
    ),
    Case(
        "starts after the run",
        ("scheduler.0.until", "the run ends after 7 steps"),
        overrides=(
            "scheduler=[{name: ConstantLR, interval: step, until: 50},"
            " {name: StepLR, interval: step, step_size: 3}]",
        ),
    ),
    Case(
        "momentum to cycle",
        ("scheduler.cycle_momentum", "momentum is 0"),
        overrides=("scheduler={name: OneCycleLR, interval: step}",),
    ),
    Case(
        "plateau in a list",
        ("ReduceLROnPlateau cannot be used in a list",),
        overrides=("scheduler=[{name: ConstantLR, until: 1}, {name: ReduceLROnPlateau}]", "train.epochs=3"),
    ),
    Case(
        "plateau without validation",
        ("scheduler.monitor: val_loss needs a validation split",),
        overrides=("scheduler={name: ReduceLROnPlateau, monitor: val_loss}", "data.val_size=0"),
    ),
    Case(
        "length unknown",
        ("scheduler.T_max", "time budget"),
        overrides=("scheduler=CosineAnnealingLR", "train.epochs=null", "train.seconds=1"),
    ),
    Case(
        "a function that fails",
        ("ZeroDivisionError", "at step 3"),
        "scheduler: null",
        "scheduler: {name: LambdaLR, lr_lambda: own.py:factor, interval: step}",
        files={"own.py": "def factor(step):\n    return 1 / (3 - step)\n"},
    ),
    Case(
        "early stopping on training",
        ("needs a validation split", "data.val_size=0.1"),
        overrides=("train.early_stopping={patience: 2}", "data.val_size=0"),
    ),
    Case(
        "early stopping on nothing",
        ("did you mean 'val_accuracy'?",),
        overrides=("train.early_stopping.metric=val_acc",),
    ),
    Case("selection on test", ("train.select",), overrides=("train.select=test_accuracy",)),
    Case("no such device", ("train.device", "cuda:99", "auto, cpu"), overrides=("train.device=cuda:99",)),
    Case("unknown device", ("train.device", "'tpu'"), overrides=("train.device=tpu",)),
)
def test_schedules_metrics_and_devices_that_are_not_there(case: Case, tmp_path: Path) -> None:
    check(case, tmp_path)


# ---- run directories


def test_a_run_that_is_there_already(tmp_path: Path) -> None:
    config, folder = write_tiny(tmp_path), tmp_path / "run"
    assert optlab("train", config, "--run-dir", folder, "--quiet").code == 0
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    done = optlab("train", config, "--run-dir", folder, "--quiet")
    assert done.code == 2
    assert "already contains a run (completed)" in done.err
    assert "--force" in done.err
    other = optlab("train", config, "optimizer.lr=0.1", "--run-dir", folder, "--quiet", "--skip-existing")
    assert other.code == 2
    assert "optimizer.lr: 0.05 in the existing run, 0.1 requested" in other.err.replace(
        "optimizer.0.lr", "optimizer.lr"
    )
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_a_directory_that_holds_something_else(tmp_path: Path) -> None:
    folder = tmp_path / "thesis"
    folder.mkdir()
    (folder / "chapter1.tex").write_text("...")
    done = optlab("train", write_tiny(tmp_path), "--run-dir", folder, "--quiet")
    assert done.code == 2
    assert "not a run's" in done.err
    assert [path.name for path in folder.iterdir()] == ["chapter1.tex"]


def test_a_run_that_another_process_writes(tmp_path: Path) -> None:
    config, folder = write_tiny(tmp_path), tmp_path / "run"
    folder.mkdir()
    with rundir.locked(folder):
        done = optlab("train", config, "--run-dir", folder, "--quiet")
    assert done.code == 2
    assert "is being written by another process" in done.err


def test_a_place_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = write_tiny(tmp_path)
    (tmp_path / "file").write_text("")
    done = optlab("train", config, "--runs", tmp_path / "file" / "runs", "--quiet")
    assert done.code == 2
    assert "cannot write in" in done.err
    assert "--runs" in done.err

    def full(*_: Any, **__: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    done = optlab("train", config, "--runs", tmp_path / "full", "--quiet")
    assert done.code == 2
    assert "No space left on device" in done.err
    assert not list((tmp_path / "full").rglob("config.yaml"))


@pytest.mark.parametrize("arguments", [("train",), ("trane",), ("train", "x.yaml", "--nope")])
def test_usage(arguments: tuple[str, ...]) -> None:
    done = optlab(*arguments)
    assert done.code == 2
    assert "optlab" in done.err  # in the words of the command-line library, which change
    assert "Traceback" not in done.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("show", "optimizer", "Adm"), "did you mean 'Adam'?"),
        (("show", "optimiser", "Adam"), "did you mean 'optimizer'?"),
        (("show", "model", "mlp", "hidden=wide"), "a list"),
        (("show", "model", "cnn", "--input", "3,x,3"), "e.g. 3,32,32"),
        (("show", "model", "3c3d", "--input", "3,8,8"), "output of conv2"),
        (("list", "optimizerz"), "did you mean 'optimizer'?"),
        (("plot", "nowhere"), "not a run directory"),
        (("plot", "nowhere", "--format", "bmp"), "png, svg or pdf"),
        (("runs", "nowhere"), "there is no directory nowhere"),
        (("runs", ".", "--sort", "loss"), "train_loss"),
        (("prepare", "mnst"), "did you mean 'mnist'?"),
        (("prepare", "digits", "root=/tmp"), "unknown key 'root'"),
        (("validate", "nowhere.yaml"), "there is no such file"),
    ],
)
def test_other_verbs(arguments: tuple[str, ...], says: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    done = optlab(*arguments)
    assert done.code == 2, done
    assert says in done.err
    assert "Traceback" not in done.err
    assert done.out == ""
