"""Download published data sets, one process at a time, without incomplete results."""

from __future__ import annotations

import os
import shutil
import socket
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from trainer.data.dataset import user_cache
from trainer.errors import AbsentDataError


def torchvision_class(cls: str) -> Any:
    """Return a class of torchvision.datasets (imported here, because the import takes 1.4 s)."""
    import torchvision.datasets

    return getattr(torchvision.datasets, cls)


def torchvision_download(cls: str, calls: Sequence[dict[str, Any]] = ({},)) -> Callable[[Path], None]:
    """Return a `get` of `fetch`: torchvision verifies checksums and shows progress on stderr.

    Args:
        cls: the class in torchvision.datasets.
        calls: arguments of the class, one call for each part that it downloads.
    """

    def get(folder: Path) -> None:
        for arguments in calls:
            torchvision_class(cls)(folder, download=True, **arguments)

    return get


def url_download(url: str, file: str) -> Callable[[Path], None]:
    """Return a `get` of `fetch` for one file of at most a few MB; the reader verifies its checksum.

    Args:
        url: the address.
        file: path of the file in the folder of downloaded data sets.
    """

    def get(folder: Path) -> None:
        target = folder / file
        target.parent.mkdir(parents=True, exist_ok=True)
        with urllib.request.urlopen(url) as response:
            target.write_bytes(response.read())

    return get


def fetch(
    name: str, folder: Path, download: bool, files: Sequence[Path], get: Callable[[Path], None]
) -> None:
    """Download missing files.

    Files are downloaded to `<folder>/.<name>.download` and moved when all are complete. Therefore an
    interrupted download leaves no incomplete file in `folder`, and a second call reuses complete archives.

    Args:
        name: name of the data set in the config.
        folder: the folder of downloaded data sets. Only the default one is created if it does not exist.
        download: whether downloading is allowed.
        files: the required files.
        get: downloads them into the folder that it is called with.

    Raises:
        AbsentDataError: a file is missing and cannot be downloaded.
    """
    absent = [file for file in files if not file.is_file()]
    if not absent:
        return
    if not download:
        raise _not_there(name, absent, "and data.download is false")
    staging = folder / f".{name}.download"
    is_new = not folder.exists()
    if is_new and folder != user_cache() / "data":  # perhaps a mistyped data.root
        raise _not_there(name, absent, f"and {folder} does not exist: create it to download into it")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _one_at_a_time(folder / f".{name}.lock"), _network_timeout(30):
            if all(file.is_file() for file in files):  # another process has downloaded them in the meantime
                return
            for file in files:  # torchvision verifies archives, but assumes that other files are complete
                (staging / file.relative_to(folder)).unlink(missing_ok=True)
            try:
                staging.mkdir(exist_ok=True)
                get(staging)
            except BaseException:
                if not any(file.is_file() for file in staging.rglob("*")):
                    shutil.rmtree(staging, ignore_errors=True)  # there is nothing to reuse
                raise
            for source in [file for file in staging.rglob("*") if file.is_file()]:
                target = folder / source.relative_to(staging)
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(source, target)
            shutil.rmtree(staging, ignore_errors=True)
    except Exception as error:  # urllib, tarfile, zipfile, lzma and sockets raise different errors
        if is_new:
            with suppress(OSError):
                folder.rmdir()
        reason = (str(error).strip() or repr(error)).splitlines()[-1]
        raise _not_there(name, absent, f"and downloading failed: {reason}") from error
    absent = [file for file in files if not file.is_file()]
    if absent:
        raise _not_there(name, absent, "even after downloading")


def _not_there(name: str, absent: Sequence[Path], why: str) -> AbsentDataError:
    return AbsentDataError(
        f"{name} is not on disk ({absent[0]} is missing), {why}",
        key="name",
        fix=f"run `optlab prepare {name}` with network access, or set data.root (or OPTLAB_DATA) to a folder "
        "that has it, or use data.name=digits, which needs no download",
    )


@contextmanager
def _one_at_a_time(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on a file for the block, then remove the file.

    filelock locks the present file if the one that it waited for was removed.
    """
    from filelock import FileLock  # takes 30 ms to import, and only downloads need it

    with FileLock(path):
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


@contextmanager
def _network_timeout(seconds: float) -> Iterator[None]:
    """Set a default socket timeout for the block: torchvision sets no timeout itself."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
