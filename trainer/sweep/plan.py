"""Plans a sweep: settings, seeds and run directories; builds every variant once as a check.

Does not train. Loads the data that the runs share once and writes it to files that workers map.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote

import torch
import yaml

from trainer import catalog, process_state
from trainer.config.identity import Code, code_of, config_differences, texts_in
from trainer.config.load import Loaded, draft_of, dump
from trainer.config.models import Config, SeedConfig
from trainer.config.overrides import gives
from trainer.config.paths import split_import_path
from trainer.config.run_id import run_id, value_name, value_names
from trainer.data.dataset import Dataset, Split, Splits
from trainer.errors import AbsentDataError, ConfigError, OptlabError, Problem, RunError
from trainer.metrics import BUILT_IN, Metric, find, leading, metric_name
from trainer.reading import read_regular
from trainer.runs import rundir
from trainer.runs.launch import environment_differences, run_differences
from trainer.sweep.models import (
    FINAL,
    Objective,
    Sweep,
    Variant,
    load_variant,
    override_texts,
    relocated,
    value_text,
)
from trainer.sweep.space import Axis, grid
from trainer.training.building import build_experiment
from trainer.training.experiment import Experiment
from trainer.training.loaded_data import LoadedData, integer_targets, load_data

Stage = Literal["search", "final"]
SWEEP_FILE = "sweep.yaml"
DATA = ".data"
_MAX_BYTES = 64 << 20  # maximum size of a sweep.yaml


@dataclass(frozen=True, slots=True, eq=False)
class RunSpec:
    """One run of a sweep.

    Args:
        variant: name of its variant.
        stage: `search`, or `final` for the best setting on fresh seeds.
        trial: number of its setting within the variant.
        values: the setting, by axis.
        seed: its seed.
        folder: its run directory.
    """

    variant: str
    stage: Stage
    trial: int
    values: Mapping[str, Any]
    seed: int
    folder: Path

    @property
    def label(self) -> str:
        """The name of the run in messages."""
        return f"{self.variant} {unquote(self.folder.name)}" + (" (final)" if self.stage == "final" else "")


@dataclass(frozen=True, slots=True)
class VariantInfo:
    """Properties of a variant, determined by building it.

    Args:
        config: its resolved config, with the first value of every axis and the first seed.
        columns: the columns of its evaluations.
        evaluations: number of evaluations, without the one before training.
        metrics: its metrics in addition to the loss.
    """

    config: Mapping[str, Any]
    columns: Sequence[str]
    evaluations: int
    metrics: Sequence[Metric]


def spec_for(
    root: Path, variant: Variant, stage: Stage, trial: int, values: Mapping[str, Any], seed: int
) -> RunSpec:
    """Return a run in `<sweep>/<variant>/<run-id>`, or a final run in `<sweep>/final/<variant>/<run-id>`."""
    parent = root / FINAL / variant.name if stage == "final" else root / variant.name
    texts = {axis.key: _value_name(axis, values[axis.key]) for axis in variant.axes}
    name = run_id(override_texts(values), SeedConfig.model_validate(seed), texts=texts)
    return RunSpec(variant.name, stage, trial, values, seed, parent / name)


def _value_name(axis: Axis, value: Any) -> str:
    """Return the text of an axis value in run directory names; it is unique among the values."""
    if axis.is_range:
        return value_name(value)
    texts = [value_text(known) for known in axis.values]
    return value_names(axis.key, axis.values)[texts.index(value_text(value))]


def default_overrides(sweep: Sweep, variant: Variant, stage: Stage) -> list[str]:
    """Return the default overrides of a sweep for every run, without those that the user has set.

    No figures (`optlab plot` can draw them later); and the test split is read only by final runs, if settings
    are chosen.
    """
    all_overrides = [*variant.overrides, *override_texts({axis.key: None for axis in variant.axes})]
    log = variant.tree.data.get("log") or {}
    overrides = []  # a section that is not a mapping is skipped: validation reports it with its line
    if isinstance(log, dict) and "plots" not in log and not gives(all_overrides, "log.plots"):
        overrides.append("log.plots=[]")
    if stage == "final":
        overrides.append("train.test=end")
    elif sweep.searches or sweep.final_seeds:
        overrides.append("train.test=never")
    return overrides


@process_state.preserved()
def load_run_config(sweep: Sweep, spec: RunSpec, more: Sequence[str] = ()) -> Loaded:
    """Return the validated config of a run."""
    variant = sweep.variants[spec.variant]
    overrides = [*default_overrides(sweep, variant, spec.stage), *more]
    return load_variant(variant, spec.values, spec.seed, catalog.COMPONENTS, overrides)


def dropped_options(sweep: Sweep) -> list[str]:
    """Return a note for each value of an axis such as `optimizer.name` that drops options of the config."""
    notes: dict[str, None] = {}
    for variant in sweep.variants.values():
        first = {axis.key: axis.probes()[0] for axis in variant.axes}
        for axis in variant.axes:
            for value in axis.values if axis.key.endswith(".name") else ():
                overrides = variant.texts(first | {axis.key: value}, sweep.seeds[0])
                notes |= dict.fromkeys(draft_of(variant.tree, overrides).notes)
    return list(notes)


def grid_settings(variant: Variant) -> list[dict[str, Any]]:
    """Return the settings in the grid of a variant."""
    return list(grid(variant.axes))


def budget(sweep: Sweep, variant: Variant) -> int:
    """Return the number of settings tried per variant."""
    return sweep.config.trials or len(grid_settings(variant))


def check_budgets(sweep: Sweep) -> None:
    """Raise ConfigError if grids have different sizes, unless `allow_unequal` is set."""
    sizes = {name: budget(sweep, variant) for name, variant in sweep.variants.items()}
    if len(set(sizes.values())) > 1 and not sweep.config.allow_unequal:
        raise ConfigError(
            "the variants' grids differ in size: " + ", ".join(f"{name} {n}" for name, n in sizes.items()),
            key="axes",
            where=sweep.where("axes"),
            fix="give every variant the same number of settings, or set allow_unequal: true",
        )


class SharedData:
    """Data sets in files that worker processes map, so that each is in memory only once.

    Args:
        folder: folder of the files; created if missing, removed by `clear`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._loaded: dict[str, LoadedData] = {}

    def loaded_data(self, loaded: Loaded) -> LoadedData:
        """Return the data of a config; each data set is loaded once."""
        key = data_key(loaded.config)
        if key not in self._loaded:
            self._loaded[key] = load_data(loaded)
        return self._loaded[key]

    def notes(self) -> list[str]:
        """Return notes from loading the data, such as a damaged cache."""
        return [note for loaded_data in self._loaded.values() for note in loaded_data.dataset.notes]

    def put(self, loaded: Loaded) -> Path:
        """Return the file with the data of a config; write it if missing."""
        path = self.folder / f"{data_key(loaded.config)}.pt"
        if not path.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            temporary = path.with_suffix(".tmp")
            try:
                torch.save(_packed(self.loaded_data(loaded)), temporary)
            except OSError as error:
                raise OptlabError(f"cannot write {path}: {error.strerror}", fix="free some space") from error
            temporary.replace(path)
        return path

    def forget(self) -> None:
        """Release the data in the memory of this process; the files remain."""
        self._loaded.clear()

    def clear(self) -> None:
        """Remove the files; existing mappings in other processes stay valid."""
        for path in self.folder.glob("*"):
            path.unlink(missing_ok=True)
        if self.folder.is_dir():
            self.folder.rmdir()


