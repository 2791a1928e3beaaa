"""Convert exceptions of users' components to errors with the line of the user's code.

A component is a user's if the config names it by an import path. KeyboardInterrupt is not converted.
"""

from __future__ import annotations

import inspect
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from trainer.config.paths import ImportPath, split_import_path
from trainer.errors import ConfigError, DataError, OptlabError, PartError, RunError

_OURS = str(Path(__file__).parent)
_STANDARD_LIBRARY = sysconfig.get_path("stdlib")
_MAX_CHARACTERS = 300
_BEFORE_A_RUN = (ConfigError, DataError, RunError)


@dataclass(frozen=True, slots=True)
class CodeLocation:
    """A line of a user's file and the function that contains it.

    Args:
        file: path of the file.
        line: number of the line, from 1.
        function: dotted name, as `Net.forward`; empty when unknown.
    """

    file: str
    line: int
    function: str = ""

    def __str__(self) -> str:
        """Return `file:line`."""
        return f"{self.file}:{self.line}"


@contextmanager
def user_code(name: str, *, key: str = "name") -> Iterator[None]:
    """Convert exceptions of a user's component in the block to a ConfigError with the line.

    Exceptions of registered components and KeyboardInterrupt are passed on. Do not use it for a block that
    yields: closing a generator raises an exception there.

    Args:
        name: name of the component in the config.
        key: config key of the error, relative to the component.
    """
    path = split_import_path(name)
    try:
        yield
    except (OptlabError, KeyboardInterrupt):
        raise
    except BaseException as error:
        if path is None:
            raise
        message = f"{path.attribute} {describe_with_line(error, name)}"
        raise ConfigError(message, key=key) from error


def compared_arguments(component: Callable[..., Any]) -> tuple[str, ...]:
    """Return the names of the outputs and the targets of a function that is a loss or a metric itself.

    These are its first two parameters, whatever their names. The result is empty for a class, and for a
    function that builds a loss or a metric from options: one without two required positional parameters, or
    one whose annotations say that the first two are numbers or texts.
    """
    if isinstance(component, type):
        return ()
    first = [*inspect.signature(component).parameters.values()][:2]
    positional = all(one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD) for one in first)
    names = tuple(one.name for one in first)
    if len(first) < 2 or not positional:
        return ()
    if names[1] in ("target", "targets"):
        return names
    plain = any(getattr(one.annotation, "__name__", one.annotation) in _PLAIN for one in first)
    required = all(one.default is one.empty for one in first)
    return names if required and not plain else ()


_PLAIN = ("bool", "int", "float", "str")

LOSS_CONTEXT = ("model", "inputs", "outputs")
"""Further arguments that a loss gets if it has parameters of these names: the model, the inputs of the batch,
and what the model returned, as a tuple or a dict."""


def context_arguments(loss: Callable[..., Any]) -> tuple[str, ...]:
    """Return the names of `LOSS_CONTEXT` among the parameters of a loss after its first two."""
    try:
        parameters = inspect.signature(getattr(loss, "forward", loss)).parameters
    except ValueError:  # a function in C without a signature
        return ()
    return tuple(name for name in [*parameters][2:] if name in LOSS_CONTEXT)


@contextmanager
def running(config: Mapping[str, Any]) -> Iterator[None]:
    """Convert exceptions in the block to a `PartError`, except our own errors and KeyboardInterrupt.

    Args:
        config: the config of the experiment that runs in the block.
    """
    try:
        yield
    except (OptlabError, KeyboardInterrupt):
        raise
    except BaseException as error:
        raise as_error(error, config) from error


def as_error(error: BaseException, config: Mapping[str, Any]) -> OptlabError:
    """Return the error to report for an exception that stopped a run.

    Args:
        error: the exception; one of our errors is returned unchanged, unless its type is for errors before a
            run.
        config: the config of the run. If the exception arose outside of users' components, the error names
            them, because one of them may have returned a wrong value.
    """
    if isinstance(error, OptlabError):
        if type(error) not in _BEFORE_A_RUN:
            return error
        # A returned value was checked. Its key is relative to a section that is not known here.
        fix = _suggest_files(config)
        return PartError.of(replace(problem, key="", fix=fix or problem.fix) for problem in error.problems)
    location = code_location(error)
    if location is not None:
        return PartError(f"{location.function or 'your code'} {describe_error(error)}{_cited(location)}")
    return PartError(f"the run {describe_error(error)}", fix=_suggest_files(config))


def while_building(error: BaseException, config: Mapping[str, Any]) -> ConfigError | None:
    """Return the error to report if an experiment cannot be built; None if no user's code is involved.

    Args:
        error: the exception, raised outside of the blocks of `user_code`.
        config: the config of the experiment.
    """
    location = code_location(error)
    parts = user_components(config)
    if location is not None and parts:
        blamed = [key for path, key in parts.items() if source_file(path) == location.file] or [
            *parts.values()
        ]
        message = f"{location.function or 'your code'} {describe_error(error)}{_cited(location)}"
        return ConfigError(message, key=blamed[0])
    if parts or not isinstance(error, Exception):
        key = next(iter(parts.values())) if len(parts) == 1 else ""
        text = f"building the experiment {describe_error(error)}"
        return ConfigError(text, key=key, fix=_suggest_files(config))
    return None


