"""Copies of run directories, for workers on hosts that do not share the file system of the sweep.

Files are read from the newest to the oldest and written in the opposite order: a checkpoint is never newer
than the tables and the best checkpoint that it refers to, also if either process is killed in between.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from trainer.reading import FileVersion, file_version
from trainer.runs import ownership, rundir
from trainer.runs.files import Guard

Files = dict[str, bytes]
"""Contents by path within the run directory, in the order in which they are written."""

_WRITTEN_LAST = (
    rundir.STEPS,
    rundir.EPOCHS,
    *(f"{rundir.CHECKPOINTS}/{name}" for name in reversed(ownership.CHECKPOINT_FILES)),
    rundir.STATUS,
)


def read_files(folder: Path, versions: dict[str, FileVersion]) -> Files:
    """Return the files of a run that differ from the given versions, and update these.

    Temporary files and the lock are left out. Nothing is returned while a run begins: until then its first
    files are not in their place.
    """
    if not (folder / rundir.CONFIG).is_file() or rundir.opening_of(folder) is not None:
        return {}
    names = [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]
    names = [name for name in names if name != rundir.LOCK and not name.rpartition("/")[2].startswith(".")]
    names.sort(key=_order, reverse=True)
    files: Files = {}
    for name in names:
        version = file_version(folder / name)
        if versions.get(name) != version:
            try:
                files[name] = (folder / name).read_bytes()
            except FileNotFoundError:  # replaced in the meantime: the next call has it
                continue
            versions[name] = version
    return dict(reversed(files.items()))


def write_files(folder: Path, files: Mapping[str, bytes], guard: Guard | None = None) -> None:
    """Write files of `read_files`.

    Raises:
        StorageError: a file cannot be written, or the guard raised.
    """
    for name, content in files.items():
        path = folder / name
        for parent in reversed(path.relative_to(folder).parents[:-1]):
            rundir.make_folder(folder / parent)
        rundir.write_atomically(path, content, guard=guard)


def remove_other_files(folder: Path, names: Mapping[str, object]) -> None:
    """Delete the files of a former run that the present one does not have. The caller holds the lock."""
    for name in (name for name in ownership.FILES if name not in names):
        (folder / name).unlink(missing_ok=True)


def _order(name: str) -> int:
    return _WRITTEN_LAST.index(name) if name in _WRITTEN_LAST else -1
