"""Implementation of the verbs that need torch."""

from __future__ import annotations

import inspect
import json
import re
import shlex
import time
import types
import typing
from collections.abc import Hashable, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from trainer import catalog, console, interrupts
from trainer.cli.options import RUNS, ExistingRun, OutputOptions, RunFolder
from trainer.config.identity import components_in, named_code
from trainer.config.json_schema import json_schema
from trainer.config.load import dump, read
from trainer.config.merge import parse_override
from trainer.config.models import Component
from trainer.config.paths import absolute_import_path
from trainer.console import Column
from trainer.data.cache import cache_folder
from trainer.data.dataset import data_root
from trainer.errors import (
    AbsentDataError,
    BusyError,
    ConfigError,
    FigureError,
    OptlabError,
    Problem,
    RunError,
    unknown_name,
)
from trainer.metrics import Metric
from trainer.models.describe import layer_table
from trainer.optimizers.build import describe_implementations
from trainer.records import RunResult
from trainer.runs import drawing, launch, ownership, rundir, runner
from trainer.runs.environment import compare_with_lock, environment
from trainer.runs.options import RunOptions
from trainer.runs.resume import resume as resume_run
from trainer.runs.resume import train_or_resume
from trainer.seeding import global_stream
from trainer.sweep.command_line import suggest_sweep
from trainer.sweep.json_schema import sweep_schema
from trainer.training.builders import make_model
from trainer.training.building import RunSetup, set_up_run
from trainer.user_code import running

EXIT_CODES = {"completed": 0, "early_stopped": 0, "diverged": 3}


def train(
    config: Path,
    overrides: Sequence[str],
    where: RunFolder,
    existing: ExistingRun,
    output: OutputOptions,
    *,
    dry_run: bool,
) -> int:
    """Train and return the exit code."""
    if existing.force + existing.skip + existing.resume > 1:
        raise ConfigError(
            "--force, --skip-existing and --resume are mutually exclusive", expected="at most one of them"
        )
    draft = read(config, overrides)
    if dry_run:
        announce_code(*components_in(draft.tree.data))
    with drawing.in_child_process(draft.wants_figures() and not dry_run) as draw:
        with console.waiting("Checking the config", quiet=output.quiet), suggest_sweep(config, overrides):
            loaded = catalog.check_config(draft)  # torch imports its compiler here
        displayed_folder = where.run_dir or launch.folder_for(loaded, overrides, where.runs)
        folder = displayed_folder.absolute()  # a component may change the working directory
        ownership.refuse_root(folder, where.runs)
        if dry_run:
            _dry_run(set_up_run(loaded), displayed_folder)
            return 0
        with launch.progress_display(output.quiet) as progress:
            options = RunOptions(progress=progress, wait=existing.wait, draw=draw)
            try:
                if existing.resume and rundir.read_status(folder) is not None:
                    done = resume_run(folder, overrides, options, loaded=loaded)
                elif existing.skip or (existing.wait and not existing.force):
                    done = train_or_resume(loaded, overrides, folder, options)
                else:
                    done = launch.launch(loaded, folder, options, force=existing.force)
            except BusyError:
                if not existing.skip:
                    raise
                return _report_busy(displayed_folder, as_json=output.as_json)
    code = finish(replace(done, folder=displayed_folder), as_json=output.as_json)
    if code == 0 and not (where.run_dir or output.quiet or output.as_json):
        _print_next_command(config, overrides, where.runs, loaded.config.seed.init + 1, displayed_folder)
    return code


def _print_next_command(
    config: Path, overrides: Sequence[str], runs: Path, next_seed: int, folder: Path
) -> None:
    """Print the command that compares a run with those beside it, or that trains a second one."""
    siblings = (path / rundir.STATUS for path in folder.parent.iterdir() if path.name != folder.name)
    if any(status.is_file() for status in siblings):
        note, arguments = "compare it with the runs beside it:", ["compare", str(folder.parent)]
    else:
        runs_option = [] if runs == RUNS else ["--runs", str(runs)]
        kept = [text for text in overrides if not text.startswith("seed")]
        note = "train it with another seed:"
        arguments = ["train", str(config), *kept, f"seed={next_seed}", *runs_option]
    console.print_note(note, command=shlex.join(["optlab", *arguments]))


def _report_busy(folder: Path, *, as_json: bool) -> int:
    """Report that another process trains the run and skip it."""
    console.print_note(f"{folder} is being trained by another process: skipped")
    if as_json:
        console.print_json({"run": str(folder), "skipped": True, "status": "running"})
    return 0


