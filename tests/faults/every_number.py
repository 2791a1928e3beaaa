"""Every number in a config, and unusual values for it.

The numbers come from the config models and from the option models of all components, so that new keys and
components are included automatically. Values are YAML text, so they do not depend on how values are checked.
"""

from __future__ import annotations

import copy
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from trainer import catalog
from trainer.config.models import Component, Config

VALUES: dict[str, float] = {
    "nan": float("nan"),
    "inf": float("inf"),
    "-inf": float("-inf"),
    "0": 0,
    "-1": -1,
    "-2**63": -(2**63),
    "2**31": 2**31,
    "2**63": 2**63,
    "10**30": 10**30,
    "1e308": 1e308,
}

TINY: dict[str, Any] = {
    "name": "tiny",
    "data": {"name": "digits", "batch_size": 16, "val_size": 16, "limit": 32},
    "model": {"name": "mlp", "hidden": [8]},
    "loss": {"name": "cross_entropy"},
    "optimizer": {"name": "SGD", "lr": 0.05},
    "train": {"epochs": 1, "threads": 1},
    "log": {"every": 1, "plots": []},
}
"""Two steps."""

FULL: dict[str, Any] = TINY | {
    "seed": {"init": 0, "batches": 0, "augmentation": 0, "dropout": 0},
    "data": TINY["data"] | {"normalize": {"mean": [0.5], "std": [0.5]}, "augment": [{"name": "cutout"}]},
    "init": {
        "weight": {"name": "ones_"},
        "bias": {"name": "zeros_"},
        "layers": [{"match": {"name": "output*"}, "weight": {"name": "zeros_"}}],
    },
    "optimizer": [
        {
            "name": "SGD",
            "lr": 0.05,
            "match": {"name": "*.weight"},
            "groups": [{"match": {"name": "output*"}, "lr": 0.1}],
        },
        {"name": "Adam"},
    ],
    "scheduler": [
        {"name": "ConstantLR", "interval": "step", "until": 1},
        {"name": "ExponentialLR", "gamma": 0.9, "interval": "step"},
    ],
    "train": TINY["train"]
    | {
        "early_stopping": {"patience": 5},
        "eval_every": {"epochs": 1},
        "checkpoint_every": {"epochs": 1},
    },
}
"""With every section, list and mapping that the structure allows."""

LENGTHS = ("epochs", "steps", "seconds")  # only one of them is set at a time


@dataclass(frozen=True)
class Place:
    """A number in a config.

    Args:
        name: its name in messages, as `optimizer Adam betas.0`.
        kind, component: the component that has the option; empty for a key of the config models.
        option: the option, or the structure's key.
        fill: the value that contains the number, marked by `NUMBER`.
    """

    name: str
    kind: str
    component: str
    option: str
    fill: Any


class _Number:
    """Marks the place of the number."""


NUMBER = _Number()


def put(fill: Any, value: object) -> Any:
    """Return the filling with the number replaced by a value."""
    if fill is NUMBER:
        return value
    if isinstance(fill, list):
        return [put(item, value) for item in fill]
    if isinstance(fill, dict):
        return {put(key, value): put(item, value) for key, item in fill.items()}
    return fill


def places_in(annotation: Any, default: Any = None) -> Iterator[tuple[str, Any]]:
    """Yield (suffix, filling) for every number in a value of this type."""
    origin, args = get_origin(annotation), get_args(annotation)
    if annotation in (int, float):
        yield "", NUMBER
    elif origin is Literal:
        if any(isinstance(choice, int) and not isinstance(choice, bool) for choice in args):
            yield "", NUMBER
    elif origin is typing.Annotated:
        yield from places_in(args[0], default)
    elif origin in (Union, types.UnionType):
        found = [place for arg in args for place in places_in(arg, default)]
        yield from {suffix: (suffix, fill) for suffix, fill in found}.values()
    elif origin is tuple and Ellipsis not in args:
        for index, arg in enumerate(args):
            for suffix, fill in places_in(arg):
                around = list(default) if default else [0.5] * len(args)
                around[index] = fill
                yield f".{index}{suffix}", around
    elif origin in (list, tuple):
        for suffix, fill in places_in(args[0]):
            yield f"[]{suffix}", [fill]
    elif origin is dict:
        yield ".key", {NUMBER: 0.1}
        yield ".value", {0: NUMBER}


