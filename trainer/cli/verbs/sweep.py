"""The verb `sweep`: its options and help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trainer.cli import completion
from trainer.cli.options import LOADING, RUNS, OutputOptions, RunsFolder, SweepOptions
from trainer.console import waiting


def sweep(
    file: Annotated[
        Path,
        typer.Argument(
            help="The YAML file of a sweep or of one run, or a packaged name (optlab init --list).",
            autocompletion=completion.sweep_files,
        ),
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]...",
            help="Axes (optimizer.lr=0.1,0.01 seed=0..4), settings of the sweep (trials=20 final_seeds=3) or "
            "overrides of every config (train.epochs=1 data.root=DIR).",
            autocompletion=completion.overrides,
        ),
    ] = None,
    runs: RunsFolder = RUNS,
    *,
    options: SweepOptions,
    output: OutputOptions,
) -> None:
    """Train many runs in parallel: several settings or optimizers, each with the same number of runs.

    Several values for a key define an axis: separate them by commas, or write 0..4 for 0,1,2,3,4. Each value
    is YAML: model.hidden=[100,50],[20]. Several optimizers (optimizer=SGD,Adam) become variants: each is
    tuned and reported separately. With final_seeds=N the best setting of each is trained again on N fresh
    seeds. The sweep's folder then contains the equivalent sweep.yaml.

    Rerun the command after a crash or Ctrl-C: finished runs are kept, interrupted ones are resumed.

    Examples:

        optlab sweep quick

        optlab sweep quickstart optimizer.lr=0.1,0.01,0.001 seed=0..4 --workers 2

        optlab sweep quickstart optimizer=my.py:Mine,Adam optimizer.lr=0.1,0.01,0.001 final_seeds=5

        optlab sweep optimizers data.root=/data --dry-run

        optlab sweep optimizers --only adam --workers 2

        optlab sweep optimizers --shard $SLURM_ARRAY_TASK_ID/8

    Exit codes: 0 done, 2 invalid file or usage, 4 some runs failed, 130 interrupted, 143 terminated,
    129 terminal closed.
    """
    with waiting(LOADING, quiet=output.quiet):
        from trainer.sweep import pool

        if options.on == "local" and not options.dry_run:
            pool.start_server()  # imports torch at the same time as this process
        from trainer.cli.commands import sweep as command

    raise typer.Exit(command.sweep(file, overrides or [], runs, options, output))
