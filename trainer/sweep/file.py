"""Reads a sweep file: its settings, its variants as configs, their axes; every error with its line.

Reads and checks; decides nothing about runs and makes no directory.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from trainer.config import messages
from trainer.config.merge import Override, merge, parse_override, read_layers
from trainer.config.paths import absolute_path
from trainer.config.positions import KeyPath, Position, Tree, read_file
from trainer.config.slots import spell_out
from trainer.errors import ConfigError, Problem, nearest
from trainer.sweep.space import Axis, parse_axis
from trainer.sweep.structure import FINAL, NAME, Sweep, SweepConfig, Variant, override_texts, value_text


def read_sweep(path: Path, overrides: Sequence[str] = ()) -> Sweep:
    """Read a sweep file.

    Args:
        path: the file.
        overrides: of the sweep's own keys (`trials=20`, `axes.optimizer.lr=[0.1,1]`), else of every variant's
            config (`train.epochs=1`).

    Raises:
        ConfigError: with what is wrong and its line.
    """
    tree = read_file(path)
    config_overrides = _apply_own(tree, overrides)
    places = {".".join(map(str, key)): str(position) for key, position in tree.positions.items()}
    variants_data = tree.data.pop("variants", None)
    axes_data = tree.data.pop("axes", None)
    config = _check_settings(tree, places)
    base = _read_base(config, path, places)
    common = _axes(axes_data, "axes", places)
    if variants_data is None:
        variants_data = {_plain_name(base): {}}
    if not isinstance(variants_data, dict) or not variants_data:
        raise ConfigError(
            f"got {variants_data!r}",
            key="variants",
            where=places.get("variants", ""),
            expected="a mapping of names to overlays, as `momentum: {optimizer: {momentum: 0.9}}`",
        )
    variants = {}
    for name, overlay in variants_data.items():
        variant = _variant(name, overlay, tree, base, common, config_overrides, places)
        variants[variant.name] = variant
    sweep = Sweep(config, variants, path, places)
    _check_together(sweep)
    return sweep


def _apply_own(tree: Tree, overrides: Sequence[str]) -> list[Override]:
    """Lay the overrides of the sweep's own keys on its tree and return those of the configs."""
    rest = []
    for override in map(parse_override, overrides):
        head = override.key[0]
        if head == "axes" and len(override.key) > 1:
            axes = tree.data.setdefault("axes", {})
            key = ".".join(override.key[1:])
            if not isinstance(axes, dict):
                continue
            axes[key] = override.value
            tree.positions[("axes", key)] = override.position
        elif head in SweepConfig.model_fields and head not in ("base", "format"):
            if len(override.key) == 1:
                tree.data[head] = override.value
            else:
                part = tree.data.get(head)
                part = {"metric": part} if isinstance(part, str) else dict(part or {})
                tree.data[head] = part | {".".join(override.key[1:]): override.value}
            tree.positions[(head,)] = override.position
        elif head in ("variants", "base", "format"):
            raise ConfigError("this belongs to the file", key=head, where=str(override.position))
        else:
            rest.append(override)
    return rest


def _check_settings(tree: Tree, places: Mapping[str, str]) -> SweepConfig:
    try:
        return SweepConfig.model_validate(tree.data)
    except ValidationError as error:
        problems = []
        for below, problem in messages.explain(error, tree.data, SweepConfig, siblings=("variants", "axes")):
            key = ".".join(map(str, below))
            problems.append(replace(problem, key=key, where=_nearest_place(below, places)))
        raise ConfigError.of(problems) from error


def _nearest_place(path: KeyPath, places: Mapping[str, str]) -> str:
    for length in range(len(path), -1, -1):
        key = ".".join(map(str, path[:length]))
        if key in places:
            return places[key]
    return ""


def _read_base(config: SweepConfig, path: Path, places: Mapping[str, str]) -> Tree:
    if config.base is None:
        return Tree({}, {})
    file = Path(absolute_path(config.base, path.absolute().parent))
    if not file.is_file():
        near = nearest(file.name, [item.name for item in file.parent.glob("*.yaml")])
        raise ConfigError(
            f"there is no file {config.base}",
            key="base",
            where=places.get("base", ""),
            expected="a config, relative to the sweep file",
            fix=f"did you mean {near!r}?" if near else "",
        )
    return read_layers(file)


def _plain_name(base: Tree) -> str:
    name = str(base.data.get("name", "runs"))
    return name if NAME.match(name) and name != FINAL else "runs"


def _axes(data: Any, key: str, places: Mapping[str, str]) -> dict[str, Axis]:
    """Read a mapping of axes; every problem of it together."""
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigError(
            f"got {data!r}",
            key=key,
            where=places.get(key, ""),
            expected="a mapping of dotted keys to values, as `optimizer.lr: [0.1, 0.01]`",
        )
    axes: dict[str, Axis] = {}
    problems: list[Problem] = []
    for name, value in data.items():
        full = f"{key}.{name}"
        try:
            _refuse_key(str(name))
            axes[str(name)] = parse_axis(str(name), value)
        except ConfigError as error:
            where = places.get(full, places.get(key, ""))
            problems += [replace(problem, key=full, where=where) for problem in error.problems]
    if problems:
        raise ConfigError.of(problems)
    return axes


def _refuse_key(name: str) -> None:
    if name.split(".")[0] in ("seed", "name", "base", "format"):
        raise ConfigError(
            f"{name} cannot be an axis",
            fix="say `seeds: 5` at the top" if name.startswith("seed") else "",
        )


