"""Reads a sweep file: its settings, variants and axes. Errors name the line in the file.

Reads and validates only: creates no directories and plans no runs.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from trainer.config import packaged
from trainer.config import validation_errors as messages
from trainer.config.component_paths import spell_out
from trainer.config.merge import Override, base_file, merge, read_layers
from trainer.config.overrides import apply_overrides, contradictions, gives
from trainer.config.paths import absolute_import_path, absolute_path
from trainer.config.yaml_reader import KeyPath, Position, Tree, read_file
from trainer.errors import ConfigError, OptlabError, Problem
from trainer.sweep.command_line import is_sweep, read_overrides, sweep_of
from trainer.sweep.models import (
    NAME,
    RESERVED_NAMES,
    Sweep,
    SweepConfig,
    Variant,
    override_texts,
    value_text,
)
from trainer.sweep.problems import by_problem, check_names
from trainer.sweep.space import Axis, parse_axis


def read_sweeps(
    path: Path, overrides: Sequence[str] = (), added: Mapping[str, Tree] | None = None
) -> list[Sweep]:
    """Read a sweep file: one sweep per problem, or one sweep if the file has no `problems`.

    Args:
        path: the file, or the config of one run whose axes and seeds are given as overrides.
        overrides: of the keys of the sweep (`trials=20`, `axes.optimizer.lr=[0.1,1]`) or of the config of
            every variant (`train.epochs=1`; several values make an axis: `optimizer.lr=0.1,1`).
        added: more variants by name.

    Raises:
        ConfigError: the file is invalid; the error names the line.
    """
    path = packaged.find(path)
    tree, parsed = read_file(path), read_overrides(overrides)
    if not is_sweep(tree):
        tree = sweep_of(path, tree, parsed)
    for name, overlay in (added or {}).items():
        tree.data.setdefault("variants", {})[name] = overlay.data
        positions = {("variants", name, *key): position for key, position in overlay.positions.items()}
        tree.positions.update(positions)
    if "problems" not in tree.data:
        return [_read(tree, Tree({}, {}), path, parsed)]
    return [_read(own, layer, path, parsed) for own, layer in by_problem(tree)]


def read_sweep(path: Path, overrides: Sequence[str] = ()) -> Sweep:
    """Read a sweep file of one problem; see `read_sweeps`."""
    (sweep,) = read_sweeps(path, overrides)
    return sweep


def _read(tree: Tree, layer: Tree, path: Path, overrides: Sequence[Override]) -> Sweep:
    """Return the sweep of a tree whose base is changed by a layer."""
    config_overrides = _apply_own(tree, overrides)
    _make_paths_absolute(tree)
    locations = {".".join(map(str, key)): str(position) for key, position in tree.positions.items()}
    variants_data = tree.data.pop("variants", None)
    axes_data = tree.data.pop("axes", None)
    config = _check_settings(tree, locations)
    base = merge(_read_base(config, path, locations), layer)
    common = _axes(axes_data, "axes", locations)
    if variants_data is None:
        variants_data = {_plain_name(base): {}}
    if not isinstance(variants_data, dict) or not variants_data:
        raise ConfigError(
            f"got {variants_data!r}",
            key="variants",
            where=locations.get("variants", ""),
            expected="a mapping of names to overlays, such as `momentum: {optimizer: {momentum: 0.9}}`",
        )
    check_names(list(variants_data), "variant", locations)
    variants = {}
    for name, overlay in variants_data.items():
        variant = _variant(name, overlay, tree, base, common, config_overrides, locations)
        variants[variant.name] = replace(variant, threads=config.resources.threads)
    sweep = Sweep(config, variants, path, locations)
    _check_together(sweep)
    return sweep


def _apply_own(tree: Tree, overrides: Sequence[Override]) -> list[Override]:
    """Apply the overrides of the keys of the sweep to its tree; return the overrides of the configs."""
    rest: list[Override] = []
    own: list[tuple[Override, KeyPath, Any]] = []
    for override in overrides:
        head, *below = override.key
        if head in ("variants", "base", "format"):
            raise ConfigError(
                "cannot be overridden", key=head, where=str(override.position), fix="edit the file"
            )
        if head == "seed":
            raise ConfigError(
                "the seeds of a sweep are set by `seeds`",
                key=".".join(override.key),
                where=str(override.position),
                fix="use seeds=5 or seeds=[3,7]",
            )
        if head == "axes" or head in SweepConfig.model_fields:
            path: KeyPath = (head, ".".join(below)) if below else (head,)
            value = override.value
            short = path == ("objective",) and isinstance(value, str)
            own.append((override, path, {"metric": value} if short else value))
        else:
            rest.append(override)
    problems = contradictions(own)
    if problems:
        raise ConfigError.of(problems)
    for override, path, value in sorted(own, key=lambda item: len(item[1])):
        _set_own(tree, override, path, value)
    return rest


def _set_own(tree: Tree, override: Override, path: KeyPath, value: Any) -> None:
    """Set a key of the sweep, or a key of one of its mappings."""
    head = path[0]
    if len(path) == 1:
        tree.data[head] = value
        tree.positions[path] = override.position
        return
    section = tree.data.get(head)
    if head == "objective" and isinstance(section, str):
        section = {"metric": section}
    if section is not None and not isinstance(section, dict):
        raise ConfigError(
            f"{head} is {section!r}, which has no keys",
            key=".".join(override.key),
            where=str(override.position),
        )
    tree.data[head] = {**(section or {}), path[1]: value}
    tree.positions[path if head == "axes" else (head,)] = override.position


def _make_paths_absolute(tree: Tree) -> None:
    """Make paths in axes and dotted keys absolute, from the folder of the file or the working directory."""
    common, variants = (_mapping(tree.data.get(key)) for key in ("axes", "variants"))
    for key, value in common.items():
        common[key] = _absolute(str(key), value, _folder(tree, ("axes", key)))
    for name, overlay in variants.items():
        path: KeyPath = ("variants", name)
        for key, value in _mapping(overlay).items():
            if key == "axes":
                for axis, item in _mapping(value).items():
                    value[axis] = _absolute(str(axis), item, _folder(tree, (*path, key, axis)))
            elif "." in str(key):
                overlay[key] = _absolute(str(key), value, _folder(tree, (*path, key)))


def _mapping(value: Any) -> dict[Hashable, Any]:
    """Return the value if it is a mapping; any other value is reported when it is read."""
    return value if isinstance(value, dict) else {}


def _folder(tree: Tree, path: KeyPath) -> Path:
    position = tree.positions.get(path) or tree.positions.get(path[:1])
    return position.origin.folder if position else Path.cwd()


def _absolute(key: str, value: Any, folder: Path) -> Any:
    """Return the value of a dotted key with absolute import paths, and for `data` absolute paths of files."""
    if isinstance(value, dict):
        return {name: _absolute(f"{key}.{name}", item, folder) for name, item in value.items()}
    if isinstance(value, list):
        return [_absolute(key, item, folder) for item in value]
    if not isinstance(value, str):
        return value
    parts = key.split(".")
    if parts[0] == "data" and {"path", "root"} & set(parts):
        return absolute_path(value, folder)
    return absolute_import_path(value, folder)


def _check_settings(tree: Tree, locations: Mapping[str, str]) -> SweepConfig:
    try:
        return SweepConfig.model_validate(tree.data)
    except ValidationError as error:
        problems = []
        for below, problem in messages.explain(error, tree.data, SweepConfig, siblings=("variants", "axes")):
            key = ".".join(map(str, below))
            problems.append(replace(problem, key=key, where=_nearest_location(below, locations)))
        raise ConfigError.of(problems) from error


def _nearest_location(path: KeyPath, locations: Mapping[str, str]) -> str:
    for length in range(len(path), -1, -1):
        key = ".".join(map(str, path[:length]))
        if key in locations:
            return locations[key]
    return ""


def _read_base(config: SweepConfig, path: Path, locations: Mapping[str, str]) -> Tree:
    if config.base is None:
        return Tree({}, {})
    return read_layers(base_file(config.base, path.absolute().parent, locations.get("base", "")))


def _plain_name(base: Tree) -> str:
    name = str(base.data.get("name", "runs"))
    return name if NAME.match(name) and name.lower() not in RESERVED_NAMES else "runs"


def _axes(data: Any, key: str, locations: Mapping[str, str]) -> dict[str, Axis]:
    """Read a mapping of axes; raise one ConfigError with all problems."""
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigError(
            f"got {data!r}",
            key=key,
            where=locations.get(key, ""),
            expected="a mapping of dotted keys to values, such as `optimizer.lr: [0.1, 0.01]`",
        )
    axes: dict[str, Axis] = {}
    problems: list[Problem] = []
    for name, value in data.items():
        full = f"{key}.{name}"
        try:
            _refuse_key(str(name))
            if str(name) in axes:
                raise ConfigError(f"{name!r} is given twice, as text and as a number")
            axes[str(name)] = parse_axis(str(name), value)
        except ConfigError as error:
            where = locations.get(full, locations.get(key, ""))
            problems += [replace(problem, key=full, where=where) for problem in error.problems]
    if problems:
        raise ConfigError.of(problems)
    return axes


def _refuse_key(name: str) -> None:
    if name.split(".")[0] in ("seed", "name", "base", "format"):
        raise ConfigError(
            f"{name} cannot be an axis",
            fix="use the top-level key `seeds: 5`" if name.startswith("seed") else "",
        )


def _variant(
    name: Hashable,
    overlay: Any,
    tree: Tree,
    base: Tree,
    common: Mapping[str, Axis],
    config_overrides: Sequence[Override],
    locations: Mapping[str, str],
) -> Variant:
    key, text = f"variants.{name}", str(name)
    where = locations.get(key, locations.get("variants", ""))
    overlay = {} if overlay is None else overlay
    if not isinstance(overlay, dict):
        raise ConfigError(
            f"got {overlay!r}", key=key, where=where, expected="a mapping of settings that change the base"
        )
    stated = overlay.get("axes")
    removed = [str(axis) for axis, value in _mapping(stated).items() if value is None and axis in common]
    if isinstance(stated, dict):
        stated = {axis: value for axis, value in stated.items() if axis not in removed}
    own_axes = _axes(stated, f"{key}.axes", locations)
    dotted: dict[str, Any] = {}
    plain: dict[Hashable, Any] = {}
    for part, value in overlay.items():
        if isinstance(part, str) and "." in part:
            if isinstance(value, list) or (isinstance(value, dict) and _looks_like_axis(value)):
                if part in own_axes:
                    raise ConfigError(
                        "this key has an axis in `axes` and another axis in the variant",
                        key=f"{key}.{part}",
                        where=locations.get(f"{key}.{part}", where),
                        fix="keep one of them",
                    )
                own_axes |= _axes({part: value}, key, locations)
            else:
                dotted[part] = value
        elif part != "axes":
            plain[part] = value
    depth = ("variants", name)
    positions: dict[KeyPath, Position] = {
        path[2:]: position for path, position in tree.positions.items() if path[:2] == depth
    }
    layer = Tree(plain, positions)
    spell_out(layer)
    merged = merge(base, layer)
    merged.data["name"] = text
    axes = {axis: value for axis, value in {**common, **own_axes}.items() if axis not in removed}
    _check_dotted(dotted, layer, merged, key, locations)
    texts, text_locations = _fixed(dotted, key, config_overrides, axes, locations)
    for axis in axes.values():
        position_text = next(
            locations[candidate]
            for candidate in (f"{key}.axes.{axis.key}", f"{key}.{axis.key}", f"axes.{axis.key}", "")
            if candidate in locations
        )
        text_locations |= dict.fromkeys(override_texts_of(axis), position_text)
    return Variant(text, merged, tuple(texts), tuple(axes.values()), text_locations)


def _looks_like_axis(value: Mapping[Hashable, Any]) -> bool:
    return len(value) == 1 and next(iter(value)) in ("log_uniform", "uniform", "int", "choice")


def override_texts_of(axis: Axis) -> list[str]:
    """Return the override of every value that is checked before the first run."""
    return [text for value in axis.probes() for text in override_texts({axis.key: value})]


def _fixed(
    dotted: Mapping[str, Any],
    key: str,
    config_overrides: Sequence[Override],
    axes: Mapping[str, Axis],
    locations: Mapping[str, str],
) -> tuple[list[str], dict[str, str]]:
    """Return the fixed overrides of a variant; the command line takes precedence for the same key."""
    by_key = {".".join(override.key): override for override in config_overrides}
    problems = [
        Problem(
            f"{name} is an axis of this sweep",
            name,
            str(override.position),
            fix=f"use axes.{name}=[...] to change the values of the axis",
        )
        for name, override in by_key.items()
        if name in axes
    ]
    problems += [
        Problem(
            f"{name} has a single value here, but is an axis of this sweep",
            f"{key}.{name}",
            locations.get(f"{key}.{name}", ""),
            fix=f"use a list, {name}: [...], to give this variant its own axis",
        )
        for name in dotted
        if name in axes
    ]
    if problems:
        raise ConfigError.of(problems)
    texts, text_locations = [], {}
    for name, value in dotted.items():
        if name in by_key:
            continue
        text = f"{name}={value_text(value)}"
        texts.append(text)
        text_locations[text] = locations.get(f"{key}.{name}", "")
    return [*texts, *(override.text for override in config_overrides)], text_locations


def _check_dotted(
    dotted: Mapping[str, Any], layer: Tree, merged: Tree, key: str, locations: Mapping[str, str]
) -> None:
    """Refuse a dotted key that changes or removes a value that the same variant sets in a mapping."""
    problems = []
    for name, value in dotted.items():
        try:
            _refuse_key(name)
            after, _ = apply_overrides(merged, [f"{name}={value_text(value)}"])
        except OptlabError as error:
            if name.startswith("seed."):
                where = locations.get(f"{key}.{name}", "")
                problems += [replace(item, key=f"{key}.{name}", where=where) for item in error.problems]
            continue  # any other problem is reported with its line when the variant is checked
        changed_paths = [path for path, item in _leaves(layer.data, ()) if _at(after.data, path) != item]
        if changed_paths:
            what = f"it changes {'.'.join(map(str, changed_paths[0]))}, which this variant sets as well"
            where = locations.get(f"{key}.{name}", "")
            problems.append(Problem(what, f"{key}.{name}", where, fix="write both in one mapping"))
    if problems:
        raise ConfigError.of(problems)


def _leaves(value: Any, path: KeyPath) -> Iterator[tuple[KeyPath, Any]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _leaves(item, (*path, key))
    else:
        yield path, value


def _at(data: Any, path: KeyPath) -> Any:
    for part in path:
        data = data.get(part) if isinstance(data, dict) else None
    return data


def _check_together(sweep: Sweep) -> None:
    """Refuse incompatible settings."""
    config, problems = sweep.config, []

    def refuse(key: str, what: str, *, expected: str = "", fix: str = "") -> None:
        problems.append(Problem(what, key, sweep.where(key), expected, fix))

    parts = config.name.split("/")
    if len(parts) > 2 or not all(map(NAME.match, parts)):
        what = f"{config.name!r} is not a valid folder name"
        refuse("name", what, expected="letters, digits and . _ + -, or NAME/PROBLEM")
    if config.reference is not None and config.reference not in sweep.variants:
        refuse("reference", f"there is no variant {config.reference!r}", expected=", ".join(sweep.variants))
    if config.target is not None and config.reference is not None:
        refuse("target", "a target is stated, and a reference derives one", fix="remove one of them")
    for key in ("seeds", "final_seeds"):
        seeds = getattr(config, key)
        if isinstance(seeds, list) and len(set(seeds)) < len(seeds):
            refuse(key, f"{seeds} contains a seed twice", fix="keep one of them")
    shared = set(sweep.seeds) & set(sweep.final_seeds)
    if shared:
        refuse("final_seeds", f"{sorted(shared)} are also seeds of the search", expected="fresh seeds")
    chooses = sweep.searches or bool(sweep.final_seeds)
    for variant in sweep.variants.values():
        if chooses and gives(variant.overrides, "train.test"):
            what = "a sweep that chooses settings determines which runs read the test set"
            refuse("train.test", what, fix="remove train.test")
    if config.strategy == "grid":
        if config.trials is not None:
            refuse(
                "trials",
                "a grid has one trial per point, so `trials` cannot be set",
                fix="use strategy: random, or remove trials",
            )
        for variant in sweep.variants.values():
            for axis in variant.axes:
                if axis.is_range:
                    refuse(
                        "strategy",
                        f"a grid needs values, and {axis.key} is a range",
                        fix="use strategy: random",
                    )
        if config.prune == "wilcoxon" and len(sweep.seeds) < 3:
            refuse("prune", "wilcoxon needs at least 3 seeds", fix="use seeds: 5")
    else:
        if config.trials is None:
            refuse("strategy", f"{config.strategy} needs a number of trials", fix="set trials: 20")
        for variant in sweep.variants.values():
            if not variant.axes:
                refuse(
                    "axes", f"{variant.name} has no axes to search", expected="at least one axis per variant"
                )
    if config.prune and config.strategy == "grid":
        refuse("prune", "a grid cannot be pruned", fix="use strategy: random or prune: null")
    if config.prune == "wilcoxon" and len(sweep.seeds) < 3:
        refuse("prune", "wilcoxon needs at least 3 seeds", fix="use seeds: 5")
    if config.objective and not config.objective.metric.startswith("val_"):
        metric = config.objective.metric
        end = " and is only known at the end" if config.prune and not metric.startswith("train_") else ""
        refuse(
            "objective.metric",
            f"{metric} is not a validation metric{end}",
            expected="a validation column of epochs.csv, such as val_loss",
        )
    if problems:
        raise ConfigError.of(dict.fromkeys(problems))
