"""Find the state that a model's Python code can read or change besides parameters and buffers.

A traced program holds the values that Python read during tracing, and does not repeat its changes. This
module finds all state that the code can reach by the names it uses: attributes of modules and other objects,
containers, tensors outside the graph, globals, closures and class attributes. The state can be compared later
and restored. Code that depends on anything else (random numbers, the time, files) cannot be compiled.

Code of torch, numpy, the standard library and this package is not followed.
"""

from __future__ import annotations

import builtins
import dis
import enum
import hashlib
import operator
import random
import re
import sys
import types
import weakref
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import PurePath
from typing import Any

import numpy
import torch
from torch import Tensor, nn

_MAX_OBJECTS = 200_000  # comparing that many takes 0.1 s at each evaluation

_FOLLOWED = {"collections", "functools", "types", "itertools", "dataclasses", "argparse"}  # of the stdlib
_NOT_FOLLOWED = (set(sys.stdlib_module_names) - _FOLLOWED) | {"torch", "torchvision", "numpy", "trainer"}

_OUTSIDE = {"random", "time", "datetime", "secrets", "uuid", "os", "posix", "socket", "subprocess", "_random"}
"""Modules whose functions return different results at each call or in each run."""

_OUTSIDE_BUILTINS = {"open", "input", "eval", "exec", "globals", "locals", "__import__", "id"}

_ATOMS = (
    *(type(None), bool, int, float, complex, str, bytes, range, slice, type(...), type(NotImplemented)),
    *(torch.dtype, torch.device, torch.layout, torch.memory_format, numpy.dtype, numpy.generic),
    *(enum.Enum, PurePath, weakref.ref, types.CodeType),
)
_GENERATORS = (random.Random, numpy.random.Generator, numpy.random.RandomState, numpy.random.BitGenerator)
_ALWAYS_CALLED = {"forward", "backward", "setup_context"}
_NEVER_CALLED = {
    "__repr__",
    "__str__",
    "__reduce__",
    "__reduce_ex__",
    "__getstate__",
    "__setstate__",
    "__del__",
}
_MISSING = object()


@dataclass(frozen=True, slots=True)
class _Location:
    """An object or variable whose content can change.

    Args:
        name: its name in messages.
        read: returns a shallow copy of the content.
        write: restores the content.
        content: the recorded content.
    """

    name: str
    read: Callable[[], Any]
    write: Callable[[Any], None]
    content: Any

    def change(self) -> str | None:
        now = self.read()
        if _same(now, self.content):
            return None
        if isinstance(now, dict) and isinstance(self.content, dict):
            for key in [*self.content, *now]:
                if not _same(now.get(key, _MISSING), self.content.get(key, _MISSING)):
                    return f"{self.name}.{key}" if isinstance(key, str) else f"{self.name}[{key!r}]"
        return self.name


