"""Convert pydantic's errors to problems: the invalid value, what was expected, the closest valid name."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from trainer.config.renamed_keys import CURRENT_NAMES
from trainer.config.suggestions import nearest_key
from trainer.config.yaml_reader import KeyPath
from trainer.errors import Problem, nearest

_EXPECTED = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "text",
    "string_unicode": "text without lone surrogates",
    "list_type": "a list",
    "tuple_type": "a list",
    "set_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "none_required": "null",
    "path_type": "a path",
}

_LIMITS = {
    "greater_than": ("gt", "a number above {}"),
    "greater_than_equal": ("ge", "a number of at least {}"),
    "less_than": ("lt", "a number below {}"),
    "less_than_equal": ("le", "a number of at most {}"),
    "multiple_of": ("multiple_of", "a multiple of {}"),
    "too_short": ("min_length", "at least {} values"),
    "too_long": ("max_length", "at most {} values"),
    "string_too_short": ("min_length", "text of at least {} characters"),
    "string_too_long": ("max_length", "text of at most {} characters"),
    "string_pattern_mismatch": ("pattern", "text that matches {}"),
}

MAX_PROBLEMS = 100  # per mapping; for 10,000 problems of a hostile file, the closest names take a second


def explain(
    error: ValidationError, data: Any, model: type[BaseModel], *, siblings: Sequence[str] = ()
) -> Iterator[tuple[KeyPath, Problem]]:
    """Yield each problem once, with its path in the data.

    Args:
        error: the error of pydantic.
        data: the plain values that were validated.
        model: the model that validated them.
        siblings: further keys that are valid at the top level.
    """
    by_path: dict[KeyPath, list[tuple[Any, bool]]] = {}
    errors = error.errors(include_url=False)
    for item in errors[:MAX_PROBLEMS]:
        path, in_union = _path_in_data(item["loc"], data, item["type"])
        by_path.setdefault(path, []).append((item, in_union))
    for path, items in by_path.items():
        deeper = any(len(other) > len(path) and other[: len(path)] == path for other in by_path)
        if deeper and all(in_union for _, in_union in items):
            continue  # another member of the union reports a more specific problem
        yield path, _problem([item for item, _ in items], path, data, model, siblings)
    if len(errors) > MAX_PROBLEMS:
        path, _ = _path_in_data(errors[MAX_PROBLEMS]["loc"], data, errors[MAX_PROBLEMS]["type"])
        yield path, Problem(f"{len(errors) - MAX_PROBLEMS:,} more problems from here on")


def _path_in_data(loc: Sequence[Hashable], data: Any, kind: str) -> tuple[KeyPath, bool]:
    """Return pydantic's location without the names of union members, and whether there were any."""
    path: KeyPath = ()
    in_union = False
    for number, part in enumerate(loc):
        last = number == len(loc) - 1
        in_list = isinstance(data, list) and isinstance(part, int) and part < len(data)
        if in_list or (isinstance(data, dict) and part in data):
            path, data = (*path, part), data[part]
        elif last and kind in ("missing", "extra_forbidden"):
            path = (*path, part)
        elif part != "[key]":
            in_union = True
    return path, in_union


def _problem(
    items: Sequence[Mapping[str, Any]],
    path: KeyPath,
    data: Any,
    model: type[BaseModel],
    siblings: Sequence[str],
) -> Problem:
    kinds = {item["type"] for item in items}
    if "missing" in kinds:
        info = _field_at(model, path)
        description = f" ({info.description.rstrip('.')})" if info is not None and info.description else ""
        return Problem(f"{path[-1]!r} is missing", expected=f"a value{description}")
    if kinds & {"extra_forbidden", "invalid_key"}:
        return _unknown_key(path, data, model, siblings)
    value = items[0]["input"]
    if len(kinds) == 1 and kinds <= {"value_error", "assertion_error"}:
        what = re.sub(r"^(Value|Assertion) error, ", "", items[0]["msg"])
        prefix = "" if isinstance(value, dict | list) else f"got {_shown(value)}: "
        return Problem(prefix + what)
    expected = list(dict.fromkeys(_expected(item) for item in items))
    return Problem(f"got {_shown(value)}", expected=" or ".join(expected), fix=_hint(value, items))


def _unknown_key(path: KeyPath, data: Any, model: type[BaseModel], siblings: Sequence[str]) -> Problem:
    if not path:  # pydantic gives no location for a key that is neither a string nor an integer
        odd = [repr(key) for key in data if not isinstance(key, str | int)] if isinstance(data, dict) else []
        return Problem(f"unknown key {', '.join(odd)}".rstrip(), expected="text as keys")
    parent = _model_at(model, path[:-1])
    choices = [] if parent is None else [key for key in parent.model_fields if key != "options"]
    if len(path) == 1:
        choices = [*choices, *siblings]
    renamed = CURRENT_NAMES.get((str(path[0]), str(path[-1]))) if len(path) == 2 else None
    guess = renamed[-1] if renamed else nearest_key(str(path[-1]), choices)
    return Problem(
        f"unknown key {path[-1]!r}",
        expected=f"one of {', '.join(choices)}" if choices else "no keys",
        fix=f"did you mean {guess!r}?" if guess else "",
    )


def _expected(item: Mapping[str, Any]) -> str:
    kind, context = item["type"], item.get("ctx", {})
    if kind in _EXPECTED:
        return _EXPECTED[kind]
    if kind in _LIMITS:
        name, template = _LIMITS[kind]
        limit = context.get(name)
        return template.format(f"{limit:g}" if isinstance(limit, float) else limit)
    if kind in ("literal_error", "enum"):
        return str(context.get("expected"))
    message = str(item["msg"])
    return message[:1].lower() + message[1:]


def _hint(value: Any, items: Sequence[Mapping[str, Any]]) -> str:
    if not isinstance(value, str):
        return ""
    if any(item["type"] == "bool_type" for item in items) and value.lower() in (
        "yes",
        "no",
        "on",
        "off",
        "y",
        "n",
    ):
        return f"write {'true' if value.lower() in ('yes', 'on', 'y') else 'false'}"
    choices = [
        choice
        for item in items
        if item["type"] in ("literal_error", "enum")
        for choice in re.findall(r"'([^']*)'", str(item["ctx"].get("expected")))
    ]
    guess = nearest(value, choices)
    if guess:
        return f"did you mean {guess!r}?"
    if any(item["type"] in ("int_type", "float_type") for item in items):
        try:
            float(value.replace("_", ""))
        except ValueError:
            return ""
        return "write the number without quotes and without underscores"
    return ""


def _shown(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:100]} ... ({len(text)} characters)"


def _model_at(model: type[BaseModel], path: KeyPath) -> type[BaseModel] | None:
    """Return the model of the mapping at `path`, or None if there is none."""
    for part in path:
        if isinstance(part, int):
            continue
        info = model.model_fields.get(str(part))
        below = None if info is None else next(_models_in(info.annotation), None)
        if below is None:
            return None
        model = below
    return model


def _field_at(model: type[BaseModel], path: KeyPath) -> Any:
    parent = _model_at(model, path[:-1])
    return None if parent is None or not path else parent.model_fields.get(str(path[-1]))


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models_in(part)
