"""Carries an experiment through the loop and writes down what it yields (floor 5).

Here a run gets its directory, its checkpoints, its figures and its end: completed, stopped early, diverged,
interrupted or failed. The loop knows nothing of this.
"""

from __future__ import annotations

import math
import resource
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from matplotlib.figure import Figure

from trainer import checkpoint, plots, rundir
from trainer.config.load import dump
from trainer.console import TrainingProgress, print_note
from trainer.environment import environment
from trainer.errors import OptlabError, RunError, StorageError
from trainer.experiment import Experiment
from trainer.init import weight_histograms
from trainer.loop import train
from trainer.optimizers.build import state_bytes
from trainer.records import (
    POSITION_COLUMNS,
    CheckpointDue,
    EvalRecord,
    Record,
    RunResult,
    Status,
    StepRecord,
)
from trainer.selection import Best, Patience, moment_of


class Recorder:
    """Writes one run's records into its directory, and remembers what they amount to.

    Args:
        experiment: what is trained.
        folder: the run directory, locked by this process.
        log: the run in words.
    """

    def __init__(self, experiment: Experiment, folder: Path, log: RunLog) -> None:
        self.experiment = experiment
        self.folder = folder
        train_config = experiment.config.train
        has_val = experiment.splits.val is not None
        self.best = Best(experiment.select_metric()) if has_val else None
        self.patience = Patience(train_config.early_stopping) if train_config.early_stopping else None
        self.final: EvalRecord | None = None
        self.total_seconds = 0.0
        self._began = time.monotonic()
        self._histograms: list[dict[str, Any]] = []
        self._log = log
        self._writer = checkpoint.Writer()
        self._saved_at: int | None = None
        self._troubles: dict[str, str] = {}
        self._sizes: Mapping[str, int] = {}

    def restore(self, state: Mapping[str, Any], histograms: Sequence[dict[str, Any]]) -> None:
        """Go on from the state of a checkpoint; the tables are cut back to that moment when they open."""
        if self.best and state["best"]:
            self.best.load_state_dict(state["best"])
        if self.patience and state["patience"]:
            self.patience.load_state_dict(state["patience"])
        self.final = EvalRecord(**state["final"]) if state["final"] else None
        self.total_seconds = state["total_seconds"]
        self._sizes = state["tables"]
        step = self.experiment.progress.step
        self._histograms = [moment for moment in histograms if moment["step"] <= step]
        self._saved_at = step

    def open(self, stack: ExitStack) -> None:
        """Open the tables, to be closed with `stack`."""
        columns = self.experiment.step_columns(), self.experiment.eval_columns()
        self._steps = self._table(rundir.STEPS, columns[0])
        stack.callback(self._steps.close)
        self._epochs = self._table(rundir.EPOCHS, columns[1])
        stack.callback(self._epochs.close)

    def _table(self, name: str, columns: Sequence[str]) -> rundir.Table:
        return rundir.Table(self.folder / name, [*POSITION_COLUMNS, *columns], self._sizes.get(name))

    def take(self, record: Record) -> Status | None:
        """Write a record down; return the outcome when the run is to end here."""
        if isinstance(record, StepRecord):
            self._append(self._steps, record)
            return "diverged" if self._is_bad(record.values["loss"]) else None
        if isinstance(record, EvalRecord):
            return self._take_evaluation(record)
        self.save()
        return None

    def _take_evaluation(self, record: EvalRecord) -> Status | None:
        self._append(self._epochs, record)
        self.final = record
        if self.experiment.config.log.histograms:
            self._write_histograms(record)
        if any(self._is_bad(value) for name, value in record.values.items() if name.endswith("loss")):
            return "diverged"
        if self.best and self.best.update(record):
            # Written with the next last.pt, so that it is hardly ever ahead of it.
            self._writer.put(self._path(checkpoint.BEST), self._state({}))
        if self.patience and self.patience.update(record):
            return "early_stopped"
        return None

    def _append(self, table: rundir.Table, record: Record) -> None:
        table.append(record.row())
        self._report(str(table), table.failure)

    def _path(self, name: str) -> Path:
        return self.folder / rundir.CHECKPOINTS / name

    def _is_bad(self, loss: float | None) -> bool:
        bound = self.experiment.config.train.max_loss
        return loss is not None and (not math.isfinite(loss) or (bound is not None and loss > bound))

    def _write_histograms(self, record: EvalRecord) -> None:
        layers = {
            name: asdict(histogram) for name, histogram in weight_histograms(self.experiment.model).items()
        }
        self._histograms.append({"step": record.step, "epoch": record.epoch, "layers": layers})
        rundir.write_json(self.folder / rundir.HISTOGRAMS, {"format": 1, "moments": self._histograms})

    def save(self) -> None:
        """Begin to write last.pt; what fails is told, and tried again with the next one.

        Raises:
            VanishedError: the run directory is gone.
        """
        self._report("checkpoints", self._writer.wait())
        try:
            self._put_last()
        except rundir.VanishedError:
            raise
        except StorageError as error:
            self._report("checkpoints", error)

    def finish(self) -> None:
        """Write last.pt unless this step's is there, and wait for it.

        Raises:
            StorageError: the disk will not take it, also when asked again.
        """
        failure = self._writer.wait()
        self._report("checkpoints", failure)
        if failure or self._saved_at != self.experiment.progress.step:
            self._put_last()
            if failure := self._writer.wait():
                raise failure

    def _put_last(self) -> None:
        """Hand last.pt to the writer; the rows that it speaks of are on the disk by then."""
        sizes = {
            rundir.STEPS: self._steps.flush(sync=True),
            rundir.EPOCHS: self._epochs.flush(sync=True),
        }
        self._writer.put(
            self._path(checkpoint.LAST), self._state(sizes), former=self._path(checkpoint.PREVIOUS)
        )
        self._writer.start()
        self._saved_at = self.experiment.progress.step

    def _report(self, source: str, failure: StorageError | None) -> None:
        """Tell of a trouble with the disk once, and of its end."""
        trouble = str(failure) if failure else ""
        if trouble != self._troubles.get(source, ""):
            words = f"{trouble}\n  the run goes on, and tries again" if trouble else "the disk is well again"
            self._log.note(words)
        self._troubles[source] = trouble

    def _state(self, sizes: Mapping[str, int]) -> dict[str, Any]:
        return {
            "experiment": self.experiment.state_dict(),
            "recorder": {
                "best": self.best.state_dict() if self.best else None,
                "patience": self.patience.state_dict() if self.patience else None,
                "final": asdict(self.final) if self.final else None,
                "total_seconds": self.elapsed(),
                "tables": dict(sizes),
            },
        }

    def elapsed(self) -> float:
        """Return the wall seconds of the run so far, those before a resumption included."""
        return self.total_seconds + time.monotonic() - self._began

    def read_test(self, status: Status) -> dict[str, float | int | str | None] | None:
        """Measure the test split, once: at the checkpoint that validation chose, else at the end."""
        if self.experiment.config.train.test == "never" or status not in ("completed", "early_stopped"):
            return None
        step, chosen = self.experiment.progress.step, "final"
        if self.best and self.best.moment:
            path = self._path(checkpoint.BEST)
            state = checkpoint.load_checkpoint(path)["experiment"]
            if state["progress"]["step"] != self.best.moment.step:
                found, chosen_step = state["progress"]["step"], self.best.moment.step
                raise RunError(f"{path} is of step {found}, and validation chose step {chosen_step}")
            self.experiment.model.load_state_dict(state["model"])
            step, chosen = state["progress"]["step"], "best"
        return {**self.experiment.measure("test"), "checkpoint": chosen, "step": step}

    def result(
        self, status: Status, test: Mapping[str, float | int | str | None] | None, message: str
    ) -> RunResult:
        """Return what the run came to."""
        now = self.experiment.progress
        seconds = self.experiment.clock.elapsed
        position = self.experiment.here(CheckpointDue)
        return RunResult(
            status=status,
            steps=now.step,
            epochs=round(position.epoch, 6),
            samples=now.samples,
            grad_evals=now.grad_evals,
            train_seconds=round(seconds, 6),
            total_seconds=round(self.elapsed(), 6),
            final=moment_of(self.final) if self.final else None,
            best=self.best.moment if self.best else None,
            test=test,
            steps_per_second=now.step / seconds if now.step else None,
            samples_per_second=now.samples / seconds if now.step else None,
            peak_memory_bytes=peak_memory_bytes(self.experiment.device),
            optimizer_state_bytes=state_bytes(self.experiment.optimizers.values()),
            parameters=sum(p.numel() for p in self.experiment.model.parameters() if p.requires_grad),
            best_metric=self.best.metric if self.best else None,
            message=message,
        )


