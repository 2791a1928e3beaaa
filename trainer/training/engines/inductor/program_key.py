"""The key of a compiled program: a hash of everything that it depends on."""

from __future__ import annotations

import hashlib
import os
import platform
import sys
from functools import cache
from pathlib import Path

import torch

import trainer


def program_key(*parts: object) -> str:
    """Return the key of a program on this machine, with the current settings of torch.

    Args:
        parts: what else the program depends on; `repr` must be the same in another process.
    """
    settings = (
        torch.get_num_threads(),
        torch.get_default_dtype(),
        torch.get_float32_matmul_precision(),
        torch.are_deterministic_algorithms_enabled(),
        torch.backends.mkldnn.enabled,
        sorted((name, value) for name, value in os.environ.items() if _changes_programs(name)),
    )
    return hashlib.sha256(repr((_environment(), settings, parts)).encode()).hexdigest()


def _changes_programs(name: str) -> bool:
    return name in ("CXX", "ATEN_CPU_CAPABILITY") or (
        name.startswith(("TORCHINDUCTOR_", "TORCH_COMPILE", "AOT_")) and name != "TORCHINDUCTOR_CACHE_DIR"
    )


@cache
def _environment() -> tuple[str, ...]:
    """Return the versions, the processor, and a hash of this package's source."""
    return (torch.__version__, str(torch.version.git_version), sys.version, _processor(), _source())


def _processor() -> str:
    """Return the model of the processor and its instruction sets."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    wanted = ("model name", "flags", "Features", "CPU part")
    first = {line.partition(":")[0].strip(): line for line in reversed(lines)}
    capability = torch.backends.cpu.get_cpu_capability()
    return "\n".join(
        [platform.machine(), platform.processor(), capability, *(first.get(name, "") for name in wanted)]
    )


def _source() -> str:
    digest, root = hashlib.sha256(), Path(trainer.__file__).parent
    for path in sorted(root.rglob("*.py")):
        digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()
