"""The description of a suite's baselines: how they were computed, targets, tuned values, digests."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trainer.compare import compare_runs
from trainer.compare.measures import ProblemTargets
from trainer.config.identity import leaves
from trainer.errors import RunError
from trainer.runs import rundir
from trainer.runs.rundir import Run
from trainer.suites.pairing import pairing_digests
from trainer.sweep.models import FINAL, Sweep
from trainer.sweep.plan import SharedData
from trainer.sweep.results import SUMMARY

_EXECUTION = ("name", "seed", "log", "data.path", "data.root")


def description(suite: str, sweeps: Mapping[str, Sweep], root: Path) -> dict[str, Any]:
    """Return the description of the finished sweep of a suite.

    Args:
        suite: name of the suite.
        sweeps: its sweeps by problem.
        root: the directory of the finished sweep.

    Raises:
        RunError: a run is missing, or the runs have different versions or machines.
    """
    finals = {name: _final_runs(root / name, sweep) for name, sweep in sweeps.items()}
    runs = [run for each in finals.values() for run in each]
    comparison = compare_runs([root / name / FINAL for name in sweeps], draw=False)
    (targets,) = comparison.targets
    assert isinstance(targets, ProblemTargets)
    packages: dict[str, str] = {}
    for run in runs:
        packages |= run.environment.get("packages") or {}
    return {
        "suite": suite,
        "versions": _common(runs, "versions"),
        "packages": packages,
        "machine": _common(runs, "machine"),
        "device": _common(runs, "device"),
        "started": min(run.status["started"] for run in runs),
        "ended": max(run.status["ended"] for run in runs),
        "problems": {
            name: _problem(sweep, root / name, finals[name], str(targets.on(name)))
            for name, sweep in sweeps.items()
        },
    }


def _problem(sweep: Sweep, folder: Path, finals: Sequence[Run], target: str) -> dict[str, Any]:
    parts = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))["variants"]
    shared = SharedData(folder / ".pairing")
    return {
        "target": target,
        "data_sha256": _common(finals, "data")["sha256"],
        "pairing": pairing_digests(sweep, next(iter(sweep.variants.values())), shared),
        "variants": {
            name: {
                "trials": parts[name]["settings"],
                "tuned": parts[name]["best"]["values"],
                "edges": parts[name]["edges"],
                "config_sha256": config_digest(run.config),
            }
            for name in sweep.variants
            for run in [next(run for run in finals if run.config["name"] == name)]
        },
    }


def config_digest(config: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a resolved config without its name, seed, log settings and paths."""
    settings = {key: value for key, value in leaves(config) if not key.startswith(_EXECUTION)}
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()


def _final_runs(folder: Path, sweep: Sweep) -> list[Run]:
    runs = []
    for name in sweep.variants:
        found = [rundir.load_run(path) for path in rundir.find_runs([folder / FINAL / name])]
        ended = [run for run in found if run.status["status"] in rundir.FINISHED]
        if len(ended) != len(sweep.final_seeds):
            raise RunError(
                f"{folder / FINAL / name} has {len(ended)} of {len(sweep.final_seeds)} final runs",
                fix="run the sweep to its end",
            )
        runs += ended
    return runs


def _common(runs: Sequence[Run], key: str) -> Any:
    """Return a part of environment.json that all runs share."""
    values = {json.dumps(run.environment.get(key), sort_keys=True): run for run in runs}
    if len(values) > 1:
        raise RunError(f"the runs have different {key}: {'; '.join(values)}", fix="train all runs alike")
    return json.loads(next(iter(values)))
