"""Named, independent streams of random numbers (floor 0).

One experiment draws from four streams: `init` (initial weights), `batches` (order of the samples),
`augmentation` and `dropout`. Each is seeded apart, so that changing the optimizer or the augmentation
changes neither the start nor the order of the batches.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

STREAMS = ("init", "batches", "augmentation", "dropout")


@dataclass(frozen=True, slots=True)
class Seeds:
    """The seed of every stream; one number for all is the usual case."""

    init: int
    batches: int
    augmentation: int
    dropout: int

    @classmethod
    def all(cls, seed: int) -> Seeds:
        """Give every stream the same user-visible seed (the streams still differ, see `stream_seed`)."""
        return cls(seed, seed, seed, seed)


def stream_seed(stream: str, seed: int, *counters: int) -> int:
    """Return a 63-bit seed that depends on the stream's name, the seed and the counters (epoch, step ...).

    SHA-256 keeps neighbouring seeds and counters unrelated and is the same on every machine.
    """
    text = "/".join((stream, str(seed), *map(str, counters)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(stream: str, seed: int, *counters: int) -> torch.Generator:
    """Return a CPU generator for one stream; `counters` make it stateless (one per epoch or per step)."""
    return torch.Generator().manual_seed(stream_seed(stream, seed, *counters))


@contextmanager
def global_stream(stream: str, seed: int) -> Iterator[None]:
    """Seed torch's global CPU generator for the block and put its former state back afterwards.

    For code that only draws from the global generator, such as the constructors of `torch.nn` layers.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(stream_seed(stream, seed))
        yield


def seed_dropout(seed: int) -> None:
    """Seed torch's global generators (CPU and every GPU), which dropout draws from while training."""
    torch.manual_seed(stream_seed("dropout", seed))