@dataclass(slots=True)
class PythonState:
    """The state that Python code can reach from the given objects.

    Args:
        known: tensors to exclude, because the caller handles them.

    Attributes:
        outside: name of something outside this state that the code's result depends on; None if not found.
        opaque: name of something that cannot be compared and restored; None if not found.
    """

    known: Iterable[Tensor] = ()
    outside: str | None = None
    opaque: str | None = None
    _locations: list[_Location] = field(default_factory=list)
    _seen: dict[int, Any] = field(default_factory=dict)
    _todo: list[tuple[Any, str]] = field(default_factory=list)
    _names: set[str] = field(default_factory=set)
    _globals: set[tuple[int, str]] = field(default_factory=set)
    _classes: list[type] = field(default_factory=list)
    _modules: list[types.ModuleType] = field(default_factory=list)
    _roots: Mapping[str, Any] = field(default_factory=dict)
    _codes: list[tuple[str, types.CodeType]] = field(default_factory=list)
    _unknown: bool = False  # whether something was reached whose state is not recorded

    @classmethod
    def of(cls, roots: Mapping[str, Any], *, known: Iterable[Tensor] = ()) -> PythonState:
        """Record the current state.

        Args:
            roots: name for messages -> object to start from.
            known: tensors to exclude.
        """
        state = cls(known=tuple(known))
        state._seen = {id(tensor): tensor for tensor in state.known}
        state._roots = dict(roots)
        state._todo = [(value, name) for name, value in roots.items()]
        while state._todo or state._reached_by_name():
            value, name = state._todo.pop()
            if id(value) not in state._seen:
                state._seen[id(value)] = value
                state._visit(value, name)
            if len(state._seen) > _MAX_OBJECTS:
                state.opaque = f"more than {_MAX_OBJECTS:,} objects can be reached from its code"
                break
        return state

    def change(self) -> str | None:
        """Return the name of something that has changed; None if nothing has."""
        change = next((change for location in self._locations if (change := location.change())), None)
        return change and re.sub(r"\.(_modules|_buffers|_parameters)\.", ".", change)  # as users name them

    def restore(self) -> None:
        """Restore the recorded state."""
        for location in self._locations:
            if location.change():
                location.write(location.content)

    def fingerprint(self) -> str | None:
        """Return a hash of the recorded state and code, the same in another process; None if there is none.

        Code that is not followed is named only, and the known tensors only by their position.
        """
        numbers = {key: number for number, key in enumerate(self._seen)}
        digest = hashlib.sha256()
        try:
            for name, content in [("", self._roots), *((one.name, one.content) for one in self._locations)]:
                digest.update(f"{name}={_described(content, numbers)}\n".encode())
        except _UnknownError:
            return None
        for name, code in self._codes:
            constants = [repr(value) for value in code.co_consts if not isinstance(value, types.CodeType)]
            digest.update(f"{name}={code.co_names}{code.co_varnames}{constants}\n".encode())
            digest.update(code.co_code)
        return None if self._unknown else digest.hexdigest()

    # ---- values

    def _visit(self, value: Any, name: str) -> None:
        if isinstance(value, _ATOMS):
            return
        if isinstance(value, Tensor):
            self._visit_tensor(value, name)
        elif isinstance(value, numpy.ndarray):
            self._add(name, value.copy, partial(_fill_array, value))
            if value.dtype.hasobject:
                self._mark_opaque(f"{name} (an array of objects)")
        elif isinstance(value, (*_GENERATORS, torch.Generator)):
            self._mark_outside(f"the random generator {name}")
        elif isinstance(value, types.ModuleType):
            self._visit_module(value)
        elif isinstance(value, type):
            self._visit_class(value, constructed=True)
        elif isinstance(value, types.FunctionType):
            self._visit_function(value, name)
        elif isinstance(value, types.MethodType):
            self._push(value.__self__, name)
            self._push(value.__func__, name)
        elif isinstance(value, types.BuiltinFunctionType | types.MethodWrapperType):
            self._visit_builtin(value, name)
        elif isinstance(value, staticmethod | classmethod):
            self._push(value.__func__, name)
        elif isinstance(value, property):
            self._push(value.fget, name)
        else:
            self._visit_object(value, name)

    def _visit_tensor(self, tensor: Tensor, name: str) -> None:
        if tensor.device.type != "meta":
            self._add(name, partial(_content_of, tensor), partial(_fill_tensor, tensor))
        if vars(tensor):
            self._visit_dict(vars(tensor), name)

    def _visit_object(self, value: Any, name: str) -> None:
        """Visit a container or an instance of a class."""
        kind = type(value)
        is_container = True
        if isinstance(value, dict):
            self._visit_dict(value, name)
        elif isinstance(value, list):
            self._add(name, partial(list, value), partial(_fill_list, value))
            self._push_all(value, name)
        elif isinstance(value, deque | set | bytearray):
            self._add(name, partial(_copied, value), partial(_fill, value))
            self._push_all(value if not isinstance(value, bytearray) else (), name)
        elif isinstance(value, tuple | frozenset):
            self._push_all(value, name)
        elif isinstance(value, partial):
            self._push_all((value.func, value.args, value.keywords), name)
        elif isinstance(value, types.MappingProxyType):
            self._push_all(value.values(), name)
        else:
            is_container = False
        root = _root(kind)
        if not is_container and _is_stream(kind):
            self._mark_opaque(f"{name} (a {kind.__name__})")
        of_torch = root == "torch" and not kind.__module__.startswith("torch._")
        is_followed = root not in _NOT_FOLLOWED | {"builtins"} or isinstance(value, nn.Module)
        if not is_followed and (is_container or not of_torch):
            self._unknown = self._unknown or not is_container
            return
        self._visit_class(kind, constructed=False)
        attributes, slots = _attributes_of(value), list(_slots(kind))
        if attributes is not None:
            self._visit_dict(attributes, name)
        if root in _NOT_FOLLOWED:
            return
        if slots:
            self._add(name, partial(_read_slots, value, slots), partial(_write_slots, value))
            self._push_all(_read_slots(value, slots).values(), name)
        if not is_container and not slots and attributes is None:
            self._mark_opaque(f"{name} (a {kind.__name__})")

    def _visit_dict(self, value: dict[Any, Any], name: str) -> None:
        self._add(name, partial(dict, value), partial(_fill_dict, value))
        for key, item in value.items():
            self._push(item, f"{name}.{key}" if isinstance(key, str) else f"{name}[{key!r}]")

    # ---- code

    def _visit_function(self, function: types.FunctionType, name: str) -> None:
        for cell in function.__closure__ or ():
            self._add(f"a variable around {name}", partial(_read_cell, cell), partial(_write_cell, cell))
            self._push(_read_cell(cell), f"a variable around {name}")
        self._push_all((*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()), name)
        if vars(function):
            self._visit_dict(vars(function), function.__qualname__)
        if (function.__module__ or "").partition(".")[0] not in _NOT_FOLLOWED:
            self._visit_code(function.__code__, function.__globals__, function.__qualname__)

    def _visit_code(self, code: types.CodeType, namespace: dict[str, Any], name: str) -> None:
        self._codes.append((name, code))
        for instruction in dis.get_instructions(code):
            if instruction.opname in ("STORE_GLOBAL", "DELETE_GLOBAL"):
                self._mark_outside(f"the global {instruction.argval}, which {name} sets")
            elif instruction.opname == "IMPORT_NAME":
                self._visit_import(str(instruction.argval), name)
            elif instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
                self._visit_global(str(instruction.argval), namespace, name)
        self._names |= set(code.co_names)
        for constant in code.co_consts:
            if isinstance(constant, types.CodeType):
                self._visit_code(constant, namespace, name)

    def _visit_global(self, key: str, namespace: dict[str, Any], name: str) -> None:
        if key in namespace:
            if (id(namespace), key) not in self._globals:
                self._globals.add((id(namespace), key))
                read, write = partial(namespace.get, key, _MISSING), partial(namespace.__setitem__, key)
                self._add(f"the global {key}", read, write)
            self._push(namespace[key], f"the global {key}")
        elif key in _OUTSIDE_BUILTINS and hasattr(builtins, key):
            self._mark_outside(f"{key}(), which {name} calls")

    def _visit_import(self, module: str, name: str) -> None:
        if module in sys.modules:
            self._push(sys.modules[module], module)
        else:
            self._mark_opaque(f"the module {module}, which {name} imports")

    def _visit_module(self, module: types.ModuleType) -> None:
        name = module.__name__
        if name.partition(".")[0] in _OUTSIDE or name.startswith("numpy.random"):
            self._mark_outside(f"the module {name}")
        else:
            self._modules.append(module)

    def _visit_builtin(self, function: Any, name: str) -> None:
        owner = getattr(function, "__self__", None)
        if isinstance(owner, types.ModuleType) and owner is not builtins:
            if owner.__name__.partition(".")[0] in _OUTSIDE:
                self._mark_outside(f"{owner.__name__}.{function.__name__}")
        elif owner is not None and owner is not builtins:
            self._push(owner, name)

    def _visit_class(self, kind: type, *, constructed: bool) -> None:
        if kind.__module__.partition(".")[0] in _OUTSIDE:
            self._mark_outside(f"{kind.__module__}.{kind.__qualname__}")
        for base in kind.__mro__:
            if _root(base) in _NOT_FOLLOWED | _FOLLOWED | {"builtins"}:
                continue
            if not any(base is known for known in self._classes):
                self._classes.append(base)
                self._add(base.__qualname__, partial(_attributes, base), partial(_set_attributes, base))
                for key, item in _attributes(base).items():
                    if not _is_code(item):
                        self._push(item, f"{base.__qualname__}.{key}")
            if constructed:
                self._push_all([vars(base)[key] for key in ("__init__", "__new__") if key in vars(base)], "")

    def _reached_by_name(self) -> bool:
        """Add class and module attributes whose names the code uses; return False if none is new."""
        for base in self._classes:
            for key, item in vars(base).items():
                called = key in self._names or key in _ALWAYS_CALLED or _is_special(key)
                if called and _is_code(item):
                    self._push(item, f"{base.__qualname__}.{key}")
        for module in self._modules:
            followed = module.__name__.partition(".")[0] not in _NOT_FOLLOWED
            for key in sorted(self._names & vars(module).keys()):
                item = vars(module)[key]
                if id(item) in self._seen:
                    continue
                if followed:
                    self._visit_global(key, vars(module), module.__name__)
                elif isinstance(item, types.ModuleType):
                    self._push(item, key)
        self._todo = [(value, name) for value, name in self._todo if id(value) not in self._seen]
        return bool(self._todo)

    # ---- findings

    def _add(self, name: str, read: Callable[[], Any], write: Callable[[Any], None]) -> None:
        try:
            self._locations.append(_Location(name, read, write, read()))
        except Exception:  # for example, a tensor without storage
            self._mark_opaque(name)

    def _push(self, value: Any, name: str) -> None:
        if not isinstance(value, _ATOMS):
            self._todo.append((value, name))

    def _push_all(self, values: Iterable[Any], name: str) -> None:
        for number, value in enumerate(values):
            self._push(value, f"{name}[{number}]" if name else getattr(value, "__qualname__", ""))

    def _mark_outside(self, what: str) -> None:
        self.outside = self.outside or what

    def _mark_opaque(self, what: str) -> None:
        self.opaque = self.opaque or what


