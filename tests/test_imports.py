"""Valid import paths in a config, and inspection of a config without executing code."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from command import TINY, optlab, train, write_tiny

from trainer.errors import ConfigError
from trainer.imports import find_object

STDLIB = ["os:system", "subprocess:run", "subprocess:Popen", "shutil:rmtree", "builtins:exec", "pty:spawn"]
OTHERS = [
    "torch.hub:load",
    "torch:load",
    "numpy:load",
    "pandas:read_pickle",
    "PIL.Image:open",
    "torch:compile",
]
KINDS = ["model", "loss", "dataset", "augmentation", "init", "optimizer", "scheduler"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", [*STDLIB, *OTHERS, f"{os.__file__}:system", f"{subprocess.__file__}:run"])
def test_what_is_no_part_of_a_kind_is_refused(kind: str, text: str) -> None:
    with pytest.raises(ConfigError):
        find_object(text, kind)


@pytest.mark.parametrize("text", ["os:system", "subprocess:run", "builtins:eval", "posix:system"])
def test_functions_given_as_options_are_no_system_calls(text: str) -> None:
    with pytest.raises(ConfigError):
        find_object(text)


def test_what_others_wrote_is_still_found() -> None:
    for kind, text in {
        "optimizer": "torch.optim:SGD",
        "scheduler": "torch.optim.lr_scheduler:StepLR",
        "model": "torchvision.models:resnet18",
        "loss": "torch.nn:PoissonNLLLoss",
        "init": "torch.nn.init:zeros_",
    }.items():
        assert callable(find_object(text, kind)), text
    assert find_object("torch.nn.functional:cross_entropy", "loss")
    assert find_object("math:sqrt")(4) == 2


def hostile(key: str, marker: Path) -> str:
    """Return a config's text that runs a shell command where a part is called with the config's values."""
    command = f"touch {marker}"
    part = "{name: 'os:system', command: '" + command + "'}"
    changes = {
        "model": TINY.replace("model:\n  name: mlp\n  hidden: [16]\n", f"model: {part}\n"),
        "loss": TINY.replace("loss: cross_entropy\n", f"loss: {part}\n"),
        "data": TINY.replace("  name: digits\n", f"  name: os:system\n  command: {command}\n"),
        "augment": TINY.replace("  limit: 200\n", f"  limit: 200\n  augment: [{part}]\n"),
        "init": TINY + f"init: {{weight: {part}}}\n",
        "optimizer": TINY.replace("  name: SGD\n  lr: 0.05\n", f"  name: os:system\n  command: {command}\n"),
        "scheduler": TINY.replace("scheduler: null\n", f"scheduler: {part}\n"),
    }
    return changes[key]


@pytest.mark.parametrize("key", ["model", "loss", "data", "augment", "init", "optimizer", "scheduler"])
def test_a_config_runs_no_command_in_any_verb(tmp_path: Path, key: str) -> None:
    marker = tmp_path / "marker"
    text = hostile(key, marker)
    assert text != TINY
    config = write_tiny(tmp_path, text)
    sweep = tmp_path / "sweep.yaml"
    sweep.write_text("base: tiny.yaml\nname: s\naxes: {train.max_loss: [1]}\n")
    for command in (
        ("validate", config),
        ("train", config, "--dry-run"),
        ("train", config, "--run-dir", tmp_path / "run"),
        ("sweep", sweep, "--dry-run", "--runs", tmp_path / "runs"),
    ):
        done = optlab(*command)
        assert done.code == 2, (command, done.out)
        assert "standard library" in done.err, done.err
        assert "executes" not in done.err, done.err
        assert not marker.exists()
    assert not (tmp_path / "run").exists()


OWN = TINY.replace("  name: SGD\n", "  name: mine.py:Mine\n")


def own(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "mine.py").write_text("import torch\nclass Mine(torch.optim.SGD):\n    pass\n")
    return write_tiny(folder, OWN)


def test_who_only_looks_is_told_what_is_executed(tmp_path: Path) -> None:
    config = own(tmp_path)
    (tmp_path / "sweep.yaml").write_text("base: tiny.yaml\nname: s\naxes: {optimizer.lr: [0.1]}\n")
    for command in (
        ("validate", config),
        ("train", config, "--dry-run"),
        ("sweep", tmp_path / "sweep.yaml", "--dry-run", "--runs", tmp_path / "runs"),
    ):
        done = optlab(*command)
        assert done.code == 0, done.err
        assert "imports and executes" in done.err
        assert "mine.py" in done.err.replace("\n", "")
    assert "executes" not in optlab("validate", write_tiny(tmp_path)).err
    (tmp_path / "axis.yaml").write_text(
        f"base: tiny.yaml\nname: s\naxes: {{optimizer.name: [SGD, '{tmp_path}/mine.py:Mine']}}\n"
    )
    done = optlab("sweep", tmp_path / "axis.yaml", "--dry-run", "--runs", tmp_path / "runs")
    assert "imports and executes" in done.err, done.err


def test_a_received_run_executes_its_code_only_when_it_is_trusted(tmp_path: Path) -> None:
    train(own(tmp_path / "sender"), run_dir=tmp_path / "sent")
    received = tmp_path / "received"
    shutil.copytree(tmp_path / "sent", received)
    marker = tmp_path / "marker"
    source = tmp_path / "sender" / "mine.py"
    source.write_text(f"open({str(marker)!r}, 'w')\n" + source.read_text())

    done = optlab("resume", received, "train.epochs=2", "--quiet")
    assert (done.code, "--trust" in done.err, marker.exists()) == (2, True, False), done.err
    assert "imports and executes" in done.err
    done = optlab("resume", received, "train.epochs=2", "--quiet", "--trust")
    assert (done.code, "SHA-256" in done.err) == (2, True)  # trusted, but not the code that it was made with

    source.write_text(source.read_text().partition("\n")[2])
    assert optlab("resume", received, "train.epochs=2", "--quiet").code == 2
    assert optlab("resume", received, "train.epochs=2", "--quiet", "--trust").code == 0
    assert optlab("resume", received, "train.epochs=3", "--quiet").code == 0  # it is this one's now


def test_a_received_run_of_registered_parts_needs_no_trust(tmp_path: Path) -> None:
    train(write_tiny(tmp_path), run_dir=tmp_path / "sent")
    shutil.copytree(tmp_path / "sent", tmp_path / "received")
    around = tmp_path / "received" / "environment.json"
    around.write_text(json.dumps(json.loads(around.read_text()) | {"origin": {"user": "x"}}))
    assert optlab("resume", tmp_path / "received", "train.epochs=2", "--quiet").code == 0
