"""Implementation of `optlab show`: a component's options, and a model's layers."""

from __future__ import annotations

import json
import types
import typing
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from trainer import catalog, console
from trainer.cli.commands.components import component_options
from trainer.cli.commands.list_components import summary
from trainer.config.models import ModelConfig
from trainer.config.paths import absolute_import_path
from trainer.console import Column
from trainer.errors import (
    ConfigError,
    unknown_name,
)
from trainer.models.describe import layer_table, takes_tokens
from trainer.seeding import global_stream
from trainer.training.builders import make_model

DEFAULT_INPUTS = {
    "cnn": (3, 32, 32),
    "3c3d": (3, 32, 32),
    "resnet": (3, 32, 32),
    "torchvision": (3, 224, 224),
    **dict.fromkeys(("transformer", "rnn", "gru", "lstm"), (64,)),
    "quadratic": (100,),
}
DEFAULT_CLASSES = {"quadratic": 1, "autoencoder": 784, "conv_autoencoder": 784, "vae": 784, "conv_vae": 784}


def show(
    kind: str, name: str, options: Sequence[str], *, shape: str | None, classes: int | None, as_json: bool
) -> None:
    """Print a component's options, and a model's layers."""
    if kind not in catalog.REGISTRIES:
        raise unknown_name("kind", kind, list(catalog.REGISTRIES))
    name = absolute_import_path(name, Path.cwd())
    model = catalog.option_model(kind, name)
    rows = [
        {
            "option": option,
            "type": _type_name(field.annotation),
            "required": field.is_required(),
            "default": None if field.is_required() else field.default,
            "meaning": field.description or "",
        }
        for option, field in model.model_fields.items()
    ]
    layers: list[Any] = []
    if kind == "model":
        classes = classes or DEFAULT_CLASSES.get(name, 10)
        input_shape = _shape(shape) if shape else _default_input(name)
        component = ModelConfig.model_validate(
            {"name": name, "options": component_options("model", name, options)}
        )
        with global_stream("init", 0):
            network = make_model(component, input_shape, classes)
        layers = layer_table(network, input_shape, tokens=takes_tokens(network, input_shape))
    if as_json:
        described = [asdict(layer) for layer in layers]
        console.print_json({"kind": kind, "name": name, "options": rows, "layers": described})
        return
    console.print_text(f"{kind} {name}: {summary(catalog.find(kind, name))}\n")
    if rows:
        columns = [Column("option"), Column("type"), Column("default"), Column("meaning")]
        console.table(
            columns,
            [
                (
                    row["option"],
                    row["type"],
                    "required" if row["required"] else str(_as_yaml(row["default"])),
                    row["meaning"],
                )
                for row in rows
            ],
        )
    else:
        console.print_text("no options")
    if layers:
        total = sum(layer.parameters for layer in layers)
        size = "x".join(map(str, input_shape))
        console.print_text(f"\nlayers on an input of {size}, {classes} classes: {total:,} parameters")
        columns = [Column("layer"), Column("kind"), Column("output"), Column("parameters", "right", ",d")]
        console.table(
            columns,
            [
                (row.name, row.kind, "x".join(map(str, row.output_shape or ())) or None, row.parameters)
                for row in layers
            ],
        )


def _as_yaml(value: Any) -> Any:
    """Return a default as it is written in a config."""
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    return list(value) if isinstance(value, tuple) else value


def _type_name(annotation: Any) -> str:
    """Return a readable name of a type: `float`, `int or null`, `sum | mean`."""
    if typing.get_origin(annotation) is typing.Literal:
        return " | ".join(str(value) for value in typing.get_args(annotation))
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return " or ".join(_type_name(part) for part in typing.get_args(annotation))
    if typing.get_origin(annotation) is typing.Annotated:
        return _type_name(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) in (tuple, list):
        parts = [_type_name(part) for part in typing.get_args(annotation) if part is not ...]
        return "list of " + (parts[0] if len(set(parts)) == 1 else ", ".join(parts))
    if annotation is type(None):
        return "null"
    return {"str": "text", "bool": "true or false"}.get(getattr(annotation, "__name__", ""), "") or getattr(
        annotation, "__name__", str(annotation)
    )


def _default_input(name: str) -> tuple[int, ...]:
    matches = [shape for prefix, shape in DEFAULT_INPUTS.items() if name.startswith(prefix)]
    return matches[0] if matches else (1, 28, 28)


def _shape(text: str) -> tuple[int, ...]:
    try:
        shape = tuple(int(part) for part in text.split(","))
    except ValueError:
        shape = ()
    if len(shape) not in (1, 3) or min(shape, default=0) < 1:
        raise ConfigError(f"--input {text!r} is not a shape", expected="C,H,W or D, e.g. 3,32,32 or 64")
    return shape
