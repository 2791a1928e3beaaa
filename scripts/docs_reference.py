"""Write docs/reference/ from the code: the config keys, the verbs and the components.

python scripts/docs_reference.py            writes the pages
python scripts/docs_reference.py --check    exits with 1 if they differ from the code

The names of other packages' components depend on the installed version. They are on lines of their own that
state the version, and are not compared if another version is installed.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from typer.models import ArgumentInfo, OptionInfo

from trainer import catalog
from trainer.cli.app import app
from trainer.config.models import Config
from trainer.sweep.models import SweepConfig

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "reference"
COMMAND = "python scripts/docs_reference.py"
NOTE = f"<!-- Generated: change the code, then run `{COMMAND}`. -->"
VERSIONED = re.compile(r"^With (\S+) (\S+): ")

Schema = Mapping[str, Any]


def pages() -> dict[str, str]:
    """Return the text of every page by file name."""
    return {"config.md": config_page(), "verbs.md": verbs_page(), "components.md": components_page()}


def differences() -> list[str]:
    """Return the names of the pages whose files differ from the code."""
    return [name for name, text in pages().items() if not _same(FOLDER / name, text)]


def _same(path: Path, text: str) -> bool:
    if not path.is_file():
        return False
    old = path.read_text(encoding="utf-8")
    other_versions = [
        match[1]
        for line in old.splitlines()
        if (match := VERSIONED.match(line)) and match[2] != _version(match[1])
    ]
    return _without(old, other_versions) == _without(text, other_versions)


def _without(text: str, packages: Sequence[str]) -> list[str]:
    """Return the lines of a page, without those with the names of some packages' components."""
    return [
        line for line in text.splitlines() if not ((match := VERSIONED.match(line)) and match[1] in packages)
    ]


def _version(package: str) -> str:
    try:
        return metadata.version(package).partition("+")[0]
    except metadata.PackageNotFoundError:
        return "absent"


# Config keys


def config_page() -> str:
    """Return the page of the keys of configs and sweep files."""
    head = [
        "# Config keys",
        NOTE,
        "[Configs](../configs.md) explains how configs are written, extended and overridden. A section lists "
        "its keys with their defaults; a section with a `name` also has the [options](components.md) of that "
        "component. `list: number` is a list of numbers.",
    ]
    sweep = [
        "## Sweep files",
        "[Sweeps](../sweeps.md) explains them. Besides these keys, a sweep file has `variants`, a mapping of "
        "names to what each variant changes in the base, and `axes`, a mapping of dotted keys to lists of "
        "values or to `{log_uniform: [low, high]}`, `{uniform: ..}`, `{int: ..}`, `{choice: [..]}`.",
    ]
    parts = [*head, *_sections("Top level", Config), *sweep, *_sections("", SweepConfig)]
    return "\n\n".join(parts) + "\n"


def _sections(title: str, model: type[BaseModel]) -> Iterator[str]:
    """Yield a table of a model's keys, then a section for each model that they refer to."""
    schema = model.model_json_schema()
    definitions = schema.get("$defs", {})
    anchors: dict[str, str] = {}
    waiting: list[tuple[str, Schema]] = [("", schema)]
    for path, section in waiting:  # grows meanwhile
        for key, value in section["properties"].items():
            for name in _references(value):
                if name not in anchors and _keys(definitions[name]):
                    anchors[name] = f"{path}{key}"
                    waiting.append((f"{path}{key}.", definitions[name]))
    yield from [f"## {title}"] if title else []
    yield _key_table(schema, definitions, anchors)
    for name, path in sorted(anchors.items(), key=lambda item: _order(item[1], schema)):
        yield f"### {path}"
        if text := _first_paragraph(definitions[name].get("description", "")):
            yield _escaped(text)
        yield _key_table(definitions[name], definitions, anchors)


def _order(path: str, schema: Schema) -> tuple[int, str]:
    """Return a sort key: sections in the order of the top-level keys, each followed by those within it."""
    return list(schema["properties"]).index(path.partition(".")[0]), path


def _keys(schema: Schema) -> dict[str, Schema]:
    """Return the keys of a section; of a component with nothing but a name and options, none."""
    keys = {key: value for key, value in schema.get("properties", {}).items() if key != "options"}
    return {} if list(keys) == ["name"] else keys


