"""Checkpoints: an experiment's whole state in one file.

Only tensors and plain Python values go in, so that `torch.load(weights_only=True)` reads them and loading
never runs code. A checkpoint holds a checksum of its content; the one before is kept beside it.
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
from trainer.runs.files import Guard, make_folder, write_atomically
from trainer.reading import read_regular

FORMAT = 1
_MOST_BYTES = 1 << 40  # the machine's memory is the bound; a device or a FIFO is never read
LAST = "last.pt"
PREVIOUS = "previous.pt"
BEST = "best.pt"
FORMER_BEST = "former_best.pt"  # kept where best.pt is of an evaluation that a longer run would not have


class DamagedError(RunError):
    """A checkpoint cannot be read, or does not fit what it is to be loaded into."""


def pack(state: Mapping[str, Any]) -> bytes:
    """Return a checkpoint's bytes: a torch file of the state, its format and its checksum.

    Raises:
        RunError: a component keeps something that is no tensor and no plain value.
    """
    buffer = io.BytesIO()
    try:
        checksum = digest(state)
    except TypeError as error:
        raise RunError(
            f"the state cannot be saved: {error}",
            fix="let your own component keep tensors, numbers and strings only",
        ) from error
    torch.save({"format": FORMAT, "sha256": checksum, **state}, buffer)
    return buffer.getvalue()


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU.

    Raises:
        DamagedError: it is absent, damaged, holds more than tensors and plain values, or has another format.
    """
    try:
        content = read_regular(path, _MOST_BYTES)
    except FileNotFoundError as error:
        raise DamagedError(f"there is no checkpoint at {path}") from error
    except RunError as error:
        raise DamagedError(str(error)) from error
    try:
        _refuse_packed(content)
        with warnings.catch_warnings():  # torch warns of pickles that it then refuses
            warnings.simplefilter("ignore")
            state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file makes torch's reader fail in any way there is
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise DamagedError(f"{path} is not a readable checkpoint: {reason}") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        found = state.get("format") if isinstance(state, dict) else type(state).__name__
        raise DamagedError(
            f"{path} has format {str(found)[:80]!r}",
            expected=f"format {FORMAT}",
            fix="read it with the release of optlab that wrote it",
        )
    del state["format"]
    try:
        found = digest({key: value for key, value in state.items() if key != "sha256"}, limit=len(content))
    except (TypeError, ValueError, RuntimeError, RecursionError) as error:
        raise DamagedError(f"{path} is damaged: {error}") from error
    if state.pop("sha256", None) != found:
        raise DamagedError(f"{path} is damaged: its content does not match its checksum")
    return state


def _refuse_packed(content: bytes) -> None:
    """Refuse what is no torch file of ours; ours are stored, not compressed, so none can swell."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
            raise ValueError("its entries are compressed")


def digest(state: Any, *, limit: int | None = None) -> str:
    """Return the SHA-256 of nested dicts, lists, tensors and plain values.

    Args:
        state: what to sum up.
        limit: most bytes a tensor may take, so that a crafted file cannot make a small one large.

    Raises:
        TypeError: there is something else in it.
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
        flat = value.detach().cpu().contiguous().reshape(-1)
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
        raise TypeError(f"{type(value).__name__} is no tensor and no plain value")


@dataclass(frozen=True, slots=True)
class _Job:
    path: Path
    content: bytes
    former: Path | None


class Writer:
    """Writes checkpoints beside training: one at a time, in order, on a thread of their own.

    What cannot be written stays pending and is tried again with the next one. The content is made while the
    caller waits (its clock stands), because that takes the processor; writing and syncing only take time.

    Args:
        guard: called just before a checkpoint takes its place; raises when the run is another process's.
    """

    def __init__(self, guard: Guard | None = None) -> None:
        self._guard = guard
        self._pending: dict[Path, _Job] = {}
        self._thread: threading.Thread | None = None
        self._failure: StorageError | None = None

    def put(self, path: Path, state: Mapping[str, Any], *, former: Path | None = None) -> None:
        """Add a checkpoint to what is to be written; a newer one of the same name takes the older's place.

        Args:
            path: where it goes.
            state: tensors and plain values; not needed any more when this returns.
            former: name under which the checkpoint that it replaces is kept.
        """
        self._join()
        self._pending.pop(path, None)
        self._pending[path] = _Job(path, pack(state), former)

    def start(self) -> None:
        """Begin to write what is pending."""
        self._join()
        self._failure = None
        # A daemon: a second SIGINT leaves at once, and half a temporary file harms nobody.
        self._thread = threading.Thread(target=self._work, name="checkpoints", daemon=True)
        self._thread.start()

    def wait(self) -> StorageError | None:
        """Wait until the writing ends; return what went wrong, None when nothing did."""
        self._join()
        failure, self._failure = self._failure, None
        return failure

    def _join(self) -> None:
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _work(self) -> None:
        # In order, up to the first failure: last.pt must never be ahead of the best.pt that it speaks of.
        for path, job in list(self._pending.items()):
            try:
                make_folder(job.path.parent)
                write_atomically(job.path, job.content, former=job.former, proved=True, guard=self._guard)
            except StorageError as error:
                self._failure = error
                return
            del self._pending[path]
