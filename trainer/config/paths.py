"""Import paths of users' own components: `my_file.py:Thing` and `package.module:Thing`.

Pure string work: nothing is imported here and no file is looked at.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class ImportPath:
    """Where a user's own component is.

    Args:
        source: the Python file, or the dotted module.
        attribute: the class or function in it.
        is_file: True when `source` is a file.
    """

    source: str
    attribute: str
    is_file: bool

    def __str__(self) -> str:
        """Return the path as it is written in a config."""
        return f"{self.source}:{self.attribute}"


def split_import_path(text: str) -> ImportPath | None:
    """Return the parts of `file.py:Thing` or `package.module:Thing`; None when the text is neither."""
    source, colon, attribute = text.rpartition(":")
    if not colon or not attribute.isidentifier() or "\0" in source:
        return None
    if source.endswith(".py") and Path(source).stem:
        return ImportPath(source, attribute, is_file=True)
    if source and all(part.isidentifier() for part in source.split(".")):
        return ImportPath(source, attribute, is_file=False)
    return None


def absolute_import_path(text: str, folder: Path) -> str:
    """Return `text` with its file made absolute against `folder`; every other text as it is."""
    path = split_import_path(text)
    if path is None or not path.is_file:
        return text
    return f"{absolute_path(path.source, folder)}:{path.attribute}"


def absolute_path(text: str, folder: Path) -> str:
    """Return a path made absolute against `folder`, with `~` and `..` resolved but links kept."""
    path = Path(text)
    with suppress(RuntimeError):  # `~somebody` who does not exist is a file name like any other
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
