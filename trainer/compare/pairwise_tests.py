"""Pairwise differences between groups over seeds, with intervals, tests and power."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

import numpy as np
import pandas as pd

from trainer.compare.groups import Grouping
from trainer.errors import ConfigError, unknown_name
from trainer.metrics import Metric, Mode, find
from trainer.statistics import (
    Difference,
    SignedRank,
    bonferroni,
    individual_confidence,
    paired_difference,
    welch_difference,
    wilcoxon,
)

ALL_PAIRS = 5
SHOWN = 20
ONE_SEED = "one seed: no test"
NOT_TESTED = "not tested"
COLUMNS = (
    *("problem", "a", "b", "metric", "difference", "low", "high", "confidence", "comparisons"),
    *("interval_confidence", "p_unadjusted", "p_adjusted", "wilcoxon_p_unadjusted", "wilcoxon_p_adjusted"),
    *("effect_size", "minimum_detectable", "n", "method", "verdict", "wilcoxon", "note"),
)
NUMBERS = (
    *("difference", "low", "high", "p_unadjusted", "p_adjusted", "wilcoxon_p_unadjusted"),
    *("wilcoxon_p_adjusted", "effect_size", "minimum_detectable"),
)

Values = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class _Family:
    """The pairs of groups that are tested together.

    Args:
        pairs: problem and the names of two groups.
        comparisons: number of pairs in the multiple-comparison correction.
    """

    pairs: tuple[tuple[str, str, str], ...]
    comparisons: int


@dataclass(frozen=True, slots=True)
class _Pair:
    """The comparison of two groups of one problem; `difference` is None if nothing can be computed."""

    problem: str
    a: str
    b: str
    difference: Difference | None
    signed_rank: SignedRank | None
    note: str


def pairwise_differences(
    grouping: Grouping,
    frame: pd.DataFrame,
    metrics: Mapping[str, str],
    *,
    against: str | None = None,
    method: Literal["t", "bootstrap"] = "t",
    confidence: float = 0.95,
) -> pd.DataFrame:
    """Return one row per pair of groups within a problem.

    Up to five groups are compared in all pairs; with more, each group is compared with the group of the best
    mean. Runs of equal seed are paired; if the seeds do not match, Welch's test is used, with a note. A
    diverged run has no result: its pair gets no interval, only the signed-rank test, which ranks divergence
    below any result.

    All rows are one family: intervals, adjusted p values, verdicts and minimum detectable differences are
    Bonferroni-corrected for `comparisons` pairs (see `statistics.differences`), so that they agree. All pairs
    with two seeds or more in both groups are counted, tested or not, so that the number does not depend on
    the results. If the results selected the best group, all pairs are counted: with a correction for the
    pairs with the best group only, 9 to 12 % of families of 6 to 12 equal groups had a false positive
    (simulated). The signed-rank tests are a separate family of the same size; the verdict uses the interval.

    Args:
        grouping: the groups.
        frame: the result of `run_frame`.
        metrics: a result column of the frame by problem, such as `test_accuracy`.
        against: name of the group that all others are compared with; None = see above.
        method: method of the paired interval.
        confidence: confidence level of all intervals together, in (0, 1); alpha = 1 - confidence.

    Raises:
        ConfigError: no group is named `against`.
    """
    if against is not None and against not in {group.name for group in grouping.groups}:
        raise unknown_name(
            "group", against, list(dict.fromkeys(g.name for g in grouping.groups)), key="--against"
        )
    values = _by_seed(grouping, frame, metrics)
    modes = {problem: find(metric, grouping.metrics).mode for problem, metric in metrics.items()}
    family = _family(values, modes, against)
    pairs = [
        _compare(
            problem, a, b, values[problem][a], values[problem][b], modes[problem], method, confidence,
            max(family.comparisons, 1),
        )
        for problem, a, b in family.pairs
    ]  # fmt: skip
    return _frame(pairs, metrics, modes, confidence, max(family.comparisons, 1))


def _by_seed(
    grouping: Grouping, frame: pd.DataFrame, metrics: Mapping[str, str]
) -> dict[str, dict[str, Values]]:
    """Return the value per seed by problem and group, averaged over pooled runs; NaN if one diverged.

    Completed runs without the metric are left out, and so are groups that have no other runs.
    """
    values_by_seed: dict[tuple[str, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for problem, metric in metrics.items():
        runs = frame[
            (frame["problem"] == problem) & ((frame["status"] == "diverged") | frame[metric].notna())
        ]
        # Lists, because iterating over a text column of pandas takes ten times as long.
        columns = (runs[name].tolist() for name in ("group", "seed", metric))
        for group, seed, value in zip(*columns, strict=True):
            values_by_seed[problem, group][str(seed)].append(value)
    values: dict[str, dict[str, Values]] = {problem: {} for problem in grouping.problems}
    for one in grouping.groups:
        if seeds := values_by_seed.get((one.problem, one.name)):
            values[one.problem][one.name] = {seed: float(np.mean(each)) for seed, each in seeds.items()}
    return values


def _family(
    values: Mapping[str, Mapping[str, Values]], modes: Mapping[str, Mode], against: str | None
) -> _Family:
    """Return the pairs of all problems, and the number of comparisons to correct for."""
    pairs: list[tuple[str, str, str]] = []
    comparisons = 0
    for problem, groups in values.items():
        several = sum(len(by_seed) > 1 for by_seed in groups.values())
        counted = several * (several - 1) // 2
        if against is not None:
            others = [name for name in groups if name != against] if against in groups else []
            chosen = [(name, against) for name in others]
            counted = sum(len(groups[name]) > 1 for name in others if len(groups[against]) > 1)
        elif len(groups) <= ALL_PAIRS:
            chosen = list(combinations(groups, 2))
        else:
            best = _best(groups, modes[problem])
            chosen = [(name, best) for name in groups if name != best]
        pairs += [(problem, a, b) for a, b in chosen]
        comparisons += counted
    return _Family(tuple(pairs), comparisons)


def _best(groups: Mapping[str, Values], mode: Mode) -> str:
    worst = -math.inf if mode == "max" else math.inf
    means = {
        name: mean if math.isfinite(mean := float(np.mean(list(values.values())))) else worst
        for name, values in groups.items()
    }
    return (max if mode == "max" else min)(groups, key=lambda name: means[name])


def _compare(
    problem: str,
    a: str,
    b: str,
    first: Values,
    second: Values,
    mode: Mode,
    method: Literal["t", "bootstrap"],
    confidence: float,
    comparisons: int,
) -> _Pair:
    common = [seed for seed in first if seed in second]
    matched = len(common) == min(len(first), len(second)) and (
        len(common) > 1 or len(first) == len(second) == 1
    )
    num_diverged = {name: sum(map(math.isnan, values.values())) for name, values in ((a, first), (b, second))}
    if any(num_diverged.values()):
        counts = " and ".join(
            f"{count} of {len(values)} runs of {name}"
            for (name, count), values in zip(num_diverged.items(), (first, second), strict=True)
            if count
        )
        note = f"no interval, because {counts} diverged"
        ranks = _ranks(first, second, common, mode) if matched and len(common) > 1 else None
        if ranks:
            note += "; the signed-rank test counts a diverged run as the worst result"
        return _Pair(problem, a, b, None, ranks, note)
    if not matched:
        difference = welch_difference(
            list(first.values()), list(second.values()), confidence=confidence, comparisons=comparisons
        )
        return _Pair(problem, a, b, difference, None, difference.note)
    one, other = [first[seed] for seed in common], [second[seed] for seed in common]
    difference = paired_difference(one, other, confidence=confidence, comparisons=comparisons, method=method)
    note = difference.note
    if len(common) < max(len(first), len(second)):
        note = "; ".join(filter(None, [note, f"paired on the {len(common)} seeds that both have"]))
    return _Pair(problem, a, b, difference, wilcoxon(one, other) if len(common) > 1 else None, note)


def _ranks(first: Values, second: Values, common: Sequence[str], mode: Mode) -> SignedRank | None:
    """Return the signed-rank test, in which a diverged run differs more than any other pair."""
    finite = [value for values in (first, second) for value in values.values() if math.isfinite(value)]
    if not finite:
        return None
    reach = 2 * (max(finite) - min(finite)) + 1
    worst = min(finite) - reach if mode == "max" else max(finite) + reach

    def filled(values: Values) -> list[float]:
        return [value if math.isfinite(value := values[seed]) else worst for seed in common]

    return wilcoxon(filled(first), filled(second))


def _frame(
    pairs: Sequence[_Pair],
    metrics: Mapping[str, str],
    modes: Mapping[str, Mode],
    confidence: float,
    comparisons: int,
) -> pd.DataFrame:
    rows = []
    for pair in pairs:
        difference, rank = pair.difference, pair.signed_rank
        rows.append(
            {
                "problem": pair.problem, "a": pair.a, "b": pair.b, "metric": metrics[pair.problem],
                "difference": difference.estimate if difference else None,
                "low": difference.low if difference else None,
                "high": difference.high if difference else None,
                "confidence": confidence, "comparisons": comparisons,
                "interval_confidence": individual_confidence(confidence, comparisons),
                "p_unadjusted": difference.p if difference else None,
                "p_adjusted": difference.p_adjusted if difference else None,
                "wilcoxon_p_unadjusted": rank.p if rank else None,
                "wilcoxon_p_adjusted": bonferroni(rank.p, comparisons) if rank else None,
                "effect_size": difference.effect_size if difference else None,
                "minimum_detectable": difference.minimum_detectable if difference else None,
                "n": difference.n if difference else 0, "method": difference.method if difference else "none",
                "verdict": _verdict(pair, large_is_good=modes[pair.problem] == "max"),
                "wilcoxon": rank.sentence(1 - confidence, comparisons) if rank else "",
                "note": pair.note,
            }
        )  # fmt: skip
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    table[list(NUMBERS)] = table[list(NUMBERS)].astype(float)
    return table


def _verdict(pair: _Pair, *, large_is_good: bool) -> str:
    difference = pair.difference
    if difference is None:
        return NOT_TESTED
    if difference.n == 1:
        return ONE_SEED
    if difference.excludes_zero is None:
        return NOT_TESTED
    if not difference.excludes_zero:
        return "no difference shown"
    if difference.p is None:
        return "the interval excludes 0"
    return f"{pair.a if (difference.estimate > 0) == large_is_good else pair.b} is better"


def check_confidence(confidence: float) -> float:
    """Return the confidence. Raise ConfigError unless it is between 0 and 1."""
    if not 0 < confidence < 1:
        raise ConfigError(
            f"{confidence!r} is not a confidence level",
            key="--confidence",
            expected="a number between 0 and 1, such as 0.95",
        )
    return confidence


def heading(table: pd.DataFrame) -> str:
    """Return a heading: the metric of the differences and the confidence of their intervals."""
    row = table.iloc[0]
    share, own, count = (row[name] for name in ("confidence", "interval_confidence", "comparisons"))
    nominal = "nominal " if any(table["method"].str.contains("bootstrap")) else ""
    subject = f"Differences in {', '.join(dict.fromkeys(table['metric']))}"
    if all(table["verdict"] == ONE_SEED):
        return subject
    if count == 1:
        return f"{subject}, with the {nominal}{_percent(share)} confidence interval"
    reason = " (all pairs count, because the results chose the best group)" if count > len(table) else ""
    return (
        f"{subject}. All tests are corrected for {count} pairs{reason}: together, the intervals have "
        f"{nominal}{_percent(share)} confidence (Bonferroni, {_percent(own)} each)"
    )


def _percent(share: float) -> str:
    return f"{100 * share:.6g} %" if share > 0.9999 else f"{100 * share:.4g} %"


def summary_lines(table: pd.DataFrame, metrics: Sequence[Metric]) -> list[str]:
    """Return the verdicts as text: up to three lines per pair, for the first twenty pairs."""
    if not len(table):
        return []
    rows = table.to_dict("records")
    if all(row["verdict"] == ONE_SEED for row in rows):
        return ["no tests: in every pair of groups, at least one has only one seed"]
    ranks = {row["wilcoxon"] for row in rows}
    same = len(rows) > 1 and len(ranks) == 1
    lines = [line for row in rows[:SHOWN] for line in difference_lines(row, metrics, ranks=not same)]
    if len(rows) > SHOWN:
        lines.append(f"... and {len(rows) - SHOWN} more pairs (use --json or -o FOLDER for all of them)")
    if same and "" not in ranks:
        lines.append(f"signed-rank test, the same for every pair: {ranks.pop()}")
    return lines


def _signed(value: float) -> str:
    """Return a number with its sign, to three digits, without an exponent for large numbers."""
    return f"{value:+,.0f}" if 1000 <= abs(value) < 1e6 else f"{value:+.3g}"


def difference_lines(row: Mapping[Any, Any], metrics: Sequence[Metric], *, ranks: bool) -> list[str]:
    """Return one row of `pairwise_differences` as text: the difference and the verdict, then details."""
    metric = find(row["metric"], metrics)
    factor, unit = metric.scale, " points" if metric.unit == "%" else f" {metric.unit}".rstrip()
    head = f"{row['problem'] + ': ' if row['problem'] else ''}{row['a']} minus {row['b']}: "
    details = [f"{row['method']}, n={row['n']}"] if row["n"] else []
    if not math.isnan(row["difference"]):
        head += f"{_signed(factor * row['difference'])}{unit}"
        if not math.isnan(row["low"]):
            head += f" [{_signed(factor * row['low'])}, {_signed(factor * row['high'])}]"
        head += "; "
    if not math.isnan(row["p_adjusted"]):
        details.append(f"{'adjusted ' if row['comparisons'] > 1 else ''}p = {row['p_adjusted']:.3g}")
    if not math.isnan(row["effect_size"]):
        name = "Cohen's d_z" if row["method"].startswith("paired") else "Hedges' g"
        details.append(f"{name} = {row['effect_size']:.2g}")
    if not math.isnan(row["minimum_detectable"]):
        detectable = f"{_signed(factor * row['minimum_detectable']).removeprefix('+')}{unit}"
        details.append(f"minimum detectable difference {detectable} (power 0.8)")
    lines = [head + row["verdict"]]
    if details:
        lines.append("    " + ", ".join(details))
    if ranks and row["wilcoxon"]:
        lines.append(f"    signed-rank test: {row['wilcoxon']}")
    if row["note"] and not row["verdict"].startswith(row["note"]):
        lines.append(f"    note: {row['note']}")
    return lines