def finish(done: launch.LaunchResult, *, as_json: bool) -> int:
    """Print the result of a run and, if it was interrupted, how to resume it. Return the exit code."""
    if done.skipped:
        console.print_note(f"{done.folder} is finished: skipped")
    if as_json:
        console.print_json({"run": str(done.folder), "skipped": done.skipped} | done.result.as_dict())
    else:
        with console.results_are_kept():
            figures = done.folder / rundir.PLOTS
            drawn = figures.is_dir() and any(figures.iterdir())
            metrics: list[Metric] = []
            with suppress(RunError):  # without the file, only the formats of users' metrics are not known
                metrics = rundir.recorded_metrics(rundir.read_environment(done.folder))
            console.print_result(done.result, done.folder, metrics, figures=figures if drawn else None)
    if done.result.status == "interrupted":
        console.print_note("resume with:", command=f"optlab resume {shlex.quote(str(done.folder))}")
    return _exit_code(done.result)


def _exit_code(result: RunResult) -> int:
    if result.status == "interrupted":
        return interrupts.exit_code(result.message.partition(" ")[0])
    return EXIT_CODES.get(result.status, 1)


def _dry_run(setup: RunSetup, folder: Path) -> None:
    """Print what a run would do, and a time estimate from one second of its first steps."""
    console.print_text(dump(setup.config))
    experiment = setup.experiment
    plan, batches = experiment.plan, experiment.batches
    pairs = {
        "run directory": str(folder),
        "parameters": f"{sum(p.numel() for p in experiment.model.parameters() if p.requires_grad):,}",
        "batches per epoch": f"{batches.batches_per_epoch:,}",
        "samples per epoch": f"{batches.samples_per_epoch:,}",
        "steps": f"{plan.steps:,}" if plan.steps is not None else f"as many as fit into {plan.seconds:g} s",
        "estimate": _estimate(setup),
    }
    console.print_pairs("# plan", pairs)
    implementations = describe_implementations(experiment.state.optimizers.values())
    for line in [*launch.describe_groups(setup), *implementations]:
        console.print_text(line)


def _estimate(setup: RunSetup) -> str:
    experiment = setup.experiment
    steps = experiment.plan.steps
    if steps is None:
        return f"{experiment.plan.seconds:g} s of training, plus the evaluations"
    began, done = time.perf_counter(), 0
    with console.waiting("Measuring steps"), running(setup.config.model_dump()):
        for batches in islice(experiment.remaining_batches(), 200):
            experiment.engine.step(batches)
            done += 1
            if time.perf_counter() - began > 1:
                break
    seconds = (time.perf_counter() - began) / max(done, 1) * steps
    return f"{console.format_seconds(seconds)} of training (from {done} measured steps)"


def validate(config: Path, overrides: Sequence[str], *, require_data: bool, as_json: bool) -> None:
    """Check a config without downloading data; with absent data, only what does not depend on them."""
    draft = read(config, overrides)
    announce_code(*components_in(draft.tree.data))
    extent, unchecked = "", []
    with console.waiting("Checking the config"):
        with suggest_sweep(config, overrides):
            loaded = catalog.check_config(draft)
        try:
            setup = set_up_run(loaded, download=False)
            resolved, extent = setup.config, f"; {setup.experiment.plan.steps} steps"
        except AbsentDataError:
            if require_data:
                raise
            resolved = loaded.config
            unchecked = ["data", "shapes of the model", "parameter groups", "length of the schedules"]
    if as_json:
        console.print_json({"valid": True, "unchecked": unchecked, "config": resolved.model_dump()})
        return
    console.print_text(f"{config}: valid{extent}")
    if unchecked:
        name = resolved.data.name
        console.print_note(f"not checked, because {name} is not on disk: {', '.join(unchecked)}")
        console.print_note(f"to check them as well: optlab prepare {name}, then optlab validate --data")


def announce_code(*values: Any) -> None:
    """Print the files and packages that components name, before they are imported and thereby executed."""
    if names := named_code(*values):
        console.print_note(f"imports and executes {', '.join(names)}")


def prepare(name: str, options: Sequence[str]) -> None:
    """Download and check a data set; cache it decoded if decoding takes time."""
    if name not in catalog.DATASETS:
        raise unknown_name("data set", name, list(catalog.DATASETS))
    with console.waiting(f"Preparing {name}"):
        dataset = catalog.DATASETS[name](**_options("dataset", name, options))
    pairs = {
        "train": f"{len(dataset.train):,} samples",
        "test": f"{len(dataset.test):,} samples",
        "shape": "x".join(map(str, dataset.input_shape)),
        "classes": f"{dataset.num_classes}"
        if dataset.class_names
        else f"none ({dataset.num_classes} real targets)",
        "sha256": dataset.digest,
    }
    console.print_pairs(f"{name} is ready", pairs)
    for note in dataset.notes:
        console.print_note(note)


