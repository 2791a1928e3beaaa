"""Components on the command line: the code that a config names, and options given as `key=value`."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

from trainer import catalog, console
from trainer.config.identity import named_code
from trainer.config.merge import parse_override
from trainer.errors import ConfigError


def announce_code(*values: Any) -> None:
    """Print the files and packages that components name, before they are imported and thereby executed."""
    if names := named_code(*values):
        console.print_note(f"imports and executes {', '.join(names)}")


def component_options(kind: str, name: str, assignments: Sequence[str]) -> dict[str, Any]:
    """Return options given as `key=value`, checked against the component's signature."""
    options: dict[Hashable, Any] = {}
    for override in map(parse_override, assignments):
        if len(override.key) != 1:
            raise ConfigError(f"{override.text!r} is not an option of {name}", expected="key=value")
        options[override.key[0]] = override.value
    return catalog.check_options(kind, name, options)
