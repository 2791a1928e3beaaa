"""The table of promises in docs/reproducibility.md names existing tests and all fault suites."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_tests_of_every_promise_exist() -> None:
    page = (ROOT / "docs" / "reproducibility.md").read_text(encoding="utf-8")
    table = page.partition("## Promises and their tests")[2]
    rows = [line for line in table.splitlines() if line.startswith("| ")][2:]
    assert len(rows) >= 10
    named = [re.findall(r"`(tests/[\w/]+\.py)`", row) for row in rows]
    assert all(named), "a promise without a test"
    files = {file for row in named for file in row}
    assert [file for file in sorted(files) if not (ROOT / file).is_file()] == []
    suites = {f"tests/faults/{path.name}" for path in (ROOT / "tests/faults").glob("test_*.py")}
    assert suites - files == {"tests/faults/test_promises.py"}
