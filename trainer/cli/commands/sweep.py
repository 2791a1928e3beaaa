"""Implementation of `optlab sweep`: check the file, run the sweep or print its plan, print the results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trainer import console
from trainer.cli.commands.components import announce_code
from trainer.cli.commands.sweep_plan import print_dry_runs
from trainer.cli.commands.sweep_training import PlannedSweep, plan_sweeps, train_sweep
from trainer.cli.options import OutputOptions, SweepOptions
from trainer.config.identity import components_in
from trainer.config.merge import parse_override
from trainer.sweep.command_line import suggest_all_values
from trainer.sweep.file import read_sweeps
from trainer.sweep.models import Variant


def sweep(
    file: Path, overrides: Sequence[str], runs: Path, options: SweepOptions, output: OutputOptions
) -> int:
    """Run the sweeps of a file, or print their plan with `dry_run`. Return the exit code."""
    sweeps = read_sweeps(file, overrides)
    if options.dry_run:
        parts = (_parts_of(variant) for read in sweeps for variant in read.variants.values())
        announce_code(*(part for each in parts for part in each))
    with suggest_all_values(overrides):
        planned, missing = plan_sweeps(sweeps, runs, options, quiet=output.quiet)
    if options.dry_run:
        print_dry_runs(planned, as_json=output.as_json)
    else:
        code = _train(planned, options, output, with_problems=len(sweeps) > 1)
    for error in missing:
        console.print_error(error)
    return 2 if missing else 0 if options.dry_run else code


def _train(
    planned: Sequence[PlannedSweep], options: SweepOptions, output: OutputOptions, *, with_problems: bool
) -> int:
    """Train the runs and print the results. Return the exit code."""
    code, summaries = 0, []
    for plan in planned:
        one, summary = train_sweep(plan, force=options.force, quiet=output.quiet)
        summaries.append(summary)
        code = max(code, one)
        if code not in (0, 4) or (code == 4 and options.fail_fast):
            break
    from trainer.cli.commands import sweep_results  # imports scipy, pandas and matplotlib: 1.5 s

    compares = options.figures and code in (0, 4) and not planned[0].suffix
    sweep_results.report(planned, summaries, output, with_problems=with_problems, compares=compares)
    return code


def _parts_of(variant: Variant) -> list[Any]:
    """Return all values of a variant that may name components: from its config, overrides and axes."""
    values = [parse_override(text).value for text in variant.overrides]
    return [*components_in(variant.tree.data), *values, *(axis.probes() for axis in variant.axes)]
