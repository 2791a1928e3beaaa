"""Runs the training loop of an experiment and writes its records to a run directory.

Writes checkpoints and figures and sets the final status: completed, early_stopped, diverged, pruned,
interrupted or failed. The loop does not depend on this module.
"""

from __future__ import annotations

import inspect
import signal
import threading
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, TypeGuard

import torch

from trainer import catalog, interrupts
from trainer.config.load import dump
from trainer.config.models import InnerOptimizerConfig, OptimizerConfig
from trainer.device import sparing_collector
from trainer.errors import FigureError, RunError, StorageError, first_line
from trainer.optimizers.build import describe_implementations
from trainer.records import EvalRecord, Record, RunResult, Status, StepRecord
from trainer.runs import ownership, rundir
from trainer.runs.drawing import Draw, draw_run
from trainer.runs.environment import environment, origin
from trainer.runs.exporting import export_at_end
from trainer.runs.files import Guard
from trainer.runs.options import RunOptions
from trainer.runs.recorder import Recorder, RunLog, StatusFile
from trainer.seeding import preserved
from trainer.training.building import RunSetup
from trainer.training.check_finite import find_nonfinite
from trainer.training.examples import make_examples
from trainer.training.experiment import Experiment
from trainer.training.loop import train_alone
from trainer.user_code import as_error


@dataclass(frozen=True, slots=True)
class Start:
    """The starting point of a resumed run.

    Args:
        recorder: state of the recorder in the checkpoint (the experiment is already restored); None = step 0.
        notes: lines for the log.
    """

    recorder: Mapping[str, Any] | None
    notes: Sequence[str]


def run(
    setup: RunSetup,
    run_lock: rundir.RunLock,
    options: RunOptions,
    *,
    start: Start | None = None,
) -> RunResult:
    """Train an experiment in a run directory that this process has locked.

    Args:
        setup: newly built, or with an experiment that was restored from a checkpoint.
        run_lock: the lock of the run directory, held by this process. A new run replaces an existing one.
        options: see `RunOptions`.
        start: starting point of a resumed run; None = the run is new.

    Raises:
        StorageError: a file cannot be written; files written before stay readable.
    """
    folder, config, experiment = run_lock.folder, setup.config, setup.experiment
    continues = start is not None and start.recorder is not None
    log = RunLog(run_lock, options.progress)
    status = StatusFile(run_lock, new=not continues)
    recorder = Recorder(
        experiment,
        run_lock,
        log,
        select=setup.select_metric() if experiment.splits.val is not None else None,
        early_stopping=config.train.early_stopping,
        max_loss=config.train.max_loss,
        histograms=config.log.histograms,
        test_seen=config.data.val_from == "test",
    )
    with stop_on_signals(experiment) as received:
        if start is not None and start.recorder is not None:
            recorder.restore(start.recorder, rundir.read_histograms(folder))
        else:
            opening = ownership.make_opening(folder, status.uuid)
            write_opening(setup, opening, origin(folder))
            ownership.sync_opening(opening)
        status.write("running")
        ownership.complete_opening(folder)  # deletes the files of a former run
        for name in (rundir.SUMMARY, rundir.EXAMPLES):
            (folder / name).unlink(missing_ok=True)  # exists if the run is extended
        for note in setup.notes:
            log.write(note)
        for note in start.notes if start else ():
            log.warn(note)
        for line in describe_implementations(experiment.state.optimizers.values()):
            log.write(line)
        try:
            with ExitStack() as stack:
                recorder.open(stack)
                if options.progress:
                    options.progress.waiting_for("Compiling the steps, evaluating before training")
                if compile_message := experiment.compile():
                    show = log.note if experiment.engine.ready else log.warn
                    show(compile_message)
                with sparing_collector():
                    outcome = _run_loop(experiment, recorder, log, options)
                if outcome == "interrupted":
                    message = f"{signal.Signals(received[0]).name} after step {experiment.progress.step}"
                else:
                    message = _reason(outcome, recorder)
                recorder.finish()
            if options.progress:
                options.progress.waiting_for("Testing, drawing the figures")
            if check_summary := experiment.compilation.describe_checks():
                log.write(check_summary)
            reads_test = config.train.test != "never" and outcome in ("completed", "early_stopped")
            test = recorder.read_test() if reads_test else None
            result = recorder.result(outcome, test, message)
            rundir.write_json(folder / rundir.SUMMARY, result.as_dict(), guard=run_lock.check)
            if outcome in ("completed", "early_stopped"):
                _write_examples(setup, folder, log, run_lock.check)
            _draw(folder, config.log.plots, options.draw, log, run_lock.check)
        except BaseException as error:
            interrupted = isinstance(error, KeyboardInterrupt)
            failure = None if interrupted else as_error(error, config.model_dump())
            error_text = str(failure or "interrupted twice")
            if failure is not None and failure is not error:
                log.write("".join(traceback.format_exception(error)))
            log.write(error_text)
            with suppress(StorageError):  # report the first error
                status.write("interrupted" if interrupted else "failed", message=error_text)
            if failure is None or failure is error:
                raise
            raise failure from error
        log.write(f"{outcome}{': ' + message if message else ''}")
        status.write(outcome, message=message)
    if config.log.export and outcome != "interrupted":
        if options.progress:
            options.progress.waiting_for("Exporting the run")
        trackers = [component.model_dump() for component in config.log.export]
        for warning in export_at_end(folder, trackers):
            log.warn(f"warning: {warning}")
    return result


