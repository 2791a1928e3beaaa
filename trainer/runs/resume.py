"""Resumes a run from its last checkpoint, bit for bit, or raises an error with the reason why it cannot.

A resumed run may be extended or executed on another machine. Changes that affect its past steps are refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from trainer import catalog
from trainer.config.identity import (
    code_changes,
    config_differences,
    data_difference,
    describe_differences,
    import_paths,
    leaves,
    recorded_code,
)
from trainer.config.load import Loaded, dump
from trainer.config.merge import parse_override
from trainer.config.models import Config
from trainer.console import print_note
from trainer.errors import BusyError, OptlabError, RunError
from trainer.optimizers.external import CONTEXT
from trainer.runs import checkpoint, launch, ownership, rundir, runner
from trainer.runs.environment import environment, origin
from trainer.runs.launch import LaunchResult
from trainer.runs.options import DEFAULTS, RunOptions
from trainer.schedules import LENGTHS
from trainer.training.building import RunSetup, set_up_run
from trainer.training.experiment import Experiment
from trainer.user_code import running

# Schedule lengths derived from the run's length: compared with the checkpoint, not with the config.
_LENGTHS = ("T_max", "total_steps")


class UnreadableError(RunError):
    """No checkpoint of a run can be read, so it can only be trained from the start."""


def resume(
    folder: Path,
    overrides: Sequence[str] = (),
    options: RunOptions = DEFAULTS,
    *,
    loaded: Loaded | None = None,
    trust: bool = False,
) -> LaunchResult:
    """Resume the run in a directory; skip it if it is finished.

    Args:
        folder: the run directory.
        overrides: changes that do not affect past steps, such as `train.epochs=20`.
        options: see `RunOptions`.
        loaded: the config that the run is expected to have, with the overrides; settings that were not
            overridden and that do not affect its numbers keep the resolved values of the run. None = use the
            config of the run.
        trust: execute user files and packages even if the run directory was made elsewhere; with `loaded`,
            only those named in that config are executed.

    Raises:
        BusyError: another process writes to the directory, and `options.wait` is false.
        RunError: there is no run, no checkpoint can be read, or a change would affect past steps.
        ConfigError, DataError: the experiment is not valid any more.
    """
    ownership.require_run(folder)
    ownership.recover(folder)
    saved = rundir.load_config(folder)
    if loaded is not None:
        loaded = replace(loaded, config=_execute_as(saved, loaded.config, overrides))
    else:
        if not trust:
            refuse_untrusted_code(folder, import_paths(saved))
        loaded = catalog.load_config(folder / rundir.CONFIG, overrides)
    return _continue_run(loaded, folder, options)


def refuse_untrusted_code(folder: Path, names: Sequence[str]) -> None:
    """Raise RunError if a run directory made elsewhere names code that would be executed."""
    former, present = rundir.read_environment(folder).get("origin"), origin(folder)
    if not names or former == present:
        return
    known = former if isinstance(former, Mapping) else {}
    other = ", ".join(
        f"{key} {known.get(key, 'unknown')}" for key in present if known.get(key) != present[key]
    )
    raise RunError(
        f"{folder} was made elsewhere ({other}), and this command executes {', '.join(names)}",
        fix="review that code, then add --trust; or train a new run from its config",
    )


def train_or_resume(
    loaded: Loaded, overrides: Sequence[str], folder: Path, options: RunOptions
) -> LaunchResult:
    """Train a config in a directory; skip a finished run of it and resume an interrupted one.

    Args:
        loaded: the config.
        overrides: as given on the command line.
        folder: the run directory.
        options: see `RunOptions`.

    Raises:
        RunError: the directory contains a run with another config, code or data.
        As `resume` and `launch.launch`.
    """
    status = rundir.read_status(folder)
    if status is not None and status["status"] in ("interrupted", "failed"):
        data = options.loaded_data
        launch.refuse_another_run(loaded, folder, data.dataset.digest if data else None)
        try:
            return resume(folder, overrides, replace(options, wait=False), loaded=loaded)
        except UnreadableError as error:
            (options.progress.note if options.progress else print_note)(f"training from the start: {error}")
        except BusyError:  # another process has resumed it
            if not options.wait:
                raise
    return launch.launch(loaded, folder, options, skip_existing=True)


def _execute_as(saved: Config, config: Config, overrides: Sequence[str]) -> Config:
    """Return the requested config, with `auto` and null resolved as in the run unless overridden."""
    overridden = {".".join(override.key) for override in map(parse_override, overrides)}
    fields, former = config.model_dump(), saved.model_dump()
    for section, key in (("train", "device"), ("train", "threads"), ("data", "root")):
        if f"{section}.{key}" not in overridden and key in former[section]:
            fields[section][key] = former[section][key]
    if fields["train"]["engine"] == "auto":
        fields["train"]["engine"] = former["train"]["engine"]
    for own, old in zip(fields["optimizer"], former["optimizer"], strict=False):
        for key in ("fused", "foreach"):
            if own.get(key) is None and key in old and own["name"] == old["name"]:
                own[key] = old[key]
    return Config.model_validate(fields)


def _continue_run(loaded: Loaded, folder: Path, options: RunOptions) -> LaunchResult:
    with rundir.locked(folder, wait=options.wait) as run_lock:
        status = rundir.read_status(folder) or {"status": "interrupted"}
        if status["status"] == "diverged":
            raise RunError(
                f"{folder} has diverged: {status.get('message', '')}",
                fix="a diverged run cannot be resumed: train a new run with other settings",
            )
        ownership.remove_leftovers(folder)
        saved = rundir.load_config(folder)
        setup = set_up_run(loaded, loaded_data=options.loaded_data)
        config, experiment = setup.config, setup.experiment
        _refuse_changes(saved, config)
        changed = saved.model_dump() != config.model_dump()
        recorded = rundir.read_environment(folder)
        if recorded:
            refuse_other_data(folder, recorded, setup)
            notes = _environment_note(recorded, setup)
        else:
            notes = [f"{rundir.ENVIRONMENT} is missing: code and data are not compared"]
        finished = status["status"] in rundir.FINISHED and not changed
        if finished and (result := rundir.read_result(folder)):
            return LaunchResult(folder, result, skipped=True)
        with running(config.model_dump()):
            recorder, more_notes = _restore(folder, setup)
        notes += more_notes
        if recorder is None:
            message = "no step was saved: starting at step 0"
        else:
            _refuse_end(folder, status, setup, recorder)
            position = experiment.progress
            message = f"resuming after step {position.step} (epoch {position.epoch}, batch {position.batch})"
            notes += _final_evaluation_note(status, experiment)
        if options.progress:
            launch.announce(setup, options.progress)
        if recorder is not None:
            if changed:
                rundir.write_atomically(folder / rundir.CONFIG, dump(config), guard=run_lock.check)
            _record_resumption(folder, recorded, experiment)
        start = runner.Start(recorder, [*notes, message])
        done = runner.run(setup, run_lock, options, start=start)
    return LaunchResult(folder, done, skipped=False)


def _refuse_changes(saved: Config, config: Config) -> None:
    """Raise RunError if a setting changed that past steps depend on."""
    old, new = saved.model_dump(), config.model_dump()
    changed = [key for key in config_differences(old, new, "resume") if not _is_allowed(key, saved, config)]
    if changed:
        raise RunError(
            "these changes would affect past steps of the run:\n    "
            + "\n    ".join(describe_differences(changed, old, new)),
            fix="restore the former values, or train a new run",
        )


def _is_allowed(key: str, old: Config, new: Config) -> bool:
    """Return whether a change is allowed: more patience, or a length (checked later)."""
    section, _, option = key.partition(".")
    option = option.rpartition(".")[2]
    if section == "scheduler" and option in _LENGTHS:
        return True
    was_derived = dict(leaves(old.model_dump())).get(key) is None
    if was_derived and option in {"scheduler": LENGTHS, "optimizer": CONTEXT}.get(section, ()):
        return True
    former, rule = old.train.early_stopping, new.train.early_stopping
    if not key.startswith("train.early_stopping") or former is None:
        return False
    return rule is None or (key.endswith(".patience") and rule.patience >= former.patience)


def refuse_other_data(folder: Path, recorded: Mapping[str, Any], setup: RunSetup) -> None:
    """Raise RunError if the data set or one of the user's own files has changed since the run started."""
    former = recorded_code(recorded)
    lines = code_changes(former, setup.code)
    if lines:
        copies = [
            str(folder / part["copy"])
            for part in recorded.get("components") or ()
            if setup.code.files.get(part["source"]) != part["sha256"]
        ]
        where = f" (copies in {', '.join(copies)})" if copies else ""
        raise RunError(
            "the code of the run's components has changed since it started:\n    " + "\n    ".join(lines),
            fix=f"restore the former code{where}, or train a new run",
        )
    if data_difference(recorded, setup.data_digest):
        raise RunError(
            "the data set is not the one that the run started with",
            key="data",
            expected=f"SHA-256 {(recorded.get('data') or {}).get('sha256')}",
            fix="restore the former data, or train a new run",
        )


