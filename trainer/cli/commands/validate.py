"""Implementation of `optlab validate`: check a config without training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trainer import catalog, console
from trainer.cli.commands.components import announce_code
from trainer.config.identity import components_in
from trainer.config.load import read
from trainer.errors import (
    AbsentDataError,
)
from trainer.sweep.command_line import suggest_sweep
from trainer.training.building import set_up_run


def validate(config: Path, overrides: Sequence[str], *, require_data: bool, as_json: bool) -> None:
    """Check a config without downloading data; with absent data, only what does not depend on them."""
    draft = read(config, overrides)
    announce_code(*components_in(draft.tree.data))
    extent, unchecked = "", []
    with console.waiting("Checking the config"):
        with suggest_sweep(config, overrides):
            loaded = catalog.check_config(draft)
        try:
            setup = set_up_run(loaded, download=False, measure_threads=False)
            resolved, extent = setup.config, f"; {setup.experiment.plan.steps} steps"
        except AbsentDataError:
            if require_data:
                raise
            resolved = loaded.config
            unchecked = ["data", "shapes of the model", "parameter groups", "length of the schedules"]
    if as_json:
        console.print_json({"valid": True, "unchecked": unchecked, "config": resolved.model_dump()})
        return
    console.print_text(f"{config}: valid{extent}")
    if unchecked:
        name = resolved.data.name
        console.print_note(f"not checked, because {name} is not on disk: {', '.join(unchecked)}")
        console.print_note(f"to check them as well: optlab prepare {name}, then optlab validate --data")
