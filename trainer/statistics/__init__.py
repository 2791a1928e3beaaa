"""Statistics of comparisons over numpy arrays, based on scipy.stats.

Intervals and differences over seeds, times to target, tuning curves and bands. Functions take arrays and do
not read files or draw; callers count diverged runs. Invalid arguments raise ValueError.
"""

from trainer.statistics.curves import Band, Grid, band, common_grid
from trainer.statistics.differences import (
    Difference,
    SignedRank,
    bonferroni,
    individual_confidence,
    minimum_detectable,
    paired_difference,
    welch_difference,
    wilcoxon,
)
from trainer.statistics.intervals import Interval, bootstrap_interval, mean_interval, stated_coverage
from trainer.statistics.times import (
    Profile,
    TimesEcdf,
    TimesSummary,
    ecdf_of_times,
    performance_profile,
    summary_of_times,
    time_to_target,
)
from trainer.statistics.tuning import ExpectedBest, Sensitivity, expected_best, sensitivity

__all__ = [
    "Band",
    "Difference",
    "ExpectedBest",
    "Grid",
    "Interval",
    "Profile",
    "Sensitivity",
    "SignedRank",
    "TimesEcdf",
    "TimesSummary",
    "band",
    "bonferroni",
    "bootstrap_interval",
    "common_grid",
    "ecdf_of_times",
    "expected_best",
    "individual_confidence",
    "mean_interval",
    "minimum_detectable",
    "paired_difference",
    "performance_profile",
    "sensitivity",
    "stated_coverage",
    "summary_of_times",
    "time_to_target",
    "welch_difference",
    "wilcoxon",
]
