"""The figures of a run are the same if drawn in this process, in a separate one, or again later."""

from __future__ import annotations

import multiprocessing.spawn
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import matplotlib
import pytest
from command import optlab, train, write_tiny

from trainer.catalog import load_config
from trainer.errors import RunError
from trainer.plots.run import DRAWINGS
from trainer.runs import drawing, launch
from trainer.runs.options import RunOptions

FIGURES = ["loss.png", "loss_logx.png", "accuracy.png", "lr.png"]
IN_CHILD_PROCESS = drawing.in_child_process


@pytest.fixture(autouse=True)
def child_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw in a child process, as outside the tests on a machine with two cores."""
    monkeypatch.setattr(drawing, "in_child_process", IN_CHILD_PROCESS)
    monkeypatch.setattr("trainer.device.usable_cores", lambda: 2)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawing")
    train(write_tiny(folder), run_dir=folder / "run")
    return folder / "run"


def _by_name(figures: list[drawing.RenderedFigure]) -> list[drawing.RenderedFigure]:
    return sorted(figures, key=lambda figure: figure.name)


def test_a_child_process_draws_the_same_bytes(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = drawing.draw_run(run, ["png", "svg"])
    with drawing.in_child_process(True) as draw:
        monkeypatch.setattr(drawing, "draw_run", None)  # this process must not draw
        assert _by_name(draw(run, ["png", "svg"])) == _by_name(expected)
    assert [figure.name for figure in expected if figure.name.endswith(".png")] == FIGURES
    assert list((run / "plots").iterdir()) == []


def test_a_relative_folder_works_in_the_child_process(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run.parent)
    with drawing.in_child_process(True) as draw:
        assert sorted(figure.name for figure in draw(Path("run"), ["png"])) == sorted(FIGURES)


@pytest.mark.parametrize("python", ["/bin/false", "/nowhere/python"])
def test_figures_are_drawn_in_this_process_if_the_child_fails(
    run: Path, monkeypatch: pytest.MonkeyPatch, python: str
) -> None:
    monkeypatch.setattr(multiprocessing.spawn, "_python_exe", os.fsencode(python))
    with drawing.in_child_process(True) as draw:
        assert [figure.name for figure in draw(run, ["png"])] == FIGURES


def test_output_of_other_packages_is_ignored(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text("print('hello from elsewhere')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    expected = drawing.draw_run(run, ["png"])
    with drawing.in_child_process(True) as draw:
        monkeypatch.setattr(drawing, "draw_run", None)
        assert _by_name(draw(run, ["png"])) == _by_name(expected)


def _fail(curves: object) -> None:
    raise ValueError("the font is gone\nand more")


def test_a_figure_that_cannot_be_drawn_is_a_warning_of_a_run_and_an_error_of_plot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.device.usable_cores", lambda: 1)
    monkeypatch.setitem(DRAWINGS, "lr", _fail)
    folder = tmp_path / "run"
    done = optlab("train", write_tiny(tmp_path), "log.plots=[png]", "--run-dir", folder, "--json")
    assert done.code == 0
    assert done.json["status"] == "completed"
    assert "warning: the figure lr could not be drawn: ValueError: the font is gone\n" in done.err
    assert "the figure lr could not be drawn" in (folder / "train.log").read_text()
    others = sorted(set(FIGURES) - {"lr.png"})
    assert sorted(path.name for path in (folder / "plots").iterdir()) == others
    skipped = optlab("train", write_tiny(tmp_path), "log.plots=[png]", "--run-dir", folder, "--skip-existing")
    assert "finished: skipped" in skipped.err
    done = optlab("plot", folder)
    assert done.code == 1
    assert sorted(Path(line).name for line in done.out.split()) == others
    assert done.err.count("\n") == 1
    assert f"{folder}: the figure lr could not be drawn" in done.err


def test_a_run_is_completed_if_drawing_fails(tmp_path: Path) -> None:
    def draw(folder: Path, formats: object) -> list[drawing.RenderedFigure]:
        raise ImportError("no backend")

    loaded = load_config(write_tiny(tmp_path), ["log.plots=[png]"])
    assert launch.launch(loaded, tmp_path / "run", RunOptions(draw=draw)).result.status == "completed"
    assert "no figure could be drawn: ImportError: no backend" in (tmp_path / "run/train.log").read_text()


def test_the_users_matplotlib_settings_have_no_effect(run: Path) -> None:
    plain = drawing.draw_run(run, ["png"])
    own = {"text.usetex": True, "savefig.dpi": 1e6, "font.size": 40, "axes.facecolor": "red"}
    with matplotlib.rc_context(own):
        assert drawing.draw_run(run, ["png"]) == plain
        assert matplotlib.rcParams["font.size"] == 40


@pytest.mark.nightly
def test_invalid_matplotlib_environment_variables_are_ignored(tmp_path: Path) -> None:
    (tmp_path / "rc").write_bytes(b"backend: nonsense\nfont.size: \xff\n")
    around = os.environ | {"MPLBACKEND": "nonsense", "MATPLOTLIBRC": str(tmp_path / "rc")}
    script = "import sys; from trainer.cli import script; sys.argv[0] = 'optlab'; script()"
    command = [sys.executable, "-c", script, "landscape", "booth", "--no-gif", "--steps", "3", "--no-tune"]
    done = subprocess.run([*command, "-o", str(tmp_path)], capture_output=True, text=True, env=around)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "booth.png").exists()


@pytest.mark.parametrize(("wanted", "cores"), [(False, 2), (True, 1)])
def test_no_child_starts_without_figures_or_with_one_core(
    monkeypatch: pytest.MonkeyPatch, wanted: bool, cores: int
) -> None:
    monkeypatch.setattr("trainer.device.usable_cores", lambda: cores)
    monkeypatch.setattr(drawing, "ChildProcess", None)
    with drawing.in_child_process(wanted) as draw:
        assert draw is drawing.draw_run


def test_errors_in_the_run_directory_are_reported_by_this_process(tmp_path: Path) -> None:
    with drawing.in_child_process(True) as draw, pytest.raises(RunError, match="not a run directory"):
        draw(tmp_path, ["png"])


def test_a_run_that_is_killed_leaves_no_process_behind() -> None:
    code = "import time; from trainer.runs import drawing\n"
    code += "child = drawing.ChildProcess(drawing._serve)\n"
    code += "print(child.process.pid, flush=True); time.sleep(60)"
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout
    child = int(parent.stdout.readline())
    assert not _is_gone(child)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    for _ in range(200):
        if _is_gone(child):
            return
        time.sleep(0.05)
    pytest.fail("the process that draws outlived the one that trains by ten seconds")


def _is_gone(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        pass
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    return False


def test_plot_draws_the_same_figures_as_the_run(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    train(write_tiny(tmp_path), "log.plots=[png]", run_dir=folder)
    first = {path.name: path.read_bytes() for path in (folder / "plots").iterdir()}
    assert sorted(first) == sorted(FIGURES)
    for path in (folder / "plots").iterdir():
        path.unlink()
    (folder / "plots").rmdir()
    assert optlab("plot", folder, "--format", "png").code == 0
    assert {path.name: path.read_bytes() for path in (folder / "plots").iterdir()} == first
