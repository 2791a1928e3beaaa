"""The result of a challenge: its final runs compared with those of the baselines."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.compare import Comparison, compare_runs
from trainer.errors import RunError
from trainer.reading import read_regular
from trainer.runs import rundir
from trainer.suites.challenger import BASELINES
from trainer.suites.verdicts import Verdict, profile_lines, verdict_lines, verdicts_of
from trainer.sweep.models import FINAL, NAME

VERDICTS = "verdict.json"
_MAX_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class ChallengeResult:
    """The verdicts on one optimizer.

    Args:
        comparison: of the final runs of the optimizer and of the baselines.
        verdicts: the optimizer against every baseline, on every problem.
        lines: the verdicts as text.
    """

    comparison: Comparison
    verdicts: Sequence[Verdict]
    lines: Sequence[str]


def compare_challenge(out: Path, optimizer: str, problems: Sequence[str], **options: Any) -> ChallengeResult:
    """Compare the final runs of a challenge.

    Args:
        out: the folder of the challenge.
        optimizer: name of the new optimizer.
        problems: names of the problems.
        options: options of `compare_runs`.
    """
    paths, failed = [], {}
    for problem in problems:
        own = out / problem / FINAL / optimizer
        if rundir.find_runs([own] if own.is_dir() else []):
            paths.append(own)
        else:
            failed[problem] = "no setting of the search finished without diverging or failing"
        paths.append(out / BASELINES / problem / FINAL)
    options |= {"by": [] if len(problems) > 1 else ["name"]}
    options |= {"against": optimizer if len(failed) < len(problems) else None}
    comparison = compare_runs(paths, **options)
    verdicts = verdicts_of(comparison, optimizer, failed)
    lines = verdict_lines(comparison, verdicts, optimizer) + profile_lines(comparison, optimizer)
    return ChallengeResult(comparison, verdicts, lines)


def challenge_in(folder: Path) -> tuple[str, list[str]] | None:
    """Return the optimizer and the problems of a challenge, or None if a folder has no finished challenge.

    Raises:
        RunError: verdict.json is damaged.
    """
    path = folder / VERDICTS
    if not folder.is_dir():
        return None
    try:
        document = json.loads(read_regular(path, _MAX_BYTES))
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError) as error:
        raise RunError(f"{path} is damaged: it is not JSON") from error
    known = document if isinstance(document, Mapping) else {}
    tuned = known.get("tuned")
    names = [known.get("optimizer"), *(tuned if isinstance(tuned, Mapping) else ())]
    if len(names) < 2 or not all(isinstance(name, str) and NAME.match(name) for name in names):
        raise RunError(f"{path} is damaged: it has no optimizer and problems", fix="rerun optlab challenge")
    return names[0], names[1:]