def _references(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        if "$ref" in schema:
            yield schema["$ref"].rpartition("/")[2]
        for value in schema.values():
            yield from _references(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from _references(value)


def _key_table(schema: Schema, definitions: Mapping[str, Schema], anchors: Mapping[str, str]) -> str:
    required = schema.get("required", ())
    rows = []
    for key, value in schema["properties"].items():
        if key != "options":
            # pydantic leaves out a description that equals the first line of the model
            described = value if set(value) != {"$ref"} else definitions[value["$ref"].rpartition("/")[2]]
            default = _default(value, key in required)
            rows.append((f"`{key}`", _type(value, anchors), default, _meaning(described)))
    return _table(("key", "value", "default", "meaning"), rows)


def _type(schema: Schema, anchors: Mapping[str, str]) -> str:
    """Return the values that a schema accepts, in words."""
    if "$ref" in schema:
        anchor = anchors.get(schema["$ref"].rpartition("/")[2])
        return f"[mapping](#{anchor.replace('.', '')})" if anchor else "component"
    if options := schema.get("anyOf", schema.get("oneOf")):
        kinds = list(dict.fromkeys(_type(option, anchors) for option in options))
        return " or ".join(kind for kind in kinds if not (kind == "text" and "path" in kinds))
    if "enum" in schema or "const" in schema:
        return ", ".join(f"`{value}`" for value in schema.get("enum", [schema.get("const")]))
    kind = schema.get("type")
    if kind == "array":
        items = schema.get("items", {})
        inner = schema.get("prefixItems", [items])
        return "list: " + ", ".join(dict.fromkeys(_type(item, anchors) for item in inner))
    names = {"number": "number", "string": "text", "boolean": "true or false", "object": "mapping"}
    if kind == "string" and schema.get("format") == "path":
        return "path"
    return (names.get(kind, kind or "any value") + _bounds(schema)).strip()


def _bounds(schema: Schema) -> str:
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    parts = [f"{sign} {schema[key]:g}" for key, sign in signs.items() if abs(schema.get(key, 2**63)) < 2**62]
    return " " + ", ".join(parts) if parts else ""


def _default(schema: Schema, required: bool = False) -> str:
    if required or "default" not in schema:
        empty = "`[]`" if schema.get("type") == "array" else "its defaults"
        return "required" if required else empty
    return f"`{_yaml(schema['default'])}`"


def _yaml(value: Any) -> str:
    """Return a default as it is written in a config; keys that are null are left out."""
    if isinstance(value, dict):
        items = (f"{key}: {_yaml(item)}" for key, item in value.items() if item is not None)
        return "{" + ", ".join(items) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_yaml, value)) + "]"
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    return str(value)


def _meaning(schema: Schema) -> str:
    return _escaped(" ".join(schema.get("description", "").split()))


def _escaped(text: str) -> str:
    """Return a text for a table in Markdown: outside of code, nothing is markup."""
    parts = text.replace("|", "\\|").split("`")
    parts[::2] = [part.replace("<", "&lt;").replace("*", "\\*") for part in parts[::2]]
    return "`".join(parts)


# Verbs


def verbs_page() -> str:
    """Return the page of the verbs, from their signatures and docstrings."""
    parts = ["# Verbs", NOTE, "`optlab VERB --help` prints the same."]
    panels: dict[str, list[str]] = defaultdict(list)
    verbs: dict[str, Any] = {}
    for command in app.registered_commands:
        assert command.callback is not None
        name = command.name or command.callback.__name__
        verbs[name] = command.callback
        panels[str(command.rich_help_panel)].append(name)
    rows = [(panel, ", ".join(f"[`{name}`](#{name})" for name in names)) for panel, names in panels.items()]
    parts.append(_table(("", "verbs"), rows))
    for name in (name for names in panels.values() for name in names):
        parts += _verb(name, verbs[name])
    return "\n\n".join(parts) + "\n"


def _verb(name: str, function: Any) -> Iterator[str]:
    arguments, options = [], []
    for parameter in inspect.signature(function, eval_str=True).parameters.values():
        annotation, info = get_args(parameter.annotation)[:2]
        text = _escaped(" ".join((info.help or "").split()))
        if isinstance(info, ArgumentInfo):
            shown = info.metavar or parameter.name.upper() + ("..." if "list" in str(annotation) else "")
            if parameter.default is not parameter.empty and not shown.startswith("["):
                shown = f"[{shown}]"
            arguments.append((shown, text))
        else:
            flags, default = _option(parameter, annotation, info)
            options.append((flags, default, text))
    yield f"## {name}"
    yield f"```text\noptlab {' '.join([name, '[OPTIONS]', *(shown for shown, _ in arguments)])}\n```"
    description, _, examples = inspect.cleandoc(function.__doc__).partition("\nExamples:\n")
    yield _escaped(description.strip())
    rows = [(f"`{shown}`", "", text) for shown, text in arguments] + options
    yield _table(("argument or option", "default", "meaning"), rows)
    if examples:
        lines = [line.strip() for line in examples.splitlines() if line.strip()]
        yield "\n".join(["```sh", *lines, "```"])


