"""Tables and pairwise differences against scipy and known answers; error rates on simulated groups."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from trainer.compare import Group, Grouping, compare_runs
from trainer.compare.pairwise_tests import pairwise_differences
from trainer.compare.table import render_table, with_half_width
from trainer.errors import ConfigError
from trainer.statistics import minimum_detectable

A = (0.90, 0.92, 0.91, 0.95, 0.93, 0.94, 0.90)
B = (0.88, 0.87, 0.90, 0.89, 0.91, 0.88, 0.86)


def write_groups(write_run: Any, groups: dict[str, Sequence[float | None]], first_seed: int = 0) -> None:
    """One run per value, `None` = diverged; the values are test accuracies."""
    for optimizer, values in groups.items():
        for seed, value in enumerate(values, start=first_seed):
            write_run(
                f"x/{optimizer}{seed}", optimizer=optimizer, seed=seed, test_accuracy=value,
                status="diverged" if value is None else "completed",
                val_accuracy=(0.1, 0.1 if value is None else value),
            )  # fmt: skip


def test_the_table_is_scipys_mean_and_interval(write_run: Any, tmp_path: Path) -> None:
    write_groups(write_run, {"SGD": A, "Adam": B})
    result = compare_runs(tmp_path, draw=False)
    row = result.groups.set_index("group").loc["SGD"]
    low, high = stats.t.interval(0.95, len(A) - 1, np.mean(A), stats.sem(A))
    assert row["n"] == 7
    assert [row["test_accuracy"], row["test_accuracy_low"], row["test_accuracy_high"]] == pytest.approx(
        [np.mean(A), low, high]
    )
    narrow = compare_runs(tmp_path, draw=False, confidence=0.8).groups.set_index("group").loc["SGD"]
    assert narrow["test_accuracy_high"] == pytest.approx(
        stats.t.interval(0.8, len(A) - 1, np.mean(A), stats.sem(A))[1]
    )


def test_runs_of_equal_seed_are_paired(write_run: Any, tmp_path: Path) -> None:
    write_groups(write_run, {"SGD": A, "Adam": B})
    row = compare_runs(tmp_path, draw=False, against="Adam").differences.iloc[0]
    expected = stats.ttest_rel(A, B)
    interval = expected.confidence_interval(0.95)
    assert (row["a"], row["b"], row["n"], row["method"]) == ("SGD", "Adam", 7, "paired t")
    assert [row["difference"], row["low"], row["high"], row["p_unadjusted"]] == pytest.approx(
        [np.mean(np.subtract(A, B)), interval.low, interval.high, expected.pvalue]
    )
    assert row["effect_size"] == pytest.approx(np.mean(np.subtract(A, B)) / np.std(np.subtract(A, B), ddof=1))
    assert row["wilcoxon_p_unadjusted"] == pytest.approx(stats.wilcoxon(A, B).pvalue)
    assert row["verdict"] == "SGD is better"
    other = compare_runs(tmp_path, draw=False, against="SGD").differences.iloc[0]
    assert (other["difference"], other["verdict"]) == (pytest.approx(-row["difference"]), "SGD is better")
    assert compare_runs(tmp_path, draw=False, metric="val_loss").metric == "final_val_loss"


def test_a_lower_loss_is_better(write_run: Any, tmp_path: Path) -> None:
    for seed, (a, b) in enumerate(zip(A, B, strict=True)):
        write_run(f"x/a{seed}", optimizer="SGD", seed=seed, val_loss=(1.0, a), val_accuracy=None)
        write_run(f"x/b{seed}", optimizer="Adam", seed=seed, val_loss=(1.0, b), val_accuracy=None)
    result = compare_runs(tmp_path, draw=False)
    assert result.metric == "final_val_loss"
    assert result.differences["verdict"][0] == "Adam is better"


def test_seeds_that_do_not_match_are_compared_unpaired_with_a_note(write_run: Any, tmp_path: Path) -> None:
    write_groups(write_run, {"SGD": A})
    write_groups(write_run, {"Adam": B}, first_seed=100)
    result = compare_runs(tmp_path, draw=False, against="Adam")
    row = result.differences.iloc[0]
    assert row["p_unadjusted"] == pytest.approx(stats.ttest_ind(A, B, equal_var=False).pvalue)
    assert (row["method"], row["note"]) == ("Welch t", "the seeds do not match, so the test is unpaired")
    assert "the seeds do not match" in "\n".join(result.verdict_lines())


def test_a_seed_that_only_one_group_has_is_left_out_of_the_pairs(write_run: Any, tmp_path: Path) -> None:
    write_groups(write_run, {"SGD": A, "Adam": B[:-1]})
    row = compare_runs(tmp_path, draw=False, against="Adam").differences.iloc[0]
    assert row["p_unadjusted"] == pytest.approx(stats.ttest_rel(A[:-1], B[:-1]).pvalue)
    assert row["note"] == "paired on the 6 seeds that both have"


def test_five_pairs_have_no_signed_rank_verdict(write_run: Any, tmp_path: Path) -> None:
    write_groups(write_run, {"SGD": A[:5], "Adam": B[:5]})
    printed = "\n".join(compare_runs(tmp_path, draw=False).verdict_lines())
    assert "too few seeds: with 5 pairs that differ, p is at least 0.0625 (0.05 needs 6 pairs)" in printed
    assert re.search(r"minimum detectable difference \S+ points \(power 0.8\)", printed)


def three_groups(write_run: Any, seeds: int) -> None:
    third = [b - b**2 / 50 for b in B[:seeds]]
    write_groups(write_run, {"SGD": A[:seeds], "Adam": B[:seeds], "AdamW": third})


def test_interval_p_verdict_and_detectable_difference_share_one_level(write_run: Any, tmp_path: Path) -> None:
    """Three pairs: alone, Adam and SGD differ (p = 0.02); together with the others that is not shown."""
    three_groups(write_run, 5)
    result = compare_runs(tmp_path, draw=False)
    rows = result.differences.set_index(["a", "b"])
    row = rows.loc[("Adam", "SGD")]
    alone = stats.ttest_rel(B[:5], A[:5])
    assert alone.pvalue < 0.05
    assert (row["p_unadjusted"], row["p_adjusted"]) == pytest.approx((alone.pvalue, 3 * alone.pvalue))
    interval = alone.confidence_interval(1 - 0.05 / 3)
    assert (row["low"], row["high"]) == pytest.approx((interval.low, interval.high))
    assert row["low"] < 0 < row["high"]
    assert row["verdict"] == "no difference shown"
    assert (row["comparisons"], row["confidence"]) == (3, 0.95)
    assert row["interval_confidence"] == pytest.approx(1 - 0.05 / 3)
    sd = float(np.std(np.subtract(B[:5], A[:5]), ddof=1))
    assert row["minimum_detectable"] == pytest.approx(minimum_detectable(sd, 5, alpha=0.05 / 3))
    printed = result.verdict_lines()
    assert "corrected for 3 pairs: together, the intervals have 95 % confidence" in printed[0]
    assert "98.33 % each" in printed[0]
    assert any("adjusted p = " in line for line in printed)
    lone = compare_runs(tmp_path, draw=False, by=["optimizer.name"], against="SGD")
    assert set(lone.differences["comparisons"]) == {2}


def test_a_family_counts_its_pairs_regardless_of_their_results(write_run: Any, tmp_path: Path) -> None:
    """A pair that cannot be tested because a run diverged is counted; a pair with a single seed is not."""
    write_groups(write_run, {"SGD": A, "Adam": [*B[:6], None], "AdamW": A[:1]})
    rows = compare_runs(tmp_path, draw=False).differences.set_index(["a", "b"])
    assert set(rows["comparisons"]) == {1}
    assert rows.loc[("Adam", "SGD"), "verdict"] == "not tested"
    assert rows.loc[("AdamW", "SGD"), "verdict"] == "one seed: no test"


def test_after_correction_few_pairs_cannot_reach_significance(write_run: Any, tmp_path: Path) -> None:
    three_groups(write_run, 6)
    result = compare_runs(tmp_path, draw=False).differences
    assert list(result["wilcoxon_p_adjusted"]) == pytest.approx(list(3 * result["wilcoxon_p_unadjusted"]))
    printed = "with 6 pairs that differ, adjusted p is at least 0.0938 (0.05 needs 7 pairs)"
    assert all(printed in text for text in result["wilcoxon"])


def test_the_bootstrap_states_its_actual_coverage(write_run: Any, tmp_path: Path) -> None:
    write_groups(write_run, {"SGD": A[:5], "Adam": B[:5]})
    row = compare_runs(tmp_path, draw=False, bootstrap=True).differences.iloc[0]
    assert row["method"] == "paired percentile bootstrap"
    assert row["note"] == "on normal data this interval covers about 84% at n=5, not 95%"
    assert row["verdict"] == "the interval excludes 0"
    t = compare_runs(tmp_path, draw=False).differences.iloc[0]
    assert row["high"] - row["low"] < t["high"] - t["low"]


def test_one_seed_is_no_test(write_run: Any, tmp_path: Path) -> None:
    write_groups(write_run, {"SGD": A[:1], "Adam": B[:1]})
    result = compare_runs(tmp_path, draw=False)
    assert result.differences["verdict"][0] == "one seed: no test"
    assert math.isnan(result.differences["low"][0])
    assert "one seed" in render_table(result.groups, (), "markdown")
    assert any("one seed" in note for note in result.notes)


def test_divergence_is_counted_and_never_averaged(write_run: Any, tmp_path: Path) -> None:
    write_groups(write_run, {"SGD": [*A[:6], None], "Adam": B})
    result = compare_runs(tmp_path, draw=False, against="Adam")
    row = result.groups.set_index("group").loc["SGD"]
    assert (row["n"], row["diverged"], row["test_accuracy_n"]) == (7, 1, 6)
    assert np.isnan(row["test_accuracy_low"])
    assert "(6 of 7)" in render_table(result.groups, (), "markdown")
    pair = result.differences.iloc[0]
    assert pair["verdict"] == "not tested"
    assert math.isnan(pair["difference"])
    assert "1 of 7 runs of SGD diverged" in pair["note"]
    worst = [*np.subtract(A[:6], B[:6]), -1.0]
    assert pair["wilcoxon_p_unadjusted"] == pytest.approx(stats.wilcoxon(worst).pvalue)


def test_more_than_five_groups_are_compared_only_with_the_best(write_run: Any, tmp_path: Path) -> None:
    for place in range(6):
        for seed in (0, 1):
            write_run(
                f"x/{place}{seed}", optimizer={"name": "SGD", "lr": 10.0**-place}, seed=seed,
                test_accuracy=0.5 + 0.01 * place * (1 + seed),
            )  # fmt: skip
    result = compare_runs(tmp_path, draw=False)
    assert set(result.differences["b"]) == {"lr=1e-5"}
    assert len(result.differences) == 5
    assert set(result.differences["comparisons"]) == {15}, "any of the 15 pairs could have held the best"
    assert "corrected for 15 pairs (all pairs count, because" in result.verdict_lines()[0]
    assert any("its mean is optimistic" in note for note in result.notes)
    with pytest.raises(ConfigError, match="unknown group"):
        compare_runs(tmp_path, draw=False, against="lr=7")


def test_times_to_a_target_include_unreached_targets(write_run: Any, tmp_path: Path) -> None:
    curves = [(0.1, 0.6, 0.95), (0.1, 0.95, 0.96), (0.1, 0.2, 0.3)]
    for seed, curve in enumerate(curves):
        write_run(f"x/a{seed}", optimizer="SGD", seed=seed, val_accuracy=curve, ms_per_step=2.0)
        write_run(f"x/b{seed}", optimizer="Adam", seed=seed, val_accuracy=(0.1, 0.2, 0.3))
    result = compare_runs(tmp_path, draw=False, targets=["0.9", "val_loss=1.2"])
    rows = result.groups.set_index("group")
    assert rows.loc["SGD", "steps to val_accuracy=0.9"] == 20
    assert rows.loc["SGD", "epochs to val_accuracy=0.9"] == 2
    assert rows.loc["SGD", "seconds to val_accuracy=0.9"] == pytest.approx(0.04)
    assert rows.loc["SGD", "reached val_accuracy=0.9"] == 2
    assert rows.loc["Adam", "steps to val_accuracy=0.9"] == math.inf
    assert rows.loc["SGD", "steps to val_loss=1.2"] == 10
    text = render_table(result.groups, result.targets, "markdown")
    assert "| 0 of 3 | inf | inf | inf |" in text
    for wrong in ("abc", "nan", "val_speed=1"):
        with pytest.raises(ConfigError, match=r"target|recorded"):
            compare_runs(tmp_path, draw=False, targets=[wrong])


def test_every_format_has_the_same_table(write_run: Any, tmp_path: Path) -> None:
    write_groups(write_run, {"SGD": A, "Adam": B})
    result = compare_runs(tmp_path, draw=False, targets=["0.85"])
    read = pd.read_csv(io.StringIO(render_table(result.groups, result.targets, "csv")))
    assert list(read["test_accuracy"]) == list(result.groups["test_accuracy"])
    parsed = json.loads(render_table(result.groups, result.targets, "json"))
    assert [row["test_accuracy"] for row in parsed] == list(result.groups["test_accuracy"])
    *markdown, blank, caption = render_table(result.groups, result.targets, "markdown").splitlines()
    assert len({line.count("|") for line in markdown}) == 1
    assert (blank, caption.startswith("mean ± half-width of its 95 % confidence interval")) == ("", True)
    assert set(result.groups["confidence"]) == {0.95}
    latex = render_table(result.groups, result.targets, "latex")
    assert latex.startswith(r"\begin{tabular}{lrr")
    assert r"test acc \%" in latex
    assert r"val\_accuracy=0.85" in latex
    assert r"92.1 $\pm$ 1.8" in latex
    assert r"mean $\pm$ half-width of its 95 \% confidence interval" in latex
    assert len(list(csv.reader(io.StringIO(render_table(result.groups, result.targets, "csv"))))) == 3
    assert json.dumps(result.as_dict(), allow_nan=False)


def test_overhead_is_the_step_time_beyond_plain_sgd(write_run: Any, tmp_path: Path) -> None:
    for seed, (sgd, adam) in enumerate([(1.0, 1.5), (1.1, 1.7), (1.2, 1.6)]):
        write_run(f"x/s{seed}", optimizer="SGD", seed=seed, ms_per_step=sgd)
        write_run(f"x/a{seed}", optimizer="Adam", seed=seed, ms_per_step=adam, state_bytes=2048)
    result = compare_runs(tmp_path, draw=False)
    rows = result.groups.set_index("group")
    assert rows.loc["Adam", "overhead_ms"] == pytest.approx(0.5)
    truth = stats.ttest_ind([1.5, 1.7, 1.6], [1.0, 1.1, 1.2], equal_var=False).confidence_interval(0.95)
    assert rows.loc["Adam", "overhead_ms_low"] == pytest.approx(truth.low)
    assert rows.loc["Adam", "overhead_ms_high"] == pytest.approx(truth.high)
    assert rows.loc["SGD", "overhead_ms"] == 0
    assert rows.loc["Adam", "state_bytes"] == 2048
    lines = render_table(result.groups, result.targets, "markdown").splitlines()
    assert "overhead, ms over plain SGD" in lines[0]
    assert lines[2].endswith("| 1.60 ± 0.25 | +0.50 ± 0.23 | 2 KiB |")
    (note,) = result.notes
    assert "each optimizer has one setting" in note


def test_overhead_is_empty_without_a_comparable_plain_sgd(write_run: Any, tmp_path: Path) -> None:
    """Without a baseline of the same batch size on the same machine, the overhead is empty."""
    write_run("x/adam", optimizer="Adam", ms_per_step=1.5)
    write_run("x/momentum", optimizer={"name": "SGD", "momentum": 0.9})
    write_run("y/sgd", config={"data.batch_size": 64})
    elsewhere = write_run("z/sgd")
    around = json.loads((elsewhere / "environment.json").read_text())
    around["machine"]["processor"] = "another"
    (elsewhere / "environment.json").write_text(json.dumps(around))
    for folders in (["x"], ["x", "y"], ["x", "z"]):
        result = compare_runs([tmp_path / folder for folder in folders], draw=False)
        rows = result.groups[~result.groups["group"].str.contains("momentum=0(?!.)|batch_size=64")]
        assert len(rows) == 2
        assert rows["overhead_ms"].isna().all()
        assert any("timed on another" in note for note in result.notes) == (folders[-1] == "z")


@pytest.mark.parametrize(
    ("value", "half", "printed"),
    [
        (0.12342, 0.0056, "0.1234 ± 0.0056"), (97.3, 12.3, "97 ± 12"), (1234.5, 99.0, "1234 ± 99"),
        (0.5, 0.0, "0.5 ± 0"), (0.5, math.nan, "0.5"), (1e9, 1e8, "1e+09 ± 1e+08"),
        (0.9727, 1e-16, "0.9727 ± 0"),
    ],
)  # fmt: skip
def test_half_widths_have_two_digits(value: float, half: float, printed: str) -> None:
    assert with_half_width(value, half) == printed


def simulated(rng: np.random.Generator, groups: int, seeds: int) -> pd.DataFrame:
    """Groups without a difference: results vary strongly between seeds, and by noise between groups."""
    luck = rng.normal(0.9, 0.05, seeds)
    return pd.DataFrame(
        [
            {"problem": "", "group": str(g), "seed": str(s), "status": "completed",
             "test_accuracy": luck[s] + rng.normal(0, 0.01)}
            for g in range(groups) for s in range(seeds)
        ]
    )  # fmt: skip


def test_the_false_positive_rate_over_all_pairs_is_near_alpha() -> None:
    """At most 5 % of comparisons of three equal groups have a false positive; else all intervals contain 0.

    With 150 comparisons the bound is three standard deviations away; tests/statistics simulates thousands.
    """
    grouping = Grouping(tuple(Group(str(g), (), {}) for g in range(3)), ("optimizer.name",), (), ())
    rng = np.random.default_rng(0)
    tables = [pairwise_differences(grouping, simulated(rng, 3, 6), {"": "test_accuracy"}) for _ in range(150)]
    alarms = [bool((table["p_adjusted"] <= 0.05).any()) for table in tables]
    assert np.mean(alarms) <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 150)
    assert alarms == [bool(((table["low"] > 0) | (table["high"] < 0)).any()) for table in tables]
    assert alarms == [bool(table["verdict"].str.contains("better").any()) for table in tables]
