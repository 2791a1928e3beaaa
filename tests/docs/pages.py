"""Reads the pages of the documentation: their links, headings and code blocks."""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
REFERENCE = DOCS / "reference"
GUIDES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
PAGES = [*GUIDES, *sorted(REFERENCE.glob("*.md")), ROOT / "configs/lessons/README.md"]

_BLOCK = re.compile(
    r"^(?P<indent> *)(?:<!-- (?P<mark>\w+) -->\n(?P=indent))?```(?P<language>\w*)\n"
    r"(?P<text>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)
_FILE = re.compile(r"# ([\w.-]+\.(?:py|yaml))\n")


@dataclass(frozen=True)
class Block:
    """A code block.

    Args:
        place: page and line, for messages.
        language: the language that it states, such as `sh`.
        text: its content.
        mark: `nightly` = run by the nightly tests only, `parsed` = never run, or empty.
    """

    place: str
    language: str
    text: str
    mark: str

    @property
    def file(self) -> str | None:
        """The file that it shows, stated by a comment in its first line."""
        match = _FILE.match(self.text)
        return match[1] if match else None


@dataclass(frozen=True)
class Command:
    """A command line, and the lines of its output that the page shows."""

    line: str
    output: list[str]


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [
        Block(
            f"{name_of(page)}:{text.count(chr(10), 0, match.start('text'))}",
            match["language"],
            textwrap.dedent(match["text"]),
            match["mark"] or "",
        )
        for match in _BLOCK.finditer(text)
    ]


def commands(block: Block) -> list[Command]:
    """Return the commands of an `sh` block, or of a `console` block with their output."""
    if block.language == "sh":
        return [Command(line, []) for line in block.text.splitlines() if line.strip()]
    found: list[Command] = []
    for line in block.text.splitlines():
        if line.startswith("$ "):
            found.append(Command(line.removeprefix("$ "), []))
        else:
            found[-1].output.append(line)
    return found


def without_code(page: Path) -> str:
    text = _BLOCK.sub("", page.read_text(encoding="utf-8"))
    return re.sub(r"`[^`\n]*`", "", text)


def links(page: Path) -> list[str]:
    text = without_code(page)
    return re.findall(r"\]\(\s*<?([^)\s>]+)", text) + re.findall(r'(?:src|href)="([^"]+)"', text)


def anchors(page: Path) -> set[str]:
    """Return the anchors of the headings of a page, as GitHub and Python-Markdown make them."""
    text = _BLOCK.sub("", page.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\s-]", "", heading).strip().lower().replace(" ", "-") for heading in headings}