def _variant(
    name: Hashable,
    overlay: Any,
    tree: Tree,
    base: Tree,
    common: Mapping[str, Axis],
    config_overrides: Sequence[Override],
    places: Mapping[str, str],
) -> Variant:
    key, text = f"variants.{name}", str(name)
    where = places.get(key, places.get("variants", ""))
    if not NAME.match(text) or text == FINAL:
        raise ConfigError(
            f"{text!r} cannot name a variant",
            key="variants",
            where=where,
            expected=f"letters, digits and . _ + -, and not {FINAL!r}",
        )
    overlay = {} if overlay is None else overlay
    if not isinstance(overlay, dict):
        raise ConfigError(f"got {overlay!r}", key=key, where=where, expected="a mapping laid on the base")
    own_axes = _axes(overlay.get("axes"), f"{key}.axes", places)
    dotted: dict[str, Any] = {}
    plain: dict[Hashable, Any] = {}
    for part, value in overlay.items():
        if isinstance(part, str) and "." in part:
            if isinstance(value, list) or (isinstance(value, dict) and _looks_like_axis(value)):
                own_axes |= _axes({part: value}, key, places)
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
    axes = {**common, **own_axes}
    texts, text_places = _fixed(dotted, key, config_overrides, axes, places)
    for axis in axes.values():
        home = next(
            places[candidate]
            for candidate in (f"{key}.axes.{axis.key}", f"{key}.{axis.key}", f"axes.{axis.key}", "")
            if candidate in places
        )
        text_places |= dict.fromkeys(override_texts_of(axis), home)
    return Variant(text, merged, tuple(texts), tuple(axes.values()), text_places)


def _looks_like_axis(value: Mapping[Hashable, Any]) -> bool:
    return len(value) == 1 and next(iter(value)) in ("log_uniform", "uniform", "int", "choice")


def override_texts_of(axis: Axis) -> list[str]:
    """Return the override of every value that is tried out before the first run."""
    return [text for value in axis.probes() for text in override_texts({axis.key: value})]


def _fixed(
    dotted: Mapping[str, Any],
    key: str,
    config_overrides: Sequence[Override],
    axes: Mapping[str, Axis],
    places: Mapping[str, str],
) -> tuple[list[str], dict[str, str]]:
    """Return a variant's fixed overrides, those of the command line last and strongest."""
    given = {".".join(override.key): override for override in config_overrides}
    problems = [
        Problem(
            f"{name} is an axis of this sweep",
            name,
            str(override.position),
            fix=f"say axes.{name}=[...] to give the axis other values",
        )
        for name, override in given.items()
        if name in axes
    ]
    if problems:
        raise ConfigError.of(problems)
    texts, text_places = [], {}
    for name, value in dotted.items():
        if name in axes or name in given:
            continue
        text = f"{name}={value_text(value)}"
        texts.append(text)
        text_places[text] = places.get(f"{key}.{name}", "")
    return [*texts, *(override.text for override in given.values())], text_places


def _check_together(sweep: Sweep) -> None:
    """Refuse settings that do not go together."""
    config, problems = sweep.config, []

    def refuse(key: str, what: str, *, expected: str = "", fix: str = "") -> None:
        problems.append(Problem(what, key, sweep.where(key), expected, fix))

    if not NAME.match(config.name):
        refuse("name", f"{config.name!r} cannot name a folder", expected="letters, digits and . _ + -")
    for key in ("seeds", "final_seeds"):
        seeds = getattr(config, key)
        if isinstance(seeds, list) and len(set(seeds)) < len(seeds):
            refuse(key, f"{seeds} holds a seed twice", fix="keep one of them")
    shared = set(sweep.seeds) & set(sweep.final_seeds)
    if shared:
        refuse("final_seeds", f"{sorted(shared)} are seeds of the search", expected="fresh seeds")
    if config.strategy == "grid":
        if config.trials is not None:
            refuse(
                "trials",
                "a grid has as many trials as it has points",
                fix="say strategy: random, or no trials",
            )
        for variant in sweep.variants.values():
            for axis in variant.axes:
                if axis.is_range:
                    refuse(
                        "strategy",
                        f"a grid needs values, and {axis.key} is a range",
                        fix="say strategy: random",
                    )
        if config.prune == "wilcoxon" and len(sweep.seeds) < 3:
            refuse("prune", "wilcoxon compares seeds, and there are fewer than 3", fix="say seeds: 5")
    else:
        if config.trials is None:
            refuse("strategy", f"{config.strategy} needs a number of trials", fix="say trials: 20")
        for variant in sweep.variants.values():
            if not variant.axes:
                refuse("axes", f"{variant.name} has nothing to search", expected="an axis per variant")
    if config.prune and config.strategy == "grid":
        refuse("prune", "a grid trains every point to its end", fix="say strategy: random, or prune: null")
    if config.prune == "wilcoxon" and len(sweep.seeds) < 3:
        refuse("prune", "wilcoxon compares seeds, and there are fewer than 3", fix="say seeds: 5")
    if config.objective and not config.objective.metric.startswith("val_"):
        metric = config.objective.metric
        end = " and is only known at the end" if config.prune and not metric.startswith("train_") else ""
        refuse(
            "objective.metric", f"{metric} is no validation metric{end}", expected="val_accuracy or val_loss"
        )
    if problems:
        raise ConfigError.of(dict.fromkeys(problems))
