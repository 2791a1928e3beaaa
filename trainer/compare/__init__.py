"""Comparison of several runs: groups, table, tests and figures. Does not import torch."""

from trainer.compare.curves import draw_curves
from trainer.compare.groups import Group, Grouping, group_runs
from trainer.compare.report import Comparison, compare_runs, load_runs

__all__ = ["Comparison", "Group", "Grouping", "compare_runs", "draw_curves", "group_runs", "load_runs"]
