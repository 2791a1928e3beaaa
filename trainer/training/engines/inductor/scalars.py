"""Make a compiled step compute scalars once instead of for each element of a parameter.

Inductor inlines 0-d values into each loop that reads them, and C++ compilers cannot hoist powers and square
roots out of a loop, because they may set errno. Adam's bias corrections would take four times as long as the
rest of its update.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule

from trainer.training.engines.inductor.materialize import operation

_torch: Any = torch  # these parts of torch have no type hints
_aten = _torch.ops.aten


def compute_once(graph: GraphModule) -> None:
    """Store each float64 scalar before the tensors that are computed from it.

    Division by a scalar becomes multiplication by its reciprocal: Adam's update takes a fifth less time, and
    only the last bits of a float32 change if scalar and reciprocal are in its range (1e-38 to 1e38).

    Args:
        graph: a traced step, modified in place; its nodes carry the shapes of their values.
    """
    for node in list(graph.graph.nodes):
        if node.op != "call_function" or not _is_number(node.meta.get("val")):
            continue
        readers = [user for user in node.users if _dimensions(user)]
        divided = [user for user in readers if user.target is _aten.div.Tensor and user.args[1] is node]
        others = [user for user in readers if user not in divided]
        if others:
            number = _call(graph, operation(), node)
            for user in others:
                user.replace_input_with(node, number)
        if divided:
            number = _call(graph, operation(), _call(graph, _aten.reciprocal.default, node))
            for user in divided:
                user.target = _aten.mul.Tensor
                user.replace_input_with(node, number)
    graph.recompile()


def _call(graph: GraphModule, target: Any, node: Any) -> Any:
    """Insert a call of `target` on a node directly after the node; return the new node."""
    with graph.graph.inserting_after(node):
        call = graph.graph.call_function(target, (node,))
    call.meta = dict(node.meta)
    return call


def _is_number(value: object) -> bool:
    return isinstance(value, Tensor) and value.ndim == 0 and value.dtype is torch.float64


def _dimensions(node: Any) -> int:
    value = node.meta.get("val")
    return value.ndim if isinstance(value, Tensor) else 0
