"""Which group is better and by how much: differences over seeds with interval, tests and power (floor 6)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

import numpy as np
import pandas as pd

from trainer.compare.groups import Grouping
from trainer.compare.measures import mode_of
from trainer.errors import ConfigError, unknown_name
from trainer.statistics import (
    Difference,
    SignedRank,
    holm,
    paired_difference,
    welch_difference,
    wilcoxon,
)

ALL_PAIRS = 5
SHOWN = 20
ONE_SEED = "one seed: no test"
NUMBERS = (
    *("low", "high", "p", "p_holm", "wilcoxon_p", "wilcoxon_p_holm"),
    *("effect_size", "smallest_detectable"),
)


@dataclass(frozen=True, slots=True)
class _Pair:
    """Two groups of one problem, as tested; `difference` is None where nothing can be."""

    problem: str
    a: str
    b: str
    difference: Difference | None
    signed_rank: SignedRank | None
    note: str


def verdicts(
    grouping: Grouping,
    frame: pd.DataFrame,
    metric: str,
    *,
    against: str | None = None,
    method: Literal["t", "bootstrap"] = "t",
    confidence: float = 0.95,
) -> pd.DataFrame:
    """Return one row per pair of groups within a problem.

    Pairs are all pairs of up to five groups; with more, each group against the best mean (whose own seeds
    chose it, which favours it). Runs of equal seed are paired; where the seeds do not match, Welch's test
    is made, and the note says so. A diverged run has no number: such a pair gets no interval, only the
    signed-rank test, in which divergence is worse than any result. P values are Holm-adjusted over all
    rows; the interval is not.

    Args:
        grouping: the groups.
        frame: as `run_frame` returns it.
        metric: a result column of it, as `test_accuracy`.
        against: name of the group that all others are held against; None = see above.
        method: of the paired interval.
        confidence: of the interval, in (0, 1); alpha = 1 - confidence.

    Raises:
        ConfigError: no group has the name `against`.
    """
    if against is not None and against not in {group.name for group in grouping.groups}:
        raise unknown_name(
            "group", against, list(dict.fromkeys(g.name for g in grouping.groups)), key="--against"
        )
    pairs = []
    for problem in grouping.problems:
        names = [group.name for group in grouping.groups if group.problem == problem]
        values = {
            name: _by_seed(frame[(frame["problem"] == problem) & (frame["group"] == name)], metric)
            for name in names
        }
        pairs += [
            _compare(problem, a, b, values[a], values[b], metric, method, confidence)
            for a, b in _pairs([name for name in names if values[name]], values, metric, against)
        ]
    return _frame(pairs, metric, 1 - confidence)


def _by_seed(runs: pd.DataFrame, metric: str) -> dict[str, float]:
    """Return the value per seed, averaged over pooled runs; NaN where one diverged.

    Runs that ended well without the metric say nothing about it and are left out.
    """
    runs = runs[(runs["status"] == "diverged") | runs[metric].notna()]
    return {str(seed): float(found[metric].mean(skipna=False)) for seed, found in runs.groupby("seed")}


def _pairs(
    names: Sequence[str], values: Mapping[str, Mapping[str, float]], metric: str, against: str | None
) -> list[tuple[str, str]]:
    if against is not None:
        return [(name, against) for name in names if name != against] if against in names else []
    if len(names) <= ALL_PAIRS:
        return list(combinations(names, 2))
    worst = -math.inf if mode_of(metric) == "max" else math.inf
    means = {
        name: mean if math.isfinite(mean := float(np.mean(list(values[name].values())))) else worst
        for name in names
    }
    best = (max if mode_of(metric) == "max" else min)(names, key=lambda name: means[name])
    return [(name, best) for name in names if name != best]


def _compare(
    problem: str,
    a: str,
    b: str,
    first: Mapping[str, float],
    second: Mapping[str, float],
    metric: str,
    method: Literal["t", "bootstrap"],
    confidence: float,
) -> _Pair:
    common = [seed for seed in first if seed in second]
    matched = len(common) == min(len(first), len(second)) and (
        len(common) > 1 or len(first) == len(second) == 1
    )
    lost = {name: sum(map(math.isnan, values.values())) for name, values in ((a, first), (b, second))}
    if any(lost.values()):
        said = " and ".join(
            f"{count} of {len(values)} runs of {name}"
            for (name, count), values in zip(lost.items(), (first, second), strict=True)
            if count
        )
        note = f"no interval: {said} diverged"
        ranks = _ranks(first, second, common, metric) if matched and len(common) > 1 else None
        if ranks:
            note += "; in the signed-rank test that is worse than any result"
        return _Pair(problem, a, b, None, ranks, note)
    if not matched:
        found = welch_difference(list(first.values()), list(second.values()), confidence=confidence)
        return _Pair(problem, a, b, found, None, found.note)
    one, other = [first[seed] for seed in common], [second[seed] for seed in common]
    found = paired_difference(one, other, confidence=confidence, method=method)
    note = found.note
    if len(common) < max(len(first), len(second)):
        note = "; ".join(filter(None, [note, f"paired on the {len(common)} seeds that both have"]))
    return _Pair(problem, a, b, found, wilcoxon(one, other) if len(common) > 1 else None, note)


def _ranks(
    first: Mapping[str, float], second: Mapping[str, float], common: Sequence[str], metric: str
) -> SignedRank | None:
    """Return the signed-rank test with a diverged run farther away than any difference among the others."""
    finite = [value for values in (first, second) for value in values.values() if math.isfinite(value)]
    if not finite:
        return None
    reach = 2 * (max(finite) - min(finite)) + 1
    worst = min(finite) - reach if mode_of(metric) == "max" else max(finite) + reach

    def filled(values: Mapping[str, float]) -> list[float]:
        return [value if math.isfinite(value := values[seed]) else worst for seed in common]

    return wilcoxon(filled(first), filled(second))


def _frame(pairs: Sequence[_Pair], metric: str, alpha: float) -> pd.DataFrame:
    adjusted = holm([pair.difference.p if pair.difference else None for pair in pairs])
    ranks = [pair.signed_rank for pair in pairs]
    rank_adjusted = holm([one.p if one else None for one in ranks])
    reachable = holm([one.smallest_possible_p if one else None for one in ranks])
    rows = []
    for place, pair in enumerate(pairs):
        found, rank = pair.difference, ranks[place]
        rows.append(
            {
                "problem": pair.problem, "a": pair.a, "b": pair.b, "metric": metric,
                "difference": found.estimate if found else math.nan,
                "low": found.low if found else None, "high": found.high if found else None,
                "p": found.p if found else None, "p_holm": adjusted[place],
                "wilcoxon_p": rank.p if rank else None,
                "wilcoxon_p_holm": rank_adjusted[place],
                "effect_size": found.effect_size if found else None,
                "smallest_detectable": found.smallest_detectable if found else None,
                "n": found.n if found else 0, "method": found.method if found else "none",
                "verdict": _verdict(pair, adjusted[place], alpha, large_is_good=mode_of(metric) == "max"),
                "wilcoxon": _rank_sentence(rank, rank_adjusted[place], reachable[place], alpha),
                "note": pair.note,
            }
        )  # fmt: skip
    columns = list(rows[0]) if rows else ["problem", "a", "b", "metric", "difference"]
    table = pd.DataFrame(rows, columns=columns)
    numbers = [name for name in NUMBERS if name in table]
    table[numbers] = table[numbers].astype(float)
    return table


def _verdict(pair: _Pair, adjusted: float | None, alpha: float, *, large_is_good: bool) -> str:
    found = pair.difference
    if found is None:
        return "not tested"
    if found.n == 1:
        return ONE_SEED
    if found.p is None and found.low is not None and found.high is not None and found.low < found.high:
        shown = found.low > 0 or found.high < 0
        return "the interval leaves out 0" if shown else "no difference shown"
    if adjusted is None:
        return "not tested"
    if adjusted > alpha:
        return "no difference shown"
    return f"{pair.a if (found.estimate > 0) == large_is_good else pair.b} is better"


def _rank_sentence(
    rank: SignedRank | None, adjusted: float | None, reachable: float | None, alpha: float
) -> str:
    if rank is None or adjusted is None or reachable is None:
        return ""
    if not rank.can_reach(alpha):
        return rank.sentence(alpha)
    if reachable > alpha:
        return (
            f"no verdict: {rank.n} differing pairs give p = {rank.smallest_possible_p:.3g} at best, which "
            f"Holm's correction makes {reachable:.3g} > alpha = {alpha:g}"
        )
    return f"p = {rank.p:.3g}, Holm {adjusted:.3g} {'<=' if adjusted <= alpha else '>'} {alpha:g}"


def check_confidence(confidence: float) -> float:
    """Return the confidence; ConfigError unless it lies between 0 and 1."""
    if not 0 < confidence < 1:
        raise ConfigError(
            f"{confidence!r} is no confidence",
            key="--confidence",
            expected="a number between 0 and 1, as 0.95",
        )
    return confidence


def summary_lines(table: pd.DataFrame, *, percent: bool) -> list[str]:
    """Return the verdicts in words: up to three lines per pair, the first twenty pairs."""
    if not len(table):
        return []
    rows = table.to_dict("records")
    if all(row["verdict"] == ONE_SEED for row in rows):
        return [f"{ONE_SEED}, in any of {len(rows)} pairs of groups"]
    factor, unit = (100.0, " points") if percent else (1.0, "")
    ranks = {row["wilcoxon"] for row in rows}
    same = len(rows) > 1 and len(ranks) == 1
    lines = [line for row in rows[:SHOWN] for line in _lines(row, factor, unit, ranks=not same)]
    if len(rows) > SHOWN:
        lines.append(f"... and {len(rows) - SHOWN} more pairs (--json and -o FOLDER hold them all)")
    if same and "" not in ranks:
        lines.append(f"signed ranks, every pair: {ranks.pop()}")
    return lines


def _lines(row: Mapping[Any, Any], factor: float, unit: str, *, ranks: bool) -> list[str]:
    head = f"{row['problem'] + ': ' if row['problem'] else ''}{row['a']} minus {row['b']}: "
    details = [f"{row['method']}, n={row['n']}"] if row["n"] else []
    if not math.isnan(row["difference"]):
        head += f"{factor * row['difference']:+.3g}{unit}"
        if not math.isnan(row["low"]):
            head += f" [{factor * row['low']:+.3g}, {factor * row['high']:+.3g}]"
        head += ": "
    if not math.isnan(row["p_holm"]):
        details.append(f"p = {row['p']:.3g}, Holm {row['p_holm']:.3g}")
    if not math.isnan(row["effect_size"]):
        name = "d_z" if row["method"].startswith("paired") else "g"
        details.append(f"effect size {name} = {row['effect_size']:.2g}")
    if not math.isnan(row["smallest_detectable"]):
        details.append(f"these seeds would show {factor * row['smallest_detectable']:.3g}{unit}")
    lines = [head + row["verdict"]]
    if details:
        lines.append("    " + "; ".join(details))
    if ranks and row["wilcoxon"]:
        lines.append(f"    signed ranks: {row['wilcoxon']}")
    if row["note"] and not row["verdict"].startswith(row["note"]):
        lines.append(f"    note: {row['note']}")
    return lines
