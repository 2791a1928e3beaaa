"""Implementation of `optlab schema`."""

from __future__ import annotations

import json
from pathlib import Path

from trainer import catalog, console
from trainer.config.json_schema import json_schema
from trainer.runs import rundir
from trainer.sweep.json_schema import sweep_schema


def schema(output: Path | None, *, sweep: bool) -> None:
    """Write the JSON Schema of configs or of sweeps."""
    make = sweep_schema if sweep else json_schema
    text = json.dumps(make(catalog.COMPONENTS), indent=2) + "\n"
    if output is None:
        console.print_text(text)
        return
    rundir.write_atomically(output, text)
    console.print_note(f"wrote {output}")
