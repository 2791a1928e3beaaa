"""Implementation of `optlab doctor`: versions, devices, data sets, cache and write access."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import torch

from trainer import catalog, console
from trainer.data.cache import cache_folder
from trainer.data.dataset import data_root
from trainer.device import usable_threads
from trainer.errors import (
    OptlabError,
    RunError,
)
from trainer.runs import rundir
from trainer.runs.environment import compare_with_lock, environment


def doctor(runs: Path, *, as_json: bool) -> None:
    """Print versions, devices, data sets on disk, the cache and write access."""
    report = environment()
    report["tested"] = compare_with_lock()
    report["torch"] = {
        "usable threads": usable_threads(),
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