def _some(annotation: Any) -> Any:
    """Return a harmless value of a required option's type."""
    for _, fill in places_in(annotation):
        return put(fill, 2 if annotation in (int, list[int]) else 0.5)
    raise AssertionError(f"no example value for {annotation}")


def given(kind: str, name: str, own: Mapping[str, Any]) -> dict[str, Any]:
    """Return a component with its required options (`own` has texts and paths)."""
    fields = catalog.option_model(kind, name).model_fields
    required = {
        key: _some(info.annotation) for key, info in fields.items() if info.is_required() and key not in own
    }
    return {"name": name, **required, **{key: value for key, value in own.items() if key in fields}}


def component_places() -> Iterator[Place]:
    """Yield every number among the options of every component in the registries."""
    for kind in catalog.REGISTRIES:
        for name in catalog.names(kind):
            for option, info in catalog.option_model(kind, name).model_fields.items():
                for suffix, fill in places_in(info.annotation, info.default):
                    yield Place(f"{kind} {name} {option}{suffix}", kind, name, option, fill)


def structural_places() -> Iterator[Place]:
    """Yield every number among the keys of the config models."""

    def walk(model: type[BaseModel], path: str) -> Iterator[Place]:
        for key, info in model.model_fields.items():
            if key == "options":
                continue
            full = f"{path}.{key}".lstrip(".")
            for suffix, fill in places_in(info.annotation):
                yield Place(full + suffix, "", "", full, fill)
            for section in _sections(info.annotation):
                if section is not model:  # the base of a base
                    yield from walk(section, full)

    yield from walk(Config, "")


def _sections(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        if annotation is not Component:
            yield annotation
        return
    for arg in get_args(annotation):
        yield from _sections(arg)


def config_with(
    place: Place, value: object, own: Mapping[str, Any], *, group: bool = False
) -> dict[str, Any]:
    """Return a complete config with a value for one number.

    Args:
        own: values of options that are texts or paths, by name (`path`, `lr_lambda`).
        group: put an optimizer's option into a parameter group.
    """
    number = put(place.fill, value)
    if not place.kind:
        return _structural(place.option.split("."), number)
    config = copy.deepcopy(TINY)
    component = given(place.kind, place.component, own)
    if group:
        component["groups"] = [{"match": "output*", place.option: number}]
    else:
        component[place.option] = number
    if place.kind == "dataset":
        config["data"] |= component
    elif place.kind == "augmentation":
        config["data"]["augment"] = [component]
    elif place.kind == "init":
        if place.component in ("dirac_",):  # for convolutions
            config["model"] = {"name": "cnn", "hidden": 8}
            config["init"] = {"layers": [{"match": {"kind": "Conv2d", "ndim": 4}, "weight": component}]}
        else:
            config["init"] = {"layers": [{"match": "*.weight", "weight": component}]}
    elif place.kind == "optimizer" and place.component == "Muon":
        config["optimizer"] = [component | {"match": {"ndim": 2}}, {"name": "AdamW"}]
    elif place.kind == "scheduler":
        config["scheduler"] = component | {"interval": "step"}
        config["optimizer"]["momentum"] = 0.9
    else:
        config[place.kind] = component
        if place.component.startswith("torchvision."):
            config["model"]["repeat_channels"] = True
    return config


def _structural(path: list[str], number: object) -> dict[str, Any]:
    config = copy.deepcopy(FULL)
    at: Any = config
    for part in path[:-1]:
        if part not in at:
            at[part] = {}
        at = at[part][0] if isinstance(at[part], list) else at[part]
    if path[-1] in LENGTHS:
        for other in LENGTHS:
            at.pop(other, None)
        if path[:-1] == ["train"]:
            at["epochs"] = None
    if "match" in path:
        at.clear()
    if path == ["scheduler", "until"] or path[0] != "scheduler":
        pass
    else:
        config["scheduler"] = config["scheduler"][:1]
        del config["scheduler"][0]["until"]
        at = config["scheduler"][0]
    at[path[-1]] = number
    return config
