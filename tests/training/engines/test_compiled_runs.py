"""Compiled runs from the command line are logged as such, resume bit for bit, and agree with eager runs."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from typer.testing import CliRunner

from trainer.bench.loops import BARE
from trainer.bench.task import OPTIONS, Task
from trainer.catalog import MODELS
from trainer.cli.app import app
from trainer.errors import ConfigError
from trainer.training.engines.compiler import compiler
from trainer.training.engines.eager import MicroBatch
from trainer.training.engines.inductor.compiled import CompiledEngine

CONFIG = Path(__file__).resolve().parents[3] / "configs" / "quickstart.yaml"
NIGHTLY = pytest.mark.nightly  # compiling takes seconds per case
needs_compiler = pytest.mark.skipif(compiler() is None, reason="there is no C++ compiler here")


def optlab(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.output


def train(folder: Path, *overrides: str) -> Path:
    always = ["train.threads=1", "log.plots=[]", "log.every=1", "model.dropout=0.2"]
    optlab("train", CONFIG, *always, *overrides, "--run-dir", folder, "--quiet")
    return folder


def losses(folder: Path) -> list[tuple[str, str]]:
    with open(folder / "steps.csv", encoding="utf-8") as file:
        return [(row["step"], row["loss"]) for row in csv.DictReader(file)]


def summary(folder: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    return found


def weights(folder: Path) -> dict[str, torch.Tensor]:
    state = torch.load(folder / "checkpoints" / "last.pt", weights_only=True)
    found: dict[str, torch.Tensor] = state["experiment"]["model"]
    return found


@needs_compiler
@pytest.mark.nightly
@pytest.mark.parametrize(
    ("optimizer", "seed"),
    [
        ("{name: SGD, lr: 0.01, momentum: 0.9}", 0),
        ("{name: SGD, lr: 0.01, momentum: 0.9}", 4),
        ("{name: Adam, lr: 0.001}", 0),
    ],
)
def test_a_deep_residual_network_runs_compiled(
    tmp_path: Path, cifar_npz: Path, optimizer: str, seed: int
) -> None:
    """Rounding changes its gradients by percents in every step, which is accepted."""
    config = tmp_path / "deep.yaml"
    config.write_text(
        f"name: deep\nseed: {seed}\ndata: {{name: npz, path: {cifar_npz}, batch_size: 64, limit: 2000}}\n"
        f"model: {{name: resnet20}}\noptimizer: {optimizer}\n"
        "train: {steps: 4, engine: compiled, test: never}\nlog: {plots: []}\n"
    )
    assert "against eager: largest relative deviation" in optlab(
        "train", config, "--run-dir", tmp_path / "run"
    )


@needs_compiler
@pytest.mark.parametrize(
    ("optimizer", "zero_grad"),
    [
        ("{name: AdamW, lr: 0.005}", "every_step"),
        pytest.param("{name: SGD, lr: 0.1, momentum: 0.9}", "every_step", marks=NIGHTLY),
        pytest.param("{name: SGD, lr: 0.0001}", "never", marks=NIGHTLY),
    ],
)
def test_a_compiled_run_resumes_bit_for_bit_and_agrees_with_eager(
    tmp_path: Path, optimizer: str, zero_grad: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked_at: list[float] = []
    compile_step = CompiledEngine.compile

    def watched(engine: CompiledEngine, steps: Iterable[Sequence[MicroBatch]], **options: Any) -> str | None:
        found = [*engine.parameters, *(p.grad for p in engine.parameters if p.grad is not None)]
        checked_at.append(sum(float(value.detach().double().sum()) for value in found))
        return compile_step(engine, steps, **options)

    monkeypatch.setattr(CompiledEngine, "compile", watched)
    same = f"optimizer={optimizer}", f"train.zero_grad={zero_grad}"
    whole = train(tmp_path / "whole", *same, "train.engine=compiled", "train.epochs=2")
    parts = train(tmp_path / "parts", *same, "train.engine=compiled", "train.epochs=1")
    optlab("resume", parts, "train.epochs=2", "--quiet")
    assert len(checked_at) == 3
    assert len(set(checked_at)) == 1  # with other weights the verdict might be another one
    eager = train(tmp_path / "eager", *same, "train.engine=eager", "train.epochs=2")

    assert summary(whole)["engine"] == "compiled"
    assert float(str(summary(whole)["compile_seconds"])) > 0
    assert "of 3 steps against eager: largest relative" in (whole / "train.log").read_text(encoding="utf-8")
    assert summary(eager)["engine"] == "eager"
    assert summary(eager)["compile_seconds"] is None

    assert losses(parts) == losses(whole)
    for name, value in weights(whole).items():
        assert torch.equal(weights(parts)[name], value)
        torch.testing.assert_close(weights(eager)[name], value, rtol=1e-3, atol=1e-5)


@needs_compiler
@pytest.mark.parametrize(
    ("override", "tolerance"),
    [
        pytest.param("data.augment=[{name: random_crop, padding: 1}]", 1e-4, marks=NIGHTLY),
        pytest.param("train.precision=bfloat16", 2e-2, marks=NIGHTLY),
        (
            "optimizer=[{name: SGD, lr: 0.1, label: weights, match: '*.weight'},"
            " {name: Adam, lr: 0.01, label: rest}]",
            1e-4,
        ),
    ],
    ids=["augmented", "bfloat16", "two optimizers"],
)
def test_what_a_run_may_have_beside(tmp_path: Path, override: str, tolerance: float) -> None:
    found = []
    for engine in ("eager", "compiled"):
        length = ["train.epochs=null", "train.steps=30", "scheduler=null"]
        folder = train(tmp_path / engine, f"train.engine={engine}", override, *length)
        assert summary(folder)["engine"] == engine
        found.append(torch.tensor([float(loss) for _, loss in losses(folder)]))
    torch.testing.assert_close(found[0], found[1], rtol=tolerance, atol=tolerance)


def saved_engine(folder: Path) -> str:
    config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    return str(config["train"]["engine"])


def test_auto_compiles_only_what_pays(tmp_path: Path) -> None:
    length = ["train.epochs=null", "train.steps=2"]
    assert saved_engine(train(tmp_path / "default", *length)) == "eager"
    folder = train(tmp_path / "short", *length, "train.engine=auto")
    assert saved_engine(folder) == "eager"
    assert "engine: eager (" in (folder / "train.log").read_text(encoding="utf-8")
    assert losses(folder) == losses(tmp_path / "default")  # measuring changes nothing
    long = ["train.epochs=null", "train.steps=100000000", "train.engine=auto"]
    assert f"engine: {'compiled' if compiler() else 'eager'}" in optlab("train", CONFIG, *long, "--dry-run")


@needs_compiler
def test_auto_uses_what_an_earlier_run_compiled(tmp_path: Path) -> None:
    same = ["train.epochs=null", "train.steps=3"]
    train(tmp_path / "first", *same, "train.engine=compiled")
    again = train(tmp_path / "again", *same, "train.engine=compiled")
    assert "compiled by an earlier run" in (again / "train.log").read_text(encoding="utf-8")
    assert losses(again) == losses(tmp_path / "first")
    folder = train(tmp_path / "auto", *same, "train.engine=auto")
    assert " ms compiled" in (folder / "train.log").read_text(encoding="utf-8")  # measured by the first run


def test_lbfgs_says_how_it_runs(tmp_path: Path) -> None:
    folder = train(
        tmp_path / "lbfgs",
        "train.engine=compiled",
        "optimizer={name: LBFGS}",
        "train.epochs=null",
        "train.steps=2",
    )
    words = (folder / "train.log").read_text(encoding="utf-8")
    assert "against eager" in words or "the steps run eager" in words


def bench_loops(mnist_root: Path, figure: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Run `optlab bench` with small numbers; return the loops by name."""
    monkeypatch.setenv("OPTLAB_DATA", str(mnist_root))
    options = ["--optimizer", "AdamW", "--batch-size", 8, "--steps", 30, "--rounds", 1, "--threads", 1]
    printed = json.loads(optlab("bench", *options, "-o", figure, "--json"))
    assert printed["fell_back"] == 0
    assert figure.stat().st_size > 1000
    loops = {loop["name"]: loop for loop in printed["loops"]}
    assert all(loop["median"] > 0 for loop in loops.values())
    assert loops[BARE]["ratios"][BARE] == 1
    return loops