class _UnknownError(Exception):
    """A value has no description that is the same in another process."""


def _described(value: Any, numbers: Mapping[int, int]) -> str:
    """Return a description of recorded content, the same in another process.

    Args:
        value: the content, or something in it.
        numbers: id -> position of the objects in the order in which they were visited.
    """
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    if id(value) in numbers and not isinstance(value, tuple | frozenset | partial):
        return f"{kind}#{numbers[id(value)]}" + _name_of(value)
    if isinstance(value, Tensor):
        return f"{kind}:{value.dtype}{list(value.shape)}:{hashlib.sha256(_bytes(value)).hexdigest()}"
    if isinstance(value, numpy.ndarray):
        return f"{kind}:{value.dtype}{value.shape}:{hashlib.sha256(value.tobytes()).hexdigest()}"
    if isinstance(value, partial):
        value = (value.func, value.args, value.keywords)
    if isinstance(value, Mapping):
        pairs = (f"{_described(k, numbers)}:{_described(item, numbers)}" for k, item in value.items())
        return f"{kind}{{{','.join(pairs)}}}"
    if isinstance(value, set | frozenset):
        return f"{kind}{{{','.join(sorted(_described(item, numbers) for item in value))}}}"
    if isinstance(value, list | tuple | deque):
        return f"{kind}[{','.join(_described(item, numbers) for item in value)}]"
    if value is _MISSING:
        return "missing"
    if isinstance(value, _ATOMS) and not isinstance(value, weakref.ref | types.CodeType):
        return f"{kind}:{value!r}"
    if name := _name_of(value):
        return kind + name
    raise _UnknownError


