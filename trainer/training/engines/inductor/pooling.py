"""Max pooling of a compiled step: generated loops for windows that tile the input, torch's kernels otherwise.

Tiles cover the input without overlap. If they are small, and the channels are innermost and a multiple of 16,
maxima and indices are plain loops over the channels, three to five times as fast as torch's kernels, which
write int64 indices and first fill the gradient with zeros. For other windows, Inductor would compute each
maximum twice, for its value and for its index, and scatter the gradients with a general operation; so these
use torch's kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from trainer.training.engines.inductor.materialize import stored

_LANES = 16  # channels per loop iteration; a remainder makes it slower than torch's kernels
_LARGEST_TILE = 16  # pixels: each adds a few lines to the program

_torch: Any = torch  # these parts of torch have no type hints
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
    """Return the decompositions of aten's max pooling for make_fx. Importing Inductor takes seconds."""
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
    return {_forward: _pool, _backward: _pass_back}


def _pool(x: Tensor, kernel_size: Sequence[int], *window: Any) -> Any:
    """Return the maxima over windows and their indices, as `max_pool2d_with_indices` does."""
    if not _suits_loops(x, kernel_size, *window):
        return _torch.ops.optlab.max_pool2d.default(x, kernel_size, *window)
    height, width = tile = _pair(kernel_size)
    maxima, positions = _maxima(x, tile)
    _, rows, columns, _ = maxima.shape
    row = torch.arange(rows).view(-1, 1, 1) * height + positions.long() // width
    column = torch.arange(columns).view(-1, 1) * width + positions.long() % width
    indices = row * (columns * width) + column  # removed from the program if unused
    return maxima.permute(0, 3, 1, 2), indices.permute(0, 3, 1, 2)


def _pass_back(gradient: Tensor, x: Tensor, kernel_size: Sequence[int], *window: Any) -> Any:
    """Return the gradient of x, in channels-last format if x has it."""
    if _suits_loops(x, kernel_size, *window):
        return _pass_back_to_tiles(gradient, x, _pair(kernel_size))
    if x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last):
        gradient = gradient.contiguous(memory_format=torch.channels_last)
    return _torch.ops.optlab.max_pool2d_backward.default(gradient, x, kernel_size, *window)


def _suits_loops(
    x: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1),
    *_: Any,
) -> bool:
    height, width = tile = _pair(kernel_size)
    return (
        x.ndim == 4
        and x.is_contiguous(memory_format=torch.channels_last)
        and x.shape[1] % _LANES == 0
        and 1 < height * width <= _LARGEST_TILE
        and x.shape[2] % height == 0
        and x.shape[3] % width == 0
        and (not stride or _pair(stride) == tile)
        and _pair(padding) == (0, 0)
        and _pair(dilation) == (1, 1)
    )


def _pair(sizes: Sequence[int]) -> tuple[int, int]:
    """Return (height, width) from two sizes, or from one for both."""
    return sizes[0], sizes[-1]


def _maxima(x: Tensor, tile: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return the maximum of each tile and its index in the tile, in row-major order.

    As in torch, the first of equal values is selected; if a tile holds NaN, the last NaN.

    Args:
        x: [N, C, H, W], with the channels innermost.
        tile: height and width of a tile.

    Returns:
        Both are [N, rows, columns, C], with x's type: Inductor's loops then use the same number of lanes.
    """
    height, width = tile
    count, channels, all_rows, all_columns = x.shape
    tiles = x.permute(0, 2, 3, 1).view(
        count, all_rows // height, height, all_columns // width, width, channels
    )
    maxima = tiles[:, :, 0, :, 0]
    positions = torch.zeros_like(maxima)
    for position in range(1, height * width):
        value = tiles[:, :, position // width, :, position % width]
        larger = (value > maxima) | value.ne(value)  # isnan() is not vectorized
        maxima = torch.where(larger, value, maxima)
        positions = torch.where(larger, float(position), positions)
    return maxima, stored(positions)


def _pass_back_to_tiles(gradient: Tensor, x: Tensor, tile: tuple[int, int]) -> Tensor:
    """Return the gradient of x. Inductor computes the indices once, in the forward pass."""
    height, width = tile
    _, positions = _maxima(x, tile)
    gradient = gradient.permute(0, 2, 3, 1)
    if not gradient.is_contiguous():
        gradient = stored(gradient.contiguous())
    numbers = torch.arange(height * width, dtype=x.dtype).view(height, 1, width, 1)
    chosen = positions[:, :, None, :, None] == numbers
    count, rows, columns, channels = gradient.shape
    tiled = torch.where(chosen, gradient[:, :, None, :, None], 0.0)
    return tiled.reshape(count, rows * height, columns * width, channels).permute(0, 3, 1, 2)
