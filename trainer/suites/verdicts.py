"""The verdicts of a challenge: the new optimizer against every baseline, on every problem."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy import stats

from trainer.compare import Comparison
from trainer.compare.measures import ProblemTargets
from trainer.compare.table import with_half_width
from trainer.compare.times import median_times
from trainer.metrics import Metric, find
from trainer.statistics import bonferroni

Kind = Literal["better", "worse", "no difference detectable", "not tested"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """The new optimizer against one baseline on one problem.

    Args:
        problem: the problem.
        baseline: name of the baseline.
        kind: the verdict.
        metric: the result that is compared, such as `test_accuracy`.
        difference: mean of the new optimizer minus that of the baseline; None if nothing can be computed.
        low, high: ends of the interval, corrected for all verdicts together.
        p: adjusted p value of the difference, or of the numbers of diverged runs.
        minimum_detectable: the difference that these seeds would show with power 0.8.
        n: number of pairs.
        note: why nothing was tested, or what decided.
    """

    problem: str
    baseline: str
    kind: Kind
    metric: str
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    minimum_detectable: float | None = None
    n: int = 0
    note: str = ""


def verdicts_of(comparison: Comparison, challenger: str, failed: Mapping[str, str]) -> list[Verdict]:
    """Return the verdicts on all pairs, corrected together.

    If a run diverged, there is no difference of means. Then the numbers of diverged runs are compared by
    Fisher's exact test, corrected for the same number of pairs.

    Args:
        comparison: of the final runs, `against` the challenger.
        challenger: name of the new optimizer.
        failed: by problem, why the new optimizer has no final runs there.
    """
    verdicts = [
        _verdict(comparison, challenger, row)
        for row in comparison.differences.to_dict("records")
        if row["b"] == challenger
    ]
    for problem, why in failed.items():
        names = [group.name for group in comparison.grouping.groups if group.problem == problem]
        verdicts += [Verdict(problem, name, "worse", comparison.metrics[problem], note=why) for name in names]
    return verdicts


def _verdict(comparison: Comparison, challenger: str, row: Mapping[Any, Any]) -> Verdict:
    problem, baseline, metric = str(row["problem"]), str(row["a"]), str(row["metric"])
    mode = find(metric, comparison.grouping.metrics).mode
    if math.isnan(row["low"]):
        return _by_divergence(comparison, challenger, row)
    low, high = -row["high"], -row["low"]
    kind: Kind = "no difference detectable"
    if low > 0 or high < 0:
        kind = "better" if (low > 0) == (mode == "max") else "worse"
    p, detectable = _number(row["p_adjusted"]), _number(row["minimum_detectable"])
    difference = 0.0 - row["difference"]  # not -0.0
    n, note = int(row["n"]), str(row["note"])
    return Verdict(problem, baseline, kind, metric, difference, low, high, p, detectable, n, note)


def _by_divergence(comparison: Comparison, challenger: str, row: Mapping[Any, Any]) -> Verdict:
    problem, baseline, metric = str(row["problem"]), str(row["a"]), str(row["metric"])
    counts = {
        group.name: (group.diverged, len(group.entries) - group.diverged)
        for group in comparison.grouping.groups
        if group.problem == problem
    }
    own, other = counts[challenger], counts[baseline]
    if not own[0] and not other[0]:
        equal = row["difference"] == 0
        kind: Kind = "no difference detectable" if equal else "not tested"
        difference = _number(row["difference"])
        return Verdict(problem, baseline, kind, metric, difference, n=int(row["n"]), note=str(row["note"]))
    p = bonferroni(float(stats.fisher_exact([own, other]).pvalue), int(row["comparisons"]))
    note = f"{own[0]} of {sum(own)} runs diverged, {other[0]} of {sum(other)} of {baseline}"
    kind = "not tested" if p > 1 - comparison.confidence else "worse" if own[0] > other[0] else "better"
    return Verdict(problem, baseline, kind, metric, p=p, note=note)


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def best_baseline(comparison: Comparison, challenger: str, problem: str) -> str:
    """Return the baseline with the best mean result on a problem, of those without diverged runs if any."""
    metric = comparison.metrics[problem]
    mode = find(metric, comparison.grouping.metrics).mode
    rows = comparison.groups[comparison.groups["problem"] == problem].to_dict("records")
    rows = [row for row in rows if row["group"] != challenger and not math.isnan(row[metric])]
    rows = [row for row in rows if not row["diverged"]] or rows
    return str((max if mode == "max" else min)(rows, key=lambda row: row[metric])["group"])


def verdict_lines(comparison: Comparison, verdicts: Sequence[Verdict], challenger: str) -> list[str]:
    """Return the verdicts as text: per problem the best baseline, then the others; then a summary."""
    lines, kinds = [], []
    for problem in dict.fromkeys(one.problem for one in verdicts):
        own = [one for one in verdicts if one.problem == problem]
        best = best_baseline(comparison, challenger, problem)
        (first,) = (one for one in own if one.baseline == best)
        kinds.append(first.kind)
        metric = find(first.metric, comparison.grouping.metrics)
        head = f"{problem}: " if problem else ""
        lines.append(f"{head}{described(first, metric, f'{best}, the best baseline')}")
        for kind, words in (
            ("better", "better than"),
            ("worse", "worse than"),
            ("no difference detectable", "no difference detectable from"),
            ("not tested", "not tested against"),
        ):
            names = [one.baseline for one in own if one.kind == kind and one.baseline != best]
            if names:
                lines.append(f"    {words} {', '.join(names)}")
    counts = ", ".join(f"{kind} on {kinds.count(kind)}" for kind in dict.fromkeys(kinds))
    lines.append(f"against the best baseline of each problem: {counts} of {len(kinds)}")
    return lines


def described(one: Verdict, metric: Metric, name: str) -> str:
    """Return one verdict as text: the kind, the difference with its interval, what could be detected."""
    words = {"better": "better than", "worse": "worse than", "not tested": "not tested against"}
    text = f"{words.get(one.kind, 'no difference detectable from')} {name}"
    unit = " points" if metric.unit == "%" else ""
    if one.difference is not None:
        text += f": {metric.scale * one.difference:+.3g}{unit}"
    if one.low is not None and one.high is not None:
        text += f" [{metric.scale * one.low:+.3g}, {metric.scale * one.high:+.3g}]"
        text += f" in {one.metric.replace('_', ' ')}"
    if one.kind == "no difference detectable" and one.minimum_detectable is not None:
        text += f"; minimum detectable difference {metric.scale * one.minimum_detectable:.3g}{unit}"
    if one.low is None and one.note:
        text += f"; {one.note}"
    return text


def profile_lines(comparison: Comparison, challenger: str) -> list[str]:
    """Return how many targets each optimizer reaches, and on how many problems it is the first."""
    if not comparison.targets or not isinstance(comparison.targets[0], ProblemTargets):
        return []
    times = median_times(comparison.runs, comparison.targets[0], "steps").dropna(axis="columns")
    if challenger not in times:
        return []
    solved = np.isfinite(times[challenger])
    first = solved & (times[challenger] <= times.min(axis="columns"))
    return [
        f"targets reached in half of the runs: {int(solved.sum())} of {len(times)}; "
        f"in the fewest steps of all: {int(first.sum())}"
    ]


# A table for a paper

Cells = list[list[str]]


def paper_table(
    comparison: Comparison, tuned: Mapping[str, Mapping[str, Mapping[str, Any]]], file_format: str
) -> str:
    """Return a table with a row per optimizer and two columns per problem: the result and the tuned values.

    The best mean of each problem is bold. Means over fewer runs than there are seeds are marked.

    Args:
        comparison: the comparison.
        tuned: the best setting by problem and optimizer.
        file_format: `markdown` or `latex`.
    """
    latex = file_format == "latex"
    names = list(dict.fromkeys(group.name for group in comparison.grouping.groups))
    problems = comparison.grouping.problems
    headings = ["optimizer"]
    columns: list[list[str]] = [[_text(name, latex) for name in names]]
    for problem in problems:
        metric = find(comparison.metrics[problem], comparison.grouping.metrics)
        label = metric.with_unit(comparison.metrics[problem].replace("_", " "))
        headings += [_text(f"{problem}: {label}" if problem else label, latex), "tuned"]
        columns += [_results(comparison, problem, names, latex=latex)]
        columns += [[_setting(tuned.get(problem, {}).get(name), latex) for name in names]]
    rows = [list(cells) for cells in zip(*columns, strict=True)]
    share = 100 * comparison.confidence
    caption = f"mean ± half-width of the {share:.4g} % confidence interval over the seeds; best mean in bold"
    if not latex:
        lines = [headings, ["---", *["---:"] * (len(headings) - 1)], *rows]
        return "".join(f"| {' | '.join(line)} |\n" for line in lines) + f"\n{caption}\n"
    head, *body = (" & ".join(row) + r" \\" for row in (headings, *rows))
    below = rf"\multicolumn{{{len(headings)}}}{{l}}{{\footnotesize {_text(caption, latex=True)}}} \\"
    start = [rf"\begin{{tabular}}{{l{'r' * (len(headings) - 1)}}}", r"\toprule"]
    return "\n".join([*start, head, r"\midrule", *body, r"\bottomrule", below, r"\end{tabular}"]) + "\n"


def _results(comparison: Comparison, problem: str, names: Sequence[str], *, latex: bool) -> list[str]:
    name = comparison.metrics[problem]
    metric = find(name, comparison.grouping.metrics)
    frame = comparison.groups[comparison.groups["problem"] == problem]
    rows = {row["group"]: row for row in frame.to_dict("records")}
    finite = {group: row[name] for group, row in rows.items() if not math.isnan(row[name])}
    best = (max if metric.mode == "max" else min)(finite.values(), default=math.nan)
    cells = []
    for group in names:
        if group not in finite:
            cells.append("diverged" if group in rows else "-")
            continue
        row = rows[group]
        low, high = row[f"{name}_low"], row[f"{name}_high"]
        missing = low is None or math.isnan(low)
        half = math.nan if missing else metric.scale * (high - low) / 2
        text = _text(with_half_width(metric.scale * row[name], half), latex)
        if row[name] == best:
            text = rf"\textbf{{{text}}}" if latex else f"**{text}**"
        count = int(row[f"{name}_n"])
        cells.append(text if count == row["n"] else f"{text} ({count} of {row['n']})")
    return cells


def _setting(values: Mapping[str, Any] | None, latex: bool) -> str:
    if not values:
        return "-"
    texts = [
        f"{key.removeprefix('optimizer.')}={f'{value:g}' if isinstance(value, float) else value}"
        for key, value in values.items()
    ]
    return _text(", ".join(texts), latex)


def _text(text: str, latex: bool) -> str:
    if not latex:
        return text.replace("|", "\\|")
    for sign in "&%$#_{}":
        text = text.replace(sign, f"\\{sign}")
    return text.replace("±", r"$\pm$")
