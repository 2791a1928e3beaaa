"""Save and restore the complete state of an optimizer of a user or of another package, without pickle.

`torch.optim.Optimizer.state_dict` has the state by parameter and the groups. It lacks the optimizer's own
attributes (a step count, slow weights, a generator) and, on loading, changes the dtype of tensors and
replaces objects that a wrapper shares with its inner optimizer. Here every attribute is saved, nested
optimizers and helper objects included, and values are restored in place, so that shared objects stay shared.

A saved state has only tensors and plain values. Values that cannot be saved (functions, modules, files) are
left out; a newly built optimizer has its own. The rehearsal before a run checks that this suffices.
"""

from __future__ import annotations

import random
import sys
import types
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Sequence
from typing import Any

import numpy
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

_KIND = "__optlab__"
_PLAIN = (bool, int, float, complex, str, bytes, type(None))
_SEQUENCES: dict[str, Callable[[list[Any]], Any]] = {"set": set, "frozenset": frozenset, "tuple": tuple}
_NOT_SAVED = object()
_RANDOM_STATES = {
    torch.Generator: ("get_state", "set_state"),
    random.Random: ("getstate", "setstate"),
    numpy.random.RandomState: ("get_state", "set_state"),
}


def is_torchs(optimizer: object) -> bool:
    """Return whether the class is one of torch or of this package, whose `state_dict` is complete."""
    return (type(optimizer).__module__ or "").partition(".")[0] in ("torch", "trainer")


def save(optimizer: Optimizer, parameters: Sequence[Tensor]) -> dict[str, Any]:
    """Return the state of an optimizer as tensors and plain values.

    Args:
        optimizer: any optimizer; the `state_dict` of torch's is complete and returned unchanged.
        parameters: all parameters of the model, in its order.
    """
    if is_torchs(optimizer):
        return optimizer.state_dict()
    saver = _Saver({id(parameter): index for index, parameter in enumerate(parameters)})
    return {"attributes": saver.attributes(optimizer)}


def restore(optimizer: Optimizer, state: dict[str, Any], parameters: Sequence[Tensor]) -> None:
    """Restore a state returned by `save`, into an optimizer built with the same options.

    Args:
        optimizer: the optimizer.
        state: the saved state.
        parameters: all parameters of its model, in the order of the model.
    """
    if set(state) != {"attributes"}:  # torch's own, or a checkpoint of an earlier release
        optimizer.load_state_dict(state)
        return
    with torch.no_grad():
        _Restorer(parameters, _package(type(optimizer))).entries(state["attributes"], vars(optimizer))


class _Saver:
    """Converts values to tensors and plain values; a value that occurs twice is saved once."""

    def __init__(self, parameters: dict[int, int]) -> None:
        self._parameters = parameters
        self._seen: dict[int, Any] = {}  # keeps the values, so that no id is used twice

    def attributes(self, thing: object) -> dict[str, Any]:
        """Return the attributes of an object that can be saved."""
        self._seen[id(thing)] = thing
        return self._entries(vars(thing))

    def _entries(self, values: dict[Any, Any]) -> dict[str, Any]:
        saved = [(self._key(key), self.value(value)) for key, value in values.items()]
        pairs = [[key, value] for key, value in saved if key is not _NOT_SAVED and value is not _NOT_SAVED]
        return {_KIND: "entries", "items": pairs, "left_out": len(saved) - len(pairs)}

    def _key(self, key: Any) -> Any:
        # Some optimizers use id(parameter) as the key of its state.
        is_id = type(key) is int and key in self._parameters
        return {_KIND: "parameter_id", "index": self._parameters[key]} if is_id else self.value(key)

    def value(self, value: Any) -> Any:
        """Return the saved form of a value; `_NOT_SAVED` if it has none."""
        if type(value) in _PLAIN:
            return value
        if id(value) in self._parameters:
            return {_KIND: "parameter", "index": self._parameters[id(value)]}
        if isinstance(value, Tensor | dict | list | deque) or _is_object(value):
            if id(value) in self._seen:
                return {_KIND: "shared"}
            self._seen[id(value)] = value
        if isinstance(value, Tensor):
            tensor = value.detach()
            return tensor if tensor.device.type == "cpu" else {_KIND: "on_device", "values": tensor}
        if isinstance(value, dict):
            return {**self._entries(value), "ordered": isinstance(value, OrderedDict)}
        if isinstance(value, list | tuple | set | frozenset | deque):
            return self._sequence(value)
        if isinstance(value, torch.dtype | torch.device):
            return {_KIND: type(value).__name__, "name": str(value).removeprefix("torch.")}
        if isinstance(value, numpy.ndarray | numpy.generic) and value.dtype.kind in "biufc":
            array = torch.from_numpy(numpy.array(value))
            return {_KIND: "array", "values": array, "is_array": isinstance(value, numpy.ndarray)}
        for kind, (get, _) in _RANDOM_STATES.items():
            if isinstance(value, kind):
                return {_KIND: "random", "state": self.value(getattr(value, get)())}
        if not _is_object(value):
            return _NOT_SAVED
        names = {"module": type(value).__module__, "class": type(value).__qualname__}
        return {_KIND: "object", **names, "attributes": self._entries(vars(value))}

    def _sequence(self, values: Any) -> Any:
        saved = [self.value(value) for value in values]
        if any(value is _NOT_SAVED for value in saved):
            return _NOT_SAVED
        if type(values) is list:
            return saved
        kind = next(
            (name for name in ("set", "frozenset", "deque") if type(values).__name__ == name), "tuple"
        )
        return {_KIND: kind, "items": saved, "longest": getattr(values, "maxlen", None)}


