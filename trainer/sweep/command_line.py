"""Axes and seeds on the command line: `optlab sweep adam.yaml optimizer.lr=1e-2,1e-3 seed=0..4`."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from trainer.config import packaged
from trainer.config.merge import SWEEP_KEYS, Override, parse_override, paths
from trainer.config.run_id import axis_value_name
from trainer.config.yaml_reader import Origin, Position, Tree, parse
from trainer.errors import ConfigError, OptlabError, Problem
from trainer.sweep.models import SweepConfig

MAX_RANGE_LENGTH = 100_000
_RANGE = re.compile(r"(-?\d{1,18})\.\.(-?\d{1,18})\Z")
_SEEDS = ("seeds", "final_seeds")


def is_sweep(tree: Tree) -> bool:
    """Return whether a file has a key of a sweep: `variants`, `axes`, `seeds`, `trials` ..."""
    return any(key in tree.data for key in SWEEP_KEYS)


def sweep_of(config: Path, tree: Tree, overrides: list[Override]) -> Tree:
    """Return the sweep of a config over the axes and seeds of the command line.

    Its name is the name of the config and the last parts of the keys that vary: `adam-lr`. Several optimizers
    are variants, so each is tuned and reported separately.

    Args:
        config: the file of the config.
        tree: its content.
        overrides: as returned by `read_overrides`; the axis of the optimizers is removed.

    Raises:
        ConfigError: the overrides have neither axes nor seeds.
    """
    varied = [override.key[-1] for override in overrides if override.key[0] == "axes"]
    varied += ["seeds" for override in overrides if override.key == ("seeds",) and not varied]
    if not varied:
        raise ConfigError(
            f"{packaged.short_name(config)} is the config of one run, and nothing is varied",
            expected="a sweep file, or a config with several values for a key",
            fix=f"for example: optlab sweep {packaged.short_name(config)} optimizer.lr=0.1,0.01 seed=0..4; "
            f"to train it once: optlab train {packaged.short_name(config)}",
        )
    own_name = str(tree.data.get("name", config.stem))
    name = "-".join(re.sub(r"[^A-Za-z0-9._+-]", "_", part) for part in (own_name, *varied))
    where = Position(Origin(str(config), config.absolute().parent, lines=False))
    sweep = Tree({"base": str(config.absolute()), "name": name}, {("base",): where, ("name",): where})
    for override in [each for each in overrides if _is_of_optimizers(each)]:
        overrides.remove(override)
        sweep.data["variants"] = dict(
            zip(_variant_names(override), map(_variant, override.value), strict=True)
        )
        sweep.positions |= dict.fromkeys(paths(sweep.data["variants"], ("variants",)), override.position)
    return sweep


def _is_of_optimizers(override: Override) -> bool:
    """Return whether an override has several whole optimizers, and not several settings of one."""
    if override.key not in (("axes", "optimizer"), ("axes", "optimizer", "name")):
        return False
    return all(
        isinstance(value, str) or (isinstance(value, dict) and "name" in value) for value in override.value
    )


def _variant(optimizer: Any) -> dict[str, Any]:
    return {"optimizer": {"name": optimizer} if isinstance(optimizer, str) else dict(optimizer)}


def _variant_names(override: Override) -> list[str]:
    """Return a folder name for each optimizer: its class, with the options that the value sets."""
    texts = [text.rpartition(":")[2] for text in map(axis_value_name, override.value)]
    names = [re.sub(r"[^A-Za-z0-9._+-]+", "_", text).strip("_") or "optimizer" for text in texts]
    return [f"{name}-{i}" if names.count(name) > 1 else name for i, name in enumerate(names, 1)]


def read_overrides(texts: Sequence[str]) -> list[Override]:
    """Parse overrides of a sweep; a key with several values becomes an axis, and `seed` becomes `seeds`.

    Values are separated by commas outside quotes and brackets; `0..4` stands for 0, 1, 2, 3, 4.

    Raises:
        ConfigError: the problems of all overrides.
    """
    overrides: list[Override] = []
    problems: list[Problem] = []
    for text in sorted(texts):
        try:
            overrides.append(_read_override(text))
        except OptlabError as error:
            problems += error.problems
    if problems:
        if any(text.endswith(",") for text in texts):
            fix = "write several values without spaces: optimizer.lr=0.1,0.01"
            problems = [replace(problem, fix=problem.fix or fix) for problem in problems]
        raise ConfigError.of(problems)
    return overrides


def _read_override(text: str) -> Override:
    key, _, value = text.partition("=")
    path = tuple(part.strip() for part in key.split("."))
    takes_values = path[0] in _SEEDS or path[0] not in {"variants", "axes", *SweepConfig.model_fields}
    items = values_of(value) if takes_values else []
    is_seed = path == ("seed",)
    several = len(items) > 1 or any(isinstance(item, str) and _RANGE.match(item) for item in items)
    if not several and not is_seed:
        return parse_override(text)
    values = list(chain.from_iterable(_expanded(item, key, text) for item in items))
    if path[0] in _SEEDS:
        return Override(text, path, values)
    return Override(text, ("seeds",) if is_seed else ("axes", *path), values)


def values_of(text: str) -> list[Any]:
    """Return the values between the commas of a text, read as a YAML list; empty if it is not one."""
    try:
        items = parse(f"[{text}]", Origin("", Path.cwd(), lines=False)).data
    except OptlabError:
        return []
    return items if isinstance(items, list) else []


def _expanded(item: Any, key: str, text: str) -> Sequence[Any]:
    """Return the integers of a range, or the item."""
    match = _RANGE.match(item) if isinstance(item, str) else None
    if match is None:
        return [item]
    low, high = int(match[1]), int(match[2])
    if not low <= high < low + MAX_RANGE_LENGTH:
        raise ConfigError(
            f"{item} is not a valid range",
            key=key,
            where=f"override {text!r}",
            expected=f"LOW..HIGH, at most {MAX_RANGE_LENGTH:,} integers",
        )
    return range(low, high + 1)


@contextmanager
def suggest_sweep(config: Path, overrides: Sequence[str]) -> Iterator[None]:
    """Add to errors about an override with several values the command that sweeps over them."""
    try:
        yield
    except ConfigError as error:
        several = {f"override {text!r}" for text in overrides if _has_several_values(text)}
        command = shlex.join(["optlab", "sweep", str(config), *overrides])
        raise type(error).of(
            replace(problem, fix=f"to train one run per value: {command}")
            if problem.where in several
            else problem
            for problem in error.problems
        ) from error


@contextmanager
def suggest_all_values(overrides: Sequence[str]) -> Iterator[None]:
    """In suggestions for an axis, `did you mean optimizer.lr=0.1?`, give all its values."""
    try:
        yield
    except ConfigError as error:
        stated = dict(text.split("=", 1) for text in overrides if _has_several_values(text))
        raise type(error).of(
            replace(problem, fix=f"{problem.fix.partition('=')[0]}={stated[problem.key]}?")
            if problem.key in stated and "=" in problem.fix
            else problem
            for problem in error.problems
        ) from error


def _has_several_values(text: str) -> bool:
    try:
        override = _read_override(text)
    except OptlabError:
        return False
    return override.key != parse_override(text).key and len(override.value) > 1
