"""Trains a task in a worker process: loads config and data, trains the run, replies."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path

from trainer import catalog, process_state
from trainer.config.identity import code_changes, code_of
from trainer.config.load import Loaded
from trainer.errors import BusyError, OptlabError, RunError
from trainer.records import EvalRecord, read_table
from trainer.runs import launch, rundir
from trainer.runs.options import RunOptions
from trainer.runs.resume import train_or_resume
from trainer.sweep.messages import Question, Reply, Task
from trainer.sweep.models import Variant, load_variant
from trainer.sweep.plan import open_shared_data
from trainer.training.loaded_data import LoadedData


class Trainer:
    """Trains tasks; keeps the mapped data between tasks.

    Args:
        pipe: connection to the parent, for questions during a run.
        variants: by name.
    """

    def __init__(self, pipe: Connection, variants: Mapping[str, Variant]) -> None:
        self._pipe = pipe
        self._variants = variants
        self._loaded_sets: dict[Path, LoadedData] = {}

    def train(self, task: Task) -> Reply:
        """Train one run. Errors are returned in the reply; `running` means that another process trains it.

        Process-wide settings that a component changes are restored afterwards.
        """
        _reset_peak_memory()
        with process_state.preserved(), process_state.user_modules_removed():
            return self._reply(task)

    def _reply(self, task: Task) -> Reply:
        try:
            variant = self._variants[task.variant]
            loaded = load_variant(variant, task.values, task.seed, catalog.COMPONENTS, task.overrides)
            done = self._train(task, loaded)
        except BusyError:
            return Reply("running", None)
        except OptlabError as error:
            return Reply("failed", None, str(error))
        except Exception as error:
            return Reply("failed", None, f"{type(error).__name__}: {error}")
        return Reply(done.result.status, done.result, done.result.message, done.skipped)

    def _train(self, task: Task, loaded: Loaded) -> launch.LaunchResult:
        """Train a run, or resume it if it was interrupted."""
        changed = code_changes(task.code, code_of(loaded.config))
        if changed:
            raise RunError("code changed while the sweep was running:\n    " + "\n    ".join(changed))
        loaded_data = self._loaded_data(task.loaded_data)
        should_prune = PruneCheck(self._pipe, task.prune_metric, task.folder) if task.prune_metric else None
        options = RunOptions(loaded_data=loaded_data, should_prune=should_prune)
        return train_or_resume(loaded, task.overrides, task.folder, options)

    def _loaded_data(self, path: Path | None) -> LoadedData | None:
        if path is None:
            return None
        if path not in self._loaded_sets:
            self._loaded_sets[path] = open_shared_data(path)
        return self._loaded_sets[path]


class PruneCheck:
    """Asks the parent after every evaluation whether to prune the run."""

    def __init__(self, pipe: Connection, metric: str, folder: Path) -> None:
        self._pipe = pipe
        self._metric = metric
        self._values: dict[float, float] = {}
        with suppress(RunError):  # a resumed run already has evaluations
            table = read_table(folder / rundir.EPOCHS)
            known = zip(table.get("step", []), table.get(metric, []), strict=False)
            self._values = {step: value for step, value in known if step and value is not None}

    def __call__(self, record: EvalRecord) -> bool:
        """Return whether to prune the run."""
        value = record.values[self._metric]
        assert value is not None
        self._values = {step: v for step, v in self._values.items() if step < record.step}
        self._values[record.step] = value
        self._pipe.send(Question(list(self._values.values())))
        verdict: bool = self._pipe.recv()
        return verdict


def _reset_peak_memory() -> None:
    """Reset the peak memory of the process (Linux), so that it is measured per run."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
