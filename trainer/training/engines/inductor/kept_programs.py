"""Compiled programs kept on disk, so that another process can run them without importing Inductor.

Importing Inductor takes seconds, and tracing and generating code more. A program of Inductor is a Python
function that calls compiled kernels, in extension modules, and torch's operations. This module saves the
source of that function, copies of the kernels, and where torch has the other names that the function uses. A
program that uses anything else is not kept.

A program is in a folder of its own, in the folder of torch's compiler cache. Deleting it is safe.
"""

from __future__ import annotations

import ast
import fcntl
import hashlib
import inspect
import json
import os
import shutil
import tempfile
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from importlib.machinery import ExtensionFileLoader
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch._inductor.runtime.cache_dir_utils import cache_dir

from trainer.training.engines.inductor import matmul, microkernel

Program = Callable[[list[Any]], Sequence[Tensor]]

_FORMAT = 1
_DESCRIPTION, _CONSTANTS = "program.json", "constants.pt"
_KERNEL = "kernel"  # the name of the function in Inductor's extension modules
_EXTERN = "extern_kernels"  # the name of Inductor's collection of other functions

_torch: Any = torch  # these parts of torch have no type hints


@dataclass(frozen=True, slots=True)
class Verdict:
    """The comparison of a program with eager steps.

    Attributes:
        reason: why the program must not be used; None if it agrees.
        compared: number of compared steps.
        deviation: the largest relative deviation.
        seconds: measured times: `compile`, and per step of the engines `eager` and `compiled`.
    """

    reason: str | None
    compared: int
    deviation: float
    seconds: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class KeptProgram:
    """A program and the verdict on it; a program that does not agree is None."""

    program: Program | None
    verdict: Verdict


@contextmanager
def exclusive(key: str | None) -> Iterator[None]:
    """Wait until no other process makes the program of this key, and keep others waiting in the block."""
    with ExitStack() as stack:
        if key is not None:
            with suppress(OSError):  # a folder that cannot be written, or a file system without locks
                root().mkdir(parents=True, exist_ok=True)
                file = stack.enter_context(open(root() / f"{key}.lock", "a", encoding="utf-8"))
                fcntl.flock(file, fcntl.LOCK_EX)
        yield


def load(key: str) -> KeptProgram | None:
    """Return the kept program; None if there is none. One that is damaged or another user's is deleted."""
    folder = root() / key
    if not folder.is_dir():
        return None
    try:
        return _load(folder, key)
    except Exception:  # whatever is wrong with it, it can be made again
        _discard(folder)
        return None


def read_verdict(key: str) -> Verdict | None:
    """Return the verdict on a kept program without loading the program; None if there is none."""
    try:
        return _verdict(_read_description(root() / key, key))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def save(key: str, program: Program | None, constants: Sequence[Tensor], verdict: Verdict) -> bool:
    """Keep a program; return False if that is not possible.

    Args:
        key: identifies everything that the program depends on.
        program: the program as Inductor returns it; None if the verdict is negative.
        constants: first arguments of the program, which `load` binds.
        verdict: the verdict.
    """
    parts = _Parts()
    if program is not None and not parts.read(program, constants):
        return False
    try:
        folder = Path(tempfile.mkdtemp(prefix=f"{key}.", dir=root()))
    except OSError:
        return False
    try:
        parts.write(folder)
        description = {
            "format": _FORMAT,
            "key": key,
            "function": parts.function,
            "source": parts.source,
            "names": parts.names,
            "files": {path.name: _digest(path.read_bytes()) for path in folder.iterdir()},
            "verdict": {name: getattr(verdict, name) for name in Verdict.__slots__},
        }
        text = json.dumps(description)
        (folder / _DESCRIPTION).write_text(f"{_digest(text.encode())}\n{text}", encoding="utf-8")
        _discard(root() / key)
        folder.rename(root() / key)
    except OSError:
        _discard(folder)
        return False
    return True