class _Restorer:
    """Restores saved values into the objects of a newly built optimizer.

    Args:
        parameters: all parameters of the model.
        package: the package of the optimizer; only objects of its classes are created.
    """

    def __init__(self, parameters: Sequence[Tensor], package: str) -> None:
        self._parameters = parameters
        self._package = package

    def entries(self, saved: dict[str, Any], live: dict[Any, Any]) -> None:
        """Restore the entries of a dict in place; remove those that the saved one did not have."""
        keys = []
        for saved_key, saved_value in saved["items"]:
            key = self.value(saved_key)
            keys.append(key)
            value = self.value(saved_value, live.get(key))
            if value is not _NOT_SAVED:
                live[key] = value
        if not saved["left_out"]:
            for key in [key for key in live if not any(key is kept or _equal(key, kept) for kept in keys)]:
                del live[key]

    def value(self, saved: Any, live: Any = None) -> Any:
        """Return a saved value; the live object with the same place in the optimizer is changed in place."""
        if isinstance(saved, Tensor):
            return _into(saved, live)
        if isinstance(saved, list):
            values = self._items(saved, live)
            if values is _NOT_SAVED or type(live) is not list:
                return values
            live[:] = values
            return live
        if not isinstance(saved, dict):
            return saved
        kind = saved[_KIND]
        if kind == "parameter":
            return self._parameters[saved["index"]]
        if kind == "parameter_id":
            return id(self._parameters[saved["index"]])
        if kind == "shared":
            return _NOT_SAVED
        if kind == "on_device":
            return _into(saved["values"].to(self._parameters[0].device), live)
        if kind == "entries":
            target = live if isinstance(live, dict) else OrderedDict() if saved["ordered"] else {}
            self.entries(saved, target)
            return target
        if kind == "object":
            thing = live if _is_object(live) else self._new(saved)
            if thing is not _NOT_SAVED:
                self.entries(saved["attributes"], vars(thing))
            return thing
        if kind == "random":
            return self._random(saved, live)
        if kind == "array":
            array = saved["values"].numpy()
            return array if saved["is_array"] else array[()]
        if kind == "dtype":
            return getattr(torch, saved["name"])
        if kind == "device":
            return torch.device(saved["name"])
        items = self._items(saved["items"], live)
        if items is _NOT_SAVED:
            return items
        return deque(items, saved["longest"]) if kind == "deque" else _SEQUENCES[kind](items)

    def _items(self, saved: list[Any], live: Any) -> Any:
        """Return the items of a sequence as a list; `_NOT_SAVED` if one of them is neither saved nor live."""
        same = isinstance(live, list | tuple) and len(live) == len(saved)
        values = []
        for index, item in enumerate(saved):
            value = self.value(item, live[index] if same else None)
            if value is _NOT_SAVED and not same:
                return _NOT_SAVED
            values.append(live[index] if value is _NOT_SAVED else value)
        return values

    def _new(self, saved: dict[str, Any]) -> Any:
        """Return an object without attributes of a class of the optimizer's package; nothing is imported."""
        if saved["attributes"]["left_out"]:
            return _NOT_SAVED
        found: Any = sys.modules.get(saved["module"])
        for name in saved["class"].split("."):
            found = getattr(found, name, None)
        if not isinstance(found, type) or _package(found) != self._package:
            return _NOT_SAVED
        thing: Any = object.__new__(found)
        return thing

    def _random(self, saved: dict[str, Any], live: Any) -> Any:
        for kind, (_, set_state) in _RANDOM_STATES.items():
            if isinstance(live, kind):
                getattr(live, set_state)(self.value(saved["state"]))
                return live
        return _NOT_SAVED


def _package(cls: type) -> str:
    """Return the package of a class, or the file of a user's class."""
    return cls.__module__ if ":" in cls.__module__ else cls.__module__.partition(".")[0]


def _into(saved: Tensor, live: Any) -> Tensor:
    """Copy a tensor into the live one, which others may share; return a new one if they do not match."""
    if isinstance(live, Tensor) and live.shape == saved.shape and live.dtype == saved.dtype:
        return live.copy_(saved)
    return saved


def _equal(one: Any, other: Any) -> bool:
    return type(one) is type(other) and not isinstance(one, Tensor) and bool(one == other)


def _is_object(value: Any) -> bool:
    """Return whether a value is an object with attributes of its own, of a user's or another package's class.

    Optimizers of torch count as well: they are the inner ones of wrappers.
    """
    if isinstance(
        value, type | types.ModuleType | types.FunctionType | types.MethodType | nn.Module | Tensor
    ):
        return False
    if isinstance(value, Optimizer):
        return True
    root = (type(value).__module__ or "").partition(".")[0]
    plain = (dict, list, tuple, set, frozenset, deque, defaultdict, *_RANDOM_STATES)
    return root not in ("builtins", "torch", "functools", "_thread", "threading", "weakref") and (
        hasattr(value, "__dict__") and not isinstance(value, plain)
    )
