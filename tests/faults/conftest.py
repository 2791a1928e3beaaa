"""The server of forked `optlab` processes, and a histogram of the phases in which they were killed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from forking import PHASES
from forks import FELL, Forks


@pytest.fixture(scope="session")
def forks() -> Iterator[Forks]:
    server = Forks()
    yield server
    server.close()


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if FELL:
        terminalreporter.write_line(f"where {sum(FELL.values())} kills fell:")
        for phase in PHASES:
            count = FELL[phase]
            terminalreporter.write_line(f"  {phase:22} {count:4} {'#' * min(count, 60)}")
