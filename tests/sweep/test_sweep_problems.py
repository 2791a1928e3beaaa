"""Several problems in one sweep file: one directory, matched groups, one target per problem, a profile."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from command import optlab
from small_sweeps import run, summary

from trainer.compare import compare_runs
from trainer.errors import OptlabError
from trainer.runs import rundir
from trainer.sweep.file import read_sweeps

FILE = """\
name: both
base: base.yaml
axes: {optimizer.lr: [0.1, 0.03]}
final_seeds: 3
problems:
  small:
    data: {name: digits, limit: 200, val_size: 100, batch_size: 20}
    model: {name: mlp, hidden: [8]}
    train: {epochs: 3}
  line:
    axes: {optimizer.lr: [0.05, 0.02]}
    without: [adam]
    data: {name: diabetes, batch_size: 64, val_size: 0.2, normalize: dataset}
    model: linear
    loss: mse
    train: {epochs: 2, eval_every: {steps: 2}}
variants:
  adam: {optimizer: {name: Adam}}
  momentum: {optimizer: {name: SGD, momentum: 0.9}}
  sgd: {optimizer: {name: SGD}}
"""
BASE = "train: {threads: 1}\nlog: {every: 2}\n"


def write(folder: Path, text: str = FILE) -> Path:
    (folder / "base.yaml").write_text(BASE)
    path = folder / "both.yaml"
    path.write_text(text)
    return path


def test_each_problem_is_a_sweep_with_what_it_changes(tmp_path: Path) -> None:
    small, line = read_sweeps(write(tmp_path), ["final_seeds=2"])
    assert (small.config.name, line.config.name) == ("both/small", "both/line")
    assert small.config.final_seeds == line.config.final_seeds == 2
    assert (list(small.variants), list(line.variants)) == (["adam", "momentum", "sgd"], ["momentum", "sgd"])
    assert [axis.values for axis in small.variants["sgd"].axes] == [(0.1, 0.03)]
    assert [axis.values for axis in line.variants["sgd"].axes] == [(0.05, 0.02)]
    assert line.variants["sgd"].tree.data["train"]["epochs"] == 2
    assert small.variants["sgd"].tree.data["train"] == {"threads": 1, "epochs": 3}


def test_a_variant_can_remove_a_common_axis(tmp_path: Path) -> None:
    text = FILE.replace("sgd: {", "sgd: {axes: {optimizer.lr: null, optimizer.momentum: [0, 0.5]}, ")
    small, _ = read_sweeps(write(tmp_path, text))
    assert [axis.key for axis in small.variants["sgd"].axes] == ["optimizer.momentum"]


@pytest.mark.parametrize(
    ("old", "new", "line", "word"),
    [
        ("  small:", "  final:", 6, "final"),
        ("without: [adam]", "without: [adma]", 12, "adma"),
        ("    train: {epochs: 3}", "    train.epochs: 3", 9, "dotted"),
        ("    train: {epochs: 3}", "    seed: 3", 9, "cannot have"),
        ("    train: {epochs: 3}", "    trian: {epochs: 3}", 9, "trian"),
        ("    axes: {optimizer.lr: [0.05, 0.02]}", "    axes: {optimizer.lr: []}", 11, "empty"),
        ("name: both", "name: both\nreference: lion", 2, "lion"),
    ],
)
def test_errors_name_the_line(tmp_path: Path, old: str, new: str, line: int, word: str) -> None:
    done = optlab("sweep", write(tmp_path, FILE.replace(old, new)), "--dry-run", "--runs", tmp_path)
    assert done.code == 2
    assert f"both.yaml:{line}" in done.err
    assert word in done.err


def test_a_file_without_a_mapping_of_problems_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OptlabError, match="got"):
        read_sweeps(write(tmp_path, "name: x\nproblems: [a]\n"))


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("problems")
    assert run(write(folder), runs=folder, figures=True) == 0
    return folder / "both"


def test_one_directory_has_a_sweep_per_problem_and_a_comparison_of_all(swept: Path) -> None:
    assert summary(swept / "small")["runs"]["done"] == 6 + 9
    assert summary(swept / "line")["runs"]["done"] == 4 + 6
    again = yaml.safe_load((swept / "line" / "sweep.yaml").read_text())
    assert again["name"] == "both/line"
    names = {path.name for path in (swept / "comparison").iterdir()}
    assert {"profile.target.png", "val_accuracy.small.png", "val_loss.line.png", "table.md"} <= names


def test_groups_are_matched_by_the_names_of_the_variants(swept: Path) -> None:
    result = compare_runs(swept, draw=False)
    groups = {(group.problem, group.name) for group in result.grouping.groups}
    assert groups == {
        ("line", "momentum"), ("line", "sgd"), ("small", "adam"), ("small", "momentum"), ("small", "sgd"),
    }  # fmt: skip
    assert dict(result.metrics) == {"line": "test_loss", "small": "test_accuracy"}
    assert set(result.differences["comparisons"]) == {4}
    rules = {problem: one.rule.metric for problem, one in result.selections.items()}
    assert rules == {"line": "val_loss", "small": "val_accuracy"}


def final_runs(sweep: Path, variant: str) -> list[Any]:
    folder = sweep / "final" / variant
    return [rundir.load_run(path) for path in sorted(folder.iterdir()) if path.is_dir()]


def test_the_target_of_a_problem_is_what_the_best_variant_reaches(swept: Path) -> None:
    result = compare_runs(swept, draw=False)
    (target,) = result.targets
    for problem, column, best in (("small", "val_accuracy", max), ("line", "val_loss", min)):
        medians = []
        for variant in ("adam", "momentum", "sgd"):
            if (swept / problem / "final" / variant).is_dir():
                curves = [one.epochs[column][1:] for one in final_runs(swept / problem, variant)]
                medians.append(sorted(best(curve) for curve in curves)[1])
        assert target.on(problem).value == best(medians)
        assert any(note.startswith(f"target of {problem}: {target.on(problem)}") for note in result.notes)
    reached = result.runs["steps to target"]
    assert any(map(math.isfinite, reached))


def test_two_finished_sweeps_combine(swept: Path, tmp_path: Path) -> None:
    result = compare_runs([swept / "small", swept / "line"], draw=False)
    assert {group.name for group in result.grouping.groups} == {"adam", "momentum", "sgd"}
    assert result.grouping.problems == ("line", "small")
    done = optlab("compare", swept / "small", swept / "line", "-o", tmp_path)
    assert done.code == 0
    assert (tmp_path / "profile.target.png").is_file()


def test_a_stated_target_is_used(swept: Path) -> None:
    file = swept / "small" / "sweep.yaml"
    text = file.read_text()
    try:
        file.write_text(text.replace("target: null", "target: val_accuracy=0.5"))
        result = compare_runs(swept, draw=False)
    finally:
        file.write_text(text)
    assert str(result.targets[0].on("small")) == "val_accuracy=0.5"


def test_a_problem_whose_data_are_missing_is_reported_and_the_rest_runs(tmp_path: Path) -> None:
    text = FILE.replace("data: {name: diabetes,", "data: {name: mnist, download: false, root: nowhere,")
    text = text.replace("[0.1, 0.03]", "[0.1]").replace("model: linear\n    loss: mse", "model: linear")
    file = write(tmp_path, text)
    assert run(file, "final_seeds=0", "seeds=1", runs=tmp_path) == 2
    assert summary(tmp_path / "both" / "small")["runs"]["done"] == 3
    assert not (tmp_path / "both" / "line").exists()
