"""The JSON Schema of sweep files."""

from __future__ import annotations

import copy
from typing import Any

from trainer.config.json_schema import json_schema, refer, split_unions
from trainer.config.load import Components
from trainer.sweep.models import SweepConfig

_RANGE = {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2}
_VALUES = {"type": "array", "minItems": 1}
_AXES = {
    "type": "object",
    "description": "Dotted keys that are varied, with a list of values or a distribution.",
    "additionalProperties": {
        "anyOf": [
            _VALUES,
            {
                "type": "object",
                "properties": {"log_uniform": _RANGE, "uniform": _RANGE, "int": _RANGE, "choice": _VALUES},
                "additionalProperties": False,
                "minProperties": 1,
                "maxProperties": 1,
            },
        ]
    },
}


def sweep_schema(components: Components) -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of sweeps. A variant has the keys of a config and dotted keys."""
    schema = json_schema(components)
    sweep = SweepConfig.model_json_schema(ref_template="#/$defs/{model}")
    added = sweep.pop("$defs")
    split_unions(sweep, added)
    properties = sweep["properties"]
    objective = {"if": {"type": "string"}, "else": dict(properties["objective"])}
    refer(properties, "objective", objective)
    split_unions(axes := {"axes": copy.deepcopy(_AXES)}, added)
    changes = {key: value for key, value in schema["properties"].items() if key != "base"} | axes
    variant = {
        "type": "object",
        "properties": changes,
        "patternProperties": {r"\.": {}},
        "additionalProperties": False,
    }
    variants = {
        "type": "object",
        "description": "The variants by name: what each changes in the base.",
        "additionalProperties": {"if": {"type": "null"}, "else": variant},
        "minProperties": 1,
    }
    own = {key: value for key, value in properties.items() if key not in ("format", "name")}
    without = {"type": "array", "items": {"type": "string"}, "description": "Variants to leave out."}
    problem = {
        "type": "object",
        "properties": {**changes, **own, "without": without},
        "additionalProperties": False,
    }
    problems = {
        "type": "object",
        "description": "The problems by name: the base of each, and what it changes in base and sweep.",
        "additionalProperties": problem,
        "minProperties": 1,
    }
    return schema | {
        "title": "optlab sweep",
        "properties": {**properties, "problems": problems, "variants": variants, **axes},
        "required": ["name"],
        "$defs": {**schema["$defs"], **added},
    }
