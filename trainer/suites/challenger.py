"""The optimizer of a challenge: what the command line or a YAML file states, and its signature."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from trainer import catalog
from trainer.config import packaged
from trainer.config.paths import absolute_import_path
from trainer.config.yaml_reader import KeyPath, Origin, Position, Tree, read_file
from trainer.errors import ConfigError, OptlabError
from trainer.sweep.models import FINAL, NAME

BASELINES = "baselines"
FIGURES = "figures"


@dataclass(frozen=True, slots=True)
class Stated:
    """What the user states of the new optimizer.

    Args:
        text: as given on the command line.
        overlay: optimizer and schedule, as in a variant of a sweep file.
        axes: the axes of its file.
        name: the name in its file.
    """

    text: str
    overlay: Tree
    axes: Mapping[str, Any]
    name: str | None

    @property
    def component(self) -> str:
        """The name or the import path of the optimizer."""
        return str(self.overlay.data["optimizer"]["name"])


@dataclass(frozen=True, slots=True)
class Challenger:
    """The new optimizer.

    Args:
        name: its name in tables and folders.
        overlay: optimizer and schedule, as in a variant of a sweep file.
        options: defaults of the options of its signature; REQUIRED for those without a default.
        axes: the axes stated in its file.
    """

    name: str
    overlay: Tree
    options: Mapping[str, Any]
    axes: Mapping[str, Any]


def read_stated(text: str) -> Stated:
    """Read the argument of the command: a name, an import path, or a YAML file.

    Raises:
        ConfigError: the file has other keys, or no optimizer.
    """
    return _read_file(text) if text.endswith((".yaml", ".yml")) else _read_name(text)


def _read_file(text: str) -> Stated:
    path = packaged.find(Path(text))
    tree = read_file(path)
    for key in tree.data:
        if key not in ("optimizer", "scheduler", "axes", "name"):
            where = str(tree.positions.get((key,), path))
            expected = "optimizer, scheduler, axes and name only"
            raise ConfigError("a challenge cannot set this key", key=str(key), where=where, expected=expected)
    optimizer = tree.data.get("optimizer")
    if isinstance(optimizer, str):
        optimizer = {"name": optimizer}
    if not isinstance(optimizer, dict) or not isinstance(optimizer.get("name"), str):
        expected = "optimizer: {name: my_optimizer.py:MyOptimizer}"
        raise ConfigError("there is no optimizer", key="optimizer", where=str(path), expected=expected)
    optimizer = optimizer | {"name": absolute_import_path(optimizer["name"], path.absolute().parent)}
    axes = tree.data.get("axes") or {}
    name = str(tree.data["name"]) if "name" in tree.data else None
    data = {key: value for key, value in tree.data.items() if key not in ("axes", "name")}
    overlay = Tree(data | {"optimizer": optimizer}, dict(tree.positions))
    return Stated(text, overlay, axes if isinstance(axes, dict) else {}, name)


def _read_name(text: str) -> Stated:
    name = re.sub(r"^torch\.optim[.:]", "", text)
    is_registered = name in catalog.REGISTRIES["optimizer"]
    component = name if is_registered else absolute_import_path(text, Path.cwd())
    position = Position(Origin("command line", Path.cwd(), lines=False))
    keys: list[KeyPath] = [(), ("optimizer",), ("optimizer", "name")]
    return Stated(text, Tree({"optimizer": {"name": component}}, dict.fromkeys(keys, position)), {}, None)


def challenger_of(stated: Stated, name: str | None, known: Sequence[str]) -> Challenger:
    """Import the optimizer and read its signature.

    Args:
        stated: what the user states.
        name: its name in tables and folders; None = that of its file, else that of its class.
        known: names of the baselines, which it cannot have.

    Raises:
        ConfigError: it is not an optimizer, or its name cannot be that of a folder.
    """
    try:
        fields = catalog.option_model("optimizer", stated.component).model_fields
    except OptlabError as error:
        problems = [replace(one, key="", where=one.where or stated.text) for one in error.problems]
        raise ConfigError.of(problems) from error
    defaults = {key: None if field.is_required() else field.default for key, field in fields.items()}
    short = name or stated.name or stated.component.rpartition(":")[2]
    if short.lower() in map(str.lower, known):
        short = f"new_{short}"
    if not NAME.match(short) or short.lower() in (FINAL, BASELINES, FIGURES):
        expected = "letters, digits and . _ + -"
        raise ConfigError(f"{short!r} is not a valid name", key="--name", expected=expected)
    return Challenger(short, stated.overlay, defaults, stated.axes)
