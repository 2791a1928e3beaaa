"""The Python interface for notebooks: training a run, and how runs, comparisons and experiments are shown."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import pytest
from command import write_tiny

from trainer import build_experiment, compare_runs, load_config, train_run
from trainer.errors import RunError
from trainer.runs.launch import launch
from trainer.runs.options import RunOptions


class FakeDisplay(types.ModuleType):
    """Stands for IPython.display; keeps what was shown."""

    def __init__(self) -> None:
        super().__init__("IPython.display")
        self.shown: list[str] = []

    def display(self, content: str, display_id: bool) -> FakeDisplay:
        assert display_id
        self.shown.append(content)
        return self

    def update(self, content: str) -> None:
        self.shown.append(content)

    HTML = staticmethod(str)


def test_a_run_is_trained_and_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = write_tiny(tmp_path)
    run = train_run(config, ["optimizer.lr=0.1"], runs=tmp_path / "runs", quiet=True)
    assert run.path == tmp_path / "runs" / "tiny" / "lr=0.1,seed=0"
    assert run.status["status"] == "completed"
    assert capsys.readouterr().err == ""
    assert list(run.frame("steps")["loss"]) == run.steps["loss"]
    assert {"loss", "loss_logx", "accuracy", "lr"} == set(run.figures())
    shown = run._repr_html_()
    assert "completed" in shown
    assert "<td>" in shown
    with pytest.raises(RunError, match="already contains a run"):
        train_run(config, ["optimizer.lr=0.1"], runs=tmp_path / "runs", quiet=True)
    train_run(config, ["optimizer.lr=0.1"], runs=tmp_path / "runs", quiet=True, force=True)
    train_run(config, ["optimizer.lr=0.2"], runs=tmp_path / "runs", quiet=True)
    comparison = compare_runs(tmp_path / "runs", draw=False)
    assert "lr=0.2" in comparison._repr_html_()
    assert "only one seed" in comparison._repr_html_()


def test_names_in_html_are_escaped(tmp_path: Path) -> None:
    run = train_run(write_tiny(tmp_path), run_dir=tmp_path / "<b>run", quiet=True)
    assert "<b>run" not in run._repr_html_()
    assert "&lt;b&gt;run" in run._repr_html_()


def test_a_notebook_shows_a_bar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    display = FakeDisplay()
    package: Any = types.ModuleType("IPython")
    package.display = display
    package.get_ipython = lambda: types.SimpleNamespace(kernel=None)
    for name, module in (("IPython", package), ("IPython.display", display)):
        monkeypatch.setitem(sys.modules, name, module)
    train_run(write_tiny(tmp_path), run_dir=tmp_path / "run")
    assert 'value="0.0000"' in display.shown[0]
    assert 'value="1.0000"' in display.shown[-1]
    assert "val_loss" in display.shown[-1]


def test_a_program_that_imports_ipython_is_not_a_notebook(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    display = FakeDisplay()
    package: Any = types.ModuleType("IPython")
    package.get_ipython = lambda: None
    for name, module in (("IPython", package), ("IPython.display", display)):
        monkeypatch.setitem(sys.modules, name, module)
    train_run(write_tiny(tmp_path), run_dir=tmp_path / "run")
    assert display.shown == []


def test_an_experiment_prints_a_summary(tmp_path: Path) -> None:
    experiment = build_experiment(load_config(write_tiny(tmp_path)))
    text = repr(experiment)
    assert text == str(experiment)
    assert "tensor(" not in text
    assert "SGD" in text
    assert "parameters" in text
    assert "7 steps" in text


def test_a_pruned_run_is_finished_for_those_who_may_prune(tmp_path: Path) -> None:
    loaded, folder = load_config(write_tiny(tmp_path), ["train.epochs=2"]), tmp_path / "run"
    pruning = RunOptions(should_prune=lambda record: True)
    first = launch(loaded, folder, pruning)
    again = launch(loaded, folder, pruning, skip_existing=True)
    assert [(done.result.status, done.result.steps) for done in (first, again)] == [("pruned", 7)] * 2
    assert [done.skipped for done in (first, again)] == [False, True]
    complete = launch(loaded, folder, skip_existing=True)
    assert (complete.result.status, complete.skipped) == ("completed", False)
