"""Checkpoints: the complete state of an experiment in one file.

A checkpoint contains only tensors and plain Python values, so that `torch.load(weights_only=True)` reads it
and loading never executes code. It contains a checksum of its content. The previous checkpoint is kept.
"""

from __future__ import annotations

import hashlib
import io
import threading
import warnings
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainer.errors import RunError, StorageError
from trainer.reading import read_regular
from trainer.runs.files import Guard, make_folder, write_atomically

FORMAT = 1
_MAX_BYTES = 1 << 40  # in effect limited by memory; devices and FIFOs are never read
LAST = "last.pt"
PREVIOUS = "previous.pt"
BEST = "best.pt"
FORMER_BEST = "former_best.pt"  # kept if best.pt comes from an evaluation that an extended run would not have


class DamagedError(RunError):
    """A checkpoint cannot be read, or does not match the experiment that it is loaded into."""


def pack(state: Mapping[str, Any]) -> bytes:
    """Serialize a checkpoint: the state, the format version and the checksum as a torch file.

    Raises:
        RunError: the state of a component contains something other than tensors and plain values.
    """
    buffer = io.BytesIO()
    try:
        checksum = digest(state)
    except TypeError as error:
        raise RunError(
            f"the state cannot be saved: {error}",
            fix="keep only tensors, numbers and strings in the state of your own component",
        ) from error
    torch.save({"format": FORMAT, "sha256": checksum, **state}, buffer)
    return buffer.getvalue()


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU.

    Raises:
        DamagedError: the file is missing or damaged, has another format, or contains something other than
            tensors and plain values.
    """
    try:
        content = read_regular(path, _MAX_BYTES)
    except FileNotFoundError as error:
        raise DamagedError(f"checkpoint {path} does not exist") from error
    except RunError as error:
        raise DamagedError(str(error)) from error
    try:
        _refuse_compressed(content)
        with warnings.catch_warnings():  # torch warns about pickles that it then rejects
            warnings.simplefilter("ignore")
            state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # torch's reader can raise anything on a damaged file
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise DamagedError(f"{path} is not a readable checkpoint: {reason}") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        saved_format = state.get("format") if isinstance(state, dict) else type(state).__name__
        raise DamagedError(
            f"{path} has format {str(saved_format)[:80]!r}",
            expected=f"format {FORMAT}",
            fix="read it with the release of optlab that wrote it",
        )
    del state["format"]
    try:
        contents = {key: value for key, value in state.items() if key != "sha256"}
        actual_digest = digest(contents, limit=len(content))
    except (TypeError, ValueError, RuntimeError, RecursionError) as error:
        raise DamagedError(f"{path} is damaged: {error}") from error
    if state.pop("sha256", None) != actual_digest:
        raise DamagedError(f"{path} is damaged: its content does not match its checksum")
    return state


def _refuse_compressed(content: bytes) -> None:
    """Refuse compressed archives: torch does not compress, and a compressed one could be a zip bomb."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
            raise ValueError("its entries are compressed")


def digest(state: Any, *, limit: int | None = None) -> str:
    """Return the SHA-256 of nested dicts, lists, tensors and plain values.

    Args:
        state: the values to hash.
        limit: maximum size of a tensor in bytes, so that a crafted file cannot expand to a larger tensor.

    Raises:
        TypeError: the state contains something else.
        ValueError: a tensor is larger than `limit`.
    """
    total = hashlib.sha256()
    _add(total.update, state, limit)
    return total.hexdigest()


def _add(update: Callable[[Any], None], value: Any, limit: int | None) -> None:
    if isinstance(value, Tensor):
        if limit is not None and value.nbytes > limit:
            raise ValueError("a tensor is larger than the file")
        update(f"T{value.dtype}{list(value.shape)}".encode())
        # A contiguous tensor of one element can have any stride, which `view` does not accept.
        flat = value.detach().cpu().contiguous().as_strided((value.numel(),), (1,))
        if flat.numel():
            update(flat.view(torch.uint8).numpy())
    elif isinstance(value, Mapping):
        update(f"D{len(value)}".encode())
        for key, item in value.items():
            _add(update, key, limit)
            _add(update, item, limit)
    elif isinstance(value, list | tuple):
        update(f"L{len(value)}".encode())
        for item in value:
            _add(update, item, limit)
    elif value is None or type(value) in (bool, int, float, complex, str, bytes):
        text = repr(value).encode("utf-8", "backslashreplace")
        update(f"V{type(value).__name__}{len(text)}:".encode())
        update(text)
    else:
        raise TypeError(f"{type(value).__name__} is neither a tensor nor a plain value")


@dataclass(frozen=True, slots=True)
class _Job:
    path: Path
    content: bytes
    former: Path | None


class Writer:
    """Writes checkpoints in a background thread, one at a time and in order.

    A checkpoint that cannot be written stays pending and is retried with the next one. `put` serializes the
    state while the caller waits (with its clock stopped), because that is CPU-bound; only writing and
    syncing run in the thread.

    Args:
        guard: called just before a checkpoint file is replaced; raises if another process owns the run.
    """

    def __init__(self, guard: Guard | None = None) -> None:
        self._guard = guard
        self._pending: dict[Path, _Job] = {}
        self._thread: threading.Thread | None = None
        self._failure: StorageError | None = None

    def put(self, path: Path, state: Mapping[str, Any], *, former: Path | None = None) -> None:
        """Add a checkpoint to the pending ones; it replaces a pending one of the same path.

        Args:
            path: the checkpoint file.
            state: tensors and plain values; may be modified after this returns.
            former: path under which the replaced checkpoint is kept.
        """
        self._join()
        self._pending.pop(path, None)
        self._pending[path] = _Job(path, pack(state), former)

    def start(self) -> None:
        """Start to write the pending checkpoints."""
        self._join()
        self._failure = None
        # A daemon, so that a second SIGINT exits immediately; an incomplete temporary file is ignored.
        self._thread = threading.Thread(target=self._work, name="checkpoints", daemon=True)
        self._thread.start()

    def wait(self) -> StorageError | None:
        """Wait until writing has finished. Return the error, or None if there was none."""
        self._join()
        failure, self._failure = self._failure, None
        return failure

    def _join(self) -> None:
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _work(self) -> None:
        # In order, up to the first failure: last.pt must never be newer than the best.pt that it refers to.
        for path, job in list(self._pending.items()):
            try:
                make_folder(job.path.parent)
                write_atomically(job.path, job.content, former=job.former, verify=True, guard=self._guard)
            except StorageError as error:
                self._failure = error
                return
            del self._pending[path]
