"""What a sweep will run: settings, seeds, folders, and the trial of every variant before the first run.

Trains nothing. The data that the runs share is loaded here once and laid where workers map it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import yaml

from trainer import catalog
from trainer.config.identity import Code, code_of, config_differences
from trainer.config.load import Loaded, dump
from trainer.config.models import DataConfig, SeedConfig
from trainer.config.overrides import gives
from trainer.config.paths import split_import_path
from trainer.config.run_id import run_id, value_name, value_names
from trainer.data.dataset import Dataset, Split, Splits
from trainer.errors import ConfigError, OptlabError, Problem, RunError
from trainer.reading import read_regular
from trainer.runs import rundir
from trainer.runs.launch import environment_differences, run_differences
from trainer.sweep import process_state
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
from trainer.training.loaded_data import LoadedData, load_data

Stage = Literal["search", "final"]
SWEEP_FILE = "sweep.yaml"
DATA = ".data"
_MOST_BYTES = 64 << 20  # of a sweep.yaml that is read back


@dataclass(frozen=True, slots=True, eq=False)
class RunSpec:
    """One run of a sweep.

    Args:
        variant: whose.
        stage: `search`, or `final` for a winner on fresh seeds.
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
        """What a line about it says."""
        return f"{self.variant} {self.folder.name}" + (" (final)" if self.stage == "final" else "")


@dataclass(frozen=True, slots=True)
class VariantInfo:
    """What building a variant showed.

    Args:
        config: its config, complete, with the first value of every axis and the first seed.
        columns: the values of its evaluations.
        evaluations: how many there will be, the one before training left out.
        classes: whether accuracies are measured.
    """

    config: Mapping[str, Any]
    columns: Sequence[str]
    evaluations: int
    classes: bool


def spec_for(
    root: Path, variant: Variant, stage: Stage, trial: int, values: Mapping[str, Any], seed: int
) -> RunSpec:
    """Return a run and its directory: `<sweep>/<variant>/<run-id>`, winners in `<sweep>/final/<variant>/`."""
    parent = root / FINAL / variant.name if stage == "final" else root / variant.name
    texts = {axis.key: _value_name(axis, values[axis.key]) for axis in variant.axes}
    name = run_id(override_texts(values), SeedConfig.model_validate(seed), texts=texts)
    return RunSpec(variant.name, stage, trial, values, seed, parent / name)


def _value_name(axis: Axis, value: Any) -> str:
    """Return the text of an axis's value in the names of run directories; no two values share one."""
    if axis.is_range:
        return value_name(value)
    texts = [value_text(known) for known in axis.values]
    return value_names(axis.key, axis.values)[texts.index(value_text(value))]


def extras(sweep: Sweep, variant: Variant, stage: Stage) -> list[str]:
    """Return the overrides that a sweep lays on every run, where the user has not said otherwise.

    One thread per run; no figures (`optlab plot` draws them from a run's files at any time); and the test
    split read by the runs that were chosen on validation, never by those that the choice is made from.
    """
    given = [*variant.overrides, *override_texts({axis.key: None for axis in variant.axes})]
    train, log = (variant.tree.data.get(section) or {} for section in ("train", "log"))
    laid = []  # nothing on a section that is no mapping: its check reports that, with the line
    if isinstance(train, dict) and train.get("threads") is None and not gives(given, "train.threads"):
        laid.append("train.threads=1")
    if isinstance(log, dict) and "plots" not in log and not gives(given, "log.plots"):
        laid.append("log.plots=[]")
    if stage == "final":
        laid.append("train.test=end")
    elif sweep.searches or sweep.final_seeds:
        laid.append("train.test=never")
    return laid


@process_state.preserved()
def load_run_config(sweep: Sweep, spec: RunSpec, more: Sequence[str] = ()) -> Loaded:
    """Return the checked config of a run."""
    variant = sweep.variants[spec.variant]
    laid = [*extras(sweep, variant, spec.stage), *more]
    return load_variant(variant, spec.values, spec.seed, catalog.COMPONENTS, laid)


def grid_settings(variant: Variant) -> list[dict[str, Any]]:
    """Return the settings of a variant's grid."""
    return list(grid(variant.axes))


def budget(sweep: Sweep, variant: Variant) -> int:
    """Return how many settings of a variant are tried."""
    return sweep.config.trials or len(grid_settings(variant))


def check_budgets(sweep: Sweep) -> None:
    """Refuse grids of unequal size, unless the file allows them."""
    sizes = {name: budget(sweep, variant) for name, variant in sweep.variants.items()}
    if len(set(sizes.values())) > 1 and not sweep.config.allow_unequal:
        raise ConfigError(
            "the variants' grids differ in size: " + ", ".join(f"{name} {n}" for name, n in sizes.items()),
            key="axes",
            where=sweep.where("axes"),
            fix="give every variant as many settings, or say allow_unequal: true",
        )


