"""The number of threads that `train.threads: auto` chooses, and that the choice changes nothing else."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import yaml
from command import TINY, column, optlab, train, write_tiny
from torch import nn

from trainer.sweep.file import read_sweep
from trainer.sweep.plan import load_run_config, spec_for
from trainer.training import threads
from trainer.training.threads import choose_threads

AUTO = TINY.replace("  threads: 1\n", "")

OWN = """\
import random
import numpy
import torch
from torch import nn

class Counting(nn.Module):
    def __init__(self, input_shape, num_classes):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.Dropout(0.5), nn.Linear(16, num_classes)
        )
        self.passes = 0
        self.noise = torch.Generator().manual_seed(3)

    def forward(self, x):
        self.passes += 1
        x = x + self.passes * 1e-3 * torch.rand(x.shape, generator=self.noise)
        return self.layers(x) * (1 + random.random() + numpy.random.rand())
"""


@pytest.fixture(autouse=True)
def threads_kept(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Two usable threads, whatever the machine; torch's number is restored."""
    monkeypatch.setattr(threads, "usable_threads", lambda: 2)
    former = torch.get_num_threads()
    yield
    torch.set_num_threads(former)


def clock(monkeypatch: pytest.MonkeyPatch, seconds: dict[int, float]) -> list[int]:
    """Let each pass of a model take the given seconds per number of threads; return the list of passes."""
    now, passes = [0.0], []

    def forward(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
        count = torch.get_num_threads()
        now[0] += seconds[count]
        passes.append(count)
        return x * self.weight.sum()

    monkeypatch.setattr(nn.Linear, "forward", forward)
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    return passes


def choose(model: nn.Module) -> tuple[int, str]:
    return choose_threads(model, torch.zeros(3, 4), contextlib.nullcontext())


@pytest.mark.parametrize(
    ("seconds", "chosen", "note"),
    [
        ({1: 0.003, 2: 0.001}, 2, "threads: 2 (1 ms per forward and backward pass; 1 thread: 3 ms)"),
        ({1: 0.001, 2: 0.018}, 1, "threads: 1 (1 ms per forward and backward pass; 2 threads: 18 ms)"),
        ({1: 0.001, 2: 0.00095}, 1, "threads: 1 (1 ms per forward and backward pass; 2 threads: 0.95 ms)"),
        ({1: 5.0, 2: 2.5}, 2, "threads: 2 (2,500 ms per forward and backward pass; 1 thread: 5,000 ms)"),
    ],
)
def test_the_faster_number_is_chosen(
    monkeypatch: pytest.MonkeyPatch, seconds: dict[int, float], chosen: int, note: str
) -> None:
    passes = clock(monkeypatch, seconds)
    assert choose(nn.Linear(4, 2)) == (chosen, note)
    assert sum(seconds[count] for count in passes) < max(0.3, 3 * max(seconds.values()))


def test_one_usable_thread_needs_no_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "usable_threads", lambda: 1)
    passes = clock(monkeypatch, {1: 1.0})
    assert choose(nn.Linear(4, 2)) == (1, "")
    assert not passes


@pytest.mark.parametrize("build", [lambda: nn.Linear(5, 2), nn.Flatten])
def test_a_model_that_cannot_be_measured_gets_one_thread(build: Callable[[], nn.Module]) -> None:
    chosen, note = choose(build())
    assert chosen == 1
    assert "not measured" in note


@pytest.mark.parametrize("model", ["name: mlp\n  dropout: 0.5", "name: own.py:Counting"])
@pytest.mark.parametrize("faster", [1, 2])
def test_a_measured_run_equals_the_run_with_that_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str, faster: int
) -> None:
    monkeypatch.setattr(threads, "_MIN_GAIN", 0.0 if faster == 1 else 1e9)
    (tmp_path / "own.py").write_text(OWN)
    config = write_tiny(tmp_path, AUTO.replace("name: mlp\n  hidden: [16]", model))
    train(config, run_dir=tmp_path / "auto")
    train(config, f"train.threads={faster}", run_dir=tmp_path / "fixed")
    assert column(tmp_path / "auto/steps.csv", "loss") == column(tmp_path / "fixed/steps.csv", "loss")
    saved = [(tmp_path / name / "config.yaml").read_text() for name in ("auto", "fixed")]
    assert saved[0] == saved[1]
    assert yaml.safe_load(saved[0])["train"]["threads"] == faster
    measured, fixed = (
        torch.load(tmp_path / name / "checkpoints/last.pt", weights_only=True)["experiment"]
        for name in ("auto", "fixed")
    )
    for state in (measured, fixed):
        del state["train_seconds"]
    assert same(measured, fixed)
    assert f"threads: {faster} (" in (tmp_path / "auto/train.log").read_text()
    assert "threads:" not in (tmp_path / "fixed/train.log").read_text()


def same(one: object, other: object) -> bool:
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def test_a_resumed_or_repeated_run_keeps_the_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_MIN_GAIN", 1e9)
    config = write_tiny(tmp_path, AUTO)
    train(config, run_dir=tmp_path / "run")
    monkeypatch.setattr(threads, "_MIN_GAIN", 0.0)  # a new measurement would choose one thread
    assert optlab("resume", tmp_path / "run", "train.epochs=2", "-q").code == 0
    train(tmp_path / "run/config.yaml", run_dir=tmp_path / "again")
    for name in ("run", "again"):
        saved = yaml.safe_load((tmp_path / name / "config.yaml").read_text())
        assert saved["train"]["threads"] == 2, name


def test_the_terminal_and_the_dry_run_state_the_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "_MIN_GAIN", 1e9)
    config = write_tiny(tmp_path, AUTO)
    trained = optlab("train", config, "--run-dir", tmp_path / "run")
    assert "threads: 2 (" in trained.err
    planned = optlab("train", config, "--dry-run")
    assert yaml.safe_load(planned.out.partition("# plan")[0])["train"]["threads"] == 2
    checked = optlab("validate", config, "--json")
    assert checked.json["config"]["train"]["threads"] == "auto"  # validate does not measure


@pytest.mark.parametrize(
    ("overrides", "number"), [((), 1), (("train.threads=auto",), 1), (("train.threads=2",), 2)]
)
def test_runs_of_a_sweep_have_one_thread_unless_a_number_is_set(
    tmp_path: Path, overrides: tuple[str, ...], number: int
) -> None:
    write_tiny(tmp_path, AUTO, "base.yaml")
    text = "name: s\nbase: base.yaml\naxes: {optimizer.lr: [0.1, 0.2]}\n"
    sweep = read_sweep(write_tiny(tmp_path, text, "sweep.yaml"), overrides)
    (variant,) = sweep.variants.values()
    loaded = load_run_config(sweep, spec_for(tmp_path, variant, "search", 0, {"optimizer.lr": 0.1}, 0))
    assert loaded.config.train.threads == number
