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

from trainer.engines.stored import stored


def compute_once(graph: GraphModule) -> None:
    """Have every number in float64 that a larger tensor is computed from stored before it is read.

    Args:
        graph: a traced step, changed in place; its nodes carry their values' shapes.
    """
    for node in list(graph.graph.nodes):
        readers = [user for user in node.users if _dimensions(user)]
        if node.op == "call_function" and _is_number(node.meta.get("val")) and readers:
            with graph.graph.inserting_after(node):
                number = graph.graph.call_function(stored(), (node,))
            number.meta = dict(node.meta)
            for user in readers:
                user.replace_input_with(node, number)
    graph.recompile()


def _is_number(value: object) -> bool:
    return isinstance(value, Tensor) and value.ndim == 0 and value.dtype is torch.float64


def _dimensions(node: Any) -> int:
    value = node.meta.get("val")
    return value.ndim if isinstance(value, Tensor) else 0
