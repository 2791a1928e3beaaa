"""Which files in a run directory belong to optlab: only these are ever replaced or deleted.

A run starts in three steps, so that after a kill at any time the directory contains either the old run or
the new one:

1. The config, environment and component files are written to `.opening-<uuid>`, beside the old run.
2. status.json is replaced by one with the same uuid: now the directory contains the new run.
3. The files of the old run are deleted, and those of `.opening-<uuid>` moved to the run directory,
   config.yaml last.

If the process is killed during step 3, `recover` completes it; until then `rundir` reads the files of the new
run from `.opening-<uuid>`.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from trainer.errors import RunError, StorageError
from trainer.metrics import BUILT_IN, RESERVED_NAMES
from trainer.records import POSITION_COLUMNS
from trainer.runs import rundir
from trainer.runs.files import kind, make_folder, refused, sync_folder
from trainer.runs.run_files import (
    CHECKPOINTS,
    COMPONENTS,
    CONFIG,
    ENVIRONMENT,
    EPOCHS,
    EXAMPLES,
    HISTOGRAMS,
    LOCK,
    LOG,
    PLOTS,
    STATUS,
    STEPS,
    SUMMARY,
    EnvironmentFields,
)
from trainer.runs.run_lock import is_lock_file

FILES = (CONFIG, ENVIRONMENT, STATUS, STEPS, EPOCHS, SUMMARY, HISTOGRAMS, EXAMPLES, LOG)
CHECKPOINT_FILES = ("last.pt", "previous.pt", "best.pt", "former_best.pt")
FOLDERS = (PLOTS, CHECKPOINTS)

_TEMPORARY = re.compile(r"\.(?P<name>.+)\.([\w-]+-)?\d+\.tmp\Z", re.DOTALL)
_OPENING = re.compile(re.escape(rundir.OPENING) + r"[0-9a-f]{32}\Z")
_MAX_FOLDERS = 2_000


def files_within(folder: Path) -> dict[str, frozenset[str]]:
    """Return the names of the files that a run may have in each of its folders.

    The figures are those of every run and one per metric, built in or described in environment.json.
    """
    metrics = [*BUILT_IN.values(), *rundir.recorded_metrics(_environment(folder))]
    figures = (*RESERVED_NAMES, *(metric.name for metric in metrics))
    return {
        PLOTS: frozenset(f"{name}.{ending}" for name in figures for ending in ("png", "svg", "pdf")),
        CHECKPOINTS: frozenset(CHECKPOINT_FILES),
    }


def _environment(folder: Path) -> dict[str, Any]:
    """Return environment.json; empty if it cannot be read."""
    try:
        return rundir.read_environment(folder)
    except RunError:
        return {}


def is_run(folder: Path) -> bool:
    """Return whether this directory contains a run of optlab: status.json contains a uuid.

    Runs of releases before the uuid are recognized by their other files.
    """
    status = rundir.read_status(folder)
    return status is not None and (status["uuid"] is not None or _is_old_run(folder))


def _is_old_run(folder: Path) -> bool:
    """Return whether config, environment and tables look like those of the releases before the uuid."""
    try:
        if "format" not in rundir.read_config(folder):
            return False
        known = "optlab" in rundir.read_environment(folder).get("versions", {})
    except RunError:
        return False
    for name in (STEPS, EPOCHS):
        actual = kind(folder / name)
        if actual == "file":
            with open(folder / name, "rb") as file:
                if not file.readline(1000).startswith(",".join(POSITION_COLUMNS).encode()):
                    return False
            known = True
        elif actual != "absent":
            return False
    return known


def require_run(folder: Path) -> None:
    """Raise RunError unless a directory contains a run."""
    if not os.path.isdir(folder):
        raise RunError(f"{folder} is not a run directory: it does not exist", fix="see `optlab runs`")
    if is_run(folder):
        refuse_links(folder)
        return
    if kind(folder / STATUS) == "absent" and _was_killed_early(folder):
        raise RunError(
            f"{folder} is not a run directory: the run was killed before its first step",
            fix="start it again with `optlab train CONFIG`; nothing was lost",
        )
    rundir.load_status(folder)
    raise RunError(
        f"{folder} is not a run directory: none of its files identify it as written by optlab",
        expected=f"a {STATUS} with the uuid of the run",
        fix="see `optlab runs`",
    )


def _was_killed_early(folder: Path) -> bool:
    names = os.listdir(folder)
    return bool(names) and all(name == LOCK or _OPENING.match(name) for name in names)


def refuse_foreign(folder: Path) -> None:
    """Raise RunError if a directory must not be used for a run, whatever the options.

    Raises:
        RunError: the directory contains other runs, or files that optlab did not write.
    """
    if not os.path.isdir(folder):
        return
    if inner := _run_below(folder):
        raise RunError(
            f"{folder} contains other runs: {inner}",
            fix="choose another --run-dir: each run needs its own directory",
        )
    if is_run(folder):
        refuse_links(folder)
        return
    names = [name for name in sorted(os.listdir(folder)) if name != LOCK and not _OPENING.match(name)]
    if is_lock_file(folder / LOCK):  # a deleted run left the user's own files
        known_names = {*FILES, *FOLDERS, COMPONENTS}
        names = [name for name in names if name in known_names and not _is_empty(folder / name)]
    if names:
        reason = ""
        if STATUS in names:
            try:
                rundir.load_status(folder)
            except RunError as error:
                reason = f" ({error.problems[0].what})"
        raise RunError(
            f"{folder} contains files that are not a run's: {names[0]}{reason}",
            fix="choose another --run-dir; --force deletes only runs, never other files",
        )


def refuse_root(folder: Path, runs: Path) -> None:
    """Raise RunError if a run directory is the folder that contains all runs."""
    with suppress(ValueError):  # a NUL in a path; locking reports it
        if os.path.realpath(folder) == os.path.realpath(runs):
            raise RunError(
                f"{folder} is the folder that contains all runs",
                fix="choose another --run-dir: each run needs its own directory",
            )


def _is_empty(path: Path) -> bool:
    return kind(path) == "directory" and not os.listdir(path)


def _run_below(folder: Path) -> Path | None:
    """Return a run in a subfolder of a directory, or None.

    If the directory itself is not a run, searching a limited number of folders is enough, because the
    directory is refused for its files in any case.
    """
    most = None if is_run(folder) else _MAX_FOLDERS
    folders = rundir.walk(folder, most=most)
    return next((path for path in folders if path != folder and is_run(path)), None)


def refuse_links(folder: Path) -> None:
    """Raise RunError if a file of a run is a symbolic link or not a regular file.

    The run directory itself and its parents may be symbolic links.
    """
    for path, expected_kind in _possible_paths(folder):
        try:
            actual = kind(path)
        except OSError as error:
            raise RunError(f"cannot access {path}: {error.strerror}") from error
        if actual not in ("absent", expected_kind):
            raise RunError(
                f"{path} is a {actual}",
                expected=f"a {'regular file' if expected_kind == 'file' else expected_kind}",
                fix="replace it with a real file or directory: links in a run directory are not followed",
            )


def _possible_paths(folder: Path) -> Iterator[tuple[Path, str]]:
    """Yield every path that a run may have, with its expected type, each folder before its content."""
    for name in (LOCK, *FILES):
        yield folder / name, "file"
    for name, within in files_within(folder).items():
        yield folder / name, "directory"
        for inner in within:
            yield folder / name / inner, "file"
    yield folder / COMPONENTS, "directory"
    for copy in _component_copies(folder):
        for parent in reversed(copy.relative_to(folder).parents[:-2]):
            yield folder / parent, "directory"
        yield copy, "file"
    for name in _names_in(folder):
        if _OPENING.match(name):
            opening = folder / name
            yield opening, "directory"
            yield from ((opening / inner, "file") for inner in (CONFIG, ENVIRONMENT))
            yield opening / COMPONENTS, "directory"


def _component_copies(folder: Path) -> list[Path]:
    """Return the copies of component files that environment.json lists; none if it cannot be read."""
    fields = EnvironmentFields.model_validate(_environment(folder))
    return [folder / file.copied_to for file in fields.components]


def _names_in(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def remove_leftovers(folder: Path) -> None:
    """Remove temporary files of killed processes from a run directory. The caller holds its lock."""
    copies = {path.name for path in _component_copies(folder)}
    own = {"": {LOCK, *FILES}, **files_within(folder), COMPONENTS: copies}
    for subfolder, names in own.items():
        for name in _names_in(folder / subfolder) if kind(folder / subfolder) == "directory" else ():
            match = _TEMPORARY.match(name)
            if match and match["name"] in names and kind(folder / subfolder / name) == "file":
                (folder / subfolder / name).unlink(missing_ok=True)
    current = rundir.opening_of(folder)
    for name in _names_in(folder):
        if _OPENING.match(name) and folder / name != current and kind(folder / name) == "directory":
            shutil.rmtree(folder / name, ignore_errors=True)


def clear(folder: Path) -> None:
    """Delete the files of a run, but not the user's own files. The caller holds its lock."""
    remove_leftovers(folder)
    if opening := rundir.opening_of(folder):
        shutil.rmtree(opening, ignore_errors=True)
    # status.json is deleted last, so that after a kill the directory is still recognized as a run.
    _delete(folder, keep=(STATUS,))
    (folder / STATUS).unlink(missing_ok=True)


