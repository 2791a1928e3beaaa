"""Implementation of `optlab sweep`: check the file, run the sweep or print its plan, print the results."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from trainer import console
from trainer.cli.commands.components import announce_code
from trainer.cli.commands.runs import SHARDS, SWEEP_COLUMNS
from trainer.cli.commands.sweep_plan import dry_run_of
from trainer.cli.options import OutputOptions, SweepOptions
from trainer.compare import compare_runs
from trainer.compare.names import short_texts
from trainer.compare.table import caption, render_table, with_half_width
from trainer.config.identity import components_in
from trainer.config.merge import parse_override
from trainer.config.run_id import axis_value_name
from trainer.console import Column
from trainer.console.sweep import SweepProgress
from trainer.errors import BusyError, ConfigError, FigureError, first_line, unknown_name
from trainer.metrics import find, leading, metric_name
from trainer.runs import rundir
from trainer.sweep.file import read_sweep
from trainer.sweep.models import FINAL, Sweep, Variant
from trainer.sweep.plan import (
    DATA,
    SharedData,
    check_budgets,
    check_variants,
    dropped_options,
    resolve_objective,
)
from trainer.sweep.progress import Display, FinishedRun, SweepState
from trainer.sweep.results import CONFIDENCE
from trainer.sweep.runner import Options, SweepRunner

COMPARISON = "comparison"
MAX_COMPARED_RUNS = 400


def sweep(
    file: Path, overrides: Sequence[str], runs: Path, options: SweepOptions, output: OutputOptions
) -> int:
    """Run a sweep, or print its plan with `dry_run`. Return the exit code."""
    read = read_sweep(file, overrides)
    shard = _parts(options.shard, read)
    settings = Options(options.workers, _known(options.only or [], read), shard, options.fail_fast)
    check_budgets(read)
    displayed_root = runs / read.config.name
    root = displayed_root.absolute()  # a component may change the working directory
    suffix = "" if shard is None else f"-{shard[0]}-of-{shard[1]}"
    shared_data = SharedData(root / f"{DATA}{suffix}")
    if options.dry_run:
        announce_code(*(part for variant in read.variants.values() for part in _parts_of(variant)))
    with console.waiting("Checking the variants", quiet=output.quiet):
        infos = check_variants(read, shared_data)
    for note in [*dropped_options(read), *shared_data.notes()]:
        console.print_note(note)
    objective = resolve_objective(read, infos)
    if options.dry_run:
        dry_run_of(read, displayed_root, infos, shared_data, settings, as_json=output.as_json)
        return 0
    rundir.prepare_root(root)
    with ExitStack() as stack:
        stack.enter_context(_locked(root, root if not suffix else root / SHARDS / suffix[1:]))
        shared_data.clear()
        stack.callback(shared_data.clear)
        display = stack.enter_context(SweepProgress(quiet=output.quiet))
        observer = _ProgressReporter(display)
        runner = SweepRunner(
            read, root, infos, objective, shared_data, settings, observer, force=options.force
        )
        runner.check_existing(force=options.force)
        code = runner.run()
        summary = runner.write_files()
    if options.figures and code in (0, 4) and not suffix:
        with console.waiting("Comparing the runs", quiet=output.quiet):
            compared = _compare(displayed_root, list(read.variants), summary["runs"]["done"])
        for note in compared:
            console.print_note(note)
    if output.as_json:
        console.print_json({"sweep": str(displayed_root)} | summary)
    else:
        with console.results_are_kept():
            _print_summary(summary, displayed_root)
        if not output.quiet and summary["runs"]["done"] > 1:
            console.print_note(
                "compare every setting:", command=shlex.join(["optlab", "compare", str(displayed_root)])
            )
    return code


def _parts_of(variant: Variant) -> list[Any]:
    """Return all values of a variant that may name components: from its config, overrides and axes."""
    values = [parse_override(text).value for text in variant.overrides]
    return [*components_in(variant.tree.data), *values, *(axis.probes() for axis in variant.axes)]


@contextmanager
def _locked(root: Path, folder: Path) -> Iterator[None]:
    """Hold the lock of a sweep, or of a shard of it."""
    with ExitStack() as stack:
        try:
            stack.enter_context(rundir.locked(folder))
        except BusyError as error:
            raise BusyError(
                f"another optlab sweep is running in {folder}",
                fix=f"see its progress with `optlab runs {root}`, or divide a grid with --shard I/N",
            ) from error
        yield


def _compare(root: Path, variants: Sequence[str], runs: int) -> list[str]:
    """Write figures and a table of the sweep's runs in Markdown to its folder. Return notes for the user.

    Other runs in the same folder, of a config with the name of the sweep, are left out.
    """
    if runs > MAX_COMPARED_RUNS:
        return [f"{runs} runs are too many to compare; use: optlab compare {root}/final -o FOLDER"]
    folder = root / COMPARISON
    notes = []
    try:
        paths = [path / name for path in (root, root / FINAL) for name in variants]
        comparison = compare_runs([path for path in paths if path.is_dir()])
        rundir.make_folder(folder)
        table = render_table(comparison.groups, comparison.targets, "markdown", comparison.grouping.metrics)
        rundir.write_atomically(folder / "table.md", table.rstrip() + "\n")
        comparison.save(folder, ["png"])
    except FigureError as error:
        notes.append(f"warning: {error}")
    except Exception as error:  # a failed comparison does not fail the sweep
        return [f"no comparison: {first_line(error)}"]
    notes += [f"note: {note}" for note in comparison.notes]
    return [*notes, f"figures and tables are in {folder}"]


def _known(only: Sequence[str], read: Sweep) -> Sequence[str]:
    for name in only:
        if name not in read.variants:
            raise unknown_name("variant", name, list(read.variants), key="--only")
    return only


def _parts(shard: str | None, read: Sweep) -> tuple[int, int] | None:
    if shard is None:
        return None
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", shard)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise ConfigError(f"--shard {shard!r} is not valid", expected="I/N with I from 1 to N, e.g. 1/8")
    if read.config.strategy != "grid":
        raise ConfigError(
            f"--shard requires a grid: trials of a search ({read.config.strategy}) depend on earlier ones",
            fix="use --only VARIANT to run variants on different machines",
        )
    return int(match[1]), int(match[2])


class _ProgressReporter(Display):
    """Shows the runner's events in the terminal."""

    def __init__(self, progress: SweepProgress) -> None:
        self._progress = progress
        self._kept = 0

    def finished(self, run: FinishedRun, state: SweepState) -> None:
        """Print one line per trained run, and one line with the number of existing runs."""
        if run.kept:
            self._kept += 1
            return
        self._note_kept_runs()
        result = run.outcome.result
        texts = [f"[{state.done}/{state.planned}]", run.label, run.outcome.status]
        if run.value is not None and run.outcome.status != "diverged":
            texts.append(f"{run.value:.4g}")
        if result:
            texts.append(console.format_seconds(result.total_seconds))
        if run.outcome.status == "failed":
            texts.append(run.outcome.message)
        self._progress.line("  ".join(texts))

    def _note_kept_runs(self) -> None:
        if self._kept:
            self._progress.line(f"{self._kept} finished run{'s' if self._kept > 1 else ''} kept")
            self._kept = 0

    def update(self, state: SweepState) -> None:
        """Draw the sweep's progress."""
        self._note_kept_runs()
        tail = f"{state.done}/{state.planned} runs"
        if state.failed:
            tail += f", {state.failed} failed"
        if state.rate:
            tail += f"  {state.rate:.3g}/min"
        tail += (
            f"  left {'-:--' if state.seconds_left is None else console.format_seconds(state.seconds_left)}"
        )
        self._progress.update(SWEEP_COLUMNS, _state_rows(state), state.done, state.planned, tail)

    def note(self, text: str) -> None:
        """Print a note."""
        self._progress.note(text)


