"""Keeps a compiled step from computing the same number again for every element of a parameter.

Inductor writes what has no dimensions into each loop that reads it, and C++ may not take a power or a square
root out of a loop, since they may set errno: Adam's bias corrections would take four times as long as all
else in its update.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule

from trainer.training.engines.inductor.materialize import operation

_torch: Any = torch  # these parts of it have no types
_aten = _torch.ops.aten


def compute_once(graph: GraphModule) -> None:
    """Have every number in float64 that a larger tensor is computed from stored before it is read.

    Tensors that it divides are multiplied by its reciprocal: Adam's whole update takes a fifth less, and of a
    float32 the last bits change alone, as long as number and reciprocal are of its range (1e-38 to 1e38).

    Args:
        graph: a traced step, changed in place; its nodes carry their values' shapes.
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
    """Insert a call of the target on a node's value right after it, and return the call's node."""
    with graph.graph.inserting_after(node):
        call = graph.graph.call_function(target, (node,))
    call.meta = dict(node.meta)
    return call


def _is_number(value: object) -> bool:
    return isinstance(value, Tensor) and value.ndim == 0 and value.dtype is torch.float64


def _dimensions(node: Any) -> int:
    value = node.meta.get("val")
    return value.ndim if isinstance(value, Tensor) else 0
