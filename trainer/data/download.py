"""Downloading the published image sets: torchvision's part, one process at a time, nothing left half done."""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from trainer.data.dataset import data_root
from trainer.errors import DataError


def torchvision_class(cls: str) -> Any:
    """Return a class of torchvision.datasets (imported late: it costs 1.4 s)."""
    import torchvision.datasets

    return getattr(torchvision.datasets, cls)


def fetch(
    name: str,
    cls: str,
    root: str | Path | None,
    download: bool,
    files: Sequence[Path],
    calls: Sequence[dict[str, Any]],
) -> None:
    """See to it that all files are there: download them with torchvision (checksums, progress on stderr).

    They arrive in `<root>/.<name>.download` and move to their places when all are whole, so an interrupted
    download leaves no half file behind, and running it again keeps the archives that are whole.

    Args:
        name: the data set as the config names it.
        cls: its class in torchvision.datasets.
        root: the user's folder; None = the default one.
        download: whether downloading is allowed.
        files: what has to be there.
        calls: arguments for the class, one call for each part it downloads.
    """
    folder = data_root(root)
    absent = [file for file in files if not file.is_file()]
    if not absent:
        return
    if not download:
        raise _not_there(name, absent, "and data.download is false")
    staging = folder / f".{name}.download"
    try:
        staging.mkdir(parents=True, exist_ok=True)
        with _one_at_a_time(folder / f".{name}.lock"), _network_timeout(30):
            if all(file.is_file() for file in files):  # another process has fetched them meanwhile
                return
            for file in files:  # torchvision checks archives by their sums, and takes other files as whole
                (staging / file.relative_to(folder)).unlink(missing_ok=True)
            try:
                for arguments in calls:
                    torchvision_class(cls)(staging, download=True, **arguments)
            except BaseException:
                if not any(file.is_file() for file in staging.rglob("*")):
                    shutil.rmtree(staging, ignore_errors=True)  # nothing to go on from
                raise
            for source in [file for file in staging.rglob("*") if file.is_file()]:
                target = folder / source.relative_to(staging)
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(source, target)
            shutil.rmtree(staging, ignore_errors=True)
    except Exception as error:  # urllib, tarfile, zipfile, lzma, sockets: each has errors of its own
        reason = (str(error).strip() or repr(error)).splitlines()[-1]
        raise _not_there(name, absent, f"and downloading failed: {reason}") from error
    absent = [file for file in files if not file.is_file()]
    if absent:
        raise _not_there(name, absent, "even after downloading")


def _not_there(name: str, absent: Sequence[Path], why: str) -> DataError:
    return DataError(
        f"{name} is not on disk ({absent[0]} is missing), {why}",
        key="name",
        fix=f"run `optlab prepare {name}` where there is a network; or point data.root (or OPTLAB_DATA) at a "
        "folder that has it; or train on data.name=digits, which needs no download",
    )


@contextmanager
def _one_at_a_time(path: Path) -> Iterator[None]:
    """Wait until no other process downloads here; the lock ends with its holder."""
    with path.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


@contextmanager
def _network_timeout(seconds: float) -> Iterator[None]:
    """Let a silent network end in an error: torchvision sets no timeout of its own."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
