"""Import paths of users' components: `my_file.py:Thing` and `package.module:Thing`.

These functions only parse strings: they import nothing and open no file.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class ImportPath:
    """The parts of an import path.

    Args:
        source: the Python file, or the dotted name of the module.
        attribute: the class or function in it.
        is_file: whether `source` is a file.
    """

    source: str
    attribute: str
    is_file: bool

    def __str__(self) -> str:
        """Return the import path as written in a config."""
        return f"{self.source}:{self.attribute}"


def split_import_path(text: str) -> ImportPath | None:
    """Return the parts of `file.py:Thing` or `package.module:Thing`, or None if the text is neither."""
    source, colon, attribute = text.rpartition(":")
    if not colon or not attribute.isidentifier() or "\0" in source:
        return None
    if source.endswith(".py") and Path(source).stem:
        return ImportPath(source, attribute, is_file=True)
    if source and all(part.isidentifier() for part in source.split(".")):
        return ImportPath(source, attribute, is_file=False)
    return None


def absolute_import_path(text: str, folder: Path) -> str:
    """Return `text` with its file as an absolute path from `folder`; return any other text unchanged."""
    path = split_import_path(text)
    if path is None or not path.is_file:
        return text
    return f"{absolute_path(path.source, folder)}:{path.attribute}"


def absolute_path(text: str, folder: Path) -> str:
    """Return the absolute path of `text` from `folder`; resolve `~` and `..`, but no symbolic links."""
    path = Path(text)
    with suppress(RuntimeError):  # `~name` without such a user is an ordinary file name
        path = path.expanduser()
    return _normal(folder.absolute() / path)


def _normal(path: Path) -> str:
    parts: list[str] = []
    for part in path.parts[1:]:
        if part == "..":
            parts = parts[:-1]
        else:
            parts.append(part)
    return str(Path(path.anchor, *parts))
