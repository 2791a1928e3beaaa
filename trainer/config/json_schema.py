"""The JSON Schema of configs: editors use it for completion and descriptions in YAML files.

The schema is less strict than `load`: no key is required, because a `base` may set it.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from trainer.config.component_paths import SLOTS, Slot
from trainer.config.load import Components
from trainer.config.models import Config, GroupConfig

Schema = dict[str, Any]

_IMPORT_PATH = {"type": "string", "pattern": r"(\.py|^[A-Za-z_][\w.]*):[A-Za-z_]\w*$"}


def json_schema(components: Components) -> Schema:
    """Return the JSON Schema (2020-12) of configs, including the options of every component."""
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
        parts[kind] = _component(kind, slot, structural, components, definitions)
    for name in {slot.section.__name__ for slot in SLOTS} - {"Component"}:
        definitions.pop(name)
    definitions.pop("Component")
    definitions |= parts
    _open_group(definitions[GroupConfig.__name__])
    _accept_short_forms(definitions)
    properties = schema["properties"]
    for key, kind in (("data", "dataset"), ("model", "model"), ("loss", "loss")):
        properties[key] = _described(properties[key], {"$ref": f"#/$defs/{kind}"})
    _refer(definitions["dataset"], "augment", {"type": "array", "items": {"$ref": "#/$defs/augmentation"}})
    for section in ("InitConfig", "LayerInit"):
        for key in ("weight", "bias"):
            _refer(definitions[section], key, {"anyOf": [{"$ref": "#/$defs/init"}, {"type": "null"}]})
    for key in ("optimizer", "scheduler"):
        one = {"$ref": f"#/$defs/{key}"}
        many = {"type": "array", "items": one, "minItems": 1}
        nothing = [{"type": "null"}] if key == "scheduler" else []
        properties[key] = _described(properties[key], {"anyOf": [one, many, *nothing]})
    properties["base"] = {
        "type": "string",
        "description": "YAML file that this file extends; a relative path starts at the folder of this file.",
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "optlab config",
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
        "$defs": definitions,
    }


def _described(old: Mapping[str, Any], new: Schema) -> Schema:
    return {**new, **({"description": old["description"]} if "description" in old else {})}


def _component(
    kind: str, slot: Slot, structural: Schema, components: Components, definitions: dict[str, Schema]
) -> Schema:
    """Return the schema of one kind: a name, a name with its options, or an import path with any options."""
    names = list(components.names[kind])
    choices: list[Schema] = [{"enum": names}, dict(_IMPORT_PATH)]
    for name in names:
        model = components.models(kind, name)
        assert model is not None, f"the catalog lists {kind} {name} but has no model of its options"
        options = model.model_json_schema(ref_template=f"#/$defs/{kind}.{name}.{{model}}")
        for inner, definition in options.pop("$defs", {}).items():
            definitions[f"{kind}.{name}.{inner}"] = definition
        choices.append(
            {
                "type": "object",
                "title": name,
                "properties": {"name": {"const": name}, **options.get("properties", {}), **structural},
                "required": ["name"],
                "additionalProperties": False,
            }
        )
    own = {"name": dict(_IMPORT_PATH), **structural}
    choices.append({"type": "object", "title": "your own", "properties": own, "required": ["name"]})
    merging = {"type": "object", "title": "merged into the base's", "properties": copy.deepcopy(structural)}
    choices.append({**merging, "not": {"required": ["name"]}})
    description = (slot.section.__doc__ or "").splitlines()[0]
    return {"anyOf": choices, "description": description}


def _refer(definition: Schema, key: str, schema: Schema) -> None:
    """Make a key refer to the definition of a component, also in the `anyOf` members of `definition`."""
    for part in (definition, *definition.get("anyOf", ())):
        if key in part.get("properties", {}):
            part["properties"][key] = _described(part["properties"][key], schema)


def _open_group(definition: Schema) -> None:
    """Allow any option in a parameter group: they are the options of its optimizer."""
    definition["properties"].pop("options", None)
    definition["additionalProperties"] = True


def _accept_short_forms(definitions: dict[str, Schema]) -> None:
    """Accept a number for seeds and intervals, and a pattern for a match."""
    for name, short in (("SeedConfig", "integer"), ("Every", "number"), ("Match", "string")):
        full = dict(definitions[name])
        definitions[name] = _described(full, {"anyOf": [{"type": short}, full]})
