"""Calls into users' own components: whatever they raise becomes an error that cites their line.

A component is a user's own when the config names it by an import path. Only a Ctrl-C passes as it is.
"""

from __future__ import annotations

import sys
import sysconfig
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.config.paths import ImportPath, split_import_path
from trainer.errors import ConfigError, DataError, OptlabError, PartError, RunError

_OURS = str(Path(__file__).parent)
_STANDARD_LIBRARY = sysconfig.get_path("stdlib")
_MOST_CHARACTERS = 300
_BEFORE_A_RUN = (ConfigError, DataError, RunError)


@dataclass(frozen=True, slots=True)
class Place:
    """A line of a user's file, and the function that it is in.

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
    """Turn what a user's own component raises inside the block into a ConfigError with its line.

    What a registered component raises passes, for it is ours or torch's; so does a KeyboardInterrupt. Not for
    a block that yields: closing a generator raises there.

    Args:
        name: of the component, as the config has it.
        key: config key to blame, relative to the component.
    """
    path = split_import_path(name)
    try:
        yield
    except (OptlabError, KeyboardInterrupt):
        raise
    except BaseException as error:
        if path is None:
            raise
        words = f"{path.attribute} {what_happened(error)}{_cited(place_of(error, path) or defined_at(path))}"
        raise ConfigError(words, key=key) from error


@contextmanager
def running(config: Mapping[str, Any]) -> Iterator[None]:
    """Turn what is raised inside the block, but our own errors and a Ctrl-C, into a `PartError`.

    Args:
        config: of the experiment that is stepped, evaluated, saved or loaded there.
    """
    try:
        yield
    except (OptlabError, KeyboardInterrupt):
        raise
    except BaseException as error:
        raise as_error(error, config) from error


def as_error(error: BaseException, config: Mapping[str, Any]) -> OptlabError:
    """Return the error to report for whatever stopped a run while it was going on.

    Args:
        error: what was raised; one of ours stays as it is, unless it says that nothing has run.
        config: the run's; its own components are named where the error arose outside of them (they returned
            what torch or the loop cannot use).
    """
    if isinstance(error, OptlabError):
        return PartError.of(error.problems) if type(error) in _BEFORE_A_RUN else error
    place = place_of(error)
    if place is not None:
        return PartError(f"{place.function or 'your code'} {what_happened(error)}{_cited(place)}")
    return PartError(f"the run {what_happened(error)}", fix=_look_at(config))


def while_building(error: BaseException, config: Mapping[str, Any]) -> ConfigError | None:
    """Return the error to report where an experiment cannot be built; None when no user's code is involved.

    Args:
        error: what was raised, outside of the blocks of `user_code`.
        config: the experiment's.
    """
    place = place_of(error)
    parts = own_parts(config)
    if place is not None and parts:
        blamed = [key for path, key in parts.items() if source_file(path) == place.file] or [*parts.values()]
        words = f"{place.function or 'your code'} {what_happened(error)}{_cited(place)}"
        return ConfigError(words, key=blamed[0])
    if parts or not isinstance(error, Exception):
        return ConfigError(f"building the experiment {what_happened(error)}", fix=_look_at(config))
    return None


def own_parts(config: Mapping[str, Any]) -> dict[ImportPath, str]:
    """Return the users' own components that a config names, each with the key of its first place."""
    found: dict[ImportPath, str] = {}

    def walk(value: Any, key: str) -> None:
        if isinstance(value, Mapping):
            path = split_import_path(str(value.get("name", "")))
            if path is not None:
                found.setdefault(path, f"{key}.name")
            for name, item in value.items():
                walk(item, f"{key}.{name}" if key else str(name))
        elif isinstance(value, Sequence) and not isinstance(value, str):
            for index, item in enumerate(value):
                walk(item, f"{key}.{index}" if len(value) > 1 or key.endswith("augment") else key)

    walk({key: value for key, value in config.items() if key != "name"}, "")
    return found


def _look_at(config: Mapping[str, Any]) -> str:
    named = [f"{path.attribute}{_cited(defined_at(path))}" for path in own_parts(config)]
    return f"check what {', '.join(named)} returned" if named else ""


def what_happened(error: BaseException) -> str:
    """Return an exception in words: `failed with ValueError: text`, `called sys.exit(3)`."""
    if isinstance(error, SystemExit):
        return f"called sys.exit({'' if error.code is None else repr(error.code)})"
    text = first_line(error)
    return f"failed with {type(error).__name__}{': ' + text if text else ''}"


def first_line(error: BaseException) -> str:
    """Return the first line of an exception's text, escaped; empty when it has none or cannot be written."""
    try:
        lines = str(error).strip().splitlines()
    except Exception:  # a user's exception may fail to describe itself
        return ""
    line = lines[0][:_MOST_CHARACTERS] if lines else ""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in line)


def place_of(error: BaseException, path: ImportPath | None = None) -> Place | None:
    """Return the deepest line of the user's code that an exception passed through; None when there is none.

    Lines of the component's own file come first, then those of other files, then those of installed packages;
    this package, torch and the standard library do not count.

    Args:
        error: the exception; its causes count, too.
        path: the component; None = any.
    """
    own = source_file(path) if path else ""
    best, found = 0, None
    for one in _chain(error):
        if isinstance(one, SyntaxError) and one.filename and one.lineno:
            return Place(one.filename, one.lineno)
        for frame, line in traceback.walk_tb(one.__traceback__):
            file = frame.f_code.co_filename
            rank = _rank(file, own)
            if rank and rank >= best:
                function = frame.f_code.co_qualname.replace("<locals>.", "")
                best, found = rank, Place(file, line, "" if "<" in function else function)
    return found


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
    """Return the file that a component's import path names; empty when the module is not imported."""
    if path.is_file:
        return path.source
    return getattr(sys.modules.get(path.source), "__file__", None) or ""


def defined_at(path: ImportPath) -> Place | None:
    """Return where a component is defined; None when that is not known."""
    module = sys.modules.get(f"optlab_user:{path.source}" if path.is_file else path.source)
    thing: Any = getattr(module, path.attribute, None)
    code = getattr(thing, "__code__", None)
    if code is None and isinstance(thing, type):
        inits = [getattr(vars(thing).get(name), "__code__", None) for name in ("__init__", "forward", "step")]
        code = next((one for one in inits if one is not None), None)
    return Place(code.co_filename, code.co_firstlineno) if code is not None else None


def _cited(place: Place | None) -> str:
    return f" ({place})" if place else ""
