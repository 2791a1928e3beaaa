"""Grouping and naming of runs by their differences, and notes on unintended differences."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from trainer.compare import Grouping, compare_runs, group_runs, load_runs
from trainer.errors import ConfigError

SGD = {"name": "SGD", "lr": 0.01, "momentum": 0.9}
ADAM = {"name": "Adam", "lr": 0.001}


def grouped(folder: Path, *by: str) -> Grouping:
    return group_runs(load_runs(folder), by)


def names(folder: Path, *by: str) -> list[str]:
    return [group.label for group in grouped(folder, *by).groups]


def test_names_contain_only_the_differences(write_run: Any, tmp_path: Path) -> None:
    for seed in (0, 1):
        write_run(f"a/sgd{seed}", optimizer=SGD, seed=seed)
        write_run(f"a/adam{seed}", optimizer=ADAM, seed=seed)
    result = grouped(tmp_path)
    assert [group.name for group in result.groups] == ["Adam lr=0.001", "SGD lr=0.01 momentum=0.9"]
    assert [[entry.seed for entry in group.entries] for group in result.groups] == [["0", "1"]] * 2
    assert result.notes == ()


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ({"optimizer.lr": 0.1}, {"optimizer.lr": 0.01}, ["lr=0.01", "lr=0.1"]),
        ({"optimizer.momentum": 0}, {"optimizer.momentum": 0.9}, ["momentum=0", "momentum=0.9"]),
        ({"scheduler": None}, {"scheduler": {"name": "StepLR", "step_size": 2}}, ["constant lr", "StepLR"]),
        (
            {"scheduler": {"name": "StepLR", "step_size": 2}},
            {"scheduler": {"name": "StepLR", "step_size": 4}},
            ["step_size=2", "step_size=4"],
        ),
        ({"data.batch_size": 1}, {"data.batch_size": 64}, ["batch_size=1", "batch_size=64"]),
        (
            {"data.augment": []}, {"data.augment": [{"name": "random_crop"}]},
            ["augment=none", "augment=random_crop"],
        ),
        ({"model.dropout": 0.0}, {"model.dropout": 0.5}, ["dropout=0", "dropout=0.5"]),
        (
            {"init": None}, {"init": {"weight": {"name": "ones_"}, "bias": None, "layers": []}},
            ["init=default", "init=ones_"],
        ),
        (
            {"optimizer": [{"name": "Muon", "lr": 0.02}, {"name": "AdamW", "lr": 0.001}]}, {},
            ["Muon + AdamW", "SGD"],
        ),
        ({"optimizer.fused": True}, {"optimizer.fused": False}, ["fused=false", "fused=true"]),
        (
            {"optimizer.groups": [{"match": {"name": "*.bias"}, "label": None, "lr": 0.5}]}, {},
            ["one group", "groups=(*.bias lr=0.5)"],
        ),
        ({"name": "one"}, {"name": "two"}, ["one", "two"]),
    ],
)  # fmt: skip
def test_every_kind_of_difference_has_its_name(
    write_run: Any, tmp_path: Path, first: dict[str, Any], second: dict[str, Any], expected: list[str]
) -> None:
    write_run("x/a", config=first)
    write_run("x/b", config=second)
    result = names(tmp_path)
    assert [re.sub(r"^(SGD|Muon . AdamW) .*", r"\1", name) for name in result] == expected


def test_execution_settings_do_not_separate_groups(write_run: Any, tmp_path: Path) -> None:
    write_run("x/a", seed=0, config={"train.threads": 1, "data.root": "/a", "optimizer.fused": True})
    write_run("x/b", seed=1, config={"train.threads": 2, "data.root": "/b", "optimizer.fused": False})
    assert names(tmp_path) == ["SGD lr=0.001"]


def test_by_groups_only_by_the_given_keys_and_notes_what_it_pools(write_run: Any, tmp_path: Path) -> None:
    for lr in (0.1, 0.01):
        write_run(f"x/sgd{lr}", optimizer={"name": "SGD", "lr": lr})
        write_run(f"x/adam{lr}", optimizer={"name": "Adam", "lr": lr})
    assert len(names(tmp_path)) == 4
    result = grouped(tmp_path, "optimizer.name")
    assert [(group.name, len(group.entries)) for group in result.groups] == [("Adam", 2), ("SGD", 2)]
    assert result.notes[0] == "group Adam pools runs that differ in optimizer.lr = 0.01, 0.1"
    assert names(tmp_path, "lr") == ["lr=0.01", "lr=0.1"]
    assert len(names(tmp_path, "optimizer.name", "lr")) == 4
    with pytest.raises(ConfigError, match=r"(?s)no run has .*did you mean 'optimizer.name'"):
        grouped(tmp_path, "optimzer.name")


def test_different_data_or_models_are_separate_problems(write_run: Any, tmp_path: Path) -> None:
    for seed in (0, 1, 2):
        for model in ("mlp", "cnn"):
            for optimizer in (SGD, ADAM):
                write_run(
                    f"x/{model}{optimizer['name']}{seed}", optimizer=optimizer, seed=seed,
                    config={"model.name": model}, val_accuracy=(0.1, 0.5 + 0.01 * seed),
                )  # fmt: skip
    result = compare_runs(tmp_path, draw=False)
    assert [group.label for group in result.grouping.groups] == [
        "cnn: Adam lr=0.001", "cnn: SGD lr=0.01 momentum=0.9",
        "mlp: Adam lr=0.001", "mlp: SGD lr=0.01 momentum=0.9",
    ]  # fmt: skip
    assert list(result.differences["problem"]) == ["cnn", "mlp"]
    assert "runs differ in model.name: 2 problems, each compared separately" in result.notes
    # If requested, models are compared.
    assert names(tmp_path, "model.name") == ["cnn", "mlp"]


def test_groups_that_share_no_problem_are_not_compared(write_run: Any, tmp_path: Path) -> None:
    write_run("x/a", optimizer=SGD, config={"model.name": "cnn"})
    write_run("x/b", optimizer=ADAM)
    result = compare_runs(tmp_path, draw=False)
    assert not len(result.differences)
    assert any("no group appears on two of them" in note for note in result.notes)


def test_the_content_of_the_data_separates_problems(write_run: Any, tmp_path: Path) -> None:
    write_run("x/a", digest="a" * 64)
    write_run("x/b", digest="b" * 64)
    result = grouped(tmp_path)
    assert [group.problem for group in result.groups] == ["data content=aaaaaaaa", "data content=bbbbbbbb"]


def test_different_budgets_are_flagged(write_run: Any, tmp_path: Path) -> None:
    write_run("x/a", optimizer=SGD, config={"train.epochs": 2.0})
    write_run("x/b", optimizer=ADAM, config={"train.epochs": 9.0, "data.batch_size": 8})
    message = "\n".join(grouped(tmp_path).notes)
    assert "differ in budget" in message
    assert "train.epochs = 2, 9" in message
    assert "differ in more than optimizer and schedule: data.batch_size = 8, 32" in message


def test_the_same_run_twice_counts_once(write_run: Any, tmp_path: Path) -> None:
    write_run("x/a")
    write_run("x/copy")
    result = grouped(tmp_path)
    assert [len(group.entries) for group in result.groups] == [1]
    assert "the same config, code and seed" in result.notes[0]
