"""Writes the records, checkpoints, log and status of a run to its directory.

Decides from the records whether the run diverged or stops early. Failed writes are retried.
"""

from __future__ import annotations

import math
import resource
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch

from trainer.config.models import EarlyStopping
from trainer.console import print_note
from trainer.console.training import TrainingProgress
from trainer.errors import RunError, StorageError
from trainer.metrics import find, metric_name
from trainer.models.init import weight_histograms
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
from trainer.runs import checkpoint, rundir
from trainer.runs.environment import package_version
from trainer.runs.files import no_follow
from trainer.training.experiment import Experiment
from trainer.training.selection import Best, Patience, eval_result

_MIN_SAVE_SECONDS = 1.0
"""Seconds between checkpoints, unless `train.checkpoint_every` is set: in a run of a small network, saving at
every evaluation takes longer than the steps."""

_MAX_MESSAGE_LENGTH = 20_000  # characters; the log has the full message


class Recorder:
    """Writes the records of one run to its directory and keeps track of its best and final evaluation.

    Args:
        experiment: the experiment.
        run_lock: the lock of the run directory, held by this process.
        log: the log of the run.
        select: the metric that selects the best checkpoint; None = there is no best checkpoint.
        early_stopping: the rule that stops the run early; None = no early stopping.
        max_loss: loss above which the run counts as diverged; None = only NaN and infinity do.
        histograms: whether to write histograms of the weights at every evaluation.
        test_seen: whether the test split is evaluated during training, as validation split.
    """

    def __init__(
        self,
        experiment: Experiment,
        run_lock: rundir.RunLock,
        log: RunLog,
        *,
        select: str | None,
        early_stopping: EarlyStopping | None,
        max_loss: float | None,
        histograms: bool,
        test_seen: bool = False,
    ) -> None:
        self.experiment = experiment
        self.folder = run_lock.folder
        self._guard = run_lock.check
        self.best = Best(select, find(select, experiment.metrics).mode) if select else None
        self.patience = None
        if early_stopping:
            mode = early_stopping.mode or find(early_stopping.metric, experiment.metrics).mode
            self.patience = Patience(early_stopping, mode)
        self._max_loss = max_loss
        self._writes_histograms = histograms
        self._test_seen = test_seen
        self.final: EvalRecord | None = None
        self.outcome: Status | None = None
        self.total_seconds = 0.0
        self._began = time.monotonic()
        self._histograms: list[dict[str, Any]] = []
        self._log = log
        self._writer = checkpoint.Writer(self._guard)
        self._saved_at: int | None = None
        self._saved_time = -math.inf
        self._write_errors: dict[str, str] = {}
        self._sizes: Mapping[str, int] = {}

    def restore(self, state: Mapping[str, Any], histograms: Sequence[dict[str, Any]]) -> None:
        """Load the state of a checkpoint; `open` then truncates the tables to that step."""
        if self.best and state["best"]:
            self.best.load_state_dict(state["best"])
        if self.patience and state["patience"]:
            self.patience.load_state_dict(state["patience"])
        self.final = EvalRecord(**state["final"]) if state["final"] else None
        self.total_seconds = state["total_seconds"]
        self._sizes = state["tables"]
        # The run may have been killed between its last checkpoint and its end. With more patience, a run that
        # stopped early continues.
        is_exhausted = self.patience is not None and self.patience.is_exhausted()
        self.outcome = state["outcome"] if state["outcome"] != "early_stopped" or is_exhausted else None
        evaluated = self.final.step if self.final else 0
        self._histograms = [moment for moment in histograms if moment["step"] <= evaluated]
        self._saved_at = self.experiment.progress.step

    def open(self, stack: ExitStack) -> None:
        """Open the tables; `stack` closes them, and waits for a checkpoint that is being written."""
        stack.push(self._wait_for_checkpoint)
        columns = self.experiment.records.step_columns(), self.experiment.eval_columns()
        self._steps = self._table(rundir.STEPS, columns[0])
        stack.callback(self._steps.close)
        self._epochs = self._table(rundir.EPOCHS, columns[1])
        stack.callback(self._epochs.close)

    def _wait_for_checkpoint(self, error: type[BaseException] | None, *_: object) -> None:
        """Wait, because the lock of the run directory is released next; a second Ctrl-C does not wait."""
        if error is None or not issubclass(error, KeyboardInterrupt):
            self._writer.wait()

    def _table(self, name: str, columns: Sequence[str]) -> rundir.Table:
        names = [*POSITION_COLUMNS, *columns]
        return rundir.Table(self.folder / name, names, self._sizes.get(name), guard=self._guard)

    def write(self, record: Record) -> Status | None:
        """Write a record; return the outcome if the run ends here."""
        self.outcome = self._write(record) or self.outcome
        return self.outcome

    def _write(self, record: Record) -> Status | None:
        if isinstance(record, StepRecord):
            self._append(self._steps, record)
            bad = self.experiment.state.nonfinite is not None or self._is_bad(record.values["loss"])
            return "diverged" if bad else None
        if isinstance(record, EvalRecord):
            return self._write_evaluation(record)
        self.save()
        return None

    def _write_evaluation(self, record: EvalRecord) -> Status | None:
        self._append(self._epochs, record)
        self.final = record
        if self._writes_histograms:
            self._write_histograms(record)
        if any(self._is_bad(value) for name, value in record.values.items() if metric_name(name) == "loss"):
            return "diverged"
        if self.best and self.best.update(record):
            # Written together with the next last.pt, so that it is rarely newer. If last.pt of this step is
            # written already, this is a final evaluation outside the regular interval: an extended run
            # discards it and needs the former best.pt.
            former = self._path(checkpoint.FORMER_BEST) if self._saved_at == record.step else None
            self._writer.put(self._path(checkpoint.BEST), self._state({}), former=former)
        if self.patience and self.patience.update(record):
            return "early_stopped"
        return None

    def _append(self, table: rundir.Table, record: Record) -> None:
        table.append(record.row())
        self._report(str(table), table.failure)

    def _path(self, name: str) -> Path:
        return self.folder / rundir.CHECKPOINTS / name

    def _is_bad(self, loss: float | None) -> bool:
        if loss is None:
            return False
        return not math.isfinite(loss) or (self._max_loss is not None and loss > self._max_loss)

    def _write_histograms(self, record: EvalRecord) -> None:
        layers = {
            name: asdict(histogram) for name, histogram in weight_histograms(self.experiment.model).items()
        }
        self._histograms.append({"step": record.step, "epoch": record.epoch, "layers": layers})
        try:
            self._save_histograms()
        except StorageError as error:  # the next evaluation writes all of them again
            self._report(rundir.HISTOGRAMS, error)
        else:
            self._report(rundir.HISTOGRAMS, None)

    def _save_histograms(self) -> None:
        if self._histograms:
            content = {"format": 1, "moments": self._histograms}
            rundir.write_json(self.folder / rundir.HISTOGRAMS, content, guard=self._guard)

    def save(self) -> None:
        """Start to write last.pt unless it exists for this step. Failures are logged and retried.

        Without `train.checkpoint_every`, does nothing soon after the last call, except at the end of the run.

        Raises:
            VanishedError: the run directory was deleted, or another process owns it.
        """
        plan, now = self.experiment.plan, time.monotonic()
        is_default = plan.checkpoint is None and plan.checkpoint_seconds is None
        if is_default and not self.experiment.state.ended and now - self._saved_time < _MIN_SAVE_SECONDS:
            return
        self._saved_time = now
        failure = self._writer.wait()
        self._report("checkpoints", failure)
        if failure is None and self._saved_at == self.experiment.progress.step:
            return
        try:
            self._put_checkpoint()
        except rundir.VanishedError:
            raise
        except StorageError as error:
            self._report("checkpoints", error)

    def finish(self) -> None:
        """Write everything that is pending, including last.pt of this step, and wait until it is on disk.

        Raises:
            StorageError: a retried write failed again.
        """
        if self._write_errors.get(rundir.HISTOGRAMS):
            self._save_histograms()
        failure = self._writer.wait()
        self._report("checkpoints", failure)
        if self._saved_at != self.experiment.progress.step:
            self._put_checkpoint()
        else:
            self._flush()
            self._writer.start()  # a new best.pt, or writes that failed before
        if failure := self._writer.wait():
            raise failure

    def _put_checkpoint(self) -> None:
        """Flush the tables, then pass last.pt, which records their sizes, to the writer."""
        state = self._state(self._flush())
        self._writer.put(self._path(checkpoint.LAST), state, former=self._path(checkpoint.PREVIOUS))
        self._writer.start()
        self._saved_at = self.experiment.progress.step

    def _flush(self) -> dict[str, int]:
        """Sync all rows to disk; return the sizes of the tables."""
        return {
            rundir.STEPS: self._steps.flush(sync=True),
            rundir.EPOCHS: self._epochs.flush(sync=True),
        }

    def _report(self, source: str, failure: StorageError | None) -> None:
        """Log a write error once, and when writes succeed again; raise an error that a retry cannot fix."""
        if isinstance(failure, rundir.VanishedError):
            raise failure
        trouble = str(failure) if failure else ""
        if trouble != self._write_errors.get(source, ""):
            message = f"{trouble}\n  the run continues and retries" if trouble else "writes succeed again"
            self._log.warn(message)
        self._write_errors[source] = trouble

    def _state(self, sizes: Mapping[str, int]) -> dict[str, Any]:
        return {
            "experiment": self.experiment.state_dict(),
            "recorder": {
                "best": self.best.state_dict() if self.best else None,
                "patience": self.patience.state_dict() if self.patience else None,
                "final": asdict(self.final) if self.final else None,
                "outcome": self.outcome,
                "total_seconds": self.elapsed(),
                "tables": dict(sizes),
            },
        }

    def elapsed(self) -> float:
        """Return the wall-clock seconds of the run so far, including those before it was resumed."""
        return self.total_seconds + time.monotonic() - self._began

    def read_test(self) -> dict[str, float | int | str | None]:
        """Evaluate the test split once: at the best checkpoint, or at the end if there is none."""
        step, chosen = self.experiment.progress.step, "final"
        if self.best and self.best.result:
            path = self._path(checkpoint.BEST)
            state = checkpoint.load_checkpoint(path)["experiment"]
            if state["progress"]["step"] != self.best.result.step:
                saved_step, chosen_step = state["progress"]["step"], self.best.result.step
                raise RunError(
                    f"{path} is of step {saved_step}, but the best evaluation was at step {chosen_step}"
                )
            self.experiment.state.load_weights(state)
            step, chosen = state["progress"]["step"], "best"
        seen = {"used_for": "validation"} if self._test_seen else {}
        return {**self.experiment.measure("test"), "checkpoint": chosen, "step": step, **seen}

    def result(
        self, status: Status, test: Mapping[str, float | int | str | None] | None, message: str
    ) -> RunResult:
        """Return the result of the run."""
        experiment, state = self.experiment, self.experiment.state
        now, seconds = state.progress, state.clock.elapsed
        position = experiment.records.make(CheckpointDue)
        return RunResult(
            status=status,
            steps=now.step,
            epochs=round(position.epoch, 6),
            samples=now.samples,
            grad_evals=now.grad_evals,
            train_seconds=round(seconds, 6),
            total_seconds=round(self.elapsed(), 6),
            final=eval_result(self.final) if self.final else None,
            best=self.best.result if self.best else None,
            test=test,
            steps_per_second=now.step / seconds if now.step else None,
            samples_per_second=now.samples / seconds if now.step else None,
            peak_memory_bytes=peak_memory_bytes(state.device),
            optimizer_state_bytes=state_bytes(state.optimizers.values()),
            parameters=sum(p.numel() for p in state.model.parameters() if p.requires_grad),
            best_metric=self.best.metric if self.best else None,
            engine=experiment.compilation.engine_used(),
            compile_seconds=experiment.compilation.seconds,
            message=message,
        )


