"""Console output: errors, tables, results and progress, with and without a terminal."""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trainer.console import (
    Column,
    clean,
    format_cell,
    format_seconds,
    print_error,
    print_json,
    print_note,
    print_pairs,
    print_result,
    print_text,
    table,
    waiting,
)
from trainer.console.sweep import SweepProgress
from trainer.console.training import TrainingProgress
from trainer.errors import ConfigError, OptlabError, Problem
from trainer.records import EvalRecord, EvalResult, RunResult, StepRecord


class Terminal(io.StringIO):
    """A stream that claims to be a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def width(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)

    def set_width(columns: int) -> None:
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.setenv("LINES", "40")

    return set_width


def plain(text: str) -> str:
    """Return the lines that a terminal would show in the end, without colours."""
    from rich.text import Text

    return Text.from_ansi(text).plain


def evaluation(step: int, seconds: float = 0.0, **values: float | None) -> EvalRecord:
    found: dict[str, float | None] = {
        "train_loss": 0.5 if step else None,
        "train_accuracy": 0.9 if step else None,
        "val_loss": 0.6,
        "val_accuracy": 0.875,
    }
    return EvalRecord(step, step / 100, step * 64, step, seconds, found | values)


def result(**changes: Any) -> RunResult:
    final = EvalResult(300, 3.0, 1.5, {"train_loss": 0.1, "val_loss": 0.2, "val_accuracy": 0.95})
    fields: dict[str, Any] = {
        "status": "completed",
        "steps": 300,
        "epochs": 3.0,
        "samples": 19200,
        "grad_evals": 300,
        "train_seconds": 1.5,
        "total_seconds": 75.0,
        "final": final,
        "best": final,
        "test": {"loss": 0.25, "accuracy": 0.9412, "checkpoint": "best"},
        "steps_per_second": 200.0,
        "samples_per_second": 12800.0,
        "peak_memory_bytes": 1,
        "optimizer_state_bytes": 1,
        "parameters": 1,
        "best_metric": "val_accuracy",
    }
    return RunResult(**(fields | changes))


# Errors


def test_an_error_on_stderr_has_place_description_expected_and_fix(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_error(
        ConfigError(
            "unknown name 'SDG'", key="optimizer.name", where="a.yaml:3", expected="SGD", fix="say SGD"
        )
    )
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.splitlines() == [
        "error: a.yaml:3: optimizer.name: unknown name 'SDG'",
        "    expected  SGD",
        "    fix       say SGD",
    ]


def test_several_problems_are_counted_and_all_printed(capsys: pytest.CaptureFixture[str]) -> None:
    print_error(OptlabError.of([Problem("one", where="a.yaml:1"), Problem("two", fix="mend it")]))
    assert capsys.readouterr().err.splitlines() == [
        "error: 2 problems",
        "a.yaml:1: one",
        "two",
        "    fix  mend it",
    ]


def test_markup_and_control_characters_in_users_text_are_escaped(
    monkeypatch: pytest.MonkeyPatch, width: Callable[[int], None]
) -> None:
    width(80)
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    print_error(ConfigError("got [red]x[/red] :smile: \x1b[31mred\x07", expected="[bold]no[/bold]"))
    shown = plain(terminal.getvalue())
    assert "[red]x[/red] :smile: \\x1b[31mred\\x07" in shown
    assert "[bold]no[/bold]" in shown
    assert "\x07" not in terminal.getvalue()


def test_text_from_files_cannot_look_like_a_separate_message(capsys: pytest.CaptureFixture[str]) -> None:
    print_error(ConfigError("got a\nerror: another", where="a\nb.yaml"))
    table([Column("run")], [["a\nb\x1b[31m"]])
    print_json({"run": "a\x9b31m\x7f"})
    printed = capsys.readouterr()
    assert printed.err == "error: a\\nb.yaml: got a\n    error: another\n"
    assert printed.out.splitlines()[1] == "a\\nb\\x1b[31m"
    assert "\x9b" not in printed.out
    assert json.loads(printed.out[printed.out.index("{") :]) == {"run": "a\x9b31m\x7f"}


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_an_error_fits_the_terminal(
    monkeypatch: pytest.MonkeyPatch, width: Callable[[int], None], columns: int
) -> None:
    width(columns)
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    choices = "one of " + ", ".join(f"name{i}" for i in range(60))
    print_error(ConfigError("unknown", where="configs/sgd.yaml:12", key="model.name", expected=choices))
    lines = plain(terminal.getvalue()).splitlines()
    assert max(map(len, lines)) <= columns
    assert " ".join(" ".join(lines).split()).endswith(f"expected {choices}")


def test_no_color_is_honoured(monkeypatch: pytest.MonkeyPatch, width: Callable[[int], None]) -> None:
    width(80)
    coloured, uncoloured = Terminal(), Terminal()
    monkeypatch.setattr("sys.stderr", coloured)
    print_error(ConfigError("wrong", where="a.yaml:1"))
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr("sys.stderr", uncoloured)
    print_error(ConfigError("wrong", where="a.yaml:1"))
    assert "31m" in coloured.getvalue()
    assert "31m" not in uncoloured.getvalue()


# Tables and results


def test_a_table_in_a_pipe_is_aligned_and_never_cut() -> None:
    file = io.StringIO()
    name = "a very long name " * 20
    table([Column("run"), Column("acc", "right", ".3f")], [[name.strip(), 0.97654], ["[b]", None]], file=file)
    head, first, second = file.getvalue().splitlines()
    assert name.strip() in first
    assert first.endswith("0.977")
    assert second.startswith("[b]")
    assert len(first) == len(second) == len(head)


@pytest.mark.parametrize("columns", [60, 120])
def test_a_table_on_a_terminal_wraps_without_losing_text(width: Callable[[int], None], columns: int) -> None:
    width(columns)
    terminal = Terminal()
    table([Column("run"), Column("steps", "right", ",d")], [["x" * 100, 4690]], file=terminal)
    lines = plain(terminal.getvalue()).splitlines()
    assert max(map(len, lines)) <= columns
    assert sum(line.count("x") for line in lines) == 100
    assert "4,690" in lines[1]


def test_json_is_valid_after_divergence(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"loss": math.nan, "most": [math.inf, 1.5], "run": Path("runs/a"), "name": "é[b]"})
    printed = json.loads(capsys.readouterr().out)
    assert printed == {"loss": None, "most": [None, 1.5], "run": "runs/a", "name": "é[b]"}


def test_characters_missing_from_the_encoding_are_escaped() -> None:
    content = io.BytesIO()
    file = io.TextIOWrapper(content, encoding="ascii")
    print_text("SGD · 1", file=file)
    assert content.getvalue() == b"SGD \\xb7 1\n"


def test_pairs_are_aligned_below_their_title() -> None:
    file = io.StringIO()
    print_pairs("data", {"name": "mnist", "size": None, "long": "a\nb"}, file=file)
    assert file.getvalue().splitlines() == [
        "data",
        "  name  mnist",
        "  size  -",
        "  long  a",
        "        b",
    ]


def test_a_result_has_status_measurements_and_directory() -> None:
    file = io.StringIO()
    print_result(result(), Path("runs/a/seed=0"), file=file)
    printed = {line.split("  ")[0]: line for line in file.getvalue().splitlines()}
    assert "1.50 s of training, 1:15 min in all" in printed["trained"]
    assert printed["test"].endswith("loss 0.25, accuracy 94.12% (at the best checkpoint)")
    assert "(epoch 3, chosen by val_accuracy)" in printed["best"]
    assert printed["run"].endswith("runs/a/seed=0")


def test_a_diverged_result_without_measurements_is_printed() -> None:
    file = io.StringIO()
    bare = result(status="diverged", message="loss is nan at step 30", final=None, best=None, test=None)
    print_result(bare, Path("runs/a"), file=file)
    assert "diverged: loss is nan at step 30" in file.getvalue()
    assert "test" not in file.getvalue()


@pytest.mark.parametrize(
    ("value", "spec", "shown"),
    [
        (None, "", "-"),
        (True, "", "yes"),
        (3, ",d", "3"),
        (0.1, "", "0.1"),
        (math.nan, ",d", "nan"),
        ("a\tb\nc", "", "a\\tb\\nc"),
    ],
)
def test_cells(value: Any, spec: str, shown: str) -> None:
    assert format_cell(value, spec) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.5, "0.50 s"), (12.34, "12.3 s"), (59.96, "1:00 min"), (3599.6, "1:00:00 h"), (7390, "2:03:10 h")],
)
def test_durations(seconds: float, shown: str) -> None:
    assert format_seconds(seconds) == shown


def test_control_characters_are_escaped() -> None:
    assert clean("a\x1b]0;x\x07\nb") == "a\\x1b]0;x\\x07\nb"


# Progress


def run_through(file: io.StringIO, *, records: int = 3) -> list[float]:
    """Simulate a run of 100 steps per epoch, one step per 10 ms of a fake clock; return the clock."""
    now = [0.0]
    with TrainingProgress(file=file, clock=lambda: now[0]) as progress:
        progress.start("mlp on digits [x]", 100 * records, 100)
        for step in range(100 * records + 1):
            now[0] += 0.01
            if step % 100 == 0:
                progress.update(evaluation(step, step / 100))
            progress.update(StepRecord(step, step / 100, step, step, step / 100, {"loss": 0.5, "lr": 0.01}))
        progress.note("a remark")
    return now


def test_without_a_terminal_every_evaluation_is_one_plain_line() -> None:
    file = io.StringIO()
    run_through(file)
    lines = file.getvalue().splitlines()
    assert lines[0] == "mlp on digits [x]"
    assert re.split(r"\s{2,}", lines[1].strip()) == [
        "epoch",
        "step",
        "train loss",
        "train acc",
        "val loss",
        "val acc",
        "seconds",
    ]
    assert lines[2].split() == ["0", "0", "-", "-", "0.6000", "87.50%", "0.0"]
    assert lines[5].split() == ["3", "300", "0.5000", "90.00%", "0.6000", "87.50%", "3.0"]
    assert {len(line) for line in lines[1:6]} == {len(lines[1])}
    assert lines[6] == "a remark"
    assert "\x1b" not in file.getvalue()


def test_without_validation_its_columns_are_left_out() -> None:
    file = io.StringIO()
    with TrainingProgress(file=file) as progress:
        progress.start("regression", 10, 10)
        progress.update(
            EvalRecord(0, 0.0, 0, 0, 0.0, {"train_loss": None, "val_loss": None, "val_accuracy": None})
        )
        progress.update(EvalRecord(10, 1.0, 0, 0, 0.1, {"train_loss": 2e-7, "val_loss": None}))
    lines = file.getvalue().splitlines()
    assert lines[1].split() == ["epoch", "step", "train", "loss", "seconds"]
    assert lines[3].split() == ["1", "10", "2.000e-07", "0.1"]


@pytest.mark.parametrize("columns", [40, 60, 80, 120])
def test_no_line_is_wider_than_the_terminal(width: Callable[[int], None], columns: int) -> None:
    width(columns)
    terminal = Terminal()
    run_through(terminal)
    shown = plain(terminal.getvalue().replace("\r", "\n")).splitlines()
    assert max(map(len, shown)) <= columns
    evaluations = [line for line in shown if "87.50%" in line and "epoch" not in line]
    assert len(evaluations) == 4
    titles = next(line for line in shown if line.split()[:1] == ["epoch"])
    assert ("step" in titles, "val acc" in titles) == (columns > 40, True)
    assert any("/300 steps" in line for line in shown)
    assert "\x1b[?25h" in terminal.getvalue(), "the cursor comes back"


def test_draws_at_most_ten_times_a_second(width: Callable[[int], None]) -> None:
    width(80)
    terminal = Terminal()
    seconds = run_through(terminal)[0]
    assert 20 <= terminal.getvalue().count("left ") <= 10 * seconds + 4 + 2


def test_an_error_restores_the_terminal(width: Callable[[int], None]) -> None:
    width(80)
    terminal = Terminal()

    def fail() -> None:
        with TrainingProgress(file=terminal) as progress:
            progress.start("mlp", 10, 10)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert terminal.getvalue().rfind("\x1b[?25h") > terminal.getvalue().rfind("\x1b[?25l") > 0


def test_the_result_goes_to_stdout_and_the_progress_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    with TrainingProgress() as progress:
        progress.start("mlp", 10, 10)
    print_result(result(), Path("runs/a"))
    printed = capsys.readouterr()
    assert "runs/a" in printed.out
    assert printed.err == "mlp\n"


@pytest.mark.parametrize(("steps", "seconds"), [(300, None), (None, 3.0), (10**6, 3.0)])
def test_the_remaining_time_is_estimated_from_steps_or_the_time_limit(
    width: Callable[[int], None], steps: int | None, seconds: float | None
) -> None:
    width(80)
    terminal = Terminal()
    now = 0.0
    with TrainingProgress(file=terminal, clock=lambda: now) as progress:
        progress.start("mlp", steps, 100, seconds)
        for step in range(251):
            now = step / 100
            progress.update(StepRecord(step, step / 100, step, step, now, {"loss": 0.5, "lr": 0.01}))
    assert "left 00:01" in plain(terminal.getvalue())


# Narrow terminals, and what a command waits for


RUNS = [Column("run", min_width=12, keep_end=True), Column("status"), Column("loss", "right", omit=1)]
RUN = "runs/digits/a-long-name/lr=0.1,seed=0"


@pytest.mark.parametrize(
    ("columns", "line", "omitted"),
    [
        (80, f"{RUN} completed 0.25", []),
        (40, "...g-name/lr=0.1,seed=0 completed 0.25", []),
        (26, "...r=0.1,seed=0 completed", ["loss"]),
    ],
)
def test_a_narrow_terminal_shows_the_end_of_paths_and_leaves_columns_out(
    width: Callable[[int], None], columns: int, line: str, omitted: list[str]
) -> None:
    width(columns)
    terminal = Terminal()
    assert table(RUNS, [[RUN, "completed", 0.25]], file=terminal) == omitted
    shown = plain(terminal.getvalue()).splitlines()
    assert max(map(len, shown)) <= columns
    assert len(shown) == 2
    assert shown[1].split() == line.split()
    wide = Terminal()
    assert table(RUNS, [[RUN, "completed", 0.25]], wide=True, file=wide) == []
    assert wide.getvalue().splitlines()[1].split() == [RUN, "completed", "0.25"]


def test_a_terminal_too_narrow_for_the_numbers_shows_pairs(width: Callable[[int], None]) -> None:
    width(20)
    terminal = Terminal()
    columns = [Column("group"), *(Column(name, "right") for name in ("final loss", "best loss"))]
    assert table(columns, [["SGD", 0.25, 0.5]], file=terminal) == []
    assert [line.rstrip() for line in plain(terminal.getvalue()).splitlines()] == [
        "SGD",
        "  final loss  0.25",
        "  best loss   0.5",
    ]


def test_the_table_of_a_sweep_keeps_its_numbers_and_cuts_its_text(width: Callable[[int], None]) -> None:
    width(40)
    terminal = Terminal()
    columns = [Column("variant"), Column("done", "right"), Column("failed", "right", omit=1), Column("best")]
    with SweepProgress(file=terminal) as progress:
        progress.update(columns, [["momentum", 12, 0, "val_accuracy 0.98 at lr=0.1"]], 12, 30, "12/30 runs")
    shown = [line.rstrip() for line in plain(terminal.getvalue()).splitlines()]
    assert "variant   done  failed  best" in shown
    assert "momentum    12       0  val_accuracy ..." in shown


def test_a_note_wraps_between_words_and_its_command_does_not(
    monkeypatch: pytest.MonkeyPatch, width: Callable[[int], None]
) -> None:
    width(30)
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    print_note("the differences are not significant", command="optlab compare runs/a runs/b --target x=1")
    print_note("next:", command="optlab runs")
    assert [line.rstrip() for line in terminal.getvalue().splitlines()] == [
        "the differences are not",
        "significant",
        "    optlab compare runs/a runs/b --target x=1",
        "next: optlab runs",
    ]


def test_what_a_command_waits_for_is_shown_only_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, width: Callable[[int], None]
) -> None:
    width(80)

    def shown(file: io.StringIO, *, quiet: bool = False) -> str:
        with waiting("Loading", quiet=quiet, file=file):
            during = file.getvalue()
        return during + "|" + file.getvalue()[len(during) :]

    assert shown(Terminal()) == "Loading ...|\r\x1b[K"
    assert shown(Terminal(), quiet=True) == "|"
    assert shown(io.StringIO()) == "|"
    monkeypatch.setenv("TERM", "dumb")
    assert shown(Terminal()) == "Loading ...\n|"