def _options(kind: str, name: str, assignments: Sequence[str]) -> dict[str, Any]:
    """Return options given as `key=value`, checked against the component's signature."""
    options: dict[Hashable, Any] = {}
    for override in map(parse_override, assignments):
        if len(override.key) != 1:
            raise ConfigError(f"{override.text!r} is not an option of {name}", expected="key=value")
        options[override.key[0]] = override.value
    return catalog.check_options(kind, name, options)


def plot(folders: Sequence[Path], formats: Sequence[str]) -> None:
    """Draw figures again and print their paths."""
    wrong = set(formats) - {"png", "svg", "pdf"}
    if wrong:
        raise ConfigError(f"unknown figure format {min(wrong)!r}", expected="png, svg or pdf")
    problems = []
    for folder in folders:
        ownership.require_run(folder)
        with console.waiting(f"Drawing the figures of {folder}"):
            figures = runner.draw_figures(folder, list(formats))
        for path in figures.paths:
            console.print_text(console.one_line(str(path)))
        problems += [Problem(message, where=str(folder)) for message in figures.failures]
    if problems:
        raise FigureError.of(problems)


def list_components(kind: str | None, *, as_json: bool) -> None:
    """Print every component with the first sentence of its documentation."""
    if kind is not None and kind not in catalog.REGISTRIES:
        raise unknown_name("kind", kind, list(catalog.REGISTRIES))
    kinds = [kind] if kind else list(catalog.REGISTRIES)
    components = {
        chosen: {name: _summary(builder) for name, builder in catalog.REGISTRIES[chosen].items()}
        for chosen in kinds
    }
    if as_json:
        console.print_json(components)
        return
    rows = [(chosen, name, text) for chosen, names in components.items() for name, text in names.items()]
    console.table([Column("kind"), Column("name"), Column("description")], rows)


def _summary(builder: Any) -> str:
    """Return the first sentence of a builder's documentation, on one line."""
    if isinstance(builder, partial):  # one builder serves all of torchvision's names
        return f"torchvision's {builder.args[0]}, untrained"
    text = (inspect.getdoc(builder) or "").split("\n\n")[0]
    sentence = (
        " ".join(text.split()).partition(". ")[0].replace(":class:", "").replace("``", "").replace("`", "")
    )
    return re.sub(r"^Return (the |an |a )?", "", sentence).rstrip(".:")


DEFAULT_INPUTS = {
    "cnn": (3, 32, 32),
    "3c3d": (3, 32, 32),
    "resnet": (3, 32, 32),
    "torchvision": (3, 224, 224),
}


def show(
    kind: str, name: str, options: Sequence[str], *, shape: str | None, classes: int, as_json: bool
) -> None:
    """Print a component's options, and a model's layers."""
    if kind not in catalog.REGISTRIES:
        raise unknown_name("kind", kind, list(catalog.REGISTRIES))
    name = absolute_import_path(name, Path.cwd())
    model = catalog.option_model(kind, name)
    rows = [
        {
            "option": option,
            "type": _type_name(field.annotation),
            "required": field.is_required(),
            "default": None if field.is_required() else field.default,
            "meaning": field.description or "",
        }
        for option, field in model.model_fields.items()
    ]
    layers: list[Any] = []
    if kind == "model":
        input_shape = _shape(shape) if shape else _default_input(name)
        component = Component.model_validate({"name": name, "options": _options("model", name, options)})
        with global_stream("init", 0):
            network = make_model(component, input_shape, classes)
        layers = layer_table(network, input_shape)
    if as_json:
        described = [asdict(layer) for layer in layers]
        console.print_json({"kind": kind, "name": name, "options": rows, "layers": described})
        return
    console.print_text(f"{kind} {name}: {_summary(catalog.find(kind, name))}\n")
    if rows:
        columns = [Column("option"), Column("type"), Column("default"), Column("meaning")]
        console.table(
            columns,
            [
                (
                    row["option"],
                    row["type"],
                    "required" if row["required"] else str(_as_yaml(row["default"])),
                    row["meaning"],
                )
                for row in rows
            ],
        )
    else:
        console.print_text("no options")
    if layers:
        total = sum(layer.parameters for layer in layers)
        size = "x".join(map(str, input_shape))
        console.print_text(f"\nlayers on an input of {size}, {classes} classes: {total:,} parameters")
        columns = [Column("layer"), Column("kind"), Column("output"), Column("parameters", "right", ",d")]
        console.table(
            columns,
            [
                (row.name, row.kind, "x".join(map(str, row.output_shape or ())) or None, row.parameters)
                for row in layers
            ],
        )


