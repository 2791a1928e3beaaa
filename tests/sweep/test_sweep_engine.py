"""A sweep decides `train.engine: auto` once for all its runs, and compiles before its workers start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from small_sweeps import run, write

from trainer.runs.run_files import read_result
from trainer.sweep import engine
from trainer.sweep.engine import compile_steps, resolve_engine
from trainer.sweep.file import read_sweep
from trainer.sweep.models import Sweep
from trainer.sweep.plan import SharedData
from trainer.training.engines.choice import choose_engine
from trainer.training.engines.compiler import compiler
from trainer.training.engines.eager import StepTimes
from trainer.training.engines.inductor.compiled import CompiledEngine

SWEEP: dict[str, Any] = {
    "base": "base.yaml",
    "name": "s",
    "seeds": 2,
    "variants": {
        "momentum": {"optimizer": {"momentum": 0.9}, "train": {"engine": "auto"}},
        "adam": {"optimizer": {"name": "Adam", "lr": 0.01}, "train.engine": "auto"},
        "plain": {},
    },
}


def resolve(folder: Path, runs: Path, sweep: Any = SWEEP) -> tuple[Sweep, list[str]]:
    read = read_sweep(write(folder, sweep))
    return resolve_engine(read, runs / "s", SharedData(folder / "data"), workers=2)


def engines(sweep: Sweep) -> list[str | None]:
    return [engine._engine(sweep, variant) for variant in sweep.variants.values()]


def test_a_short_sweep_stays_eager(tmp_path: Path) -> None:
    sweep, (note,) = resolve(tmp_path, tmp_path / "runs")
    assert engines(sweep) == ["eager"] * 3
    assert note.startswith("engine: eager (")
    assert note.endswith("for all runs of momentum, adam")


@pytest.mark.skipif(compiler() is None, reason="there is no C++ compiler here")
def test_all_runs_of_all_variants_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planned: list[Any] = []

    def choose(steps: Any) -> Any:
        planned.extend(steps)
        return choose_engine([(StepTimes(1.0, 0.1), 1000.0)])

    monkeypatch.setattr(engine, "choose_engine", choose)
    sweep, _ = resolve(tmp_path, tmp_path / "runs")
    assert engines(sweep) == ["compiled", "compiled", "eager"]
    assert [steps for _, steps in planned] == [20.0, 20.0]  # 20 steps per run, two seeds, two workers
    assert all(isinstance(times, StepTimes) and times.eager > 0 for times, _ in planned)


def test_an_existing_sweep_keeps_its_engine(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "s"
    folder.mkdir(parents=True)
    variants = {name: {"train": {"engine": "compiled"}} for name in ("momentum", "adam")}
    (folder / "sweep.yaml").write_text(yaml.safe_dump({"variants": variants}))
    sweep, (note,) = resolve(tmp_path, tmp_path / "runs")
    assert engines(sweep) == ["compiled", "compiled", "eager"]
    assert "as in the sweep's directory" in note


def test_a_variant_that_is_not_valid_is_left_to_the_check(tmp_path: Path) -> None:
    broken = SWEEP | {"variants": {"wrong": {"train.engine": "auto", "model.hidden": -1}}}
    sweep, notes = resolve(tmp_path, tmp_path / "runs", broken)
    assert sweep.variants["wrong"].overrides[-1] != "train.engine=eager"
    assert notes == []


def test_steps_are_compiled_and_timed_with_the_threads_of_the_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    def see(*steps: Any, **options: Any) -> str:
        seen.append(torch.get_num_threads())
        return "this is only a test"

    monkeypatch.setattr(CompiledEngine, "compile", see)
    monkeypatch.setattr(CompiledEngine, "step_times", see)
    former = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        resolve(tmp_path, tmp_path / "runs")
        sweep = SWEEP | {"variants": {"sgd": {"train.engine": "compiled"}}}
        compile_steps(read_sweep(write(tmp_path, sweep)), SharedData(tmp_path / "data"), [])
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(former)
    assert seen == [1, 1, 1]  # `auto` of a sweep


@pytest.mark.nightly
@pytest.mark.skipif(compiler() is None, reason="there is no C++ compiler here")
def test_workers_load_what_the_sweep_has_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    sweep = SWEEP | {"variants": {"sgd": {"train.engine": "compiled"}}, "axes": {"optimizer.lr": [0.1, 0.01]}}
    assert run(write(tmp_path, sweep), runs=tmp_path / "runs", workers=2) == 0
    folders = list((tmp_path / "runs" / "s" / "sgd").glob("lr*"))
    assert len(folders) == 4
    for folder in folders:
        result = read_result(folder)
        assert result is not None
        assert result.engine == "compiled"
        assert "compiled by an earlier run" in (folder / "train.log").read_text(encoding="utf-8")
    assert capfd.readouterr().err.count("against eager") == 1  # the workers leave this line to the sweep
