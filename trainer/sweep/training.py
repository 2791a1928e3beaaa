"""What a worker does with a task: the config, the shared data, `launch`, the reply."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path

from trainer import catalog, launch
from trainer.building import Material
from trainer.errors import OptlabError
from trainer.records import EvalRecord
from trainer.sweep.file import Variant, load_variant
from trainer.sweep.plan import open_material
from trainer.sweep.worker import Question, Reply, Task


class Trainer:
    """Trains tasks; keeps the mapped data between them.

    Args:
        pipe: to the parent, for questions in the middle of a run.
        variants: by name.
    """

    def __init__(self, pipe: Connection, variants: Mapping[str, Variant]) -> None:
        self._pipe = pipe
        self._variants = variants
        self._materials: dict[Path, Material] = {}

    def train(self, task: Task) -> Reply:
        """Train one run; what goes wrong is told in the reply."""
        _reset_peak_memory()
        try:
            variant = self._variants[task.variant]
            loaded = load_variant(variant, task.values, task.seed, catalog.COMPONENTS, task.extra)
            done = launch.launch(
                loaded,
                task.folder,
                skip_existing=True,
                material=self._material(task.material),
                judge=Judge(self._pipe, task.judged_by) if task.judged_by else None,
            )
        except OptlabError as error:
            return Reply("failed", None, str(error))
        except Exception as error:
            return Reply("failed", None, f"{type(error).__name__}: {error}")
        return Reply(done.result.status, done.result, done.result.message, done.skipped)

    def _material(self, path: Path | None) -> Material | None:
        if path is None:
            return None
        if path not in self._materials:
            self._materials[path] = open_material(path)
        return self._materials[path]


class Judge:
    """Asks the parent after every evaluation whether the run is to go on."""

    def __init__(self, pipe: Connection, metric: str) -> None:
        self._pipe = pipe
        self._metric = metric
        self._values: list[float] = []

    def __call__(self, record: EvalRecord) -> bool:
        """Return whether to stop here."""
        value = record.values[self._metric]
        assert value is not None
        self._values.append(value)
        self._pipe.send(Question(list(self._values)))
        verdict: bool = self._pipe.recv()
        return verdict


def _reset_peak_memory() -> None:
    """Let the kernel count the peak from here (Linux), so that a run's peak is its own."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