def _delete(folder: Path, keep: tuple[str, ...]) -> None:
    """Delete the files of a run except the lock and `keep`, then its empty folders."""
    copies = _component_copies(folder)
    within = [folder / item / name for item, names in files_within(folder).items() for name in names]
    for path in [*within, *copies, *(folder / name for name in FILES if name not in keep)]:
        if kind(path) == "file":
            path.unlink()
    parents = {parent for copy in copies for parent in copy.parents if parent.is_relative_to(folder)}
    emptied = sorted(parents - {folder}, key=lambda path: -len(path.parts))
    for item in [*(folder / name for name in FOLDERS), *emptied, folder / COMPONENTS]:
        if kind(item) == "directory":
            with suppress(OSError):  # not empty: it contains a file of the user's
                item.rmdir()


def make_opening(folder: Path, uuid: str) -> Path:
    """Create and return the folder for the first files of a run (step 1 above)."""
    remove_leftovers(folder)
    opening = folder / f"{rundir.OPENING}{uuid}"
    make_folder(opening)
    return opening


def sync_opening(opening: Path) -> None:
    """Sync the first files of a run to disk, before status.json is replaced (step 2 above)."""
    try:
        sync_folder(opening)
    except OSError as error:
        raise refused(opening, error) from error


def complete_opening(folder: Path) -> None:
    """Do step 3 of starting a run (see above), or complete it if it was interrupted.

    Raises:
        StorageError: a file cannot be written or deleted.
    """
    opening = rundir.opening_of(folder)
    if opening is None:
        return
    try:
        if kind(opening / ENVIRONMENT) == "file":  # otherwise the old files are already deleted
            _delete(folder, keep=(STATUS, CONFIG, ENVIRONMENT))
            os.replace(opening / ENVIRONMENT, folder / ENVIRONMENT)
        if kind(opening / COMPONENTS) == "directory":
            _move(opening / COMPONENTS, folder / COMPONENTS)
        for name in FOLDERS:
            make_folder(folder / name)
        os.replace(opening / CONFIG, folder / CONFIG)
        shutil.rmtree(opening)
        sync_folder(folder)
    except OSError as error:
        raise refused(folder, error) from error


def _move(source: Path, target: Path) -> None:
    """Move the files of a folder and its subfolders to another folder."""
    make_folder(target)
    for name in _names_in(source):
        if kind(source / name) == "directory":
            _move(source / name, target / name)
        else:
            os.replace(source / name, target / name)


def recover(folder: Path) -> None:
    """Complete the start of a run that was killed in step 3.

    Raises:
        BusyError: another process writes to the directory.
        RunError: a file cannot be written or deleted.
    """
    if rundir.opening_of(folder) is None:
        return
    try:
        with rundir.locked(folder):
            complete_opening(folder)
    except StorageError as error:
        raise RunError(str(error)) from error
