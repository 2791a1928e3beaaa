"""Figure titles of runs: model, data, optimizer with its main options, batch size and seed."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from trainer.config.identity import may_differ
from trainer.config.paths import split_import_path

WIDTH = 74

_FILES = frozenset({"npz", "csv", "text", "image_folder"})
STRUCTURE = frozenset({"name", "label", "match", "groups", "step", "base"})
# Shown if the defaults are unknown: in torch.optim the default of each is zero, null or false.
COMMON = ("momentum", "dampening", "nesterov", "weight_decay", "amsgrad", "centered", "maximize")


def title(
    config: Mapping[str, Any],
    *,
    defaults: Mapping[str, Mapping[str, Any]] | None = None,
    inputs: int | None = None,
    outputs: int | None = None,
    width: int = WIDTH,
) -> str:
    """Return a title such as `MLP 784-200-10 on mnist · SGD lr=0.01 momentum=0.9 · batch 64 · seed 0`.

    Args:
        config: resolved config as plain dicts.
        defaults: default options by optimizer name; options at their default are left out. None = show the
            learning rate and the well-known options that are not zero, null or false.
        inputs: input features per sample; with `outputs`, the title lists the layer sizes of an mlp.
        outputs: number of classes or targets.
        width: characters per line; lines break between parts if possible.
    """
    data = _part(config.get("data"))
    parts = [f"{_model(_part(config.get('model')), inputs, outputs)} on {data_name(data)}"]
    optimizers = [_optimizer(one, defaults) for one in listed(config.get("optimizer"))]
    parts += [one + (" +" if i < len(optimizers) - 1 else "") for i, one in enumerate(optimizers)]
    schedulers = listed(config.get("scheduler"))
    if schedulers:
        parts.append(", then ".join(map(part_name, schedulers)))
    if batch := data.get("batch_size"):
        parts.append("full batch" if batch == "full" else f"batch {batch}")
    if (seed := config.get("seed")) is not None:
        parts.append(_seed(seed))
    return _wrap([printable(part) for part in parts if part], width)


def data_name(data: Mapping[str, Any]) -> str:
    """Return the name of a data set; for the user's own files the name of the file, as `cifar10.npz`."""
    path = data.get("path")
    return PurePath(path).name if data.get("name") in _FILES and isinstance(path, str) else part_name(data)


def printable(text: str) -> str:
    """Return text on one line, with control characters escaped."""
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def format_value(value: Any) -> str:
    """Return the value of an option as text: `0.0005`, `1e-8`, `(0.9, 0.999)`, `true`."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, float):
        digits, _, exponent = f"{value:.6g}".partition("e")
        return f"{digits}e{int(exponent)}" if exponent else digits
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "(" + ", ".join(format_value(item) for item in value) + ")"
    return str(value)


def is_implementation(key: str) -> bool:
    """Return whether a dotted key selects an optimizer implementation, for example `optimizer.fused`."""
    return key.startswith("optimizer.") and may_differ(key, "group")


def part_name(part: Mapping[str, Any]) -> str:
    """Return the name of a component; for user components with the file name, for example `lion.py:Lion`.

    The file name is included because two files can define classes of the same name.
    """
    name = str(part.get("name", "?"))
    path = split_import_path(name)
    return f"{PurePath(path.source).name}:{path.attribute}" if path and path.is_file else name


def _part(value: Any) -> Mapping[str, Any]:
    """Return a component as a mapping; a plain name becomes a mapping with this name."""
    return value if isinstance(value, Mapping) else {"name": value} if isinstance(value, str) else {}


def listed(value: Any) -> list[Mapping[str, Any]]:
    """Return the optimizers or schedules of a config as a list, also a single one; empty if there is none."""
    if value is None:
        return []
    return list(map(_part, value if isinstance(value, list) else [value]))


def _model(model: Mapping[str, Any], inputs: int | None, outputs: int | None) -> str:
    name = part_name(model)
    if name != "mlp":
        return name
    hidden = model.get("hidden")
    layers = (
        [str(size) for size in hidden] if isinstance(hidden, Sequence) else [str(hidden)] if hidden else []
    )
    if inputs is not None and outputs is not None:
        return "MLP " + "-".join([str(inputs), *layers, str(outputs)])
    return f"MLP (hidden {'-'.join(layers)})" if layers else "MLP"


def _optimizer(optimizer: Mapping[str, Any], defaults: Mapping[str, Mapping[str, Any]] | None) -> str:
    name = str(optimizer.get("name", "?"))
    options = {
        key: value
        for key, value in optimizer.items()
        if key not in STRUCTURE and not is_implementation(f"optimizer.{key}")
    }
    known = defaults.get(name) if defaults is not None else None
    if known is not None:
        keys = [key for key, value in options.items() if key != "lr" and not _same(value, known.get(key))]
    else:
        keys = [key for key in COMMON if options.get(key)]
    parts = [f"{key}={format_value(options[key])}" for key in (["lr"] if "lr" in options else []) + keys]
    text = " ".join([part_name(optimizer), *parts])
    inner = optimizer.get("base")
    return f"{text} of {_optimizer(_part(inner), defaults)}" if inner else text


def _same(value: Any, default: Any) -> bool:
    plain = list(default) if isinstance(default, tuple) else default
    return bool((list(value) if isinstance(value, tuple) else value) == plain)


def _seed(seed: Any) -> str:
    text = seed_text(seed)
    return f"seeds {text}" if " " in text else f"seed {text}"


def seed_text(seed: Any) -> str:
    """Return the seed of a config, or its four seeds with their names if they differ."""
    if not isinstance(seed, Mapping):
        return str(seed)
    values = list(seed.values())
    if len(set(values)) == 1:
        return str(values[0])
    return ", ".join(f"{name} {value}" for name, value in seed.items())


def _wrap(parts: Sequence[str], width: int) -> str:
    lines = [""]
    for part in parts:
        joined = lines[-1] + (" " if lines[-1].endswith(" +") else " · " if lines[-1] else "") + part
        if len(joined) <= width:
            lines[-1] = joined
        else:
            lines += textwrap.wrap(part, width)
    return "\n".join(line for line in lines if line)
