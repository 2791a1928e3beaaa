"""How a compiled step multiplies matrices: with oneDNN, in generated loops, or as torch does, by size.

torch's float32 products on CPUs go to MKL, which takes a half-speed path on some AMD machines; oneDNN's
linear computes the same in the same precision. Inductor calls that operation for constant weights alone,
hence one of our own that it lowers to the same call. A small product costs less than the call of any library:
written as a sum, it joins the loops that Inductor writes around it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

_FOR_ONEDNN = 2**20  # multiplications from which oneDNN's product outruns the call to it
_FOR_LOOPS = 2**18  # up to which a sum in generated loops outruns any call; for thin ones up to four times it
_THIN = 4  # rows or columns: the memory's speed decides then, not the arithmetic's

_torch: Any = torch  # these parts of it have no types
_aten = _torch.ops.aten
_library = _torch.library.Library("optlab", "DEF")
_library.define("linear(Tensor x, Tensor weight, Tensor? bias) -> Tensor")


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    product: Tensor = torch.ops.mkldnn._linear_pointwise.default(x, weight, bias, "none", [], "")
    return product


def _linear_shape(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty((x.shape[0], weight.shape[0]))


_library.impl("linear", _linear, "CPU")
torch.library.register_fake("optlab::linear", _linear_shape, lib=_library)


def decompositions() -> dict[Any, Callable[..., Any]]:
    """Return what make_fx is to write for aten's matrix products; importing Inductor takes seconds."""
    from torch._inductor.lowering import lowerings, register_lowering

    own = _torch.ops.optlab.linear.default
    if own not in lowerings:
        register_lowering(own, type_promotion_kind=None)(_lower_linear)
    return {_aten.mm.default: _mm, _aten.addmm.default: _addmm}


def _lower_linear(x: Any, weight: Any, bias: Any) -> Any:
    """Let Inductor write the call of oneDNN itself, which spares a detour through Python and a copy of x."""
    from torch._inductor.ir import ExternKernel
    from torch._inductor.lowering import fallback_handler, lowerings

    make_call = cast(Any, fallback_handler)
    onednn = make_call(_torch.ops.mkldnn._linear_pointwise.default, add_to_fallback_set=False)
    rows, inner = x.get_size()
    columns, _ = weight.get_size()
    # oneDNN copies its second matrix into an order of its own: the smaller one, if the copy that is spared is
    # larger than the product, which then has to be turned.
    if rows * columns < (columns - rows) * inner:
        weight = ExternKernel.require_contiguous(ExternKernel.realize_input(weight))
        product = lowerings[_aten.permute.default](onednn(weight, x, None, "none", [], ""), [1, 0])
        if bias is not None:
            product = lowerings[_aten.add.Tensor](product, bias)
        return ExternKernel.require_contiguous(product)
    x = ExternKernel.require_contiguous(ExternKernel.realize_input(x))
    return onednn(x, weight, bias, "none", [], "")


def _mm(left: Tensor, right: Tensor) -> Any:
    """Return left [M, K] @ right [K, N]."""
    size = left.shape[0] * left.shape[1] * right.shape[1]
    if left.dtype is not torch.float32:
        return NotImplemented
    if size <= _FOR_LOOPS or (size <= 4 * _FOR_LOOPS and min(*left.shape, right.shape[1]) <= _THIN):
        return (left.unsqueeze(2) * right.unsqueeze(0)).sum(1)
    if _suits_onednn(left, right):
        return _torch.ops.optlab.linear(left.contiguous(), right.t(), None)
    return NotImplemented


def _addmm(bias: Tensor, left: Tensor, right: Tensor, *, beta: float = 1, alpha: float = 1) -> Any:
    """Return bias [N] + left [M, K] @ right [K, N]."""
    if beta != 1 or alpha != 1 or bias.ndim != 1:
        return NotImplemented
    if left.dtype is torch.float32 and _suits_onednn(left, right):
        return _torch.ops.optlab.linear(left.contiguous(), right.t(), bias)
    product = _mm(left, right)
    return product if product is NotImplemented else product + bias


def _suits_onednn(left: Tensor, right: Tensor) -> bool:
    return (
        _torch.backends.mkldnn.is_available()
        and min(*left.shape, *right.shape) >= 8
        and left.shape[0] * left.shape[1] * right.shape[1] >= _FOR_ONEDNN
    )