def peak_memory_bytes(device: torch.device) -> int:
    """Return the peak resident set size of the process, or on CUDA the peak memory allocated."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


class StatusFile:
    """status.json: the status of the run, its times, its error and its writer.

    Args:
        run_lock: the lock of the run directory, held by this process.
        new: whether a new run starts; otherwise the existing one continues.
    """

    def __init__(self, run_lock: rundir.RunLock, *, new: bool = False) -> None:
        self._run_lock = run_lock
        self._started = _now()
        former = None if new else rundir.read_status(run_lock.folder)
        self.uuid: str = (former or {}).get("uuid") or uuid4().hex

    def write(self, status: Status, *, message: str = "") -> None:
        """Write the current status.

        Raises:
            StorageError: the file cannot be written, or another process owns the run.
        """
        fields = {
            "format": 1,
            "optlab": package_version("optlab"),
            "uuid": self.uuid,
            "writer": self._run_lock.name,
            "status": status,
            "started": self._started,
            "ended": None if status == "running" else _now(),
            "message": message[:_MAX_MESSAGE_LENGTH],
        }
        rundir.write_json(self._run_lock.folder / rundir.STATUS, fields, guard=self._run_lock.check)
        self._run_lock.record_writer()


class RunLog:
    """train.log: a line per event; the progress display shows notes and warnings as well."""

    def __init__(self, run_lock: rundir.RunLock, progress: TrainingProgress | None) -> None:
        self._path = run_lock.folder / rundir.LOG
        self._guard = run_lock.check
        self._progress = progress

    def write(self, text: str) -> None:
        """Append a line with the time. A full disk does not stop the run here."""
        try:
            self._guard()
            with open(self._path, "a", encoding="utf-8", errors="backslashreplace", opener=no_follow) as file:
                file.write(f"{_now()} {text.rstrip()}\n")
        except StorageError:  # the next write of another file raises it
            return
        except OSError:
            if self._progress:
                self._progress.note(f"cannot write {self._path}")

    def note(self, text: str) -> None:
        """Append a line and show it in the progress display, if there is one."""
        if self._progress:
            self._progress.note(text)
        self.write(text)

    def warn(self, text: str) -> None:
        """Append a line and show it; without a progress display, with the name of the run directory."""
        if not self._progress:
            print_note(f"{self._path.parent}: {text}")
        self.note(text)

    def evaluation(self, record: EvalRecord) -> None:
        """Append the values of an evaluation."""
        values = " ".join(f"{name}={value:.6g}" for name, value in record.values.items() if value is not None)
        self.write(f"step {record.step} epoch {record.epoch:g} {values}")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
