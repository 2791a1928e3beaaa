"""How a compiled step pools: with torch's own kernels.

Inductor would write loops that look for every maximum twice, for its value and for its place, and scatter the
gradients with a general operation: a small convolutional network's step takes a sixth longer that way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_torch: Any = torch  # these parts of it have no types
_forward = _torch.ops.aten.max_pool2d_with_indices.default
_backward = _torch.ops.aten.max_pool2d_with_indices_backward.default

_library = _torch.library.Library("optlab", "FRAGMENT")
_library.define(
    "max_pool2d(Tensor x, int[2] kernel_size, int[2] stride=[], int[2] padding=0, int[2] dilation=1,"
    " bool ceil_mode=False) -> (Tensor, Tensor)"
)
_library.define(
    "max_pool2d_backward(Tensor gradient, Tensor x, int[2] kernel_size, int[2] stride, int[2] padding,"
    " int[2] dilation, bool ceil_mode, Tensor indices) -> Tensor"
)
for _name, _kernel in (("max_pool2d", _forward), ("max_pool2d_backward", _backward)):
    _library.impl(_name, _kernel, "CPU")
    _torch.library.register_fake(f"optlab::{_name}", _kernel, lib=_library)


def decompositions() -> dict[Any, Callable[..., Any]]:
    """Return what make_fx is to write for aten's max pooling; importing Inductor takes seconds."""
    from torch._inductor.lowering import (
        add_layout_constraint,
        constrain_to_fx_strides,
        fallback_handler,
        lowerings,
        register_lowering,
    )

    own = _torch.ops.optlab
    for operation, kernel in ((own.max_pool2d, _forward), (own.max_pool2d_backward, _backward)):
        if operation.default not in lowerings:
            handler: Any = fallback_handler
            call = handler(kernel, add_to_fallback_set=False)
            register_lowering(operation.default, type_promotion_kind=None)(call)
            add_layout_constraint(operation.default, constrain_to_fx_strides)
    return {_forward: own.max_pool2d.default, _backward: _pass_back}


def _pass_back(gradient: Tensor, x: Tensor, *window_and_indices: Any) -> Any:
    """Return the gradient of x; where the channels are innermost in x, in the gradient as well."""
    if x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last):
        gradient = gradient.contiguous(memory_format=torch.channels_last)
    return _torch.ops.optlab.max_pool2d_backward.default(gradient, x, *window_and_indices)