@pytest.mark.real_data
def test_the_bench_measures_loops_and_draws_them(
    mnist_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = ["optlab, eager", BARE]
    monkeypatch.setattr("trainer.bench.loops.names", lambda setting: measured)
    assert set(bench_loops(mnist_root, tmp_path / "bench.svg", monkeypatch)) == set(measured)


@NIGHTLY
def test_the_bench_of_the_transformer_needs_no_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.bench.loops.names", lambda setting: ["optlab, eager", BARE])
    options = ["--model", "transformer", "--batch-size", 1, "--steps", 30, "--rounds", 1, "--threads", 1]
    printed = json.loads(optlab("bench", *options, "--json"))
    assert all(loop["median"] > 0 for loop in printed["loops"])


@NIGHTLY
@pytest.mark.real_data
@needs_compiler
def test_the_bench_measures_every_loop(
    mnist_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loops = bench_loops(mnist_root, tmp_path / "bench.svg", monkeypatch)
    assert {"optlab, eager", "optlab, compiled", BARE, "tutorial loop"} <= set(loops)
    assert "against eager" in loops["optlab, compiled"]["note"]


def test_the_bench_trains_what_the_config_says() -> None:
    grey, labels = torch.zeros(8, 1, 28, 28, dtype=torch.uint8), torch.zeros(8, dtype=torch.int64)
    windows = torch.zeros(8, 64, dtype=torch.int64)
    small = grey[:, :, :8, :8]
    for model, images in (
        ("mlp", grey),
        ("tiny", small),
        ("cnn", grey.new_zeros(8, 3, 32, 32)),
        ("transformer", windows),
    ):
        task = Task(model, "SGD", 4, images, windows if model == "transformer" else labels)
        told = yaml.safe_load(task.config("/data"))
        options = {key: value for key, value in told["model"].items() if key != "name"}
        outputs = 65 if model == "transformer" else 10
        ours = MODELS[told["model"]["name"]](tuple(images.shape[1:]), outputs, **options)
        theirs = [tuple(p.shape) for p in task.network().parameters()]
        assert [tuple(p.shape) for p in ours.parameters()] == theirs
        optimizer = task.torch_optimizer(ours.parameters())
        assert {key: optimizer.defaults[key] for key in OPTIONS["SGD"]} == OPTIONS["SGD"]


def test_the_bench_refuses_a_figure_it_cannot_write(tmp_path: Path) -> None:
    for path in (tmp_path / "none" / "bench.png", tmp_path / "bench.xyz"):
        result = CliRunner().invoke(app, ["bench", "-o", str(path)])
        assert isinstance(result.exception, ConfigError)
        assert "cannot write a figure" in str(result.exception)
