"""Import the object of an import path, and check that it can be a component of the required kind.

A config may come from an untrusted source. A config that names `os:system` or `shutil:rmtree` as a model must
not call it, so the class or signature of an imported object is checked before it is called with values of the
config. Importing a user's file executes it; `validate`, `--dry-run` and `resume` say so beforehand.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import re
import sys
import typing
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from importlib.machinery import SourceFileLoader
from itertools import pairwise
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

import torch.utils.data
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from trainer.config.identity import file_digest, source_files
from trainer.config.paths import ImportPath, split_import_path
from trainer.data.dataset import Dataset
from trainer.errors import ConfigError, nearest
from trainer.metrics import Metric
from trainer.seeding import global_stream
from trainer.user_code import code_location, describe_error, user_code

Builder = Callable[..., Any]

# Modules of the standard library whose functions compute numbers and do nothing else.
_ARITHMETIC = frozenset({"math", "operator", "statistics"})

_CLASSES: dict[str, tuple[type, ...]] = {
    "model": (nn.Module,),
    "loss": (nn.Module,),
    "optimizer": (Optimizer,),
    "scheduler": (LRScheduler,),
    "dataset": (Dataset, torch.utils.data.Dataset),
    "metric": (Metric,),
}

_TARGETS = {"target", "targets", "y_true", "true", "y", "label", "labels"}

# Parameters that show which kind of component a function builds.
_PARAMETERS = {
    "model": {"input_shape", "num_classes"},
    "loss": _TARGETS,
    "metric": _TARGETS,
    "optimizer": {"params", "parameters", "named_parameters"},
    "scheduler": {"optimizer"},
    "init": {"tensor"},
    "augmentation": {"images", "inputs"},
    "tracker": {"run"},
}

_EXPECTED = {
    "model": "a torch.nn.Module class, or a function with a parameter input_shape or num_classes, or with a "
    "module as its annotated return type",
    "loss": "a torch.nn.Module class, or a function of (outputs, targets)",
    "metric": "a trainer.metrics.Metric, or a function of (outputs, targets)",
    "optimizer": "a subclass of torch.optim.Optimizer, or a function that takes params or named_parameters, "
    "or has an optimizer as its annotated return type",
    "scheduler": "a class with the method step, or a function, that takes optimizer",
    "dataset": "a torch.utils.data.Dataset class, or a function with one as its annotated return type",
    "augmentation": "a class with the methods draw and apply, or a function of images",
    "init": "a function with a parameter tensor, as those of torch.nn.init",
    "tracker": "a function with a parameter run",
}


def find_object(text: str, kind: str | None = None) -> Builder:
    """Import and return the object of `/absolute/file.py:thing` or `package.module:thing`.

    Args:
        text: the import path.
        kind: the required kind of component; None = any, or a function used as an option, as `lr_lambda`.

    Raises:
        ConfigError: the object cannot be imported, does not exist, or cannot be a component of that kind;
            `key` is "name".
    """
    path = split_import_path(text)
    assert path is not None, text
    if path.is_file:
        module = _import_file(Path(path.source))
    else:
        _refuse_standard_library(path)
        module = _import_module(path.source)
    with user_code(text):
        component: Builder | None = getattr(module, path.attribute, None)
    is_package = not path.is_file and hasattr(module, "__path__")
    if (
        component is None
        and kind in (None, "model")
        and is_package
        and importlib.util.find_spec(f"{path.source}.models")
    ):
        module = _import_module(f"{path.source}.models")
        component = getattr(module, path.attribute, None)
    if component is None:
        own = [
            name
            for name, thing in vars(module).items()
            if getattr(thing, "__module__", "") == module.__name__
        ]
        near = nearest(path.attribute, [name for name in vars(module) if not name.startswith("_")])
        raise ConfigError(
            f"{path.source} has no {path.attribute!r}",
            key="name",
            expected=f"one of {', '.join(own)}" if own else "a class or a function defined there",
            fix=f"did you mean {near}?" if near else "",
        )
    if not callable(component):
        raise ConfigError(
            f"{text} is a {type(component).__name__}", key="name", expected="a class or a function"
        )
    written_there = path.is_file and getattr(component, "__module__", None) == module.__name__
    if not written_there:
        _refuse_misfit(component, text, kind)
    return component


def _refuse_standard_library(path: ImportPath) -> None:
    top = path.source.split(".")[0]
    if top in sys.stdlib_module_names and top not in _ARITHMETIC:
        raise ConfigError(
            f"{path.source} is part of Python's standard library, which has no components for experiments",
            key="name",
            expected="your own file, as my_file.py:Thing, or an installed package",
        )


def _refuse_misfit(component: Builder, text: str, kind: str | None) -> None:
    """Raise ConfigError if an object of a package cannot be a component of that kind."""
    if kind is None:
        origin = (getattr(component, "__module__", None) or "").split(".")[0]
        if origin in sys.stdlib_module_names - _ARITHMETIC:
            raise ConfigError(f"{text} comes from Python's standard library ({origin})", key="name")
        return
    if not fits(component, kind):
        raise ConfigError(
            f"{text} cannot be a component of kind {kind}", key="name", expected=_EXPECTED.get(kind, "")
        )


def fits(component: Builder, kind: str) -> bool:
    """Return whether a class or a function, by its parameters and annotation, can be of a kind."""
    if isinstance(component, type):
        return issubclass(component, _CLASSES.get(kind, ())) or _has_methods(component, kind)
    if not inspect.isfunction(component):
        return kind == "metric" and isinstance(component, Metric)
    if set(inspect.signature(component).parameters) & _PARAMETERS.get(kind, set()):
        return True
    try:
        returned = typing.get_type_hints(component).get("return")
    except Exception:  # ignore annotations that cannot be evaluated
        return False
    return isinstance(returned, type) and (
        issubclass(returned, _CLASSES.get(kind, ())) or _has_methods(returned, kind)
    )


def _has_methods(cls: type, kind: str) -> bool:
    methods = {"augmentation": ("draw", "apply"), "scheduler": ("step",)}.get(kind)
    if methods is None or not all(callable(getattr(cls, name, None)) for name in methods):
        return False
    return kind != "scheduler" or "optimizer" in inspect.signature(cls).parameters


def _import_file(file: Path) -> ModuleType:
    """Import a user's file with its path as module name; import it again if it or its imports have changed.

    During the import, its folder is first in `sys.path`, as with `python file.py`. Modules imported from that
    folder are then removed from `sys.modules`, because files of other folders may use the same names.
    """
    module_name = f"optlab_user:{file}"
    if _in_standard_library(file):
        raise ConfigError(
            f"{file} belongs to an installation of Python",
            key="name",
            expected="your own file, or package.module:Thing for an installed package",
        )
    if not file.is_file():
        raise ConfigError(
            f"there is no file {file}", key="name", expected="a Python file, as my_file.py:Thing"
        )
    sources = {source: file_digest(source) for source in source_files(file)}
    known = sys.modules.get(module_name)
    if known is not None and vars(known).get(_SOURCES) == sources:
        return known
    loader = _SourceLoader(module_name, str(file))
    spec = importlib.util.spec_from_file_location(module_name, file, loader=loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    vars(module)[_SOURCES] = sources
    sys.modules[module_name] = module
    try:
        # Random numbers must not depend on which run of a process imports the file first.
        with _folder_first(file.parent, sources), global_stream("import", 0):
            loader.exec_module(module)
    except BaseException as error:
        sys.modules.pop(module_name, None)
        if isinstance(error, KeyboardInterrupt):
            raise
        raise _import_failure(str(file), error) from error
    return module


class _SourceLoader(SourceFileLoader):
    """Compiles the source: a cached .pyc file may be that of a version of equal size and time of change."""

    def get_code(self, fullname: str) -> CodeType:
        """Return the code of the source."""
        code: CodeType = self.source_to_code(self.get_data(self.path), self.path)
        return code


def _in_standard_library(file: Path) -> bool:
    """Return whether a file is in the library folder of a Python installation."""
    return any(
        part in ("site-packages", "dist-packages") or (above.startswith("lib") and _LIBRARY.fullmatch(part))
        for path in (file, file.resolve())
        for above, part in pairwise(path.parts[:-1])
    )


_LIBRARY = re.compile(r"python\d+\.\d+t?")
_SOURCES = "__optlab_sources__"


@contextmanager
def _folder_first(folder: Path, sources: Collection[Path]) -> Iterator[None]:
    """Allow imports from a folder for the block; remove modules of `sources` from `sys.modules` after it."""
    before = set(sys.modules)
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        with suppress(ValueError):  # the user's file may have removed it
            sys.path.remove(str(folder))
        for name in sys.modules.keys() - before:
            source = getattr(sys.modules[name], "__file__", None)
            if source and Path(source) in sources and ":" not in name:
                del sys.modules[name]


def _import_module(name: str) -> ModuleType:
    try:
        with global_stream("import", 0):
            return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or f"{name}.".startswith(f"{error.name}."):
            raise ConfigError(
                f"there is no module {name}", key="name", fix="install it, or use my_file.py:Thing"
            ) from error
        raise _import_failure(name, error) from error
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise _import_failure(name, error) from error


def _import_failure(source: str, error: BaseException) -> ConfigError:
    """Return an error with the user's error and its line."""
    path = split_import_path(f"{source}:_")
    location = code_location(error, path) or source
    return ConfigError(
        f"{source} cannot be imported: it {describe_error(error)} ({location})",
        key="name",
        fix=f"correct {location}",
    )
