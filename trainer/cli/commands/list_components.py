"""Implementation of `optlab list`: all components, each with a sentence."""

from __future__ import annotations

import inspect
import re
from functools import partial
from typing import Any

from trainer import catalog, console
from trainer.console import Column
from trainer.errors import (
    unknown_name,
)


def list_components(kind: str | None, *, as_json: bool) -> None:
    """Print every component with the first sentence of its documentation."""
    if kind is not None and kind not in catalog.REGISTRIES:
        raise unknown_name("kind", kind, list(catalog.REGISTRIES))
    kinds = [kind] if kind else list(catalog.REGISTRIES)
    components = {
        chosen: {name: summary(builder) for name, builder in catalog.REGISTRIES[chosen].items()}
        for chosen in kinds
    }
    if as_json:
        console.print_json(components)
        return
    rows = [(chosen, name, text) for chosen, names in components.items() for name, text in names.items()]
    console.table([Column("kind"), Column("name"), Column("description")], rows)


def summary(builder: Any) -> str:
    """Return the first sentence of a builder's documentation, on one line."""
    if isinstance(builder, partial):  # one builder serves all of torchvision's names
        return f"torchvision's {builder.args[0]}, untrained"
    text = (inspect.getdoc(builder) or "").split("\n\n")[0]
    sentence = (
        " ".join(text.split()).partition(". ")[0].replace(":class:", "").replace("``", "").replace("`", "")
    )
    return re.sub(r"^Return (the |an |a )?", "", sentence).rstrip(".:")