def _run_loop(experiment: Experiment, recorder: Recorder, log: RunLog, options: RunOptions) -> Status:
    """Process the records of the loop until it ends or a record ends it; return the outcome.

    Only `should_prune` may draw random numbers between the records.
    """
    outcome = recorder.outcome  # set if the run was killed between its last step and its end
    progress, should_prune = options.progress, options.should_prune
    records = train_alone(experiment)
    for record in records if outcome is None else ():
        outcome = recorder.write(record)
        if isinstance(record, EvalRecord):
            log.evaluation(record)
            _log_messages(experiment, log)
        if progress and isinstance(record, StepRecord | EvalRecord):
            progress.update(record)
        if not outcome and should_prune and _may_be_pruned(record, experiment):
            with preserved(experiment.state.device):
                outcome = "pruned" if should_prune(record) else None
        if outcome:
            records.close()
            break
    if outcome == "diverged" and (recorder.final is None or recorder.final.step < experiment.progress.step):
        record = experiment.evaluate()
        recorder.write(record)
        log.evaluation(record)
        _log_messages(experiment, log)
    return outcome or ("completed" if experiment.state.ended else "interrupted")


def _log_messages(experiment: Experiment, log: RunLog) -> None:
    """Log the messages of the experiment, for example that it falls back to eager steps."""
    for message in experiment.compilation.messages:
        log.warn(message)
    experiment.compilation.messages.clear()


def _may_be_pruned(record: Record, experiment: Experiment) -> TypeGuard[EvalRecord]:
    return isinstance(record, EvalRecord) and record.step > 0 and not experiment.finished()


def _reason(outcome: Status, recorder: Recorder) -> str:
    experiment = recorder.experiment
    step = experiment.progress.step
    if outcome == "diverged":
        if experiment.state.nonfinite:
            return f"step {step}: {experiment.state.nonfinite}"
        if experiment.check_finite:  # an evaluation detected it
            weights = find_nonfinite(torch.zeros(()), [], experiment.model, gradients=False)
            reason = "the evaluation loss is not finite or above its bound"
            return f"step {step}: {reason}{'; ' + weights if weights else ''}"
        return f"the loss was not finite or above its bound at step {step}"
    if outcome == "pruned":
        return f"behind the other trials of its sweep at step {step}"
    if outcome == "early_stopped" and recorder.patience:
        rule = recorder.patience.rule
        return f"{rule.metric} had not improved for {rule.patience} evaluations at step {step}"
    return ""


def write_opening(setup: RunSetup, folder: Path, made_by: Mapping[str, str]) -> None:
    """Write the files that exist before the first step: config, environment and component files.

    Args:
        setup: the experiment and what identifies it.
        folder: folder for these files; see `ownership`.
        made_by: `environment.origin` of the run directory.
    """
    rundir.write_atomically(folder / rundir.CONFIG, dump(setup.config))
    fields = environment() | {"origin": dict(made_by)}
    fields["device"] = setup.config.train.device
    fields["threads"] = torch.get_num_threads()
    fields["data"] = {
        "name": setup.config.data.name,
        "sha256": setup.data_digest,
        "input_shape": list(setup.experiment.splits.train.inputs.shape[1:]),
        "num_classes": setup.num_classes,
        "task": setup.task.name,
    }
    fields["metrics"] = [metric.description() for metric in setup.experiment.metrics]
    fields["optimizer_defaults"] = _optimizer_defaults(setup)
    fields["packages"] = dict(setup.code.packages)
    fields["components"] = rundir.copy_components(folder, setup.code.files)
    rundir.write_json(folder / rundir.ENVIRONMENT, fields)