@dataclass(frozen=True, slots=True)
class Start:
    """Where a run goes on from.

    Args:
        recorder: the recorder's part of the checkpoint; the experiment has its own already.
        message: what is worth telling.
    """

    recorder: Mapping[str, Any]
    message: str


def run(
    experiment: Experiment,
    folder: Path,
    *,
    progress: TrainingProgress | None = None,
    start: Start | None = None,
) -> RunResult:
    """Train an experiment into a run directory that this process has locked.

    Args:
        experiment: freshly built, or with the state of a checkpoint loaded.
        folder: the run directory; empty but for its lock, or the one that the checkpoint is from.
        progress: shows the run while it goes on; None = quiet.
        start: where to go on from; None = the run is new.

    Raises:
        StorageError: the disk would not take a file; what was written stays readable.
    """
    log = RunLog(folder, progress)
    status = StatusFile(folder)
    recorder = Recorder(experiment, folder, log)
    with stop_on_signals(experiment) as received:
        if start:
            recorder.restore(start.recorder, rundir.read_histograms(folder))
        else:
            write_opening(experiment, folder)
        status.write("running")
        if start:
            log.note(start.message)
        try:
            with ExitStack() as stack:
                recorder.open(stack)
                outcome = _follow(experiment, recorder, log, progress)
                if outcome == "interrupted":
                    message = f"{signal.Signals(received[0]).name} after step {experiment.progress.step}"
                else:
                    message = _reason(outcome, recorder)
                recorder.finish()
            test = recorder.read_test(outcome)
            result = recorder.result(outcome, test, message)
            rundir.write_json(folder / rundir.SUMMARY, result.as_dict())
            draw(folder, experiment.config.log.plots)
        except BaseException as error:
            interrupted = isinstance(error, KeyboardInterrupt)
            words = "interrupted twice" if interrupted else f"{type(error).__name__}: {error}"
            log.write(words if isinstance(error, OptlabError) or interrupted else traceback.format_exc())
            with suppress(StorageError):  # the first error is the one to tell
                status.write("interrupted" if interrupted else "failed", message=words)
            raise
        log.write(f"{outcome}{': ' + message if message else ''}")
        status.write(outcome, message=message)
    return result


