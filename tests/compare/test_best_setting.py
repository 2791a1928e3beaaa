"""A sweep and a comparison select the same best setting from the same runs."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from command import optlab

from trainer.compare import compare_runs
from trainer.sweep.models import Objective
from trainer.sweep.results import Setting, best_setting, read_outcome

RATES = (0.1, 0.02, 0.002)
# The rate triples in every epoch: large ones are best early and end badly, the smallest is best at the end.
SWEEP = {
    "base": "base.yaml",
    "name": "rates",
    "variants": {"sgd": {"optimizer": {"name": "SGD", "momentum": 0.9}}},
    "axes": {"optimizer.lr": list(RATES)},
    "final_seeds": 1,
}
BASE = """\
data: {name: digits, limit: 200, val_size: 200, batch_size: 20}
model: {name: mlp, hidden: [8]}
optimizer: {name: SGD, lr: 0.1}
scheduler: {name: ExponentialLR, gamma: 3, interval: epoch}
train: {epochs: 5}
log: {every: 10}
"""


def test_a_sweep_and_its_comparison_name_one_best_setting(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(BASE)
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(SWEEP))
    command = ("sweep", tmp_path / "sweep.yaml", "--runs", tmp_path, "--workers", "1", "--quiet", "--json")
    swept = optlab(*command, "--no-figures")
    assert swept.code == 0, swept.err
    with open(tmp_path / "rates" / "results.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["stage"] == "search"]
    by_last, by_best = (
        max(rows, key=lambda row: float(row[name]))["optimizer.lr"]
        for name in ("val_accuracy", "best_val_accuracy")
    )
    assert by_last != by_best, "the last evaluation and the best checkpoint must disagree"
    (variant,) = swept.json["variants"].values()
    assert variant["best"]["values"] == {"optimizer.lr": float(by_best)}
    final = variant["final"]
    assert (final["n"], final["confidence"], final["test_accuracy"]["low"]) == (1, 0.95, None)

    compared = optlab("compare", tmp_path / "rates", "--json")
    (row,) = compared.json["sensitivity"]
    assert (row["best"], row["best_value"]) == (float(by_best), variant["best"]["val_accuracy"])
    assert (row["metric"], row["over_seeds"], row["evaluation"]) == ("val_accuracy", "mean", "best")
    assert compared.json["selection"]["source"] == "the objective of the sweep rates"
    message = optlab("compare", tmp_path / "rates").out
    rule = "the highest mean over seeds of val_accuracy at the best checkpoint"
    assert f"the best setting has {rule} (the objective" in message
    # A requested result replaces the objective, and the source says so; test results never do.
    other = optlab("compare", tmp_path / "rates", "--json", "--metric", "best_val_loss").json
    assert (other["selection"]["metric"], other["selection"]["mode"]) == ("val_loss", "min")
    assert other["selection"]["source"] == "requested as best_val_loss"
    tested = optlab("compare", tmp_path / "rates", "--json", "--metric", "test_accuracy").json
    assert tested["selection"] == compared.json["selection"]


def write_sweep(folder: Path, **fields: Any) -> None:
    objective = {"metric": "val_accuracy", "mode": None, "over_seeds": "mean"} | fields
    plan = {"name": "s", "strategy": "grid", "seeds": [0, 1, 2], "objective": objective}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sweep.yaml").write_text(yaml.safe_dump(plan))


@pytest.mark.parametrize("metric", ["val_accuracy", "val_loss"])
@pytest.mark.parametrize("over_seeds", ["mean", "median"])
@pytest.mark.parametrize("place", range(2))
def test_sweep_and_comparison_agree_with_ties_divergence_and_missing_seeds(
    write_run: Any, tmp_path: Path, metric: str, over_seeds: str, place: int
) -> None:
    """Random results from a few values, so that settings tie; some runs diverge, are missing or pruned."""
    write_sweep(tmp_path / "s", metric=metric, over_seeds=over_seeds)
    rng = np.random.default_rng([place, len(metric), len(over_seeds)])
    settings = []
    for number, (lr, momentum) in enumerate((lr, m) for lr in (1.0, 0.1, 0.01) for m in (0.9, 0.5, 0.0)):
        settings.append(Setting(number, {"optimizer.lr": lr, "optimizer.momentum": momentum}))
        for seed in range(3):
            status = rng.choice(["completed", "diverged", "pruned", ""], p=[0.9, 0.04, 0.03, 0.03])
            if not status:
                continue
            values = (rng.integers(1, 4, size=(2, 4)) / 4).tolist()
            folder = write_run(
                f"s/sgd/{lr}-{momentum}-{seed}", optimizer={"name": "SGD", "lr": lr, "momentum": momentum},
                seed=seed, val_accuracy=values[0], val_loss=values[1], status=str(status),
            )  # fmt: skip
            outcome = read_outcome(folder)
            assert outcome is not None
            settings[-1].outcomes[seed] = outcome
    chosen = best_setting(settings, [0, 1, 2], Objective(metric=metric, over_seeds=over_seeds))
    table = compare_runs(tmp_path / "s", draw=False).sensitivity
    assert chosen is not None, "some settings have only undamaged runs"
    found = table.set_index("key")
    assert dict(found["best"]) == dict(chosen[0].values)
    assert set(found["best_value"]) == {chosen[1]}
    assert set(found["over_seeds"]) == {over_seeds}
    backwards = best_setting(settings[::-1], [0, 1, 2], Objective(metric=metric, over_seeds=over_seeds))
    assert backwards is not None
    assert backwards[0] is chosen[0]


def test_a_setting_with_a_missing_seed_is_shown_but_not_selected(write_run: Any, tmp_path: Path) -> None:
    write_sweep(tmp_path / "s")
    for lr, accuracy, seeds in ((1.0, 0.9, 2), (0.1, 0.5, 3), (0.01, 0.4, 3)):
        for seed in range(seeds):
            write_run(
                f"s/sgd/{lr}-{seed}", optimizer={"name": "SGD", "lr": lr}, seed=seed,
                val_accuracy=(0.1, accuracy),
            )  # fmt: skip
    row = compare_runs(tmp_path, draw=False).sensitivity.iloc[0]
    assert (row["best"], row["values"]) == (0.1, 3)


def test_the_rule_that_was_used_is_stated(write_run: Any, tmp_path: Path) -> None:
    for place, rate in enumerate((0.1, 0.2, 0.3)):
        # The best checkpoint is that of accuracy; the first rate is best there, the last at the end.
        accuracies = (0.1, 0.9 - rate, 0.2 + rate)
        optimizer = {"name": "SGD", "lr": rate}
        for folder in ("a", "b", "alone"):
            write_run(f"{folder}/{rate}", optimizer=optimizer, seed=place, val_accuracy=accuracies)
    write_sweep(tmp_path / "a", mode="min")
    write_sweep(tmp_path / "b", over_seeds="median")

    def stated(*folders: str) -> str:
        return str(compare_runs([tmp_path / folder for folder in folders], draw=False).selection)

    rule = "the best setting has the {} mean over seeds of val_accuracy at the best checkpoint ({})"
    default = rule.format("highest", "the default, as {}")
    assert stated("alone") == default.format("the runs belong to no sweep with an objective")
    assert stated("a", "alone") == default.format("not all runs belong to a sweep with an objective")
    assert stated("a", "b") == default.format("their sweeps have different objectives")
    assert stated("a") == rule.format("lowest", "the objective of the sweep a")
    assert compare_runs(tmp_path / "alone", draw=False).sensitivity["best"][0] == 0.1
    last = compare_runs(tmp_path / "alone", draw=False, metric="val_accuracy")
    assert last.sensitivity["best"][0] == 0.3
    assert last.selection.source == "requested as final_val_accuracy"
    # An unrelated file next to the runs is not a sweep: the default rule applies.
    (tmp_path / "a" / "sweep.yaml").write_text("objective: [1")
    assert stated("a") == default.format("the runs belong to no sweep with an objective")
