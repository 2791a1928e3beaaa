"""Matrix products of a compiled step: with oneDNN, in generated loops, or by torch.mm, depending on size.

On CPUs, torch computes float32 products with MKL, which runs at half speed on some AMD machines. oneDNN gives
the same precision, with its microkernel or, if there is none, with its linear operation, which Inductor calls
only for constant weights. So this module defines a custom operation and lowers it to that call. A small
product costs less than a call: written as a sum, Inductor fuses it with the surrounding loops.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from trainer.training.engines.inductor import microkernel


class _Bounds(NamedTuple):
    """Numbers of multiplications: up to `loops`, generated loops are fastest; from `onednn` on, oneDNN is."""

    loops: int
    onednn: int


_OF_LINEAR, _OF_MICROKERNEL = _Bounds(2**18, 2**20), _Bounds(2**16, 2**16)
_THIN = 4  # rows or columns: the product is then limited by memory bandwidth
_FOR_THIN_LOOPS = 2**20  # multiplications up to which generated loops are fastest for thin matrices

_torch: Any = torch  # these parts of torch have no type hints
_aten = _torch.ops.aten
_NAME = "optlab_product"
_library = _torch.library.Library("optlab", "DEF")
_library.define("product(Tensor left, Tensor right, bool turned) -> Tensor")


def _product(left: Tensor, right: Tensor, turned: bool) -> Tensor:
    return torch.mm(left, right)


def _product_shape(left: Tensor, right: Tensor, turned: bool) -> Tensor:
    return left.new_empty((left.shape[0], right.shape[1]))


_library.impl("product", _product, "CPU")
torch.library.register_fake("optlab::product", _product_shape, lib=_library)


def decompositions() -> dict[Any, Callable[..., Any]]:
    """Return the decompositions of aten's matrix products for make_fx. Importing Inductor takes seconds."""
    from torch._inductor.lowering import lowerings, register_lowering
    from torch._inductor.select_algorithm import ExternKernelChoice

    own = _torch.ops.optlab.product.default
    if own not in lowerings:
        register_lowering(own, type_promotion_kind=None)(_lower_product)
        ExternKernelChoice(by_microkernel, name=_NAME)
    bounds = _OF_LINEAR if microkernel.kernel() is None else _OF_MICROKERNEL
    return {_aten.mm.default: partial(_mm, bounds), _aten.addmm.default: partial(_addmm, bounds)}


def _lower_product(left: Any, right: Any, turned: bool) -> Any:
    """Lower the product to a direct call, which avoids the overhead of the dispatcher."""
    from torch._inductor.ir import ExternKernel
    from torch._inductor.lowering import lowerings

    if not turned:
        return _lowered_call(left, right)
    turn = lowerings[_aten.permute.default]
    product = _lowered_call(turn(right, [1, 0]), turn(left, [1, 0]))
    return ExternKernel.require_contiguous(turn(product, [1, 0]))


def _lowered_call(left: Any, right: Any) -> Any:
    from torch._inductor.ir import ExternKernel, FixedLayout
    from torch._inductor.lowering import fallback_handler, lowerings
    from torch._inductor.select_algorithm import ExternKernelChoice

    left = ExternKernel.require_contiguous(ExternKernel.realize_input(left))
    if microkernel.kernel() is None:
        weight = lowerings[_aten.permute.default](right, [1, 0])
        make_call = cast(Any, fallback_handler)
        onednn = make_call(_torch.ops.mkldnn._linear_pointwise.default, add_to_fallback_set=False)
        return onednn(left, weight, None, "none", [], "")
    right = ExternKernel.require_contiguous(ExternKernel.realize_input(right))
    (rows, inner), (_, columns) = left.get_size(), right.get_size()
    layout = FixedLayout(left.get_device(), left.get_dtype(), [rows, columns], [columns, 1])
    choice = cast(Any, ExternKernelChoice.lookup(_NAME))
    sizes = {"rows": int(rows), "inner": int(inner), "columns": int(columns)}
    return choice.bind([left, right], layout, **sizes).output_node()


def by_microkernel(
    left: Tensor, right: Tensor, *, rows: int, inner: int, columns: int, out: Tensor
) -> Tensor:
    """Compute left [M, K] @ right [K, N]; called by programs."""
    multiply = microkernel.kernel()
    if multiply is None:  # the program was cached on another machine
        return torch.mm(left, right, out=out)
    return multiply_with(multiply, left, right, rows=rows, inner=inner, columns=columns, out=out)


def multiply_with(
    multiply: microkernel.Kernel,
    left: Tensor,
    right: Tensor,
    *,
    rows: int,
    inner: int,
    columns: int,
    out: Tensor,
) -> Tensor:
    """Compute left [M, K] @ right [K, N] with a kernel."""
    multiply(left, right, out, rows, inner, columns)
    return out


def _mm(bounds: _Bounds, left: Tensor, right: Tensor) -> Any:
    """Return left [M, K] @ right [K, N]."""
    if left.dtype is not torch.float32:
        return NotImplemented
    size = left.shape[0] * left.shape[1] * right.shape[1]
    if size <= (_FOR_THIN_LOOPS if min(*left.shape, right.shape[1]) <= _THIN else bounds.loops):
        return (left.unsqueeze(2) * right.unsqueeze(0)).sum(1)
    if (
        size >= bounds.onednn
        and min(*left.shape, right.shape[1]) >= 8
        and _torch.backends.mkldnn.is_available()
    ):
        return _torch.ops.optlab.product(left, right, _turned(left, right))
    return NotImplemented


def _addmm(
    bounds: _Bounds, bias: Tensor, left: Tensor, right: Tensor, *, beta: float = 1, alpha: float = 1
) -> Any:
    """Return bias [N] + left [M, K] @ right [K, N]."""
    if beta != 1 or alpha != 1 or bias.ndim != 1:
        return NotImplemented
    product = _mm(bounds, left, right)
    return product if product is NotImplemented else product + bias


def _turned(left: Tensor, right: Tensor) -> bool:
    """Return whether the transposed product is cheaper: matrices that are not contiguous are copied."""

    def copied(matrix: Tensor) -> int:
        return 0 if matrix.is_contiguous() else matrix.numel()

    result = left.shape[0] * right.shape[1]
    return copied(right.t()) + copied(left.t()) + result < copied(left) + copied(right)
