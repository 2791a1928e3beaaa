"""`optlab compare` and `trainer.compare_runs` on trained and damaged runs."""

from __future__ import annotations

import fcntl
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from trainer.cli.app import app
from trainer.compare.load import _incomplete_tables
from trainer.errors import ConfigError, OptlabError
from trainer.runs import rundir

QUICKSTART = Path(__file__).resolve().parents[2] / "configs" / "quickstart.yaml"


def optlab(*arguments: object) -> Result:
    """Run the command in this process, with the exit code of `main`."""
    result = CliRunner().invoke(app, [str(one) for one in ("compare", *arguments)])
    if isinstance(result.exception, OptlabError):
        result.exit_code = result.exception.exit_code
    elif result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def refused(*arguments: object) -> str:
    """Return the error message of the command, which must exit with code 2."""
    result = optlab(*arguments)
    assert result.exit_code == 2
    return str(result.exception)


@pytest.fixture(scope="module")
def real_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SGD with and without momentum on digits, three seeds each, and one run that diverges."""
    from trainer import catalog
    from trainer.runs import launch

    folder = tmp_path_factory.mktemp("runs")
    common = ["train.epochs=2", "log.plots=[]", "train.threads=1", "model.hidden=[16]"]
    for seed in range(3):
        for momentum in (0, 0.9):
            changes = [*common, f"seed={seed}", f"optimizer.momentum={momentum}"]
            loaded = catalog.load_config(QUICKSTART, changes)
            launch.launch(loaded, launch.folder_for(loaded, changes, folder))
    loaded = catalog.load_config(QUICKSTART, [*common, "optimizer.lr=1e30"])
    launch.launch(loaded, folder / "bad")
    return folder


def test_real_runs_from_directory_to_files(real_runs: Path, tmp_path: Path) -> None:
    result = optlab(real_runs / "quickstart", "--target", "0.8", "-o", tmp_path / "out", "--format", "svg")
    assert result.exit_code == 0, result.output
    assert "momentum=0.9" in result.stdout
    assert "reached val_accuracy=0.8" in result.stdout
    assert "too few seeds: with 3 pairs that differ, p is at least 0.25" in result.stdout
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written >= {"loss.svg", "val_loss.svg", "val_accuracy.svg", "table.csv", "table.md", "table.tex"}
    assert written >= {"differences.csv", "runs.csv"}
    assert f"wrote {tmp_path / 'out' / 'table.csv'}" in result.stderr


def test_momentum_wins_on_the_digits_and_divergence_is_counted(real_runs: Path) -> None:
    found = json.loads(optlab(real_runs, "--json", "--metric", "val_loss").stdout)
    groups = {row["group"]: row for row in found["groups"]}
    assert {name: (row["n"], row["diverged"]) for name, row in groups.items()} == {
        "lr=0.05 momentum=0": (3, 0), "lr=0.05 momentum=0.9": (3, 0), "lr=1e30 momentum=0.9": (1, 1),
    }  # fmt: skip
    slow, fast = groups["lr=0.05 momentum=0"], groups["lr=0.05 momentum=0.9"]
    assert fast["final_val_loss"] < slow["final_val_loss"]
    assert fast["state_bytes"] > slow["state_bytes"] == 0
    assert fast["ms_per_step"] > 0


def test_globs_and_single_runs(real_runs: Path) -> None:
    result = optlab(real_runs / "quick*" / "*seed=0", "--table", "csv")
    assert result.stdout.count("\n") == 3
    assert "every group has only one seed, so there is no interval and no test" in result.stderr


@pytest.mark.parametrize("ending", ["png", "svg", "pdf", "csv", "md", "tex", "json"])
def test_one_file_of_any_kind(write_run: Any, tmp_path: Path, ending: str) -> None:
    write_run("x/a")
    write_run("x/b", optimizer="Adam")
    path = tmp_path / "new" / f"file.{ending}"
    result = optlab(
        tmp_path / "x", "-o", path, "--figure", "val_accuracy", "--style", "paper", "--size", "4x3"
    )
    assert result.exit_code == 0
    start = {"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml", "tex": b"\\begin{tabular}", "json": b"["}
    assert path.read_bytes().startswith(start.get(ending, b""))
    assert path.stat().st_size > 100


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--by", "optimizer.lrr"], "no run has a setting 'optimizer.lrr'"),
        (["--target", "fast"], "'fast' is not a target"),
        (["--metric", "speed"], "unknown result 'speed'"),
        (["--against", "Adan"], "unknown group 'Adan'"),
        (["--x", "hours"], "unknown choice 'hours'"),
        (["--scale", "logy"], "did you mean 'semilogy'"),
        (["--band", "sem"], "unknown choice 'sem'"),
        (["--band", "t", "--centre", "median"], "a Student t band requires the mean"),
        (["--confidence", "95"], "is not a confidence level"),
        (["--within", "-1"], "--within"),
        (["--size", "big"], "'big' is not a size"),
        (["--size", "0x3"], "1 to 60 inches"),
        (["--style", "poster"], "unknown style 'poster'"),
        (["--format", "gif"], "unknown figure format 'gif'"),
        (["-o", "figure.gif"], "unknown file extension .gif"),
        (["-o", "figure.png", "--figure", "speed"], "unknown figure 'speed'"),
        (["--table", "html"], "unknown choice 'html'"),
    ],
)
def test_invalid_compare_options_are_one_error(
    write_run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_run("x/a")
    write_run("x/b", optimizer="Adam")
    assert said in refused("x", *arguments)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x"], "nothing is written"


def test_no_runs(tmp_path: Path) -> None:
    assert "no runs in" in refused(tmp_path)
    assert "there is no" in refused(tmp_path / "absent")
    assert "there is no" in refused(tmp_path / "runs*")


def spoil(run: Path, how: str) -> None:
    """Damage a finished run in the way that `how` names."""
    status = json.loads((run / "status.json").read_text())
    if how in ("interrupted", "failed", "pruned", "running"):
        (run / "status.json").write_text(json.dumps(status | {"status": how}))
    elif how == "format":
        (run / "status.json").write_text(json.dumps(status | {"format": 7}))
    elif how == "summary":
        (run / "summary.json").write_text('{"status": "comp')
    elif how == "no summary":
        (run / "summary.json").unlink()
    elif how == "config":
        (run / "config.yaml").write_text("{")
    elif how == "line":
        lines = (run / "epochs.csv").read_text().splitlines()
        (run / "epochs.csv").write_text("\n".join([lines[0], lines[1], "1,2", lines[2]]) + "\n")
    elif how == "columns":
        (run / "epochs.csv").write_text("step,val_loss\n0,1.0\n")
    else:
        assert how == "no steps"
        (run / "steps.csv").unlink()


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("interrupted", "it is interrupted"), ("failed", "it is failed"),
        ("pruned", "left out 1 run that the sweep pruned"),
        ("format", "has format 7"), ("summary", "summary.json is damaged"), ("no summary", "no summary.json"),
        ("config", "cannot read"), ("line", "2 cells where the header has 9"),
        ("columns", "missing columns: epoch"), ("no steps", "missing columns: step, loss"),
    ],
)  # fmt: skip
def test_damaged_runs_are_reported_and_the_others_compared(
    write_run: Any, tmp_path: Path, how: str, said: str
) -> None:
    write_run("x/good")
    bad = write_run("x/bad", optimizer="Adam")
    spoil(bad, how)
    result = optlab(tmp_path)
    assert result.exit_code == 0
    assert said in result.stderr
    assert how == "pruned" or str(bad) in result.stderr
    assert "Adam" not in result.stdout
    # With nothing left, the same is an error.
    assert "none of 1 runs can be compared" in refused(bad)


def test_running_runs_are_left_out(write_run: Any, tmp_path: Path) -> None:
    write_run("x/good")
    going = write_run("x/going", optimizer="Adam")
    spoil(going, "running")
    with open(going / rundir.LOCK, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        result = optlab(tmp_path)
        assert f"left out {going}: it is still running" in result.stderr
        assert result.exit_code == 0


def test_incomplete_lines_missing_columns_and_mixed_versions_are_reported(
    write_run: Any, tmp_path: Path
) -> None:
    torn = write_run("x/torn", seed=0)
    with open(torn / "steps.csv", "a") as file:
        file.write("21,2.1,6")
    write_run("x/other", seed=1, torch="2.14.0")
    bare = write_run("x/bare", seed=2, val_accuracy=None, val_loss=(2.0, 1.0, 0.5))
    said = optlab(tmp_path).stderr
    assert f"{torn / 'steps.csv'}: the last line is incomplete and was left out" in said
    assert "mixed versions: torch 2.14.0 (1 runs), torch 2.15.0 (2 runs)" in said
    assert f"no val_accuracy in {bare}" in said


def test_an_empty_table_has_no_incomplete_line(write_run: Any) -> None:
    run = write_run("x/a")
    (run / "steps.csv").write_bytes(b"")
    assert _incomplete_tables(run) == []


def test_from_python(write_run: Any, tmp_path: Path) -> None:
    from trainer import compare_runs, load_run, load_runs

    write_run("x/a")
    bad = write_run("x/b", optimizer="Adam")
    assert load_run(bad).result is not None
    runs = load_runs(tmp_path)
    found = compare_runs(runs, targets=["val_accuracy=0.9"], style="slides")
    assert list(found.groups["group"]) == ["Adam", "SGD"]
    assert {"loss", "val_loss", "val_accuracy"} <= set(found.figures)
    spoil(bad, "failed")
    with pytest.warns(UserWarning, match=r"left out .*b: it is failed"):
        assert len(load_runs(tmp_path)) == 1
    with pytest.raises(ConfigError):
        compare_runs(runs, style="poster")


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = "import sys, trainer; print({'torch', 'pandas', 'matplotlib', 'scipy'} & set(sys.modules))"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        == "set()\n"
    )
    import trainer

    for name in [*trainer.__all__, "trian"]:
        if name == "trian":
            with pytest.raises(AttributeError, match="has no attribute 'trian'"):
                getattr(trainer, name)
        else:
            assert callable(getattr(trainer, name))


def test_columns_and_labels_of_a_table_and_figures_without_a_title(write_run: Any, tmp_path: Path) -> None:
    for name in ("SGD", "Adam"):
        write_run(f"x/{name}", optimizer=name)
    table = ("--table", "latex", "--column", "final val acc %", "--label", "Adam=Adam (ours)")
    printed = optlab(tmp_path / "x", *table).stdout
    assert r"group & final val acc \% \\" in printed
    assert "Adam (ours) &" in printed
    for option, text in ((("--title", "A chosen title"), True), (("--no-title",), False)):
        file = tmp_path / "out.svg"
        assert optlab(tmp_path / "x", *option, "-o", file, "--figure", "val_accuracy").exit_code == 0
        assert ("<!-- A chosen title -->" in file.read_text()) == text
    assert "--label" in refused(tmp_path / "x", "--label", "Adam")
