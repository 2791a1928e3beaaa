"""The environment of a run, which its results depend on: versions, machine, git state."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from trainer.device import usable_cores

LOCK = Path(__file__).resolve().parents[2] / "requirements.lock"
"""The versions that the tests pass with; exists in a checkout, not in an installed wheel."""

PACKAGES = ("optlab", "torch", "torchvision", "numpy", "scikit-learn", "matplotlib", "pydantic")


def environment() -> dict[str, Any]:
    """Return versions, machine, command and git state as plain values, for environment.json."""
    return {
        "format": 1,
        "versions": {"python": platform.python_version()}
        | {name: package_version(name) for name in PACKAGES},
        "machine": {
            "system": platform.platform(),
            "processor": processor_name(),
            "cores": usable_cores(),
        },
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "git": git_state(),
    }


def origin(folder: Path) -> dict[str, str]:
    """Return the user and host of this process and the absolute path of a run directory.

    If the recorded origin of a run directory differs, the directory was moved, or copied from elsewhere: see
    `resume --trust`.
    """
    return {"user": str(os.getuid()), "host": platform.node(), "path": str(folder.resolve())}


@cache
def package_version(name: str) -> str | None:
    """Return the installed version of a distribution, or None if it is not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


@cache
def processor_name() -> str:
    """Return the model name of the CPU as the system reports it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


@cache
def git_state() -> dict[str, Any] | None:
    """Return the commit of the working directory and whether files differ from it; None outside a repository.

    Cached, so that it describes the state from which this process loaded its code.
    """

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", *arguments],
                capture_output=True,
                text=True,
                timeout=5,
                env=os.environ | {"LC_ALL": "C"},
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    commit = git("rev-parse", "HEAD")
    if commit is None:
        return None
    return {"commit": commit, "changed": bool(git("status", "--porcelain", "--untracked-files=no"))}


def compare_with_lock() -> dict[str, Any]:
    """Compare the installed packages with the versions in the lock file.

    Packages of the lock file that are not installed (development tools, CUDA libraries with a CPU build of
    torch) do not count as differences, nor do other builds of the same version (`2.14.1+cpu`).

    Returns:
        A dict of `lock`, the file or None if missing; `compared`, the number of installed packages in it;
        `differences`, a list of dicts with `package`, `installed` and `tested`.
    """
    try:
        lines = LOCK.read_text(encoding="utf-8").splitlines()
    except OSError:
        return {"lock": None, "compared": 0, "differences": []}
    installed: dict[str, str] = {}
    for distribution in metadata.distributions():
        if distribution.name and distribution.version:  # None if the metadata of the package is damaged
            installed.setdefault(
                canonicalize_name(distribution.name), distribution.version
            )  # the first is the one imported
    tested = [Requirement(line) for line in lines if line.strip() and not line.lstrip().startswith("#")]
    compared = [
        (locked, installed[canonicalize_name(locked.name)])
        for locked in tested
        if canonicalize_name(locked.name) in installed and (locked.marker is None or locked.marker.evaluate())
    ]
    return {
        "lock": str(LOCK),
        "compared": len(compared),
        "differences": [
            {
                "package": locked.name,
                "installed": version,
                "tested": str(locked.specifier).removeprefix("=="),
            }
            for locked, version in compared
            if not locked.specifier.contains(version, prereleases=True)
        ],
    }
