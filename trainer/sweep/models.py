"""What a sweep consists of: its settings, its variants, and how a value becomes a run's config.

Reads no file (see `file`) and decides nothing about runs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from trainer.config.load import Components, Loaded, from_tree
from trainer.config.merge import parse_override
from trainer.config.models import Count, Section, Seed
from trainer.config.yaml_reader import Tree
from trainer.errors import ConfigError, OptlabError, Problem
from trainer.sweep.space import Axis
from trainer.training.selection import SelectionRule, better_direction

Strategy = Literal["grid", "random", "qmc", "tpe", "gp"]
FINAL = "final"
FINAL_SEEDS_FROM = 1000
RESERVED_NAMES = frozenset(
    {
        FINAL,
        "comparison",
        "sweep.yaml",
        "results.csv",
        "summary.json",
        "progress.json",
        "best.yaml",
        "lock",
        "status.json",
        "config.yaml",
        "environment.json",
    }
)
"""What a sweep's folder holds besides its variants, and what makes a folder a run; in lower case."""

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*\Z")


class Objective(Section):
    """What makes one setting better than another: a validation metric, over the seeds."""

    metric: str = Field("val_accuracy", description="A validation column of epochs.csv.")
    mode: Literal["min", "max"] | None = Field(
        None, description="null = max for accuracies, min for the rest."
    )
    over_seeds: Literal["mean", "median"] = Field(
        "mean", description="How the seeds of a setting are summed up."
    )

    @property
    def direction(self) -> Literal["min", "max"]:
        """The mode, or what the metric implies."""
        return self.mode or better_direction(self.metric)

    @property
    def rule(self) -> SelectionRule:
        """What a run and a setting are worth: the metric at the best checkpoint, over the seeds."""
        return SelectionRule(self.metric, self.direction, self.over_seeds)


class SweepConfig(Section):
    """A sweep's own settings; variants and axes are read apart."""

    format: Literal[1] = Field(1, description="Version of this file's format.")
    base: str | None = Field(
        None, description="The config that every variant builds on, relative to this file."
    )
    name: str = Field(min_length=1, description="Name of the sweep: runs/<name>/.")
    seeds: Count | Annotated[list[Seed], Field(min_length=1)] = Field(
        1, description="How many seeds (from 0), or a list; the same for every variant."
    )
    strategy: Strategy = Field("grid", description="grid | random | qmc | tpe | gp.")
    trials: Count | None = Field(None, description="Settings tried per variant; null for a grid.")
    batch: Count = Field(
        4, description="Trials that a search asks for at a time; with it the results are reproducible."
    )
    search_seed: Seed = Field(0, description="Seed of the search.")
    objective: Objective | None = Field(None, description="null = val_accuracy (val_loss without classes).")
    prune: Literal["median", "hyperband", "wilcoxon"] | None = Field(
        None, description="Stops trials that fall behind; null = every trial is trained to its end."
    )
    final_seeds: Annotated[int, Field(ge=0)] | Annotated[list[Seed], Field(min_length=1)] = Field(
        0, description="Fresh seeds on which the winners run once more and read the test set; 0 = none."
    )
    allow_unequal: bool = Field(False, description="Permit variants with grids of unequal size.")
    workers: Count | Literal["auto"] = Field("auto", description="Worker processes; auto = one per core.")
    runs_per_gpu: Count = Field(1, description="Worker processes that share a GPU.")

    @model_validator(mode="before")
    @classmethod
    def _metric_alone(cls, value: Any) -> Any:
        if isinstance(value, dict) and isinstance(value.get("objective"), str):
            return value | {"objective": {"metric": value["objective"]}}
        return value


@dataclass(frozen=True, slots=True)
class Variant:
    """One variant_search of a sweep.

    Args:
        name: what it is called, and its folder.
        tree: its config without axes and seed, with the place of every value.
        overrides: what is laid on top of every run of it: dotted keys of the variant and the command line.
        axes: what is varied.
        places: where each override text came from, for messages.
        config: the same, checked and complete, with the first value of every axis.
    """

    name: str
    tree: Tree = field(repr=False)
    overrides: tuple[str, ...]
    axes: tuple[Axis, ...]
    places: Mapping[str, str] = field(repr=False, default_factory=dict)

    def texts(self, values: Mapping[str, Any], seed: int, extra: Sequence[str] = ()) -> list[str]:
        """Return all overrides of one run, as the command line would take them."""
        return [*self.overrides, *extra, *override_texts(values), f"seed={seed}"]


@dataclass(frozen=True, slots=True)
class Sweep:
    """A sweep as read and checked on its own; whether its variants can be built is seen by `plan`.

    Args:
        config: its settings.
        variants: by name, in the file's order.
        path: the file.
        places: where each of its keys stands, for messages.
    """

    config: SweepConfig
    variants: Mapping[str, Variant]
    path: Path
    places: Mapping[str, str] = field(repr=False, default_factory=dict)

    @property
    def seeds(self) -> list[int]:
        """The seeds of the search."""
        seeds = self.config.seeds
        return list(range(seeds)) if isinstance(seeds, int) else list(seeds)

    @property
    def final_seeds(self) -> list[int]:
        """The fresh seeds of the winners; counted from 1000 so that more search seeds never meet them."""
        seeds = self.config.final_seeds
        if not isinstance(seeds, int):
            return list(seeds)
        fresh = (seed for seed in range(FINAL_SEEDS_FROM, 2**62) if seed not in self.seeds)
        return [next(fresh) for _ in range(seeds)]

    @property
    def searches(self) -> bool:
        """Whether settings are chosen; then only final runs read the test set."""
        return any(variant.axes for variant in self.variants.values())

    def where(self, key: str) -> str:
        """Return the place of one of the sweep's keys, or of the nearest one above it that has a place."""
        while key and key not in self.places:
            key = key.rpartition(".")[0]
        return self.places.get(key, "")


def override_texts(values: Mapping[str, Any]) -> list[str]:
    """Return values as overrides that read back as the very same values."""
    return [f"{key}={value_text(value)}" for key, value in values.items()]


def value_text(value: Any) -> str:
    """Return a plain value as YAML in one line that reads back to the same value, bit for bit."""
    if isinstance(value, str):
        try:
            plain = bool(value.strip()) and parse_override(f"k={value}").value == value
        except ConfigError:
            plain = False
        return value if plain else _quoted(value)
    if isinstance(value, bool):
        return str(value).lower()
    if value is None:
        return "null"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{value_text(k)}: {_nested(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_nested, value)) + "]"
    return repr(value)


def _nested(value: Any) -> str:
    return _quoted(value) if isinstance(value, str) else value_text(value)


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t")
    return f'"{escaped}"'


def load_variant(
    variant: Variant, values: Mapping[str, Any], seed: int, components: Components, extra: Sequence[str] = ()
) -> Loaded:
    """Return the checked config of one run of a variant; errors name the sweep file's lines."""
    with relocated(variant.places):
        return from_tree(variant.tree, variant.texts(values, seed, extra), components=components)


@contextmanager
def relocated(places: Mapping[str, str]) -> Iterator[None]:
    """Give errors that blame an override the line of the sweep file which that override came from."""
    try:
        yield
    except OptlabError as error:
        raise type(error).of(_at_home(problem, places) for problem in error.problems) from error


def _at_home(problem: Problem, places: Mapping[str, str]) -> Problem:
    text = problem.where.removeprefix("override ").strip("'\"")
    return replace(problem, where=places[text]) if text in places else problem
