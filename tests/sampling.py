"""Reduces long lists of cases: some run in every test run, the others nightly."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def one_in(count: int, cases: Iterable[Any]) -> list[Any]:
    """Return parameters for `parametrize`: of `count` successive cases, all but the first are nightly.

    A case that is a tuple has one value per parameter.
    """
    return [
        pytest.param(
            *(case if isinstance(case, tuple) else (case,)),
            marks=pytest.mark.nightly if number % count else (),
        )
        for number, case in enumerate(cases)
    ]
