"""Matrix products with oneDNN's microkernel, in blocks, one per thread.

torch exposes the microkernel to generated code (`at::native::cpublas::brgemm` in its C++ headers). torch's
oneDNN operations need 15 us of setup per call and copy a matrix; a call to this kernel takes 1 us and copies
nothing. Inductor caches the compiled kernel on disk.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from trainer.training.engines.inductor.instruction_set import torchs_instruction_set

Kernel = Callable[[Tensor, Tensor, Tensor, int, int, int], None]
"""(left [M, K], right [K, N], out [M, N], M, K, N), all float32 and contiguous."""

_ARGUMENTS = ["const float*", "const float*", "float*", "int64_t", "int64_t", "int64_t"]
_SOURCE = r"""
#include <ATen/native/CPUBlas.h>
#include <omp.h>
#include <algorithm>

constexpr int64_t MULTIPLICATIONS = 1 << 17;  // of a thread at least: waking another for less takes longer
constexpr int64_t ROWS = 16, COLUMNS = 64;    // of a thread at least: with fewer the microkernel is slower
constexpr int64_t WIDE = 256, DEEP = 1024;    // of the right matrix at once: it stays in the second cache

extern "C" void kernel(
    const float* left, const float* right, float* out, int64_t rows, int64_t inner, int64_t columns) {
  auto block = [&](int64_t first_row, int64_t last_row, int64_t first_column, int64_t last_column) {
    for (int64_t n = first_column; n < last_column; n += WIDE)
      for (int64_t k = 0; k < inner; k += DEEP)
        at::native::cpublas::brgemm(
            last_row - first_row, std::min(WIDE, last_column - n), std::min(DEEP, inner - k),
            inner, columns, columns, /*add_C=*/k > 0,
            left + first_row * inner + k, right + k * columns + n, out + first_row * columns + n);
  };
  const int64_t threads = std::min<int64_t>(omp_get_max_threads(), rows * inner * columns / MULTIPLICATIONS);
  const int64_t down = std::clamp<int64_t>(rows / ROWS, 1, std::max<int64_t>(threads, 1));
  const int64_t across = std::clamp<int64_t>(columns / COLUMNS, 1, std::max<int64_t>(threads / down, 1));
  if (down * across == 1) return block(0, rows, 0, columns);
  #pragma omp parallel for collapse(2) schedule(static, 1)
  for (int64_t i = 0; i < down; i++)
    for (int64_t j = 0; j < across; j++)
      block(rows * i / down, rows * (i + 1) / down, columns * j / across, columns * (j + 1) / across);
}
"""


@cache
def kernel() -> Kernel | None:
    """Return the compiled product; None if torch has no microkernel for this processor or compiling fails.

    The result does not depend on the number of threads: each sum is computed within one block.
    """
    from torch._inductor.codecache import CppPythonBindingsCodeCache

    try:
        with torchs_instruction_set():
            compiled: Kernel = CppPythonBindingsCodeCache.load_pybinding(_ARGUMENTS, _SOURCE)
        left, right, out = torch.eye(2), torch.ones(2, 2), torch.empty(2, 2)
        compiled(left, right, out, 2, 2, 2)
    except Exception:  # any error of the compiler, the linker or another release of torch
        return None
    return compiled if torch.equal(out, right) else None
