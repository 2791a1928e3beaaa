"""An operation that stores its input once, where Inductor would recompute it in every loop."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

_torch: Any = torch  # these parts of torch have no type hints
_library = _torch.library.Library("optlab", "FRAGMENT")
_library.define("stored(Tensor x) -> Tensor")
_library.impl("stored", torch.clone, "CPU")
torch.library.register_fake("optlab::stored", torch.empty_like, lib=_library)


def stored(x: Tensor) -> Tensor:
    """Return x, and make a traced program store it."""
    return cast(Tensor, operation()(x))


def operation() -> Any:
    """Return `stored` as a graph operation, registered with Inductor. Importing Inductor takes seconds."""
    from torch._inductor.lowering import lowerings, register_lowering

    stored_op = _torch.ops.optlab.stored.default
    if stored_op not in lowerings:
        register_lowering(stored_op, type_promotion_kind=None)(_lower)
    return stored_op


def _lower(x: Any) -> Any:
    x.realize()  # no copy needed: the graphs that Inductor compiles do not overwrite values
    return x