def _as_yaml(value: Any) -> Any:
    """Return a default as it is written in a config."""
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    return list(value) if isinstance(value, tuple) else value


def _type_name(annotation: Any) -> str:
    """Return a readable name of a type: `float`, `int or null`, `sum | mean`."""
    if typing.get_origin(annotation) is typing.Literal:
        return " | ".join(str(value) for value in typing.get_args(annotation))
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return " or ".join(_type_name(part) for part in typing.get_args(annotation))
    if typing.get_origin(annotation) is typing.Annotated:
        return _type_name(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) in (tuple, list):
        parts = [_type_name(part) for part in typing.get_args(annotation) if part is not ...]
        return "list of " + (parts[0] if len(set(parts)) == 1 else ", ".join(parts))
    if annotation is type(None):
        return "null"
    return {"str": "text", "bool": "true or false"}.get(getattr(annotation, "__name__", ""), "") or getattr(
        annotation, "__name__", str(annotation)
    )


def _default_input(name: str) -> tuple[int, ...]:
    matches = [shape for prefix, shape in DEFAULT_INPUTS.items() if name.startswith(prefix)]
    return matches[0] if matches else (1, 28, 28)


def _shape(text: str) -> tuple[int, ...]:
    try:
        shape = tuple(int(part) for part in text.split(","))
    except ValueError:
        shape = ()
    if len(shape) not in (1, 3) or min(shape, default=0) < 1:
        raise ConfigError(f"--input {text!r} is not a shape", expected="C,H,W or D, e.g. 3,32,32 or 64")
    return shape


def schema(output: Path | None, *, sweep: bool) -> None:
    """Write the JSON Schema of configs or of sweeps."""
    make = sweep_schema if sweep else json_schema
    text = json.dumps(make(catalog.COMPONENTS), indent=2) + "\n"
    if output is None:
        console.print_text(text)
        return
    rundir.write_atomically(output, text)
    console.print_note(f"wrote {output}")


def doctor(runs: Path, *, as_json: bool) -> None:
    """Print versions, devices, data sets on disk, the cache and write access."""
    report = environment()
    report["tested"] = compare_with_lock()
    report["torch"] = {
        "threads": torch.get_num_threads(),
        "CUDA devices": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "default device": "cuda:0" if torch.cuda.is_available() else "cpu",
    }
    with console.waiting("Reading the data sets on disk"):
        report["data"] = {"folder": str(data_root(None))} | _data_states()
    report["cache"] = _cache_state()
    try:
        # `doctor` creates no folder: it checks the nearest existing parent.
        rundir.prepare_root(
            next(path for path in (runs.absolute(), *runs.absolute().parents) if path.exists())
        )
        report["runs"] = {"directory": str(runs.resolve()), "writable": True}
    except RunError as error:
        report["runs"] = {
            "directory": str(runs.resolve()),
            "writable": False,
            "reason": error.problems[0].what,
        }
    if as_json:
        console.print_json(report)
        return
    for section in ("versions", "tested", "machine", "torch", "data", "cache", "runs"):
        pairs = _tested_pairs(report["tested"]) if section == "tested" else report[section]
        console.print_pairs(section, pairs)


def _tested_pairs(tested: dict[str, Any]) -> dict[str, str]:
    """Return what `doctor` prints about the tested versions: one line per package that differs."""
    if tested["lock"] is None:
        return {"environment": "unknown: requirements.lock is only in a checkout of the repository"}
    differences, compared = tested["differences"], tested["compared"]
    if not differences:
        return {"environment": f"the tested one: {compared} packages as in {tested['lock']}"}
    return {
        "environment": f"not the tested one: {len(differences)} of {compared} packages differ"
        f" from {tested['lock']}"
    } | {each["package"]: f"{each['installed']}, tested with {each['tested']}" for each in differences}


def _cache_state() -> dict[str, Any]:
    """Return the folder of decoded data sets, their number and their size on disk."""
    folder = cache_folder()
    sizes = [file.stat().st_size for file in folder.glob("*.set")]
    return {"folder": str(folder), "sets": len(sizes), "size": f"{sum(sizes) / 1e6:,.1f} MB"}


def _data_states() -> dict[str, str]:
    """Return for every named data set whether it is on disk, without downloading."""
    states = {}
    for name, builder in catalog.DATASETS.items():
        parameters = inspect.signature(builder).parameters
        if any(p.default is p.empty for p in parameters.values()):
            continue  # npz, csv and image_folder need a path
        try:
            builder(**({"download": False} if "download" in parameters else {}))
            states[name] = "ready"
        except OptlabError as error:
            states[name] = "not on disk" if "download" in parameters else error.problems[0].what
    return states
