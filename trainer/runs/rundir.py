"""The run directory: the paths of its files, and reading them.

`ownership` defines which files may be replaced or deleted, `run_lock` which process may write. Does not
import torch.
"""

from __future__ import annotations

import glob
import hashlib
import html
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from trainer.config.models import Config
from trainer.errors import RunError
from trainer.records import RunResult, read_table
from trainer.runs import run_files
from trainer.runs.files import Table as Table
from trainer.runs.files import VanishedError as VanishedError
from trainer.runs.files import kind as kind
from trainer.runs.files import make_folder as make_folder
from trainer.runs.files import temporary_name
from trainer.runs.files import write_atomically as write_atomically
from trainer.runs.files import write_json as write_json
from trainer.runs.run_files import CHECKPOINTS as CHECKPOINTS
from trainer.runs.run_files import COMPONENTS as COMPONENTS
from trainer.runs.run_files import CONFIG as CONFIG
from trainer.runs.run_files import ENVIRONMENT as ENVIRONMENT
from trainer.runs.run_files import EPOCHS as EPOCHS
from trainer.runs.run_files import EXAMPLES as EXAMPLES
from trainer.runs.run_files import HISTOGRAMS as HISTOGRAMS
from trainer.runs.run_files import LOCK as LOCK
from trainer.runs.run_files import LOG as LOG
from trainer.runs.run_files import PLOTS as PLOTS
from trainer.runs.run_files import STATUS as STATUS
from trainer.runs.run_files import STEPS as STEPS
from trainer.runs.run_files import SUMMARY as SUMMARY
from trainer.runs.run_files import read_config as read_config
from trainer.runs.run_files import read_environment as read_environment
from trainer.runs.run_files import read_examples as read_examples
from trainer.runs.run_files import read_histograms as read_histograms
from trainer.runs.run_files import read_result as read_result
from trainer.runs.run_files import recorded_metrics as recorded_metrics
from trainer.runs.run_lock import LostError as LostError
from trainer.runs.run_lock import RunLock as RunLock
from trainer.runs.run_lock import is_locked as is_locked
from trainer.runs.run_lock import locked as locked

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from trainer.plots.run import Curves

OPENING = ".opening-"
"""Prefix of the folder for the first files of a run; see `ownership`."""

FINISHED = ("completed", "early_stopped", "diverged")


