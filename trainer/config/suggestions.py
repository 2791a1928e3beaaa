"""Which key of the config a user most likely means: `lr` is `optimizer.lr`, `epochs` is `train.epochs`."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from trainer.config.models import Config, DataConfig, LogConfig, Section, TrainConfig
from trainer.config.yaml_reader import Position
from trainer.errors import nearest

SECTIONS: dict[str, type[Section]] = {"train": TrainConfig, "data": DataConfig, "log": LogConfig}

# Other names of common keys that are spelled too differently for `nearest`.
_OTHER_NAMES = {"learning_rate": "lr", "wd": "weight_decay", "bs": "batch_size"}


def nearest_key(name: str, choices: Collection[str]) -> str | None:
    """Return the key for another common name or a misspelled one, or None."""
    other = _OTHER_NAMES.get(name.lower().replace("-", "_"))
    return other if other in choices else nearest(name, choices)


def full_key(name: str, options: Mapping[str, Iterable[str]], *, exact: bool = False) -> str | None:
    """Return the dotted key whose last part is `name` or is close to it, or None.

    Args:
        name: a key without its section.
        options: the names of components' options, by the path of the component: `{"optimizer": ["lr", ...]}`.
            If two names are equal, the first one is returned.
        exact: ignore misspellings.
    """
    keys: dict[str, str] = {}
    for path, names in [*options.items(), *((path, model.model_fields) for path, model in SECTIONS.items())]:
        for each in names:
            keys.setdefault(each, f"{path}.{each}")
    name = _OTHER_NAMES.get(name, name)
    if name in keys:
        return keys[name]
    guess = None if exact else nearest_key(name, keys)
    return keys[guess] if guess else None


def did_you_mean(key: str, value: Any, position: Position | None) -> str:
    """Return the fix for a misplaced key: the key, or for an override the whole override."""
    if position is None or position.origin.lines:
        return f"did you mean {key}?"
    return f"did you mean {key}={value if isinstance(value, str) else json.dumps(value)}?"


def option_as_override(option: str, value: str | None) -> str | None:
    """Return the override for a key that was given as an option, as `--lr 0.1`; None if there is no such key.

    The config is not known yet, so only options that most optimizers have are known.
    """
    name = option.lstrip("-").replace("-", "_")
    usual = ("lr", "momentum", "weight_decay", "betas", "eps", "nesterov")
    key = name if name in Config.model_fields else full_key(name, {"optimizer": usual}, exact=True)
    return key and f"{key}={'VALUE' if value is None else value}"
