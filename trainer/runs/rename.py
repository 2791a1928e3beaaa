"""Renames the directory of a run that was extended, so that its name states the run's length."""

from __future__ import annotations

from pathlib import Path

from trainer.config.run_id import value_name
from trainer.console import print_note
from trainer.errors import BusyError
from trainer.runs import rundir
from trainer.runs.environment import origin

SWEEP = "sweep.yaml"


def rename_extended(folder: Path) -> Path:
    """Rename a run whose name has another length than the run, and return its path.

    `epochs=3,seed=0` that was extended to 10 epochs becomes `epochs=10,seed=0`, the name that a new run of
    this length would have. Runs of sweeps, which find their runs by name, are not renamed, and neither is a
    run that is unfinished or whose new name is taken.

    Args:
        folder: the run directory.
    """
    status = rundir.read_status(folder)
    target = folder.with_name(_name_with_length(folder))
    if status is None or status["status"] not in rundir.FINISHED or target == folder or _in_sweep(folder):
        return folder
    if target.exists():
        print_note(f"{folder} keeps its name, because {target} exists")
        return folder
    fields = rundir.read_environment(folder)
    keeps_origin = fields.get("origin") == origin(folder)
    try:
        with rundir.locked(folder):
            folder.rename(target)
            if keeps_origin:  # otherwise resuming it would ask for --trust
                rundir.write_json(target / rundir.ENVIRONMENT, {**fields, "origin": origin(target)})
    except (BusyError, OSError) as error:
        print_note(f"{folder} keeps its name: {error}")
        return target if target.exists() else folder
    print_note(f"renamed {folder.name} to {target.name}")
    return target


def _in_sweep(folder: Path) -> bool:
    """Return whether a run is at `<sweep>/<variant>/<run>` or `<sweep>/final/<variant>/<run>`."""
    above = folder.absolute().parents[1]
    return ((above.parent if above.name == "final" else above) / SWEEP).exists()


def _name_with_length(folder: Path) -> str:
    """Return the name of a run directory with the length that its config has."""
    config = rundir.load_config(folder)
    lengths = {key: getattr(config.train, key) for key in ("epochs", "steps", "seconds")}
    parts = []
    for part in folder.name.split(","):
        label = part.partition("=")[0]
        length = lengths.get(label.removeprefix("train."))
        parts.append(part if length is None else f"{label}={value_name(length)}")
    return ",".join(parts)