def _follow(
    experiment: Experiment, recorder: Recorder, log: RunLog, progress: TrainingProgress | None
) -> Status:
    """Take the loop's records one by one until it ends or one of them ends it."""
    outcome: Status | None = None
    records = train(experiment)
    for record in records:
        outcome = recorder.take(record)
        if isinstance(record, EvalRecord):
            log.evaluation(record)
        if progress and isinstance(record, StepRecord | EvalRecord):
            progress.update(record)
        if outcome:
            records.close()
            break
    if outcome == "diverged" and (recorder.final is None or recorder.final.step < experiment.progress.step):
        record = experiment.evaluate()
        recorder.take(record)
        log.evaluation(record)
    return outcome or ("completed" if experiment.is_complete() else "interrupted")


def _reason(outcome: Status, recorder: Recorder) -> str:
    step = recorder.experiment.progress.step
    if outcome == "diverged":
        return f"the loss was not finite or above its bound at step {step}"
    if outcome == "early_stopped" and recorder.patience:
        rule = recorder.patience.rule
        return f"{rule.metric} had not improved for {rule.patience} evaluations at step {step}"
    return ""


def write_opening(experiment: Experiment, folder: Path) -> None:
    """Write what is known before the first step: config, environment, the user's component files."""
    for name in (rundir.CHECKPOINTS, rundir.PLOTS):
        rundir.make_folder(folder / name)
    rundir.write_atomically(folder / rundir.CONFIG, dump(experiment.config))
    around = environment()
    around["device"] = str(experiment.device)
    around["threads"] = torch.get_num_threads()
    around["data"] = {
        "name": experiment.config.data.name,
        "sha256": experiment.data_digest,
        "input_shape": list(experiment.splits.train.inputs.shape[1:]),
        "num_classes": experiment.num_classes,
    }
    around["optimizer_defaults"] = experiment.optimizer_defaults()
    around["components"] = rundir.copy_components(folder, experiment.component_files)
    rundir.write_json(folder / rundir.ENVIRONMENT, around)