def user_components(config: Mapping[str, Any]) -> dict[ImportPath, str]:
    """Return the users' components in a config, each with its first key."""
    keys_by_path: dict[ImportPath, str] = {}

    def walk(value: Any, key: str) -> None:
        if isinstance(value, Mapping):
            path = split_import_path(str(value.get("name", "")))
            if path is not None:
                keys_by_path.setdefault(path, f"{key}.name")
            for name, item in value.items():
                walk(item, f"{key}.{name}" if key else str(name))
        elif isinstance(value, Sequence) and not isinstance(value, str):
            for index, item in enumerate(value):
                indexed = len(value) > 1 or key.endswith(("augment", "metrics"))
                walk(item, f"{key}.{index}" if indexed else key)

    walk({key: value for key, value in config.items() if key != "name"}, "")
    return keys_by_path


def _suggest_files(config: Mapping[str, Any]) -> str:
    parts = [f"{path.attribute}{_cited(defined_at(path, called=True))}" for path in user_components(config)]
    return f"check what {', '.join(parts)} returned" if parts else ""


def cited_definition(name: str) -> str:
    """Return ` (file:line)` of the method of a user's component that steps call; empty if unknown."""
    path = split_import_path(name)
    return _cited(defined_at(path, called=True)) if path else ""


def describe_with_line(error: BaseException, name: str = "") -> str:
    """Return the description of an exception with the line of the user's code.

    Args:
        error: the exception.
        name: name of the component in the config. Without a line of its code in the traceback, for example
            if a call lacks an argument, the line of its definition is cited.
    """
    path = split_import_path(name)
    location = code_location(error, path) or (defined_at(path) if path else None)
    return describe_error(error) + _cited(location)


def describe_error(error: BaseException) -> str:
    """Return a description of an exception: `failed with ValueError: text`, `called sys.exit(3)`."""
    if isinstance(error, SystemExit):
        return f"called sys.exit({'' if error.code is None else repr(error.code)})"
    text = first_line(error)
    return f"failed with {type(error).__name__}{': ' + text if text else ''}"


def first_line(error: BaseException) -> str:
    """Return the first line of an exception's text, escaped; empty if it has none or `str` fails."""
    try:
        lines = str(error).strip().splitlines()
    except Exception:  # `__str__` of a user's exception may fail
        return ""
    line = lines[0][:_MAX_CHARACTERS] if lines else ""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in line)


def code_location(error: BaseException, path: ImportPath | None = None) -> CodeLocation | None:
    """Return the innermost line of user code in the traceback of an exception; None if there is none.

    Lines of the component's own file have priority, then those of other files, then those of installed
    packages. Lines of this package, torch and the standard library are ignored.

    Args:
        error: the exception; tracebacks of its causes are included.
        path: the component; None = any.
    """
    own = source_file(path) if path else ""
    best, location = 0, None
    for one in _chain(error):
        if isinstance(one, SyntaxError) and one.filename and one.lineno:
            return CodeLocation(one.filename, one.lineno)
        for frame, line in traceback.walk_tb(one.__traceback__):
            file = frame.f_code.co_filename
            rank = _rank(file, own)
            if rank and rank >= best:
                function = frame.f_code.co_qualname.replace("<locals>.", "")
                best, location = rank, CodeLocation(file, line, "" if "<" in function else function)
    return location


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    one: BaseException | None = error
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        yield one
        one = one.__cause__ or (None if one.__suppress_context__ else one.__context__)


def _rank(file: str, own: str) -> int:
    if file == own:
        return 3
    torch = sys.modules.get("torch")
    torchs = str(Path(torch.__file__).parent) if torch is not None and torch.__file__ else _OURS
    if file.startswith("<") or _is_in(file, _OURS) or _is_in(file, torchs):
        return 0
    if "site-packages" in file or "dist-packages" in file:
        return 1
    return 0 if _is_in(file, _STANDARD_LIBRARY) else 2


def _is_in(file: str, folder: str) -> bool:
    return file.startswith(folder + "/") or file.startswith(folder + "\\")


def source_file(path: ImportPath) -> str:
    """Return the file of a component's import path; empty if the module is not imported."""
    if path.is_file:
        return path.source
    return getattr(sys.modules.get(path.source), "__file__", None) or ""


def defined_at(path: ImportPath, *, called: bool = False) -> CodeLocation | None:
    """Return where a component is defined; of a class `__init__`, or with `called` its method for calls."""
    module = sys.modules.get(f"optlab_user:{path.source}" if path.is_file else path.source)
    thing: Any = getattr(module, path.attribute, None)
    code = getattr(thing, "__code__", None)
    if code is None and isinstance(thing, type):
        names = ("__init__", *_METHODS)
        for name in (*_METHODS, "__init__") if called else names:
            method: Any = inspect.unwrap(vars(thing).get(name) or len)  # torch wraps `step`
            code = code or getattr(method, "__code__", None)
    return CodeLocation(code.co_filename, code.co_firstlineno) if code is not None else None


_METHODS = ("forward", "step", "apply", "__getitem__", "__call__")


def _cited(location: CodeLocation | None) -> str:
    return f" ({location})" if location else ""
