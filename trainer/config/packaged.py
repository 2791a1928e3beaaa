"""The configs that are part of the package, and the lookup of a file by its name on the command line.

In a checkout they are the folder configs/; a wheel has a copy of it (see setup.py).
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import NoReturn

from trainer.config.yaml_reader import display_name
from trainer.errors import ConfigError, nearest, unknown_name

PREFIX = "optlab:"
LIST = "optlab init --list"

KINDS = ("config", "sweep", "suite", "lesson")
_FOLDERS = {"config": ".", "sweep": "sweeps", "suite": "suites", "lesson": "lessons"}


def folder() -> Path:
    """Return the folder of the packaged configs."""
    package = Path(__file__).resolve().parents[1]
    copied = package / "examples"
    return copied if copied.is_dir() else package.parent / "configs"


def names(*kinds: str) -> dict[str, Path]:
    """Return the files of the packaged configs by name.

    Args:
        kinds: `config`, `sweep`, `suite` or `lesson`; none = all.
    """
    folders = [folder() / _FOLDERS[kind] for kind in kinds or KINDS]
    return {file.stem: file for source_folder in folders for file in sorted(source_folder.glob("*.yaml"))}


def first_files() -> list[Path]:
    """Return the files that `optlab init` writes."""
    return sorted(file for file in (folder() / "init").iterdir() if file.suffix in (".yaml", ".py"))


def description(file: Path) -> str:
    """Return the first sentence of the comment at the top of a config, or of a Python file's docstring."""
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".py":
        return (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0].rstrip(".")
    lines = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.lstrip("# "))
    return " ".join(lines).partition(". ")[0].rstrip(".")


def packaged(text: str, *, key: str = "", where: str = "") -> Path:
    """Return the file of `optlab:NAME`.

    Raises:
        ConfigError: there is no packaged config of this name.
    """
    known = names()
    name = text.removeprefix(PREFIX)
    if name not in known:
        raise unknown_name("packaged config", name, list(known), key=key, where=where)
    return known[name]


def short_name(file: Path) -> str:
    """Return the name of a packaged config, as the command line takes it, or the path of another file."""
    return next((name for name, known in names().items() if known == file), str(file))


def find(path: Path) -> Path:
    """Return the file that a path on the command line refers to.

    It is the file at the path, else the file with `.yaml` appended, else the packaged config of that name.

    Raises:
        ConfigError: there is none of these.
    """
    text = str(path)
    if text.startswith(PREFIX):
        return packaged(text)
    try:
        return _existing(path) or names().get(text) or _refuse(path)
    except (OSError, ValueError):  # such as a name that is too long; the reader reports it
        return path


def _existing(path: Path) -> Path | None:
    with_suffix = path.parent / f"{path.name}.yaml"
    return next((file for file in (path, with_suffix) if file.is_file() or file.is_fifo()), None)


def _refuse(path: Path) -> NoReturn:
    """Raise the error for a missing file, with the nearest names."""
    if path.exists():
        raise ConfigError("this is not a file", where=display_name(path), expected="a YAML file")
    siblings = [item for item in path.parent.iterdir() if _is_yaml(item)] if path.parent.is_dir() else []
    near = nearest(path.name, [item.name for item in siblings])
    guesses = [str(path.parent / near)] if near else []
    if near := nearest(path.stem, names()):
        guesses.append(f"the packaged config {near}")
    raise ConfigError(
        "there is no such file",
        where=display_name(path),
        expected=f"a YAML file, or the name of a packaged config (list them: {LIST})",
        fix=f"did you mean {' or '.join(guesses)}?" if guesses else "",
    )


def _is_yaml(path: Path) -> bool:
    return path.suffix in (".yaml", ".yml")
