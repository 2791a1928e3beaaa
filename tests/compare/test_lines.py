"""Every group and family of settings has one line in all figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import yaml
from matplotlib.colors import to_hex

from trainer.compare import Comparison, compare_runs
from trainer.compare.figure_style import STYLES, line_for

RATES = (1.0, 0.1, 0.01)


def write_search(write_run: Any, problem: str = "", **config: Any) -> None:
    """Write two optimizers at three learning rates; the best is 0.1 for SGD and 0.01 for Adam."""
    for name, best in (("SGD", 0.1), ("Adam", 0.01)):
        for rate in RATES:
            run = f"{problem}{name}/trial/lr={rate}"
            write_run(
                run, optimizer={"name": name, "lr": rate}, val_accuracy=(0.1, 0.9 if rate == best else 0.5),
                config=config,
            )  # fmt: skip


def colours_of(comparison: Comparison, figure: str) -> set[str]:
    (axes,) = comparison.figures[figure].axes
    return {to_hex(line.get_color()) for line in axes.lines if np.size(line.get_xdata()) > 1}


def hexes(comparison: Comparison, *numbers: int) -> set[str]:
    return {line_for(number, STYLES["screen"]).colour.lower() for number in numbers}


def test_a_family_has_the_line_of_its_best_setting_and_these_are_the_first(
    write_run: Any, tmp_path: Path
) -> None:
    write_search(write_run)
    comparison = compare_runs(tmp_path)
    lines = comparison.lines
    assert {lines.groups["SGD lr=0.1"], lines.groups["Adam lr=0.01"]} == {0, 1}
    assert sorted(lines.groups.values()) == list(range(6))
    assert lines.families["", "SGD"] == lines.groups["SGD lr=0.1"]
    assert lines.families["", "Adam"] == lines.groups["Adam lr=0.01"]
    assert set(lines.members["", "SGD"]) == {f"SGD lr={rate:g}" for rate in RATES}
    assert colours_of(comparison, "sensitivity.optimizer.lr") == hexes(comparison, 0, 1)


def test_final_runs_have_the_lines_of_their_families(write_run: Any, tmp_path: Path) -> None:
    write_search(write_run)
    # A sweep without a stated metric; its final runs are of the best settings.
    for name, rate in (("SGD", 0.1), ("Adam", 0.01)):
        write_run(f"final/{name}", optimizer={"name": name, "lr": rate}, seed=7)
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump({"name": "lines", "seeds": [0]}))
    comparison = compare_runs(tmp_path)
    lines = comparison.lines
    assert set(lines.groups) == {"SGD lr=0.1", "Adam lr=0.01"}
    assert lines.families == {("", name.split()[0]): number for name, number in lines.groups.items()}
    assert lines.members["", "SGD"] == ["SGD lr=0.1"]
    assert colours_of(comparison, "sensitivity.optimizer.lr") == hexes(comparison, 0, 1)
    assert colours_of(comparison, "val_accuracy") == hexes(comparison, 0, 1)


def test_a_group_has_the_same_line_on_every_problem(write_run: Any, tmp_path: Path) -> None:
    for problem, optimizers in (("one", ("SGD", "Adam")), ("two", ("AdamW", "SGD"))):
        for name in optimizers:
            config = {"model": {"name": "mlp", "hidden": [len(problem) * (1 + (problem == "two"))]}}
            write_run(f"{problem}/{name}", optimizer=name, config=config)
    comparison = compare_runs(tmp_path)
    assert len(comparison.grouping.problems) == 2
    for problem in comparison.grouping.problems:
        groups = [group.name for group in comparison.grouping.groups if group.problem == problem]
        assert sorted(comparison.lines.groups[name] for name in groups) == [0, 1]
    assert comparison.lines.groups["SGD"] == 0


def test_a_searched_key_of_the_model_makes_no_problem(write_run: Any, tmp_path: Path) -> None:
    for name in ("SGD", "Adam"):
        for dropout in (0.1, 0.2, 0.3):
            model = {"name": "mlp", "dropout": dropout}
            write_run(f"{name}/dropout={dropout}", optimizer=name, config={"model": model})
    assert len(compare_runs(tmp_path, draw=False).grouping.problems) == 3
    variants = {name: {"axes": {"model.dropout": [0.1, 0.2, 0.3]}} for name in ("sgd", "adam")}
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump({"name": "x", "seeds": [0], "variants": variants}))
    comparison = compare_runs(tmp_path, draw=False)
    assert comparison.grouping.problems == ("",)
    assert comparison.search.swept == ("model.dropout",)
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump({"variants": {"sgd": 3, "adam": {"axes": [1]}}}))
    assert len(compare_runs(tmp_path, draw=False).grouping.problems) == 3
