"""Matrix products by oneDNN's microkernel agree with torch up to rounding for all sizes and thread counts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from trainer.training.engines.compiler import compiler
from trainer.training.engines.inductor import microkernel

pytestmark = pytest.mark.skipif(compiler() is None, reason="there is no C++ compiler here")

# Rows, inner, columns: one block, parts of rows, parts of columns, both; deeper and wider than a block.
SIZES = [
    (1, 1, 1),
    (10, 200, 64),
    (200, 784, 64),
    (200, 64, 784),
    (33, 1000, 130),
    (17, 2500, 700),
    (3, 1024, 4096),
]


@pytest.mark.parametrize(("rows", "inner", "columns"), SIZES)
def test_products_are_torchs(rows: int, inner: int, columns: int) -> None:
    multiply = microkernel.kernel()
    if multiply is None:
        pytest.skip("a processor without microkernel")
    draw = torch.Generator().manual_seed(0)
    left, right = torch.randn(rows, inner, generator=draw), torch.randn(inner, columns, generator=draw)
    exact = left.double() @ right.double()
    former, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3, 16):
            torch.set_num_threads(threads)
            out = torch.full((rows, columns), float("nan"))
            multiply(left, right, out, rows, inner, columns)
            found.append(out)
    finally:
        torch.set_num_threads(former)
    torch.testing.assert_close(found[0].double(), exact, rtol=1e-5, atol=1e-3)
    assert all(torch.equal(found[0], other) for other in found)


@pytest.mark.parametrize(("before", "after"), [("brgemm(", "no_such_function("), ("kernel(", "other(")])
def test_what_cannot_be_compiled_is_none(before: str, after: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(microkernel, "_SOURCE", microkernel._SOURCE.replace(before, after))
    microkernel.kernel.cache_clear()
    try:
        assert microkernel.kernel() is None
    finally:
        microkernel.kernel.cache_clear()


def test_compiling_does_not_warn_that_there_is_no_gpu(tmp_path: Path) -> None:
    script = (
        "from trainer.training.engines.inductor.instruction_set import torchs_instruction_set\n"
        "with torchs_instruction_set():\n"
        "    from torch.utils import cpp_extension\n"
        "print(cpp_extension.CUDA_HOME)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"CUDA_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert (done.stdout, done.stderr) == (f"{tmp_path}\n", "")