class SharedData:
    """Data sets as files that worker processes map, so that each is in memory once for all of them.

    Args:
        folder: where the files lie; it is made, and emptied by `clear`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._loaded: dict[str, LoadedData] = {}

    def loaded_data(self, loaded: Loaded) -> LoadedData:
        """Return the data of a config, loaded once."""
        key = data_key(loaded.config.data)
        if key not in self._loaded:
            self._loaded[key] = load_data(loaded)
        return self._loaded[key]

    def notes(self) -> list[str]:
        """Return what the reading of the data has to tell, such as a damaged cache."""
        return [note for loaded_data in self._loaded.values() for note in loaded_data.dataset.notes]

    def put(self, loaded: Loaded) -> Path:
        """Return the file that holds the data of a config; it is written the first time."""
        path = self.folder / f"{data_key(loaded.config.data)}.pt"
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
        """Let go of what is in this process's memory; the files stay."""
        self._loaded.clear()

    def clear(self) -> None:
        """Remove the files; processes that map them keep what they have."""
        for path in self.folder.glob("*"):
            path.unlink(missing_ok=True)
        if self.folder.is_dir():
            self.folder.rmdir()


def data_key(data: DataConfig) -> str:
    """Return a name for what determines a data set and its split."""
    relevant = [data.name, data.options, data.val_size, data.val_from, data.split_seed, data.limit]
    return hashlib.sha256(json.dumps(relevant, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _packed(loaded_data: LoadedData) -> dict[str, Any]:
    splits, names = loaded_data.splits, loaded_data.dataset.class_names
    parts = {"train": splits.train, "val": splits.val, "test": splits.test}
    return {
        "splits": {name: [part.inputs, part.targets] for name, part in parts.items() if part is not None},
        "class_names": None if names is None else list(names),
        "digest": loaded_data.dataset.digest,
    }


def open_shared_data(path: Path) -> LoadedData:
    """Map a file of the shared_data: its pages are shared with every process that maps it."""
    packed = torch.load(path, mmap=True, weights_only=True)
    parts = {name: Split(*tensors) for name, tensors in packed["splits"].items()}
    names = None if packed["class_names"] is None else tuple(packed["class_names"])
    splits = Splits(parts["train"], parts.get("val"), parts["test"])
    return LoadedData(Dataset(splits.train, splits.test, names, packed["digest"]), splits)


def check_variants(sweep: Sweep, shared_data: SharedData) -> dict[str, VariantInfo]:
    """Build every variant with every value of every axis (the ends of ranges), before anything runs.

    Raises:
        ConfigError: with the problems of all variants, each with its line.
    """
    infos: dict[str, VariantInfo] = {}
    problems: list[Problem] = []
    for variant in sweep.variants.values():
        first = {axis.key: axis.probes()[0] for axis in variant.axes}
        trials = [first] + [first | {axis.key: value} for axis in variant.axes for value in axis.probes()[1:]]
        for values in trials:
            try:
                experiment = _try(sweep, variant, values, shared_data)
            except OptlabError as error:
                problems += error.problems
                if values is first:
                    break
                continue
            if values is first:
                infos[variant.name] = _infos(sweep, variant, values, experiment)
    if problems:
        raise ConfigError.of(dict.fromkeys(problems))
    _refuse_twins(sweep, infos)
    return infos


@process_state.preserved()
def _try(sweep: Sweep, variant: Variant, values: Mapping[str, Any], shared_data: SharedData) -> Experiment:
    laid = extras(sweep, variant, "search")
    loaded = load_variant(variant, values, sweep.seeds[0], catalog.COMPONENTS, laid)
    with relocated(variant.places):
        return build_experiment(loaded, loaded_data=shared_data.loaded_data(loaded))


@process_state.preserved()
def _infos(sweep: Sweep, variant: Variant, values: Mapping[str, Any], experiment: Experiment) -> VariantInfo:
    laid = [text for text in extras(sweep, variant, "search") if not text.startswith("train.test=")]
    config = load_variant(variant, values, sweep.seeds[0], catalog.COMPONENTS, laid).config
    plan = experiment.plan
    steps = plan.steps or 0
    due = sum(1 for step in range(1, min(steps, 100_000) + 1) if plan.evaluate.due(step) or step == steps)
    return VariantInfo(
        yaml.safe_load(dump(config)), experiment.eval_columns(), due if steps else 2, experiment.classes
    )


def _refuse_twins(sweep: Sweep, infos: Mapping[str, VariantInfo]) -> None:
    seen: dict[str, str] = {}
    for name, found in infos.items():
        axes = {axis.key: axis.as_config() for axis in sweep.variants[name].axes}
        same = json.dumps([{**found.config, "name": None}, axes], sort_keys=True, default=str)
        if same in seen:
            raise ConfigError(
                f"{seen[same]} and {name} are the same experiment",
                key=f"variants.{name}",
                where=sweep.where(f"variants.{name}"),
                fix="leave one of them out",
            )
        seen[same] = name


def resolve_objective(sweep: Sweep, infos: Mapping[str, VariantInfo]) -> Objective | None:
    """Return what settings are chosen by; None where nothing is chosen and nothing validates.

    Raises:
        ConfigError: the metric is not measured, or only at the end where pruning needs it earlier.
    """
    objective = sweep.config.objective
    if objective is None:
        classes = all(found.classes for found in infos.values())
        objective = Objective(metric="val_accuracy" if classes else "val_loss")
    lacking = [name for name, found in infos.items() if objective.metric not in found.columns]
    if lacking:
        wanted = sweep.config.objective or sweep.config.strategy != "grid" or sweep.final_seeds
        if not wanted:
            return None
        measured = [name for name in infos[lacking[0]].columns if name.startswith("val_")]
        raise ConfigError(
            f"{lacking[0]} does not measure {objective.metric}",
            key="objective.metric",
            where=sweep.where("objective.metric"),
            expected=f"one of {', '.join(measured)}" if measured else "",
            fix="say data.val_size: 0.1 in the base, so that settings are chosen on validation",
        )
    if sweep.config.prune in ("median", "hyperband"):
        late = [name for name, found in infos.items() if found.evaluations < 2]
        if late:
            raise ConfigError(
                f"{late[0]} is evaluated only at the end, so there is nothing to prune by",
                key="prune",
                where=sweep.where("prune"),
                fix="say prune: null, or train.eval_every: {steps: ..} in the base",
            )
    return objective


def resolved(sweep: Sweep, infos: Mapping[str, VariantInfo], objective: Objective | None) -> dict[str, Any]:
    """Return the sweep, complete and on its own: reading it again gives the same runs."""
    fields = sweep.config.model_dump()
    fields |= {"base": None, "seeds": sweep.seeds, "final_seeds": sweep.final_seeds or 0}
    fields["objective"] = objective.model_dump() if objective else None
    fields["variants"] = {
        name: dict(found.config)
        | {"axes": {axis.key: axis.as_config() for axis in sweep.variants[name].axes}}
        for name, found in infos.items()
    }
    return fields


class ExistingRuns:
    """Tells whether the run directories of a sweep that exist hold the sweep's own runs.

    Args:
        sweep: the sweep.
        root: its directory.
        infos: what building its variants showed.
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
        """Return the code of a run's parts as it was when the sweep first asked."""
        variant = self._sweep.variants[spec.variant]
        chooses = {
            key: value for key, value in spec.values.items() if any(map(split_import_path, _texts(value)))
        }
        key = value_text([variant.name, chooses])
        if key not in self._code:
            self._code[key] = code_of(load_run_config(self._sweep, spec).config)
        return self._code[key]

    def _digest(self, spec: RunSpec) -> str:
        """Return the SHA-256 of a run's data."""
        variant = self._sweep.variants[spec.variant]
        chooses = {key: value for key, value in spec.values.items() if key.split(".")[0] == "data"}
        key = value_text([variant.name, chooses])
        if key not in self._digests:
            self._digests[key] = self._shared_data.loaded_data(
                load_run_config(self._sweep, spec)
            ).dataset.digest
        return self._digests[key]

    def differences(self, spec: RunSpec) -> list[str]:
        """Return in what the run in a run's directory differs from it; empty where there is none.

        Configs of variants that the sweep's own sweep.yaml describes alike are not read again, which spares
        reading a thousand of them.
        """
        if rundir.read_status(spec.folder) is None:
            return []
        if spec.variant in self._same_configs:
            return environment_differences(spec.folder, self.code(spec), self._digest(spec))
        config = load_run_config(self._sweep, spec).config
        return run_differences(spec.folder, config, self.code(spec), self._digest(spec))


def _texts(value: Any) -> list[str]:
    return [text for text in (value if isinstance(value, list) else [value]) if isinstance(text, str)]


def _known_variants(root: Path, infos: Mapping[str, VariantInfo]) -> set[str]:
    """Return the variants that the sweep's own sweep.yaml describes as they are now."""
    try:
        former = yaml.safe_load(read_regular(root / SWEEP_FILE, _MOST_BYTES))["variants"]
        return {
            name
            for name, found in infos.items()
            if name in former and not config_differences(_without_axes(former[name]), found.config, "skip")
        }
    except (OSError, RunError, yaml.YAMLError, KeyError, TypeError, AttributeError, UnicodeDecodeError):
        return set()


def _without_axes(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key != "axes"}