def data_key(config: Config) -> str:
    """Return a hash of the settings that determine a data set and its splits."""
    data = config.data
    relevant = [data.name, data.options, data.val_size, data.val_from, data.split_seed, data.limit]
    relevant.append(integer_targets(config))
    return hashlib.sha256(json.dumps(relevant, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _packed(loaded_data: LoadedData) -> dict[str, Any]:
    splits, names = loaded_data.splits, loaded_data.dataset.class_names
    parts = {"train": splits.train, "val": splits.val, "test": splits.test}
    return {
        "splits": {
            name: [part.inputs, part.targets, part.stride] for name, part in parts.items() if part is not None
        },
        "task": loaded_data.dataset.task,
        "class_names": None if names is None else list(names),
        "digest": loaded_data.dataset.digest,
    }


def open_shared_data(path: Path) -> LoadedData:
    """Map a file of `SharedData`; its pages are shared by all processes that map it."""
    packed = torch.load(path, mmap=True, weights_only=True)
    parts = {name: Split(*tensors) for name, tensors in packed["splits"].items()}
    names = None if packed["class_names"] is None else tuple(packed["class_names"])
    splits = Splits(parts["train"], parts.get("val"), parts["test"])
    dataset = Dataset(splits.train, splits.test, names, packed["digest"], task=packed["task"])
    return LoadedData(dataset, splits)


def check_variants(sweep: Sweep, shared_data: SharedData) -> dict[str, VariantInfo]:
    """Build every variant with every value of every axis (of ranges: both ends), before the first run.

    Raises:
        ConfigError: the problems of all variants, each with its line.
    """
    infos: dict[str, VariantInfo] = {}
    problems: list[Problem] = []
    for variant in sweep.variants.values():
        first = {axis.key: axis.probes()[0] for axis in variant.axes}
        trials = [first] + [first | {axis.key: value} for axis in variant.axes for value in axis.probes()[1:]]
        for values in trials:
            try:
                experiment = _build_trial(sweep, variant, values, shared_data)
            except AbsentDataError:
                raise  # the other problems of the sweep file may have their data
            except OptlabError as error:
                problems += error.problems
                if values is first:
                    break
                continue
            if values is first:
                infos[variant.name] = _infos(sweep, variant, values, experiment)
    if problems:
        raise ConfigError.of(dict.fromkeys(problems))
    _refuse_duplicates(sweep, infos)
    return infos


@process_state.preserved()
def _build_trial(
    sweep: Sweep, variant: Variant, values: Mapping[str, Any], shared_data: SharedData
) -> Experiment:
    overrides = default_overrides(sweep, variant, "search")
    loaded = load_variant(variant, values, sweep.seeds[0], catalog.COMPONENTS, overrides)
    with relocated(variant.locations):
        return build_experiment(loaded, loaded_data=shared_data.loaded_data(loaded))


@process_state.preserved()
def _infos(sweep: Sweep, variant: Variant, values: Mapping[str, Any], experiment: Experiment) -> VariantInfo:
    overrides = [
        text for text in default_overrides(sweep, variant, "search") if not text.startswith("train.test=")
    ]
    config = load_variant(variant, values, sweep.seeds[0], catalog.COMPONENTS, overrides).config
    plan = experiment.plan
    steps = plan.steps or 0
    due = sum(1 for step in range(1, min(steps, 100_000) + 1) if plan.evaluate.due(step) or step == steps)
    return VariantInfo(
        yaml.safe_load(dump(config)), experiment.eval_columns(), due if steps else 2, experiment.metrics
    )


def _refuse_duplicates(sweep: Sweep, infos: Mapping[str, VariantInfo]) -> None:
    seen: dict[str, str] = {}
    for name, info in infos.items():
        axes = {axis.key: axis.as_config() for axis in sweep.variants[name].axes}
        same = json.dumps([{**info.config, "name": None}, axes], sort_keys=True, default=str)
        if same in seen:
            raise ConfigError(
                f"{seen[same]} and {name} are the same experiment",
                key=f"variants.{name}",
                where=sweep.where(f"variants.{name}"),
                fix="leave one of them out",
            )
        seen[same] = name


def resolve_objective(sweep: Sweep, infos: Mapping[str, VariantInfo]) -> Objective | None:
    """Return the objective; None if no setting is chosen and there is no validation split.

    Raises:
        ConfigError: the metric is not measured, or pruning is set but the metric is measured only at the end.
    """
    objective = sweep.config.objective
    if objective is None:
        measured = [{metric.name for metric in info.metrics} for info in infos.values()]
        objective = Objective(metric=f"val_{leading(set.intersection(*measured))}")
    lacking = [name for name, info in infos.items() if objective.metric not in info.columns]
    if lacking:
        is_required = sweep.config.objective or sweep.config.strategy != "grid" or sweep.final_seeds
        if not is_required:
            return None
        known = [name for name in infos[lacking[0]].columns if name.startswith("val_")]
        raise ConfigError(
            f"{lacking[0]} does not measure {objective.metric}",
            key="objective.metric",
            where=sweep.where("objective.metric"),
            expected=f"one of {', '.join(known)}" if known else "",
            fix="set data.val_size: 0.1 in the base to choose settings on a validation split",
        )
    if sweep.config.prune in ("median", "hyperband"):
        late = [name for name, info in infos.items() if info.evaluations < 2]
        if late:
            raise ConfigError(
                f"{late[0]} is evaluated only at the end, so it cannot be pruned",
                key="prune",
                where=sweep.where("prune"),
                fix="use prune: null, or set train.eval_every: {steps: ..} in the base",
            )
    if objective.mode is None and metric_name(objective.metric) not in BUILT_IN:
        metrics = [find(objective.metric, info.metrics) for info in infos.values()]
        if len({metric.mode for metric in metrics}) > 1:
            raise ConfigError(
                f"the variants disagree on whether a higher {objective.metric} is better",
                key="objective.mode",
                where=sweep.where("objective"),
                fix="set objective: {metric: .., mode: max}, or min",
            )
        return objective.model_copy(update={"mode": metrics[0].mode})
    return objective


def resolved(sweep: Sweep, infos: Mapping[str, VariantInfo], objective: Objective | None) -> dict[str, Any]:
    """Return the resolved sweep without a base; a sweep file with this content gives the same runs."""
    fields = sweep.config.model_dump()
    fields |= {"base": None, "seeds": sweep.seeds, "final_seeds": sweep.final_seeds or 0}
    fields["objective"] = objective.model_dump() if objective else None
    fields["variants"] = {
        name: dict(info.config) | {"axes": {axis.key: axis.as_config() for axis in sweep.variants[name].axes}}
        for name, info in infos.items()
    }
    return fields


class ExistingRuns:
    """Compares existing run directories of a sweep with the runs that the sweep would train.

    Args:
        sweep: the sweep.
        root: its directory.
        infos: from `check_variants`.
        shared_data: the shared data.
    """

    def __init__(
        self, sweep: Sweep, root: Path, infos: Mapping[str, VariantInfo], shared_data: SharedData
    ) -> None:
        self._sweep = sweep
        self._shared_data = shared_data
        self._same_configs = _known_variants(root, infos)
        self._code: dict[str, Code] = {}
        self._digests: dict[str, str] = {}

    def code(self, spec: RunSpec) -> Code:
        """Return the code of the components of a run, as of the first call."""
        variant = self._sweep.variants[spec.variant]
        chooses = {
            key: value for key, value in spec.values.items() if any(map(split_import_path, texts_in(value)))
        }
        key = value_text([variant.name, chooses])
        if key not in self._code:
            self._code[key] = code_of(load_run_config(self._sweep, spec).config)
        return self._code[key]

    def _digest(self, spec: RunSpec) -> str:
        """Return the SHA-256 of the data of a run."""
        variant = self._sweep.variants[spec.variant]
        chooses = {key: value for key, value in spec.values.items() if key.split(".")[0] == "data"}
        key = value_text([variant.name, chooses])
        if key not in self._digests:
            self._digests[key] = self._shared_data.loaded_data(
                load_run_config(self._sweep, spec)
            ).dataset.digest
        return self._digests[key]

    def differences(self, spec: RunSpec) -> list[str]:
        """Return the differences between a run and the existing run in its directory; empty if there is none.

        The config is not read if sweep.yaml already has the same config for the variant; this saves reading
        thousands of files.
        """
        if rundir.read_status(spec.folder) is None:
            return []
        if spec.variant in self._same_configs:
            return environment_differences(spec.folder, self.code(spec), self._digest(spec))
        config = load_run_config(self._sweep, spec).config
        return run_differences(spec.folder, config, self.code(spec), self._digest(spec))


def former_variants(root: Path) -> dict[str, dict[str, Any]]:
    """Return the configs of the variants in the existing sweep.yaml; empty if it cannot be read."""
    try:
        variants = yaml.safe_load(read_regular(root / SWEEP_FILE, _MAX_BYTES))["variants"]
        return {name: config for name, config in variants.items() if isinstance(config, dict)}
    except (
        OSError,
        RunError,
        RecursionError,
        ValueError,
        yaml.YAMLError,
        KeyError,
        TypeError,
        AttributeError,
    ):
        return {}


def _known_variants(root: Path, infos: Mapping[str, VariantInfo]) -> set[str]:
    """Return the variants whose config in the existing sweep.yaml is the current one."""
    former = former_variants(root)
    try:
        return {
            name
            for name, info in infos.items()
            if name in former and not config_differences(_without_axes(former[name]), info.config, "skip")
        }
    except (RecursionError, ValueError, KeyError, TypeError, AttributeError):  # a damaged config
        return set()


def _without_axes(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key != "axes"}
