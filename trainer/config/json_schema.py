"""The JSON Schema of configs: editors use it for completion and descriptions in YAML files.

The schema is less strict than `load`: no key is required, because a `base` may set it.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from trainer.config.component_paths import SLOTS, Slot
from trainer.config.load import Components
from trainer.config.models import Config, GroupConfig, InnerOptimizerConfig

Schema = dict[str, Any]

_IMPORT_PATH = {"type": "string", "pattern": r"(\.py|^[A-Za-z_][\w.]*):[A-Za-z_]\w*$"}


def json_schema(components: Components) -> Schema:
    """Return the JSON Schema (2020-12) of configs, including the options of every component.

    The options of a component depend on its name by `if` and `then`, so that a validator reports one mistake
    as one error, and not as an error of each component.
    """
    schema = Config.model_json_schema(ref_template="#/$defs/{model}")
    definitions: dict[str, Schema] = schema.pop("$defs")
    for definition in definitions.values():
        definition.pop("required", None)
    kinds: dict[str, Slot] = {slot.kind: slot for slot in SLOTS}
    parts: dict[str, Schema] = {}
    for kind, slot in kinds.items():
        structural = {
            key: value
            for key, value in definitions[slot.section.__name__]["properties"].items()
            if key not in ("name", "options")
        }
        if "augment" in structural:
            refer(structural, "augment", {"type": "array", "items": _ref("augmentation")})
        if "base" in structural:
            refer(structural, "base", {"anyOf": [{"type": "null"}, _ref("optimizer")]})
        parts[kind] = _component(kind, slot, structural, components, definitions)
    for name in {slot.section.__name__ for slot in SLOTS} - {"Component"}:
        definitions.pop(name)
    definitions.pop("Component")
    definitions.pop(InnerOptimizerConfig.__name__)
    definitions |= parts
    _open_group(definitions[GroupConfig.__name__])
    properties = schema["properties"]
    for key, kind in (("data", "dataset"), ("model", "model"), ("loss", "loss")):
        properties[key] = _described(properties[key], {"$ref": f"#/$defs/{kind}"})
    metrics = {"type": "array", "items": _ref("metric")}
    refer(definitions["TrainConfig"]["properties"], "metrics", {"anyOf": [{"type": "null"}, metrics]})
    refer(definitions["LogConfig"]["properties"], "export", {"type": "array", "items": _ref("tracker")})
    for section in ("InitConfig", "LayerInit"):
        for key in ("weight", "bias"):
            refer(definitions[section]["properties"], key, {"anyOf": [{"type": "null"}, _ref("init")]})
    for key in ("optimizer", "scheduler"):
        many = {"type": "array", "items": _ref(key), "minItems": 1}
        null = [{"type": "null"}] if key == "scheduler" else []
        refer(properties, key, {"anyOf": [*null, many, _ref(key)]})
    properties["base"] = {
        "type": "string",
        "description": "The config that this one extends: a file, relative to the folder of this file, or a "
        "packaged config, as optlab:mnist_mlp.",
    }
    for name, short in (("SeedConfig", "integer"), ("Every", "number"), ("Match", "string")):
        definitions[name] = _described(definitions[name], {"anyOf": [definitions[name], {"type": short}]})
    complete = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "optlab config",
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
        "$defs": definitions,
    }
    split_unions(complete, definitions)
    return complete


def split_unions(schema: Any, definitions: Mapping[str, Schema]) -> None:
    """Replace `anyOf` by `if` and `then` in place where the JSON type decides which member applies.

    Of `anyOf`, a validator reports only that no member matches.
    """
    for part in schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ():
        split_unions(part, definitions)
    if not isinstance(schema, dict) or not isinstance(schema.get("anyOf"), list):
        return
    by_type: dict[str, Schema] = {}
    rest: list[Schema] = []
    for member in schema.pop("anyOf"):
        kind = definitions.get(member.get("$ref", "").rpartition("/")[2], member).get("type")
        if kind in ("null", "array", "object") and kind not in by_type:
            by_type[kind] = member
        else:
            rest.append(member)
    if not rest:
        kind, last = by_type.popitem()
        rest = [last if "$ref" in last else {"type": kind, **last}]
    chosen = rest[0] if len(rest) == 1 else {"anyOf": rest}
    for kind, member in by_type.items():
        chosen = {"if": {"type": kind}, "then": member, "else": chosen}
    schema |= chosen


def _described(old: Mapping[str, Any], new: Schema) -> Schema:
    return {**new, **({"description": old["description"]} if "description" in old else {})}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/$defs/{name}"}


def _component(
    kind: str, slot: Slot, structural: Schema, components: Components, definitions: dict[str, Schema]
) -> Schema:
    """Return the schema of one kind: a name, or a mapping whose options depend on its name.

    A user's own component may have any options, and so may a mapping without a name, which is merged into the
    base's component.
    """
    names = list(components.names[kind])
    name_schema = f"{kind}.name"
    definitions[name_schema] = {
        "type": "string",
        "if": {"pattern": ":"},
        "then": dict(_IMPORT_PATH),
        "else": {"enum": names},
    }
    cases: list[Schema] = []
    for name in names:
        model = components.models(kind, name)
        assert model is not None, f"the catalog lists {kind} {name} but has no model of its options"
        options = model.model_json_schema(ref_template=f"#/$defs/{kind}.{name}.{{model}}")
        for inner, definition in options.pop("$defs", {}).items():
            definitions[f"{kind}.{name}.{inner}"] = definition
        checked_below: Schema = {key: {} for key in ("name", *structural)}
        known = {**options.get("properties", {}), **checked_below}
        cases.append(
            {
                "if": {"properties": {"name": {"const": name}}, "required": ["name"]},
                "then": {"title": name, "properties": known, "additionalProperties": False},
            }
        )
    return {
        "description": (slot.section.__doc__ or "").splitlines()[0],
        "if": {"type": "string"},
        "then": _ref(name_schema),
        "else": {
            "type": "object",
            "properties": {"name": _ref(name_schema), **copy.deepcopy(structural)},
            "allOf": cases,
        },
    }


def refer(properties: Schema, key: str, schema: Schema) -> None:
    """Replace the schema of a key, except its description."""
    properties[key] = _described(properties[key], schema)


def _open_group(definition: Schema) -> None:
    """Allow any option in a parameter group: they are the options of its optimizer."""
    definition["properties"].pop("options", None)
    definition["additionalProperties"] = True