def prepare_root(path: Path) -> None:
    """Create the directory that contains runs. Raise RunError if it cannot be written."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / temporary_name("probe")
        probe.unlink(missing_ok=True)
        probe.write_bytes(b"optlab")
        probe.unlink()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = error.strerror if isinstance(error, OSError) else error
        raise RunError(
            f"cannot write in {path}: {reason}",
            fix="use --runs DIR (or set OPTLAB_RUNS) to write runs elsewhere",
        ) from error


def load_status(path: Path) -> dict[str, Any]:
    """Return status.json, with `running` replaced by `interrupted` if no process holds the lock.

    Raises:
        RunError: the file is missing, damaged, or has another format.
    """
    status = run_files.read_status(path).model_dump()
    if status["status"] == "running" and not is_locked(path):
        status["status"] = "interrupted"
        status["message"] = "the process exited without writing a status (killed, or a power failure)"
    return status


def read_status(path: Path) -> dict[str, Any] | None:
    """Return the result of `load_status`, or None if it raises."""
    try:
        return load_status(path)
    except RunError:
        return None


def opening_of(folder: Path) -> Path | None:
    """Return the folder with the first files of a run; None if they are already in the run directory."""
    status = read_status(folder)
    return _opening(folder, status["uuid"]) if status else None


def _opening(folder: Path, uuid: str | None) -> Path | None:
    opening = folder / f"{OPENING}{uuid}"
    begun = uuid is not None and kind(opening) == "directory" and kind(opening / CONFIG) == "file"
    return opening if begun else None


@dataclass(frozen=True, slots=True)
class Run:
    """A run as read from its directory.

    Args:
        path: the run directory.
        status: status.json.
        config: config.yaml, resolved and complete, as plain values.
        steps, epochs: steps.csv and epochs.csv by column; None = an empty cell.
        result: summary.json; None if the run has not ended.
        environment: environment.json; empty if missing.
    """

    path: Path
    status: Mapping[str, Any]
    config: Mapping[str, Any]
    steps: Mapping[str, list[float | None]]
    epochs: Mapping[str, list[float | None]]
    result: RunResult | None
    environment: Mapping[str, Any]

    def frame(self, table: str = "epochs") -> pd.DataFrame:
        """Return `epochs` or `steps` as a DataFrame."""
        import pandas as pd

        return pd.DataFrame({"epochs": self.epochs, "steps": self.steps}[table])

    def curves(self) -> Curves:
        """Return what the figures show."""
        from trainer.plots.run import Curves  # matplotlib takes 0.3 s to import

        data = self.environment.get("data", {})
        return Curves(
            config=self.config,
            steps=self.steps,
            epochs=self.epochs,
            summary=None if self.result is None else self.result.as_dict(),
            metrics=recorded_metrics(self.environment),
            defaults=self.environment.get("optimizer_defaults"),
            inputs=math.prod(data["input_shape"]) if "input_shape" in data else None,
            outputs=data.get("num_classes"),
        )

    def figures(self) -> dict[str, Figure]:
        """Return the figures by name, as `loss` and `accuracy`."""
        from trainer.plots.run import plot_run

        found: dict[str, Figure] = {}
        plot_run(self.curves(), self.path, save=lambda figure, path: found.update({path.stem: figure}))
        return found

    def _repr_html_(self) -> str:
        """Return the path, the status and the last evaluations for a notebook."""
        text = " ".join(filter(None, [str(self.status["status"]), str(self.status.get("message") or "")]))
        head = f"<p><b>{html.escape(str(self.path))}</b>: {html.escape(text)}</p>"
        rows: str = self.frame().tail(5).to_html(index=False, na_rep="", float_format="{:.5g}".format)
        return head + rows


def load_run(path: str | Path, known: run_files.Sections | None = None) -> Run:
    """Read a run directory; the run may be finished or still running.

    Args:
        path: the run directory.
        known: sections of configs that were read before; see `read_config`.

    Raises:
        RunError: `path` is not a run directory, or one of its files is damaged (the message names it).
    """
    folder = Path(path)
    status = load_status(folder)
    source = _opening(folder, status["uuid"]) or folder
    return Run(
        path=folder,
        status=status,
        config=read_config(source, known),
        steps=_rows(source / STEPS),
        epochs=_rows(source / EPOCHS),
        result=read_result(source),
        environment=read_environment(source),
    )


def _rows(path: Path) -> dict[str, list[float | None]]:
    """Return the columns of a table; empty if the run has not created it yet."""
    return read_table(path) if os.path.lexists(path) else {}


def load_config(path: Path) -> Config:
    """Return the config of a run. Raise RunError if it is damaged or incomplete."""
    config = read_config(opening_of(path) or path)
    try:
        return Config.model_validate(config)  # fills in the defaults of newer keys
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        key = ".".join(map(str, problem["loc"]))
        raise RunError(f"{path / CONFIG} is not the config of a run: {key}: {problem['msg']}") from error


def is_finished(path: Path) -> bool:
    """Return whether a directory contains a finished run."""
    status = read_status(path)
    return status is not None and status["status"] in FINISHED


def copy_components(path: Path, files: Mapping[str, str]) -> list[dict[str, str]]:
    """Copy the user's own Python files to the run directory; return source, copy and SHA-256 of each.

    Args:
        path: the run directory.
        files: SHA-256 by absolute path, taken when the run was built.

    Raises:
        RunError: a file cannot be read, or has changed since the run was built.
    """
    copied = []
    for number, (source, digest) in enumerate(files.items()):
        try:
            content = Path(source).read_bytes()
        except OSError as error:
            raise RunError(f"cannot read {source}: {error.strerror}") from error
        if hashlib.sha256(content).hexdigest() != digest:
            raise RunError(f"{source} changed while the run was being built", fix="start the run again")
        target = path / COMPONENTS / (f"{number}_{Path(source).name}" if number else Path(source).name)
        make_folder(target.parent)
        write_atomically(target, content)
        copied.append({"source": source, "copy": str(target.relative_to(path)), "sha256": digest})
    return copied


def folders_of(paths: Iterable[str | Path]) -> list[Path]:
    """Return the folders that match the paths and globs. Raise RunError if one matches nothing."""
    folders: list[Path] = []
    for path in paths:
        if Path(path).exists():
            folders.append(Path(path))
            continue
        matches = [Path(match) for match in sorted(glob.glob(str(path)))]
        if not matches:
            raise RunError(
                f"there is no {path}",
                expected="a run directory, a folder of runs, or a glob",
                fix="`optlab runs` lists the trained runs; train some with `optlab train` or `optlab sweep`",
            )
        folders += matches
    if not folders:
        raise RunError("no runs were named", expected="run directories, folders of runs, or globs")
    return folders


def find_runs(roots: Iterable[Path]) -> list[Path]:
    """Return the run directories in the given folders and their subfolders, sorted; links are not followed.

    Includes folders that only look like a run directory: reading them raises an error. Their subfolders are
    searched as well.
    """
    return sorted({folder for root in roots for folder in walk(root)})


def walk(root: Path, *, most: int | None = None) -> Iterator[Path]:
    """Yield the run directories in a folder and its subfolders; visit at most `most` folders."""
    for number, (folder, subfolders, files) in enumerate(os.walk(root)):
        if most is not None and number >= most:
            return
        if STATUS in files and CONFIG in files:
            yield Path(folder)
            subfolders[:] = [name for name in subfolders if name not in (PLOTS, CHECKPOINTS, COMPONENTS)]