def _state_rows(state: SweepState) -> Iterator[Sequence[Any]]:
    for v in state.variants:
        yield v.name, v.running, v.done, v.diverged, v.pruned, v.failed, v.planned, v.best


def _print_summary(summary: Mapping[str, Any], root: Path) -> None:
    """Print one row per variant, the advice on values at an axis's edge, and the sweep's folder."""
    columns = [Column("variant"), Column("settings", "right"), Column("runs", "right"), Column("outcomes")]
    parts = summary["variants"]
    tested = find(leading(metric_name(key) for part in parts.values() for key in part["final"] or ()))
    columns += [Column("best"), Column("at"), Column(tested.heading("test")), Column("n", "right")]
    metric = (summary["objective"] or {}).get("metric")
    rows, advice = [], []
    for name, part in parts.items():
        best, final = part["best"], part["final"] or {}
        test_summary = final.get(f"test_{tested.name}")
        values = best["values"] if best else {}
        short = short_texts(values.values())
        at = {key.rpartition(".")[2]: _setting(value, short) for key, value in values.items()}
        rows.append(
            [
                name,
                part["settings"],
                part["runs"],
                ", ".join(f"{count} {status}" for status, count in part["statuses"].items()),
                f"{metric} {best[metric]:.4g}" if best else None,
                ", ".join(f"{key}={console.format_cell(value, '')}" for key, value in at.items()) or None,
                _mean_and_half_width(test_summary, final["n"], tested.scale) if test_summary else None,
                final["n"] if test_summary else None,
            ]
        )
        advice += [f"{name}: {text}" for text in part["edges"]]
    used = [i for i, column in enumerate(columns) if i < 4 or any(row[i] is not None for row in rows)]
    console.table([columns[i] for i in used], [[row[i] for i in used] for row in rows])
    if any(row[6] is not None for row in rows):
        console.print_sentence(caption(CONFIDENCE, overhead=False))
    for text in advice:
        console.print_sentence(text)
    counts = summary["runs"]
    progress_text = f"{counts['done']} of {counts['planned']} runs, {counts['failed']} failed"
    console.print_text(f"{summary['status']}: {progress_text}; {root}")


def _setting(value: Any, short: Mapping[str, str]) -> Any:
    if isinstance(value, Mapping):
        return axis_value_name(value)
    return short.get(value, value) if isinstance(value, str) else value


def _mean_and_half_width(test_summary: Mapping[str, Any], n: int, scale: float) -> str:
    """Return the scaled mean and half-width, with the count if not all `n` runs have a value."""
    half = (
        math.nan if test_summary["low"] is None else scale * (test_summary["high"] - test_summary["low"]) / 2
    )
    text = with_half_width(scale * test_summary["mean"], half)
    if len(test_summary["values"]) < n:
        return f"{text} ({len(test_summary['values'])} of {n})"
    return f"{text} (one seed)" if n == 1 else text
