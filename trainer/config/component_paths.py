"""The paths at which a config has components, and the short forms of writing them.

Merging, validation and the JSON Schema all use this list of paths.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import Any

from trainer.config.models import (
    Component,
    DataConfig,
    InnerOptimizerConfig,
    LossConfig,
    MetricConfig,
    ModelConfig,
    OptimizerConfig,
    SchedulerConfig,
    SeedConfig,
)
from trainer.config.renamed_keys import rename_keys
from trainer.config.yaml_reader import KeyPath, Tree


@dataclass(frozen=True, slots=True)
class Slot:
    """A path of the config at which there is a component.

    Args:
        pattern: the path; `*` matches any index of a list.
        kind: the kind of component, as `optimizer`.
        section: the model of its structural keys.
    """

    pattern: tuple[str, ...]
    kind: str
    section: type[Component]

    def own_keys(self) -> list[str]:
        """Return the structural keys; every other key is an option of the component."""
        return [key for key in self.section.model_fields if key != "options"]


SLOTS = (
    Slot(("data",), "dataset", DataConfig),
    Slot(("data", "augment", "*"), "augmentation", Component),
    Slot(("model",), "model", ModelConfig),
    Slot(("init", "weight"), "init", Component),
    Slot(("init", "bias"), "init", Component),
    Slot(("init", "layers", "*", "weight"), "init", Component),
    Slot(("init", "layers", "*", "bias"), "init", Component),
    Slot(("loss",), "loss", LossConfig),
    Slot(("optimizer",), "optimizer", OptimizerConfig),
    Slot(("optimizer", "*"), "optimizer", OptimizerConfig),
    Slot(("scheduler",), "scheduler", SchedulerConfig),
    Slot(("scheduler", "*"), "scheduler", SchedulerConfig),
    Slot(("train", "metrics", "*"), "metric", MetricConfig),
    Slot(("log", "export", "*"), "tracker", Component),
)

_INNER_OPTIMIZER = Slot(("optimizer", "base"), "optimizer", InnerOptimizerConfig)  # at any depth

# Mappings that are merged key by key. Every other mapping (a match, an interval, mean and std, the value of
# an option) is replaced as a whole: its keys belong together and must not be mixed with those of the base.
SECTIONS: frozenset[KeyPath] = frozenset(
    {("seed",), ("data",), ("init",), ("train",), ("train", "early_stopping"), ("log",)}
)


def slot_at(path: KeyPath) -> Slot | None:
    """Return the slot of the component at `path`, or None."""
    if len(path) > 1 and path[-1] == "base":
        outer = slot_at(path[:-1])
        return _INNER_OPTIMIZER if outer is not None and outer.kind == "optimizer" else None
    shape = tuple("*" if isinstance(part, int) else part for part in path)
    return next((slot for slot in SLOTS if slot.pattern == shape), None)


def find_components(data: Any) -> Iterator[tuple[Slot, KeyPath, Any]]:
    """Yield the slot, the path and the value of every component in a config's plain values."""
    for slot in SLOTS:
        for path, value in _walk(data, slot.pattern, ()):
            if isinstance(value, dict):
                yield slot, path, value
                if slot.kind == "optimizer":
                    yield from _inner_optimizers(path, value)


def _inner_optimizers(path: KeyPath, wrapper: dict[Hashable, Any]) -> Iterator[tuple[Slot, KeyPath, Any]]:
    """Yield the optimizers that a wrapper calls, from the outermost to the innermost."""
    value = wrapper.get("base")
    while isinstance(value, dict):
        path = (*path, "base")
        yield _INNER_OPTIMIZER, path, value
        value = value.get("base")


def _walk(value: Any, pattern: tuple[str, ...], path: KeyPath) -> Iterator[tuple[KeyPath, Any]]:
    if not pattern:
        yield path, value
    elif pattern[0] == "*":
        for index, item in enumerate(value if isinstance(value, list) else ()):
            yield from _walk(item, pattern[1:], (*path, index))
    elif isinstance(value, dict) and pattern[0] in value:
        yield from _walk(value[pattern[0]], pattern[1:], (*path, pattern[0]))


def spell_out(tree: Tree) -> None:
    """Expand short forms in place: `model: mlp` to `{name: mlp}`, `seed: 3` to four seeds.

    The keys of a saved config get their current names.
    """
    rename_keys(tree.data, tree.positions)
    for slot in SLOTS:
        for path, value in list(_walk(tree.data, slot.pattern, ())):
            if isinstance(value, str):
                _replace(tree, path, {"name": value})
            while slot.kind == "optimizer" and isinstance(value, dict) and "base" in value:
                path, value = (*path, "base"), value["base"]
                if isinstance(value, str):
                    _replace(tree, path, {"name": value})
    seed = tree.data.get("seed") if isinstance(tree.data, dict) else None
    if isinstance(seed, int) and not isinstance(seed, bool):
        _replace(tree, ("seed",), dict.fromkeys(SeedConfig.model_fields, seed))


def _replace(tree: Tree, path: KeyPath, value: dict[Hashable, Any]) -> None:
    parent = tree.data
    for part in path[:-1]:
        parent = parent[part]
    parent[path[-1]] = value
    for key in value:
        if path in tree.positions:
            tree.positions[(*path, key)] = tree.positions[path]
