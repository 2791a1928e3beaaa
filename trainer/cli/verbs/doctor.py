"""The verb `doctor`: its options and help."""

from __future__ import annotations

from trainer.cli.options import (
    LOADING,
    RUNS,
    AsJson,
    RunsFolder,
)
from trainer.console import waiting


def doctor(runs: RunsFolder = RUNS, as_json: AsJson = False) -> None:
    """Print versions, devices, threads, data sets on disk, the cache and write access.

    Examples:

        optlab doctor
    """
    with waiting(LOADING):
        from trainer.cli.commands import doctor as command

    command.doctor(runs, as_json=as_json)
