"""The settings and variants of a sweep, and the conversion of their values to the config of a run.

`file` reads them from a file, `plan` plans the runs.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from trainer.config.load import Components, Loaded, from_tree
from trainer.config.merge import parse_override
from trainer.config.models import Amount, Count, Section, Seed
from trainer.config.yaml_reader import Tree
from trainer.errors import ConfigError, OptlabError, Problem
from trainer.metrics import find
from trainer.sweep.space import Axis
from trainer.training.selection import SelectionRule

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
"""Files and folders that a sweep or run writes, so that no variant may have their names; in lower case."""

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*\Z")


class Objective(Section):
    """The validation metric by which settings are compared, and its summary over the seeds."""

    metric: str = Field("val_accuracy", description="A validation column of epochs.csv.")
    mode: Literal["min", "max"] | None = Field(
        None, description="`max` if a higher value is better, else `min`; null = that of the metric."
    )
    over_seeds: Literal["mean", "median"] = Field("mean", description="Summary of a setting over its seeds.")

    @property
    def direction(self) -> Literal["min", "max"]:
        """The mode, or that of the metric; `plan` states the mode of a user's own metric."""
        return self.mode or find(self.metric).mode

    @property
    def rule(self) -> SelectionRule:
        """The value of runs and settings: the metric at the best checkpoint, summarized over the seeds."""
        return SelectionRule(self.metric, self.direction, self.over_seeds)


class Resources(Section):
    """What one run of a sweep may use."""

    cpus: Amount = Field(1, description="CPU cores; `train.threads: auto` is this number, rounded down.")
    gpus: Annotated[float, Field(ge=0, le=1)] | None = Field(
        None, description="Share of a GPU; 0 = no GPU; null = one of `runs_per_gpu`."
    )

    @property
    def threads(self) -> int:
        """The threads of a run."""
        return max(1, int(self.cpus))


class SweepConfig(Section):
    """The settings of a sweep except its variants and axes."""

    format: Literal[1] = Field(1, description="Version of this file's format.")
    base: str | None = Field(
        None, description="The config that every variant builds on, relative to this file."
    )
    name: str = Field(min_length=1, description="Name of the sweep: runs/<name>/.")
    target: str | None = Field(
        None,
        description="What performance profiles measure the time to, such as val_accuracy=0.95; "
        "null = what the reference reaches.",
    )
    reference: str | None = Field(
        None,
        description="The variant whose median best result over the final seeds is the target; null = the "
        "best variant.",
    )
    seeds: Count | Annotated[list[Seed], Field(min_length=1)] = Field(
        1, description="Number of seeds (from 0), or a list; the same for every variant."
    )
    strategy: Strategy = Field(
        "grid", description="How settings are chosen: all combinations (`grid`), or a sampler of Optuna."
    )
    trials: Count | None = Field(None, description="Number of settings per variant; null for a grid.")
    batch: Count = Field(
        4, description="Trials per batch of a search; results depend on it, but not on the number of workers."
    )
    search_seed: Seed = Field(0, description="Seed of the search.")
    objective: Objective | None = Field(
        None,
        description="How settings are compared; null = val_accuracy, or val_loss if the targets are not "
        "classes.",
    )
    prune: Literal["median", "hyperband", "wilcoxon"] | None = Field(
        None, description="Pruner that stops unpromising trials early; null = none."
    )
    final_seeds: Annotated[int, Field(ge=0)] | Annotated[list[Seed], Field(min_length=1)] = Field(
        0, description="Fresh seeds for final runs of the best settings, which read the test set; 0 = none."
    )
    allow_unequal: bool = Field(False, description="Allow variants with grids of different sizes.")
    workers: Count | Literal["auto"] = Field("auto", description="Worker processes; auto = one per core.")
    runs_per_gpu: Count = Field(1, description="Worker processes that share a GPU.")
    resources: Resources = Field(Resources(), description="What one run may use.")

    @model_validator(mode="before")
    @classmethod
    def _expand_metric(cls, value: Any) -> Any:
        if isinstance(value, dict) and isinstance(value.get("objective"), str):
            return value | {"objective": {"metric": value["objective"]}}
        return value

    @model_validator(mode="after")
    def _check_gpus(self) -> Self:
        if self.resources.gpus is not None and self.runs_per_gpu != 1:
            raise ValueError("resources.gpus and runs_per_gpu are both set; set one of them")
        return self

    @property
    def gpus_per_run(self) -> float:
        """The share of a GPU that a run has, where there are GPUs."""
        return 1 / self.runs_per_gpu if self.resources.gpus is None else self.resources.gpus