def _option(parameter: inspect.Parameter, annotation: Any, info: OptionInfo) -> tuple[str, str]:
    """Return an option's names with the kind of its value, and its default."""
    name = parameter.name.replace("_", "-")
    flag = annotation is bool or annotation == bool | None
    stated = [text for text in (info.default, *(info.param_decls or ())) if str(text).startswith("-")]
    names = stated or ([f"--{name}/--no-{name}"] if flag else [f"--{name}"])
    names = [part for each in names for part in each.split("/")]
    default = f"`{parameter.default}`"
    if flag:
        default = f"`{names[0]}`" if parameter.default else ""
    elif parameter.default is None:
        default = ""
    value = "" if flag else f" {info.metavar or _value_name(annotation)}"
    return f"`{', '.join(names)}{value}`".replace("|", "\\|"), default


def _value_name(annotation: Any) -> str:
    if get_origin(annotation) is Literal:
        return "|".join(get_args(annotation))
    parts = [part for part in (annotation, *get_args(annotation)) if part in (int, float, str, Path)]
    return {int: "INTEGER", float: "NUMBER", Path: "PATH"}.get(parts[0] if parts else str, "TEXT")


# Components


TORCH = "https://docs.pytorch.org/docs/stable"
INTRODUCTIONS = {
    "optimizer": f"All optimizers of [torch.optim]({TORCH}/optim.html), with torch's own options.",
    "scheduler": "All schedules of [torch.optim.lr_scheduler]"
    f"({TORCH}/optim.html#how-to-adjust-learning-rate), with torch's own options.",
    "init": f"The functions of [torch.nn.init]({TORCH}/nn.init.html), with torch's own options.",
    "model": "Own models, and the classification models of "
    "[torchvision](https://docs.pytorch.org/vision/stable/models.html), untrained.",
}


def components_page() -> str:
    """Return the page of all components."""
    parts = [
        "# Components",
        NOTE,
        "`optlab list KIND` lists the components of a kind, `optlab show KIND NAME` the options of one, for "
        "the installed versions of all packages. [Your own](../own-parts.md) are used in the same way.",
    ]
    for kind, registry in catalog.REGISTRIES.items():
        parts.append(f"## {kind}")
        own = {name: builder for name, builder in registry.items() if _package(builder) == "trainer"}
        if kind in INTRODUCTIONS:
            parts.append(INTRODUCTIONS[kind])
        names: dict[str, list[str]] = defaultdict(list)
        for name, builder in registry.items():
            if name not in own:
                names[_package(builder)].append(f"`{name}`")
        parts += [f"With {source} {_version(source)}: {', '.join(found)}." for source, found in names.items()]
        for name, builder in own.items():
            parts += _component(kind, name, builder)
    return "\n\n".join(parts) + "\n"


def _package(builder: Any) -> str:
    """Return the package that a component comes from."""
    if isinstance(builder, partial):  # one function builds all models of torchvision
        return "torchvision"
    return str(builder.__module__).partition(".")[0]


def _component(kind: str, name: str, builder: Any) -> Iterator[str]:
    yield f"### {name}"
    text = _first_paragraph(inspect.getdoc(builder) or "")
    yield _escaped(re.sub(r"^Return (the |an |a )?(\w)", lambda match: match[2].upper(), text))
    schema = catalog.option_model(kind, name).model_json_schema()
    required = schema.get("required", ())
    rows = [
        (f"`{option}`", _type(value, {}), _default(value, option in required), _meaning(value))
        for option, value in schema.get("properties", {}).items()
    ]
    yield _table(("option", "value", "default", "meaning"), rows) if rows else "No options."


def _first_paragraph(text: str) -> str:
    return " ".join(inspect.cleandoc(text).partition("\n\n")[0].split())


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> None:
    """Write the pages, or compare them with the code."""
    if "--check" in sys.argv[1:]:
        different = differences()
        if different:
            sys.exit(f"docs/reference differs from the code in {', '.join(different)}: run {COMMAND}")
        return
    FOLDER.mkdir(exist_ok=True)
    for name, text in pages().items():
        (FOLDER / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
