"""Decoded data sets on disk, so that a later run reads plain arrays instead of decoding again.

A file holds a line of JSON and then the bytes of two arrays for every split. It is found by what it was
decoded from, checked against the digest of what it holds, and may be deleted at any time. Nothing here can
stop a run: without a usable file or folder a set is decoded as if there were no cache.
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

FORMAT = 2  # raise it when the file changes, or when a reader decodes the same source to something else
_TYPES = {"uint8": np.uint8, "int64": np.int64, "float32": np.float32}
_ALIGNMENT = 64  # bytes; a cache line of the processor
_MAX_HEADER = 2**24  # bytes; the names of 65,536 classes take less
_STALE_SECONDS = 3600  # a temporary file that has lain so long belongs to a process that was killed
_CHUNK = 64  # source files read by a thread in one go: fewer would cost more in handing out than in reading


def cache_folder() -> Path:
    """Return the folder of decoded sets: $OPTLAB_CACHE, else `decoded` in the user's cache of optlab."""
    chosen = os.environ.get("OPTLAB_CACHE")
    return Path(chosen).expanduser() if chosen else user_cache() / "decoded"


def cached(
    sources: Sequence[Path], decode: Callable[[], Dataset], *, variant: Sequence[str | int | None]
) -> Dataset:
    """Return a data set from the cache when the same content was decoded before, else decode and keep it.

    Args:
        sources: the files that it is decoded from; their content decides, not their names or times. One that
            is no regular file, or is larger than the memory, is refused before it is read.
        decode: reads the sources; what it raises passes through.
        variant: what else the result depends on: the reader's name, then its options.

    Returns:
        The set; its `notes` tell of a damaged file that was replaced, or of one that could not be written.
    """
    try:
        for source in sources:
            check_file(source)
        key = source_key(sources, variant)
        file = cache_folder() / f"{key}.set"
    except (OSError, RuntimeError):  # a source cannot be read, which `decode` will explain; or nobody's home
        return decode()
    notes: list[str] = []
    try:
        return _read(file, key)
    except OSError:  # most often it is not there yet; if the folder is at fault, writing will tell
        pass
    except Exception as error:  # a damaged file makes json, numpy and torch raise nearly anything
        notes.append(f"decoded the data again: {file} is damaged ({error})")
        with suppress(OSError):
            file.unlink()
    dataset = decode()
    try:
        if source_key(sources, variant) == key:  # else a source changed while it was decoded
            _write(file, key, dataset)
    except OSError as error:
        notes.append(f"cannot keep the decoded data in {file.parent}: {error.strerror or error}")
    return replace(dataset, notes=(*dataset.notes, *notes))


def source_key(sources: Sequence[Path], variant: Sequence[str | int | None]) -> str:
    """Return the name of a decoded set: a SHA-256, in hex, over format, variant and the sources' content.

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
    with ThreadPoolExecutor(usable_cores()) as pool:  # reading and hashing let go of the interpreter's lock
        for found in pool.map(digests, chunks):
            total.update(b"".join(found))
    return total.hexdigest()


def _tensors(dataset: Dataset) -> list[Tensor]:
    splits = [dataset.train, dataset.test, *([dataset.val] if dataset.val is not None else [])]
    return [tensor for split in splits for tensor in (split.inputs, split.targets)]


def _read(file: Path, key: str) -> Dataset:
    """Read a file of the cache; OSError when it is not there, nearly anything when it is damaged.

    It is read, not mapped: on a network's disk a mapped file that somebody deletes kills the process.
    """
    check_file(file)
    content = np.fromfile(file, np.uint8)
    start = content[:_MAX_HEADER].tobytes()
    at = start.index(b"\n") + 1
    header = json.loads(start[:at])
    if (header["format"], header["key"]) != (FORMAT, key):
        raise ValueError("it belongs to another set")
    tensors = []
    for name, shape in header["tensors"]:
        at += -at % _ALIGNMENT
        end = at + math.prod(shape) * np.dtype(_TYPES[name]).itemsize
        tensors.append(torch.from_numpy(content[at:end].view(_TYPES[name]).reshape(shape)))
        at = end
    if at != len(content):
        raise ValueError(f"it has {len(content):,} bytes, and its header says {at:,}")
    train, test, *val = [Split(*tensors[at : at + 2]) for at in range(0, len(tensors), 2)]
    dataset = make_dataset(
        train, test, header["class_names"], val=val[0] if val else None, notes=header["notes"]
    )
    if dataset.digest != header["digest"]:
        raise ValueError("its content does not fit its checksum")
    return dataset


def _write(file: Path, key: str, dataset: Dataset) -> None:
    """Write a file of the cache so that it is there whole or not at all; OSError when that cannot be done."""
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
    # Two processes that decode the same set at once write a file each; the later rename wins.
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
    """Remove what killed processes have left half-written."""
    for leftover in folder.glob("*.tmp"):
        with suppress(OSError):  # another process may have been quicker
            if time.time() - leftover.stat().st_mtime > _STALE_SECONDS:
                leftover.unlink()