@dataclass(frozen=True, slots=True)
class Variant:
    """One variant of a sweep.

    Args:
        name: its name, also the name of its folder.
        tree: its config without axes and seed, with the position of every value.
        overrides: overrides for all its runs: dotted keys of the variant and of the command line.
        axes: the keys that are varied.
        locations: position of each override in the sweep file, for messages.
        threads: what `train.threads: auto` is.
    """

    name: str
    tree: Tree = field(repr=False)
    overrides: tuple[str, ...]
    axes: tuple[Axis, ...]
    locations: Mapping[str, str] = field(repr=False, default_factory=dict)
    threads: int = 1

    def texts(self, values: Mapping[str, Any], seed: int, extra: Sequence[str] = ()) -> list[str]:
        """Return all overrides of one run, in the syntax of the command line."""
        return [*self.overrides, *extra, *override_texts(values), f"seed={seed}"]


@dataclass(frozen=True, slots=True)
class Sweep:
    """A sweep as read from its file; `plan` checks whether its variants can be built.

    Args:
        config: its settings.
        variants: by name, in the order of the file.
        path: the file.
        locations: position of each key in the file, for messages.
    """

    config: SweepConfig
    variants: Mapping[str, Variant]
    path: Path
    locations: Mapping[str, str] = field(repr=False, default_factory=dict)

    @property
    def seeds(self) -> list[int]:
        """The seeds of the search."""
        seeds = self.config.seeds
        return list(range(seeds)) if isinstance(seeds, int) else list(seeds)

    @property
    def final_seeds(self) -> list[int]:
        """The seeds of the final runs; from 1000, so that additional search seeds do not overlap."""
        seeds = self.config.final_seeds
        if not isinstance(seeds, int):
            return list(seeds)
        fresh = (seed for seed in range(FINAL_SEEDS_FROM, 2**62) if seed not in self.seeds)
        return [next(fresh) for _ in range(seeds)]

    @property
    def searches(self) -> bool:
        """Whether settings are chosen. If so, only final runs read the test set."""
        return any(variant.axes for variant in self.variants.values())

    def where(self, key: str) -> str:
        """Return the position of a key of the sweep, or of its nearest parent that has one."""
        while key and key not in self.locations:
            key = key.rpartition(".")[0]
        return self.locations.get(key, "")


def override_texts(values: Mapping[str, Any]) -> list[str]:
    """Return values as overrides that parse to the same values."""
    return [f"{key}={value_text(value)}" for key, value in values.items()]


def value_text(value: Any) -> str:
    """Return a plain value as one line of YAML that parses to the same value, bit for bit."""
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
    if isinstance(value, float) and not math.isfinite(value):
        return {"inf": ".inf", "-inf": "-.inf"}.get(repr(value), ".nan")
    return repr(value)


def _nested(value: Any) -> str:
    return _quoted(value) if isinstance(value, str) else value_text(value)


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t")
    return f'"{escaped}"'


def load_variant(
    variant: Variant, values: Mapping[str, Any], seed: int, components: Components, extra: Sequence[str] = ()
) -> Loaded:
    """Return the validated config of one run of a variant; errors name lines of the sweep file.

    `train.threads: auto` becomes the number of cores of a run: the workers share the cores, so a measurement
    would depend on the other runs, and runs that are compared must use the same number.
    """
    with relocated(variant.locations):
        loaded = from_tree(variant.tree, variant.texts(values, seed, extra), components=components)
    train = loaded.config.train
    if train.threads != "auto":
        return loaded
    fixed = train.model_copy(update={"threads": variant.threads})
    return replace(loaded, config=loaded.config.model_copy(update={"train": fixed}))


@contextmanager
def relocated(locations: Mapping[str, str]) -> Iterator[None]:
    """In errors about an override, replace its position by its line in the sweep file."""
    try:
        yield
    except OptlabError as error:
        raise type(error).of(_relocate(problem, locations) for problem in error.problems) from error


def _relocate(problem: Problem, locations: Mapping[str, str]) -> Problem:
    text = problem.where.removeprefix("override ").strip("'\"")
    return replace(problem, where=locations[text]) if text in locations else problem