def _name_of(value: Any) -> str:
    """Return the name of a module, a class or a function; an empty string for anything else."""
    if isinstance(value, types.ModuleType):
        return f" {value.__name__}"
    names = type | types.FunctionType | types.BuiltinFunctionType | types.MethodWrapperType
    if isinstance(value, names | types.WrapperDescriptorType | types.MethodDescriptorType):
        return f" {getattr(value, '__module__', '')}.{value.__qualname__}"
    return ""


def is_own(thing: object) -> bool:
    """Return whether an object's class comes from user code or another package, not torch or this package."""
    return _root(type(thing)) not in _NOT_FOLLOWED


def _root(kind: type) -> str:
    return str(getattr(kind, "__module__", "")).partition(".")[0]


def _attributes_of(value: Any) -> dict[str, Any] | None:
    """Return an object's `__dict__` without calling a user's `__getattr__`; None if it has none."""
    try:
        attributes = object.__getattribute__(value, "__dict__")
    except AttributeError:
        return None
    return attributes if isinstance(attributes, dict) else None


def _is_stream(kind: type) -> bool:
    """Return whether instances are open files or iterators whose position cannot be read."""
    root = _root(kind)
    return root == "_io" or (root in ("builtins", "itertools") and hasattr(kind, "__next__"))