def _environment_note(recorded: Mapping[str, Any], setup: RunSetup) -> list[str]:
    """Return a note on changes that may cause different rounding: versions, machine, threads."""
    now = environment()
    former = {**recorded.get("versions", {}), "processor": recorded.get("machine", {}).get("processor")}
    present = {**now["versions"], "processor": now["machine"]["processor"]}
    former |= {"device": recorded.get("device"), "threads": recorded.get("threads")}
    present |= {"device": setup.config.train.device, "threads": setup.config.train.threads}
    other = [
        f"{name} {former[name]} -> {present[name]}"
        for name in ("python", "torch", "numpy", "processor", "device", "threads")
        if former.get(name) is not None and former[name] != present[name]
    ]
    return [f"results may differ in rounding from an uninterrupted run: {', '.join(other)}"] if other else []


def _restore(folder: Path, setup: RunSetup) -> tuple[Mapping[str, Any] | None, list[str]]:
    """Load the newest readable checkpoint; return the state of the recorder, and notes.

    The state is None if no step was saved, so that the run starts at step 0.
    """
    errors: list[OptlabError] = []
    absent = 0
    for name in (checkpoint.LAST, checkpoint.PREVIOUS):
        path = folder / rundir.CHECKPOINTS / name
        if not path.exists():
            absent += 1
            continue
        try:
            state = checkpoint.load_checkpoint(path)
            if state["experiment"]["progress"]["step"] == 0:
                return None, [str(trouble) for trouble in errors]
            _check_tables(folder, state["recorder"]["tables"], path)
            _refuse_other_lengths(state["experiment"], setup)
            setup.experiment.load_state_dict(state["experiment"])
        except checkpoint.DamagedError as error:
            errors.append(error)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            errors.append(checkpoint.DamagedError(f"{path} does not match the config of the run: {reason}"))
        else:
            _restore_best(path.parent, state["recorder"]["best"])
            return state["recorder"], [f"{trouble}\n  falling back to {path}" for trouble in errors]
    if absent == 2:
        return None, []
    raise UnreadableError(
        "no checkpoint of this run can be read:\n    " + "\n    ".join(map(str, errors)),
        fix="train it from the start with --force",
    )