def _optimizer_defaults(setup: RunSetup) -> dict[str, dict[str, Any]]:
    """Return each optimizer's default options by config name, so that titles can omit default values."""
    defaults = {}
    optimizers: list[OptimizerConfig | InnerOptimizerConfig] = [*setup.config.optimizer]
    for config in optimizers:  # the list grows by the inner optimizers of wrappers
        optimizers += [config.base] if config.base else []
        parameters = inspect.signature(catalog.find("optimizer", config.name)).parameters.values()
        defaults[config.name] = {p.name: p.default for p in parameters if _is_plain(p.default)}
    return defaults


def _is_plain(value: Any) -> bool:
    """Return whether a value consists of plain JSON types, like every default that a config can set."""
    if type(value) in (list, tuple):
        return all(map(_is_plain, value))
    return value is None or type(value) in (bool, int, float, str)


@dataclass(frozen=True, slots=True)
class Figures:
    """The figures of a run.

    Args:
        paths: figures that were written.
        failures: a line for each figure that could not be drawn or written.
    """

    paths: Sequence[Path]
    failures: Sequence[str]


def _write_examples(setup: RunSetup, folder: Path, log: RunLog, guard: Guard) -> None:
    """Write what the model does with some samples; an error in it is a warning, as the run is complete."""
    # A text takes longer than the other outputs, and is only shown.
    vocabulary = setup.vocabulary if setup.config.log.plots else None
    unit = setup.config.data.options.get("unit", "characters")
    try:
        examples = make_examples(setup.experiment, setup.task, vocabulary, unit)
    except (Exception, SystemExit) as error:  # of a user's model
        failure = as_error(error, setup.config.model_dump())
        log.warn(f"warning: no figures of the model's outputs: {failure}")
        return
    if examples:
        rundir.write_json(folder / rundir.EXAMPLES, {"format": 1} | examples, guard=guard)


def _draw(folder: Path, formats: Sequence[str], draw: Draw, log: RunLog, guard: Guard) -> None:
    """Draw the figures; failures are logged as warnings, because the run is complete without figures."""
    try:
        failures = draw_figures(folder, formats, draw, guard=guard).failures
    except RunError as error:
        failures = [str(error)]
    for failure in failures:
        log.warn(f"warning: {failure}")


def draw_figures(
    folder: Path, formats: Sequence[str], draw: Draw = draw_run, *, guard: Guard | None = None
) -> Figures:
    """Draw the figures of a run and write them to its directory.

    Raises:
        RunError: `folder` is not a run directory, or one of its files is damaged.
    """
    target = folder / rundir.PLOTS
    paths, failures = [], []
    try:
        rendered_figures = draw(folder, formats)
        rundir.make_folder(target)
    except RunError:
        raise
    except Exception as error:  # matplotlib can raise anything
        return Figures([], [f"no figure could be drawn: {first_line(error)}"])
    for rendered in rendered_figures:
        try:
            if rendered.failure:
                raise FigureError(rendered.failure)
            rundir.write_atomically(target / rendered.name, rendered.content, guard=guard)
            paths.append(target / rendered.name)
        except (FigureError, StorageError) as error:
            failures.append(str(error))
    return Figures(paths, failures)


@contextmanager
def stop_on_signals(experiment: Experiment) -> Iterator[list[int]]:
    """On SIGINT, SIGTERM or SIGHUP, stop after the current step; on a second SIGINT, exit immediately.

    SIGHUP (the terminal was closed) stays ignored under `nohup`. The time for which the process was stopped
    before SIGCONT is not counted as training time.

    Yields the list of signals received. Outside the main thread no handlers are installed.
    """
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if received and number == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(number)
        experiment.stop_requested = True

    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    interrupts.check()
    former = {number: signal.signal(number, handle) for number in numbers}
    former[signal.SIGCONT] = signal.signal(signal.SIGCONT, lambda *_: experiment.state.clock.skip_stop())
    try:
        yield received
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
