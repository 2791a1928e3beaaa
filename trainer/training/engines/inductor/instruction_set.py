"""The instruction set of compiled kernels."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import torch


@contextmanager
def torchs_instruction_set() -> Iterator[None]:
    """Let Inductor use the instruction set that torch uses.

    Inductor would look for one by compiling up to ten small programs, which takes as long as compiling a
    small network.
    """
    from torch._inductor import config, cpu_vec_isa

    _import_extensions()
    used = torch.backends.cpu.get_cpu_capability().lower()
    known = [one for one in cpu_vec_isa.supported_vec_isa_list if str(one) == used]
    with config.patch({"cpp.vec_isa_ok": True}):
        known = [one for one in known if one]  # finds out what else the processor and the compiler support
    module: Any = cpu_vec_isa
    find = module.valid_vec_isa_list
    module.valid_vec_isa_list = (lambda: known) if known else find
    try:
        yield
    finally:
        module.valid_vec_isa_list = find


def _import_extensions() -> None:
    """Import torch's C++ extensions, which Inductor uses, without their warning of a missing GPU."""
    logger = logging.getLogger("torch.utils.cpp_extension")
    former = logger.level
    logger.setLevel(logging.ERROR)
    try:
        import_module("torch.utils.cpp_extension")
    finally:
        logger.setLevel(former)