def _check_tables(folder: Path, sizes: Mapping[str, int], path: Path) -> None:
    """Raise DamagedError if a table has fewer rows than when the checkpoint was written."""
    for name, size in sizes.items():
        table = folder / name
        try:
            with open(table, "rb") as file:
                file.seek(size - 1)
                end = file.read(1)
        except OSError as error:
            raise checkpoint.DamagedError(f"cannot read {table}: {error.strerror}") from error
        if end != b"\n":
            raise checkpoint.DamagedError(f"{table} has fewer rows than when {path.name} was saved")


def _refuse_other_lengths(state: Mapping[str, Any], setup: RunSetup) -> None:
    """Raise RunError if an option that was derived from the run's length has changed."""
    several = len(setup.config.scheduler) > 1
    settings = dict(leaves(setup.config.model_dump()))
    derived = setup.experiment.state.derived
    for key, value in state.get("derived", {}).items():
        section, _, option = key.partition(".")
        present = derived.get(key, settings.get(key, settings.get(f"{section}.0.{option}")))
        if present != value:
            raise RunError(
                f"{key} depends on the run's length: {value} in the run, {present} now; "
                "the change would affect past steps",
                fix=f"set {key}={value} to keep it, or train a new run",
            )
    for live, former in zip(setup.experiment.state.schedules, state["schedules"], strict=False):
        before, now = dict(_lengths(former)), dict(_lengths(live.state_dict()))
        for key, value in before.items():
            if now.get(key) == value:
                continue
            full = f"scheduler.{key}" if several else f"scheduler.{key.rpartition('.')[2]}"
            raise RunError(
                f"{full} depends on the run's length: {value} in the run, {now.get(key)} now; "
                "the change would affect past steps",
                fix=f"set {full}={value} to keep the schedule, or train a new run",
            )