def _is_code(item: object) -> bool:
    return isinstance(item, types.FunctionType | staticmethod | classmethod | property)


def _is_special(name: str) -> bool:
    """Return whether Python calls methods of this name implicitly in a forward pass."""
    return name.startswith("__") and name.endswith("__") and name not in _NEVER_CALLED


def _same(one: Any, other: Any) -> bool:
    """Return whether two contents are the same objects or equal plain values."""
    if one is other:
        return True
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return list(one) == list(other) and _all_same(one.values(), other.values())
    if isinstance(one, Tensor):
        return one.dtype == other.dtype and one.shape == other.shape and _bytes(one) == _bytes(other)
    if isinstance(one, numpy.ndarray):
        same_kind = bool(one.dtype == other.dtype) and one.shape == other.shape
        return same_kind and one.tobytes() == other.tobytes()
    if isinstance(one, list | tuple | deque):
        return len(one) == len(other) and _all_same(one, other)
    if isinstance(one, float | complex):
        return repr(one) == repr(other)
    if isinstance(one, bool | int | str | bytes | bytearray | range | slice | PurePath):
        return bool(one == other)
    if isinstance(one, set | frozenset):
        return {id(item) for item in one} == {id(item) for item in other} or _equal_atoms(one, other)
    return False


def _all_same(some: Collection[Any], others: Collection[Any]) -> bool:
    # Usually they are the same objects, which takes a tenth of the time to find out.
    return all(map(operator.is_, some, others)) or all(map(_same, some, others))


def _equal_atoms(one: Iterable[Any], other: Iterable[Any]) -> bool:
    return all(isinstance(item, _ATOMS) for item in one) and bool(one == other)


def _bytes(tensor: Tensor) -> bytes:
    flat = tensor.detach().cpu().contiguous().as_strided((tensor.numel(),), (1,))
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""


def _content_of(tensor: Tensor) -> Tensor:
    return tensor.detach().clone()


def _fill_tensor(tensor: Tensor, content: Tensor) -> None:
    with torch.no_grad():
        tensor.detach().copy_(content)


def _fill_array(array: Any, content: Any) -> None:
    array[...] = content


def _fill_list(target: list[Any], content: list[Any]) -> None:
    target[:] = content


def _fill_dict(target: dict[Any, Any], content: dict[Any, Any]) -> None:
    target.clear()
    target.update(content)


def _copied(value: Any) -> Any:
    return value.copy()


def _fill(target: Any, content: Any) -> None:
    target.clear()
    if isinstance(target, set):
        target.update(content)
    else:
        target.extend(content)


def _read_cell(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # it is empty
        return _MISSING


def _write_cell(cell: Any, content: Any) -> None:
    if content is _MISSING:
        del cell.cell_contents
    else:
        cell.cell_contents = content


def _slots(kind: type) -> Iterator[str]:
    for base in kind.__mro__:
        slots = vars(base).get("__slots__", ())
        yield from (slots,) if isinstance(slots, str) else slots


def _read_slots(value: Any, slots: Iterable[str]) -> dict[str, Any]:
    values = {name: getattr(value, name, _MISSING) for name in slots if not name.startswith("__")}
    return {name: item for name, item in values.items() if item is not _MISSING}


def _write_slots(value: Any, content: dict[str, Any]) -> None:
    for name, item in content.items():
        object.__setattr__(value, name, item)


def _attributes(kind: type) -> dict[str, Any]:
    """Return the attributes defined on a class itself, without dunder names."""
    return {
        key: item for key, item in vars(kind).items() if not (key.startswith("__") and key.endswith("__"))
    }


def _set_attributes(kind: type, content: dict[str, Any]) -> None:
    for key in _attributes(kind).keys() - content.keys():
        delattr(kind, key)
    for key, item in content.items():
        if vars(kind).get(key, _MISSING) is not item:
            setattr(kind, key, item)