def draw(folder: Path, formats: Sequence[str]) -> list[Path]:
    """Draw a run's figures from its files alone, and return their paths."""
    found = rundir.load_run(folder)
    around = rundir.read_environment(folder)
    data = around.get("data", {})
    curves = plots.Curves(
        config=found.config,
        steps=found.steps,
        epochs=found.epochs,
        summary=None if found.result is None else found.result.as_dict(),
        defaults=around.get("optimizer_defaults"),
        inputs=math.prod(data["input_shape"]) if "input_shape" in data else None,
        outputs=data.get("num_classes"),
    )
    target = folder / rundir.PLOTS
    paths = plots.plot_run(curves, target, formats=formats, save=_save_figure)
    moments = rundir.read_histograms(folder)
    for file_format in formats if moments else ():
        for name, shown in (("init_histograms", moments[:1]), ("histograms", moments)):
            heading = plots.title(found.config)
            path = target / f"{name}.{file_format}"
            paths.append(plots.plot_histograms(heading, shown, path, save=_save_figure))
    return paths


def _save_figure(figure: Figure, path: Path) -> None:
    rundir.write_atomically(path, plots.render(figure, path.suffix.removeprefix(".")))


def peak_memory_bytes(device: torch.device) -> int:
    """Return the process's peak resident set, or on CUDA the peak allocated on the device."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


class StatusFile:
    """status.json: how the run stands, with times and the error."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / rundir.STATUS
        self._started = _now()

    def write(self, status: Status, *, message: str = "") -> None:
        """Say how the run stands now."""
        ended = None if status == "running" else _now()
        fields = {"format": 1, "status": status, "started": self._started, "ended": ended, "message": message}
        rundir.write_json(self._path, fields)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


class RunLog:
    """train.log: the run in words, one line each; the progress display shows notes as well."""

    def __init__(self, folder: Path, progress: TrainingProgress | None) -> None:
        self._path = folder / rundir.LOG
        self._progress = progress

    def write(self, text: str) -> None:
        """Append a line with the time; a full disk does not stop the run here."""
        try:
            with open(self._path, "a", encoding="utf-8") as file:
                file.write(f"{_now()} {text.rstrip()}\n")
        except OSError:
            if self._progress:
                self._progress.note(f"cannot write {self._path}")

    def note(self, text: str) -> None:
        """Append a line, and show it."""
        if self._progress:
            self._progress.note(text)
        else:
            print_note(text)
        self.write(text)

    def evaluation(self, record: EvalRecord) -> None:
        """Append an evaluation."""
        values = " ".join(f"{name}={value:.6g}" for name, value in record.values.items() if value is not None)
        self.write(f"step {record.step} epoch {record.epoch:g} {values}")


@contextmanager
def stop_on_signals(experiment: Experiment) -> Iterator[list[int]]:
    """Turn SIGINT and SIGTERM into a request to stop after the step; a second SIGINT leaves at once.

    Yields the list of signals received. Outside the main thread signals are left alone.
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

    former = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
