"""A run's title for figures: model, data, optimizer with what distinguishes it, batch and seed."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from trainer.config.identity import may_differ
from trainer.config.paths import split_import_path

WIDTH = 74

STRUCTURE = frozenset({"name", "label", "match", "groups"})
# Shown when the defaults are not known: zero, null or false is the default of each in torch.optim.
COMMON = ("momentum", "dampening", "nesterov", "weight_decay", "amsgrad", "centered", "maximize")


def title(
    config: Mapping[str, Any],
    *,
    defaults: Mapping[str, Mapping[str, Any]] | None = None,
    inputs: int | None = None,
    outputs: int | None = None,
    width: int = WIDTH,
) -> str:
    """Return the run's title, as `MLP 784-200-10 on mnist · SGD lr=0.01 momentum=0.9 · batch 64 · seed 0`.

    Args:
        config: resolved config as plain dicts.
        defaults: by optimizer name, the default of each option; what equals it is left out. None = the
            learning rate and the well-known options that are switched on.
        inputs: numbers per sample; with `outputs`, an mlp's layers are written out.
        outputs: classes or targets.
        width: characters per line; lines break between the parts where they can.
    """
    data = _part(config.get("data"))
    parts = [f"{_model(_part(config.get('model')), inputs, outputs)} on {part_name(data)}"]
    optimizers = [_optimizer(one, defaults) for one in _listed(config.get("optimizer"))]
    parts += [one + (" +" if i < len(optimizers) - 1 else "") for i, one in enumerate(optimizers)]
    schedulers = _listed(config.get("scheduler"))
    if schedulers:
        parts.append(", then ".join(map(part_name, schedulers)))
    if batch := data.get("batch_size"):
        parts.append("full batch" if batch == "full" else f"batch {batch}")
    if (seed := config.get("seed")) is not None:
        parts.append(_seed(seed))
    return _wrap([printable(part) for part in parts if part], width)


def printable(text: str) -> str:
    """Return a text on one line, its control characters written out."""
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def format_value(value: Any) -> str:
    """Return an option's value as one would say it: `0.0005`, `1e-8`, `(0.9, 0.999)`, `true`."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, float):
        digits, _, exponent = f"{value:.6g}".partition("e")
        return f"{digits}e{int(exponent)}" if exponent else digits
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "(" + ", ".join(format_value(item) for item in value) + ")"
    return str(value)


def is_implementation(key: str) -> bool:
    """Return whether a dotted key says how an optimizer's step is computed, as `optimizer.fused`."""
    return key.startswith("optimizer.") and may_differ(key, "group")


def part_name(part: Mapping[str, Any]) -> str:
    """Return a component's name; of a user's own with its file, `/home/me/lion.py:Lion` as `lion.py:Lion`.

    The file belongs to it: two files may hold classes of one name.
    """
    name = str(part.get("name", "?"))
    path = split_import_path(name)
    return f"{PurePath(path.source).name}:{path.attribute}" if path and path.is_file else name


def _part(value: Any) -> Mapping[str, Any]:
    """Return a component as a mapping; a name alone stands for one."""
    return value if isinstance(value, Mapping) else {"name": value} if isinstance(value, str) else {}


def _listed(value: Any) -> list[Mapping[str, Any]]:
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
        shown = [key for key, value in options.items() if key != "lr" and not _same(value, known.get(key))]
    else:
        shown = [key for key in COMMON if options.get(key)]
    said = [f"{key}={format_value(options[key])}" for key in (["lr"] if "lr" in options else []) + shown]
    return " ".join([part_name(optimizer), *said])


def _same(value: Any, default: Any) -> bool:
    plain = list(default) if isinstance(default, tuple) else default
    return bool((list(value) if isinstance(value, tuple) else value) == plain)


def _seed(seed: Any) -> str:
    if not isinstance(seed, Mapping):
        return f"seed {seed}"
    values = list(seed.values())
    if len(set(values)) == 1:
        return f"seed {values[0]}"
    return "seeds " + ", ".join(f"{name} {value}" for name, value in seed.items())


def _wrap(parts: Sequence[str], width: int) -> str:
    lines = [""]
    for part in parts:
        joined = lines[-1] + (" " if lines[-1].endswith(" +") else " · " if lines[-1] else "") + part
        if len(joined) <= width:
            lines[-1] = joined
        else:
            lines += textwrap.wrap(part, width)
    return "\n".join(line for line in lines if line)