def _lengths(state: Any, prefix: str = "") -> Iterator[tuple[str, int]]:
    for key, value in state.items():
        if key in _LENGTHS:
            yield prefix + key, value
        elif key == "_schedulers":
            for number, part in enumerate(value):
                yield from _lengths(part, f"{prefix}{number}.")


def _refuse_end(
    folder: Path, status: Mapping[str, Any], setup: RunSetup, recorder: Mapping[str, Any]
) -> None:
    """Raise RunError if a resumed run would stop immediately or is past its new end."""
    experiment = setup.experiment
    step, end = experiment.progress.step, experiment.plan.steps
    if end is not None and (end < step or (end == step and not experiment.state.ended)):
        raise RunError(
            f"{folder} is already at step {step}, and the run would end at step {end}",
            fix="set a larger number of steps or epochs, or train a new run",
        )
    if experiment.state.ended:
        return
    rule = setup.config.train.early_stopping
    if status["status"] == "early_stopped" and rule and recorder["patience"]["waited"] >= rule.patience:
        raise RunError(
            f"{folder} stopped early: {status.get('message', '')}",
            fix=f"set train.early_stopping=null, or train.early_stopping.patience={2 * rule.patience}",
        )


def _final_evaluation_note(status: Mapping[str, Any], experiment: Experiment) -> list[str]:
    """Return a note on the former final evaluation, if the run is extended beyond it."""
    step, state = experiment.progress.step, experiment.state
    if state.ended or status["status"] not in rundir.FINISHED or experiment.evaluation_due():
        return []
    if 0 < step == state.evaluated_at:  # the checkpoint before it could not be written
        return [
            f"keeping the former final evaluation at step {step}, which an uninterrupted run would not have"
        ]
    return [
        f"discarding the former final evaluation at step {step}, which an uninterrupted run would not have"
    ]


def _restore_best(folder: Path, best: Mapping[str, Any] | None) -> None:
    """Restore the best.pt that the state refers to, if the former final evaluation replaced it."""
    former = folder / checkpoint.FORMER_BEST
    if not (best and best["moment"] and former.exists()):
        return
    with suppress(checkpoint.DamagedError):
        if checkpoint.load_checkpoint(former)["experiment"]["progress"]["step"] == best["moment"]["step"]:
            rundir.write_atomically(folder / checkpoint.BEST, former.read_bytes())


def _record_resumption(folder: Path, recorded: Mapping[str, Any], experiment: Experiment) -> None:
    """Add the step and the environment of this resumption to environment.json."""
    now = environment() | {"step": experiment.progress.step, "device": str(experiment.state.device)}
    del now["format"]
    resumed = [*recorded.get("resumed", []), now]
    rundir.write_json(folder / rundir.ENVIRONMENT, {**recorded, "origin": origin(folder), "resumed": resumed})
