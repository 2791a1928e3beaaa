"""Named, independent streams of random numbers.

An experiment draws from four streams: `init` (initial weights), `batches` (order of the samples),
`augmentation` and `dropout`. Each has its own seed, so changing the optimizer or the augmentation changes
neither the initial weights nor the order of the batches.

Code may also draw from the global generators of torch, Python (`random`) and NumPy (`numpy.random`). Whenever
torch's is seeded from a stream, the other two are seeded from the streams `<stream>/python` and
`<stream>/numpy` with the same seed:

| what runs | stream | seed |
| --- | --- | --- |
| a user's file, while it is imported | `import` | 0: a process imports a file once, for all its runs |
| a data set's function | `data` | `data.split_seed`: the same data for all seeds |
| the constructor of the model | `init` | `seed.init` |
| the constructors of all other parts | `construction` | `seed.init` |
| training: forward, loss, optimizer, augmentation | `dropout` | `seed.dropout` |
| an evaluation | `evaluation` | 0: the same numbers in every evaluation |
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy
import torch


@dataclass(frozen=True, slots=True)
class Seeds:
    """The seeds of all streams; usually they are equal."""

    init: int
    batches: int
    augmentation: int
    dropout: int

    @classmethod
    def all(cls, seed: int) -> Seeds:
        """Use the same seed for every stream (the streams still differ, see `stream_seed`)."""
        return cls(seed, seed, seed, seed)


def stream_seed(stream: str, seed: int, *counters: int) -> int:
    """Return a 63-bit seed that depends on the stream's name, the seed and the counters (epoch, step ...).

    SHA-256 makes the streams of adjacent seeds and counters independent, and is the same on every machine.
    """
    text = "/".join((stream, str(seed), *map(str, counters)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(stream: str, seed: int, *counters: int) -> torch.Generator:
    """Return a CPU generator for one stream; `counters` make it stateless (one per epoch or per step)."""
    return torch.Generator().manual_seed(stream_seed(stream, seed, *counters))


@contextmanager
def global_stream(stream: str, seed: int, device: torch.device | None = None) -> Iterator[None]:
    """Seed the global generators for the block and restore their state afterwards.

    Use it for code that draws only from the global generators, such as the constructors of `torch.nn` layers.

    Args:
        stream, seed: see `stream_seed`.
        device: a GPU whose generator is included; None or the CPU = none.
    """
    with preserved(device):
        torch.default_generator.manual_seed(stream_seed(stream, seed))
        if device is not None and device.type == "cuda":
            torch.cuda.manual_seed(stream_seed(stream, seed))
        _seed_python_and_numpy(stream, seed)
        yield


@contextmanager
def preserved(device: torch.device | None = None) -> Iterator[None]:
    """Restore the state of the global CPU generators after the block, and of that of `device` if a GPU."""
    former = random_state(device)
    try:
        yield
    finally:
        set_random_state(former, device)


def seed_globals(stream: str, seed: int) -> None:
    """Seed the global generators: torch's (CPU and every GPU), Python's `random` and `numpy.random`."""
    torch.manual_seed(stream_seed(stream, seed))
    _seed_python_and_numpy(stream, seed)


def seed_dropout(seed: int) -> None:
    """Seed the global generators for training; dropout draws from torch's."""
    seed_globals("dropout", seed)


def random_state(device: torch.device | None = None) -> dict[str, Any]:
    """Return the states of the global generators, for `set_random_state`.

    Args:
        device: a GPU whose generator is included; None or the CPU = none.
    """
    state = {
        "cpu": torch.get_rng_state(),
        "python": random.getstate(),
        "numpy": _numpy_random.get_state(legacy=False),
    }
    if device is not None and device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def saved_random_state(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return a state of `random_state` as tensors and plain values, for a checkpoint.

    It takes several times as long as `random_state`, which is called at every record of a run.
    """
    version, numbers, spare = state["python"]
    python = [version, torch.tensor(numbers, dtype=torch.int64), spare]
    return {**state, "python": python, "numpy": _as_tensors(state["numpy"])}


def set_random_state(state: Mapping[str, Any], device: torch.device | None = None) -> None:
    """Restore states of `random_state` or `saved_random_state`; generators without a state are not changed.

    Checkpoints of earlier releases have only the states of torch's generators.
    """
    torch.set_rng_state(state["cpu"])
    if "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], "cuda" if device is None else device)
    if "python" in state:
        version, numbers, spare = state["python"]
        as_ints = tuple(numbers.tolist()) if isinstance(numbers, torch.Tensor) else numbers
        random.setstate((version, as_ints, spare))
    if "numpy" in state:
        _numpy_random.set_state(_as_arrays(state["numpy"]))


_numpy_random: Any = numpy.random  # the legacy interface, which uses the global generator


def _seed_python_and_numpy(stream: str, seed: int) -> None:
    random.seed(stream_seed(f"{stream}/python", seed))
    # A user's component may have set another kind of global generator, which `numpy.random.seed` rejects.
    kind: Any = type(_numpy_random.get_bit_generator())
    _numpy_random.set_state(_numpy_state(kind, stream_seed(f"{stream}/numpy", seed)))


@lru_cache(maxsize=32)  # every evaluation has the same seed, and seeding takes 0.2 ms
def _numpy_state(kind: Any, seed: int) -> dict[str, Any]:
    """Return the state of a new generator with this seed; not modified by `set_state`."""
    state: dict[str, Any] = _numpy_random.RandomState(kind(seed)).get_state(legacy=False)
    return state


def _as_tensors(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _as_tensors(item) for key, item in value.items()}
    return torch.from_numpy(value.copy()) if isinstance(value, numpy.ndarray) else value


def _as_arrays(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _as_arrays(item) for key, item in value.items()}
    return value.numpy() if isinstance(value, torch.Tensor) else value
