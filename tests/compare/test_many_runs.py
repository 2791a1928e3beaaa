"""Comparing thousands of runs takes linear, not quadratic, work."""

from __future__ import annotations

import cProfile
import os
import pstats
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fabricated_runs import fabricate

from trainer.compare import compare_runs


def calls(folder: Path) -> int:
    """Return the number of function calls in a comparison without figures."""
    profile = cProfile.Profile()
    profile.enable()
    compare_runs(folder, targets=["val_accuracy=0.5"], draw=False)
    profile.disable()
    return int(pstats.Stats(profile).total_calls)  # type: ignore[attr-defined]


@pytest.mark.nightly
def test_work_is_linear_in_the_number_of_runs_and_groups(write_run: Any, tmp_path: Path) -> None:
    """Four times the groups take about four times the calls; quadratic work would take 16 times."""
    for number in range(480):
        folder = "few" if number < 96 else "many"
        write_run(
            f"{folder}/{number}", seed=number % 4, optimizer={"name": "SGD", "lr": 1e-3 * (1 + number // 4)}
        )
    compare_runs(tmp_path / "few", draw=False)  # imports and caches
    few, many = calls(tmp_path / "few"), calls(tmp_path / "many")
    assert many < 5 * few, f"{few} calls for 96 runs, {many} for 384"


MEASURED = """
import re, sys, time
from trainer import cli
try:
    cli.main()
finally:
    peak = re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]
    print(f"\\nused {time.process_time()} {peak}", file=sys.stderr)
"""


@pytest.mark.nightly
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak memory from /proc")
def test_ten_thousand_runs_are_listed_and_compared_within_seconds(tmp_path: Path) -> None:
    """In CPU time, because other programs may use the machine; these also slow down each other's cores."""
    limit = 15 if os.getloadavg()[0] < (os.cpu_count() or 1) else 30
    runs = fabricate(tmp_path, 10_000)
    for verb in ("runs", "compare"):
        used = []
        for _ in range(2):  # a busy machine can slow down one of them
            command = [sys.executable, "-c", MEASURED, verb, str(runs)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            seconds, kilobytes = map(float, done.stderr.split()[-2:])
            used.append(seconds)
        print(f"optlab {verb}: {min(used):.1f} s of CPU time, {kilobytes / 1024:.0f} MiB")
        assert len(done.stdout) > 100_000
        assert min(used) < limit, verb
        assert kilobytes < 1 << 20, verb


def test_a_config_of_known_sections_is_checked_for_missing_ones(write_run: Any, tmp_path: Path) -> None:
    """Skipping the checks of known sections does not accept a config that lacks some."""
    from trainer.compare.load import find

    for number in range(3):
        write_run(f"x/{number}", seed=number)
    path = tmp_path / "x/2/config.yaml"
    text = path.read_text()
    start = text.index("model:")
    path.write_text(text[:start] + text[text.index("name:", start + 30) :])
    loaded = find([tmp_path / "x"])
    assert len(loaded.runs) == 2
    assert "model" in loaded.notes[0]


def test_steps_are_read_when_accessed(write_run: Any, tmp_path: Path) -> None:
    from trainer import load_runs
    from trainer.compare.load import StepTable, find

    path = write_run("x/a")
    (run,) = find([path]).runs
    assert isinstance(run.steps, StepTable)
    (whole,) = load_runs(path)
    assert dict(run.steps) == whole.steps
    assert isinstance(whole.steps, dict)
    assert run.steps.get("lr") == whole.steps["lr"]
    assert run.steps.get("absent") is None


ODD_LINES = (
    "seed: 5\n",
    "note: 'open\n",
    "note: {a: 1\n",
    "note: &a [1]\nlater: *a\n",
    "note: 1\r...\nlater: 2\n",
    "note: 1\x85later: 2\n",
    "---\nlater: 2\n",
    "...\n",
    "# remark\n",
    "<<: {later: 2}\n",
)


@pytest.mark.parametrize("lines", ODD_LINES)
def test_a_config_reads_the_same_with_and_without_known_sections(
    write_run: Any, tmp_path: Path, lines: str
) -> None:
    from trainer.errors import RunError
    from trainer.runs.run_files import Sections, read_config

    def outcome(known: Sections | None) -> Any:
        try:
            return read_config(odd, known)
        except RunError as error:
            return str(error)

    write_run("x/a")
    odd = write_run("x/b")
    known = Sections()
    read_config(tmp_path / "x/a", known)
    with open(odd / "config.yaml", "a", encoding="utf-8", newline="") as file:
        file.write(lines)
    assert outcome(known) == outcome(None)
    assert outcome(known) == outcome(None)  # with its own sections known too


def test_loaded_runs_share_no_config(write_run: Any, tmp_path: Path) -> None:
    from trainer import load_runs

    write_run("x/a", seed=0)
    write_run("x/b", seed=1)
    first, second = load_runs(tmp_path / "x")
    assert first.config["optimizer"] == second.config["optimizer"]
    assert first.config["optimizer"] is not second.config["optimizer"]
