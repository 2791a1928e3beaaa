"""Shell completion of config files, run directories, keys and component names.

Every command imports this module, so its functions import what they need when they are called.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import typer

_COMPONENT_KEYS = {
    "data.name": "dataset",
    "model.name": "model",
    "loss.name": "loss",
    "optimizer.name": "optimizer",
    "scheduler.name": "scheduler",
}


def _paths(incomplete: str) -> Iterator[Path]:
    folder = Path(incomplete) if incomplete.endswith("/") else Path(incomplete).parent
    if folder.is_dir():
        yield from (path for path in sorted(folder.iterdir()) if str(path).startswith(incomplete))


def config_files(incomplete: str) -> Iterator[str]:
    """Yield YAML files, folders and packaged configs that start with `incomplete`."""
    for path in _paths(incomplete):
        if path.is_dir():
            yield f"{path}/"
        elif path.suffix in (".yaml", ".yml"):
            yield str(path)
    yield from _packaged("config", "lesson", incomplete=incomplete)


def sweep_files(incomplete: str) -> Iterator[str]:
    """Yield packaged sweeps, and what `config_files` yields."""
    yield from _packaged("sweep", "suite", incomplete=incomplete)
    yield from config_files(incomplete)


def _packaged(*kinds: str, incomplete: str) -> Iterator[str]:
    from trainer.config import packaged

    yield from (name for name in packaged.names(*kinds) if name.startswith(incomplete))


def run_dirs(incomplete: str) -> Iterator[str]:
    """Yield run directories, and folders that may hold some, that start with `incomplete`."""
    for path in _paths(incomplete):
        if path.is_dir():
            yield str(path) if (path / "status.json").exists() else f"{path}/"


def overrides(incomplete: str) -> Iterator[str]:
    """Yield keys followed by `=`; after `optimizer.name=` and similar keys, yield component names."""
    key, equals, value = incomplete.partition("=")
    if equals:
        if kind := _COMPONENT_KEYS.get(key):
            yield from (f"{key}={name}" for name in _names(kind) if name.startswith(value))
        return
    from trainer.config.models import Config, DataConfig, LogConfig, Section, TrainConfig

    keys = [name for name in Config.model_fields if name != "format"]
    sections: dict[str, type[Section]] = {"train": TrainConfig, "log": LogConfig, "data": DataConfig}
    keys += [f"{section}.{name}" for section, model in sections.items() for name in model.model_fields]
    keys += [*_COMPONENT_KEYS, "optimizer.lr"]
    yield from (f"{name}=" for name in keys if name.startswith(incomplete) and name != "data.options")


def datasets(incomplete: str) -> Iterator[str]:
    """Yield names of data sets that start with `incomplete`."""
    yield from (name for name in _names("dataset") if name.startswith(incomplete))


def names(ctx: typer.Context, incomplete: str) -> Iterator[str]:
    """Yield component names of the kind given earlier on the command line."""
    yield from (name for name in _names(ctx.params.get("kind") or "") if name.startswith(incomplete))


def _names(kind: str) -> list[str]:
    from trainer import catalog  # imports torch, so only when names are completed

    return list(catalog.REGISTRIES.get(kind, ()))
