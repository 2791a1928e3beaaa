"""optlab: train small networks from YAML configs and compare optimizers.

The Python API. Each function is imported on first access, so `import trainer` is fast:

    from trainer import load_config, build_experiment, train, train_run, load_run, load_runs, compare_runs
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainer.catalog import load_config
    from trainer.compare import compare_runs, load_runs
    from trainer.runs.launch import train_run
    from trainer.runs.rundir import load_run
    from trainer.training.building import build_experiment
    from trainer.training.loop import train

_PLACES = {
    "load_config": "trainer.catalog",
    "build_experiment": "trainer.training.building",
    "train": "trainer.training.loop",
    "load_run": "trainer.runs.rundir",
    "train_run": "trainer.runs.launch",
    "load_runs": "trainer.compare",
    "compare_runs": "trainer.compare",
}

__all__ = ["build_experiment", "compare_runs", "load_config", "load_run", "load_runs", "train", "train_run"]


def __getattr__(name: str) -> Any:
    """Import a public function on first access (PEP 562)."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_PLACES[name]), name)
