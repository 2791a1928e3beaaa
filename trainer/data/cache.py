"""A cache of decoded data sets on disk, so that later runs read arrays instead of decoding again.

A file consists of one line of JSON and the bytes of two arrays per split. Its name is a hash of its sources,
its content is verified by a checksum, and it may be deleted at any time. The cache never stops a run: without
a usable file or folder, the data set is decoded.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import secrets
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from trainer.data.dataset import Dataset, Split, make_dataset, user_cache
from trainer.data.files import check_file
from trainer.device import usable_cores

FORMAT = 2  # increase it when the file format changes, or when a reader decodes a source differently
_TYPES = {"uint8": np.uint8, "int64": np.int64, "float32": np.float32}
_ALIGNMENT = 64  # bytes; the size of a cache line of the processor
_MAX_HEADER = 2**24  # bytes; the names of 65,536 classes take less
_STALE_SECONDS = 3600  # an older temporary file belongs to a process that was killed
_CHUNK = 64  # source files per task of a thread; with fewer, scheduling costs more than reading


def cache_folder() -> Path:
    """Return the folder of the cache: $OPTLAB_CACHE if it is set, else `decoded` in `user_cache()`."""
    chosen = os.environ.get("OPTLAB_CACHE")
    return Path(chosen).expanduser() if chosen else user_cache() / "decoded"


def cached(
    sources: Sequence[Path], decode: Callable[[], Dataset], *, variant: Sequence[str | int | None]
) -> Dataset:
    """Return a data set from the cache, or decode it and store it there.

    Args:
        sources: the source files; the cache is keyed by their content, not by their names or times. A source
            that is not a regular file or is larger than the memory raises DataError before it is read.
        decode: reads the sources; its exceptions are passed on.
        variant: what else the result depends on: the name of the reader, then its options.

    Returns:
        The data set; `notes` report a damaged cache file that was replaced, or that writing one failed.
    """
    try:
        for source in sources:
            check_file(source)
        key = source_key(sources, variant)
        file = cache_folder() / f"{key}.set"
    except (OSError, RuntimeError):  # an unreadable source, which `decode` reports; or no home folder
        return decode()
    notes: list[str] = []
    try:
        return _read(file, key)
    except OSError:  # usually the file does not exist yet; if the folder is not usable, `_write` reports it
        pass
    except Exception as error:  # for a damaged file, json, numpy and torch raise many kinds of exceptions
        notes.append(f"decoded the data again: {file} is damaged ({error})")
        with suppress(OSError):
            file.unlink()
    dataset = decode()
    try:
        if source_key(sources, variant) == key:  # otherwise a source changed during decoding
            _write(file, key, dataset)
    except OSError as error:
        notes.append(f"cannot save the decoded data in {file.parent}: {error.strerror or error}")
    return replace(dataset, notes=(*dataset.notes, *notes))


def source_key(sources: Sequence[Path], variant: Sequence[str | int | None]) -> str:
    """Return the key of a data set in the cache: the SHA-256, in hex, of format, variant and sources.

    Raises:
        OSError: a source cannot be read.
    """

    def digests(files: Sequence[Path]) -> list[bytes]:
        found = []
        for file in files:
            with file.open("rb") as stream:
                found.append(hashlib.file_digest(stream, "sha256").digest())
        return found

    total = hashlib.sha256(json.dumps([FORMAT, *variant]).encode())
    chunks = [sources[start : start + _CHUNK] for start in range(0, len(sources), _CHUNK)]
    with ThreadPoolExecutor(usable_cores()) as pool:  # reading and hashing release the GIL
        for found in pool.map(digests, chunks):
            total.update(b"".join(found))
    return total.hexdigest()


def _tensors(dataset: Dataset) -> list[Tensor]:
    splits = [dataset.train, dataset.test, *([dataset.val] if dataset.val is not None else [])]
    return [tensor for split in splits for tensor in (split.inputs, split.targets)]


def _read(file: Path, key: str) -> Dataset:
    """Read a file of the cache; raise OSError if it does not exist, or any exception if it is damaged.

    The file is read, not memory-mapped: deleting a mapped file on a network disk kills the process.
    """
    check_file(file)
    content = np.fromfile(file, np.uint8)
    start = content[:_MAX_HEADER].tobytes()
    at = start.index(b"\n") + 1
    header = json.loads(start[:at])
    if (header["format"], header["key"]) != (FORMAT, key):
        raise ValueError("it has the key of another data set")
    tensors = []
    for name, shape in header["tensors"]:
        at += -at % _ALIGNMENT
        end = at + math.prod(shape) * np.dtype(_TYPES[name]).itemsize
        tensors.append(torch.from_numpy(content[at:end].view(_TYPES[name]).reshape(shape)))
        at = end
    if at != len(content):
        raise ValueError(f"it has {len(content):,} bytes, but its header declares {at:,}")
    train, test, *val = [Split(tensors[at], tensors[at + 1]) for at in range(0, len(tensors), 2)]
    dataset = make_dataset(
        train, test, header["class_names"], val=val[0] if val else None, notes=header["notes"]
    )
    if dataset.digest != header["digest"]:
        raise ValueError("its checksum does not match")
    return dataset


def _write(file: Path, key: str, dataset: Dataset) -> None:
    """Write a file of the cache atomically; raise OSError if that fails."""
    header = {
        "format": FORMAT,
        "key": key,
        "digest": dataset.digest,
        "class_names": dataset.class_names,
        "notes": dataset.notes,
        "tensors": [[str(t.dtype).removeprefix("torch."), list(t.shape)] for t in _tensors(dataset)],
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    _remove_stale(file.parent)
    # Processes that decode the same data set at once write separate files; the last rename remains.
    temporary = file.with_suffix(f".{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as stream:
            stream.write(json.dumps(header).encode() + b"\n")
            for tensor in _tensors(dataset):
                stream.write(bytes(-stream.tell() % _ALIGNMENT))
                stream.write(tensor.contiguous().numpy().data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)


def _remove_stale(folder: Path) -> None:
    """Remove incomplete files of killed processes."""
    for leftover in folder.glob("*.tmp"):
        with suppress(OSError):  # another process may have removed it
            if time.time() - leftover.stat().st_mtime > _STALE_SECONDS:
                leftover.unlink()