def root() -> Path:
    """Return the folder of all kept programs."""
    return Path(cache_dir()) / "optlab"


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _discard(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


# ---- saving


@dataclass(slots=True)
class _Parts:
    """What a program consists of.

    Attributes:
        function: the name of its function.
        source: the source of this function.
        names: global name -> how to get its value: its kind, and a path, a file or a number.
        kernels: file name in the folder -> extension module.
        constants: name -> tensor; the first arguments are named by their position.
    """

    function: str = ""
    source: str = ""
    names: dict[str, list[Any]] = field(default_factory=dict)
    kernels: dict[str, str] = field(default_factory=dict)
    constants: dict[str, Tensor] = field(default_factory=dict)

    def read(self, program: Program, constants: Sequence[Tensor]) -> bool:
        """Read the parts of a program; return False if it uses something that cannot be kept."""
        function = getattr(program, "__func__", program)
        if not inspect.isfunction(function) or function.__closure__:
            return False
        try:
            self.function = function.__name__
            self.source = textwrap.dedent(inspect.getsource(function))
            tree = ast.parse(self.source)
        except (OSError, SyntaxError):
            return False
        self.constants = {str(number): value for number, value in enumerate(constants)}
        used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        for name in sorted(used & function.__globals__.keys()):
            value = function.__globals__[name]
            found = self._extern(tree, value) if name == _EXTERN else {name: self._origin(name, value)}
            if None in found.values():
                return False
            self.names |= {key: origin for key, origin in found.items() if origin is not None}
        return True

    def _extern(self, tree: ast.AST, collection: Any) -> dict[str, list[Any] | None]:
        """Return the origins of the functions of `extern_kernels` that the source calls."""
        called = {
            node.attr
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id == _EXTERN
        }
        return {f"{_EXTERN}.{name}": self._origin(name, getattr(collection, name)) for name in sorted(called)}

    def _origin(self, name: str, value: Any) -> list[Any] | None:
        """Return how to get a global of the program; None if unknown."""
        if isinstance(value, ModuleType) and value.__name__ in ("torch", "math"):
            return ["module", value.__name__]
        if isinstance(value, Tensor):
            self.constants[name] = value
            return ["constant", name]
        if isinstance(value, int | float | str):
            return ["value", value]
        kind, kernel = "kernel", value
        if value is matmul.by_microkernel:
            kind, kernel = "product", microkernel.kernel()
        module = getattr(kernel, "__self__", None)
        if isinstance(module, ModuleType) and kernel.__name__ == _KERNEL:
            file = f"{len(self.kernels)}.so"
            self.kernels[file] = str(module.__file__)
            return [kind, file]
        path = next((p.format(name) for p in _PLACES if _value_at(p.format(name)) is value), None)
        return None if path is None else ["path", path]

    def write(self, folder: Path) -> None:
        """Write the kernels and the constants."""
        for name, path in self.kernels.items():
            shutil.copyfile(path, folder / name)
        if self.constants:
            torch.save(self.constants, folder / _CONSTANTS)


_PLACES = ("{}", "ops.{}", "_C._dynamo.guards.{}", "_C._dynamo.guards._{}", "ops.inductor._{}")
"""Places of the names of a program in torch."""


def _value_at(path: str) -> Any:
    value = _torch
    for part in path.split("."):
        value = getattr(value, part, None)
    return value


# ---- loading


def _load(folder: Path, key: str) -> KeptProgram:
    description = _read_description(folder, key)
    verdict = _verdict(description)
    for name, digest in description["files"].items():
        if _digest((folder / name).read_bytes()) != digest:
            raise ValueError(f"{name} is damaged")
    if verdict.reason is not None:
        return KeptProgram(None, verdict)
    constants: dict[str, Tensor] = {}
    if _CONSTANTS in description["files"]:
        constants = torch.load(folder / _CONSTANTS, weights_only=True)
    namespace: dict[str, Any] = {}
    extern: dict[str, Any] = {}
    for name, (kind, content) in description["names"].items():
        head, _, leaf = name.rpartition(".")
        (extern if head else namespace)[leaf] = _resolve(kind, content, folder, constants)
    namespace[_EXTERN] = type(_EXTERN, (), {name: staticmethod(value) for name, value in extern.items()})
    exec(compile(description["source"], str(folder / _DESCRIPTION), "exec"), namespace)
    return KeptProgram(_bound(namespace[description["function"]], constants), verdict)


def _bound(function: Any, constants: Mapping[str, Tensor]) -> Program:
    """Return the function with its first arguments: `self`, which it does not use, and constants."""
    if inspect.getfullargspec(function).args[0] == "self":
        function = partial(function, None)
    first = [value for name, value in constants.items() if name.isdigit()]
    if not first:
        program: Program = function
        return program
    return lambda values: function([*first, *values])


def _resolve(kind: str, content: Any, folder: Path, constants: Mapping[str, Tensor]) -> Any:
    if kind == "module":
        return {"torch": torch, "math": __import__("math")}[content]
    if kind == "constant":
        return constants[content]
    if kind == "value":
        return content
    if kind == "path":
        return _value_at(content)
    kernel = _kernel(folder / content)
    return partial(matmul.multiply_with, kernel) if kind == "product" else kernel


def _kernel(path: Path) -> Any:
    """Return the function of an extension module of Inductor."""
    address = _torch._C._dynamo.guards._torchinductor_pyobject_tensor_data_ptr
    os.environ["_TORCHINDUCTOR_PYOBJECT_TENSOR_DATA_PTR"] = str(address)  # the module reads it
    spec = spec_from_file_location(_KERNEL, path, loader=ExtensionFileLoader(_KERNEL, str(path)))
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, _KERNEL)


def _read_description(folder: Path, key: str) -> dict[str, Any]:
    """Return the description of a program of this user; raise ValueError if it is another's or damaged."""
    if folder.stat().st_uid != os.getuid():
        raise ValueError("it belongs to another user")
    digest, _, text = (folder / _DESCRIPTION).read_text(encoding="utf-8").partition("\n")
    if digest != _digest(text.encode()):
        raise ValueError("its description is damaged")
    description: dict[str, Any] = json.loads(text)
    if (description["format"], description["key"]) != (_FORMAT, key):
        raise ValueError("it is another program")
    return description


def _verdict(description: Mapping[str, Any]) -> Verdict:
    return Verdict(**description["verdict"])
