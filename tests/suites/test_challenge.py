"""Suites with stored baselines, and the challenge of one optimizer, on two problems of a second."""

from __future__ import annotations

import csv
import html
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from broken_adam import BROKEN
from command import Done, optlab

from trainer.cli.commands import sweep as sweep_command
from trainer.cli.options import OutputOptions, SweepOptions
from trainer.compare import compare_runs
from trainer.config import packaged
from trainer.errors import OptlabError
from trainer.runs import rundir
from trainer.suites.baselines import Baselines, archive_of, pack, stored, unpack
from trainer.suites.description import description
from trainer.suites.pairing import pairing_digests
from trainer.suites.space import parse_search, space_of
from trainer.sweep.file import read_sweeps
from trainer.sweep.plan import SharedData

SUITE = """\
name: mini
axes: {optimizer.lr: [0.1, 0.03]}
final_seeds: 5
problems:
  bowl:
    data: {name: quadratic, dim: 20, batch_size: 128}
    model: quadratic
    train: {epochs: 10, device: cpu, engine: eager}
    log: {every: 5}
  digits:
    data: {name: digits, limit: 200, val_size: 100, batch_size: 20}
    model: {name: mlp, hidden: [8]}
    train: {epochs: 2, device: cpu, engine: eager}
    log: {every: 5}
variants:
  adam: {optimizer: {name: Adam}}
  sgd: {optimizer: {name: SGD}}
"""

OWN = (
    BROKEN
    + """

class NoRate(torch.optim.SGD):
    def __init__(self, params, strength: float = 0.1) -> None:
        super().__init__(params, lr=strength)


def not_one(x):
    return x
"""
)


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a suite with stored baselines."""
    folder = tmp_path_factory.mktemp("suite")
    file = folder / "mini.yaml"
    file.write_text(SUITE)
    (folder / "own.py").write_text(OWN)
    options = SweepOptions(workers=1, figures=False)
    assert sweep_command.sweep(file, [], folder / "runs", options, OutputOptions(quiet=True)) == 0
    sweeps = {sweep.config.name.partition("/")[2]: sweep for sweep in read_sweeps(file)}
    pack(file, folder / "runs" / "mini", description("mini", sweeps, folder / "runs" / "mini"))
    return file


def challenge(suite: Path, optimizer: str, *options: str | Path, figures: bool = False) -> Done:
    drawing = "--figures" if figures else "--no-figures"
    return optlab("challenge", optimizer, "--suite", suite, "--workers", "1", "--quiet", drawing, *options)


def verdicts(folder: Path) -> dict[tuple[str, str], dict[str, Any]]:
    found = json.loads((folder / "verdict.json").read_text())["verdicts"]
    return {(one["problem"], one["baseline"]): one for one in found}


# ---- stored baselines


def test_the_archive_has_all_trials_and_the_final_curves_without_personal_data(
    suite: Path, tmp_path: Path
) -> None:
    baselines = stored(suite)
    assert baselines is not None
    unpack(baselines, tmp_path / "out")
    with open(tmp_path / "out" / "bowl" / "results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * (2 + 5)
    assert not any(row["run"].startswith("/") for row in rows)
    runs = [rundir.load_run(path) for path in rundir.find_runs([tmp_path / "out"])]
    assert len(runs) == 2 * 2 * 5
    assert all(run.epochs and run.steps and run.result for run in runs)
    for path in (tmp_path / "out").rglob("*"):
        assert path.is_dir() or str(suite.parent) not in path.read_text()
    assert all(not {"command", "origin", "git"} & set(run.environment) for run in runs)
    trained = compare_runs(
        [suite.parent / "runs" / "mini" / p / "final" for p in ("bowl", "digits")], draw=False
    )
    assert compare_runs(tmp_path / "out", draw=False).groups.equals(trained.groups)


def test_the_same_runs_give_the_same_archive(suite: Path, tmp_path: Path) -> None:
    other = shutil.copy(suite, tmp_path / "mini.yaml")
    info = json.loads(suite.with_suffix(".json").read_text())
    pack(other, suite.parent / "runs" / "mini", {key: info[key] for key in info if key != "archive_sha256"})
    assert archive_of(other).read_bytes() == archive_of(suite).read_bytes()


def test_the_digest_of_the_pairing_depends_on_the_seed_and_not_on_the_optimizer(
    suite: Path, tmp_path: Path
) -> None:
    (_, digits) = read_sweeps(suite)
    shared = SharedData(tmp_path)
    first, second = (pairing_digests(digits, variant, shared) for variant in digits.variants.values())
    assert first == second
    assert len(set(first.values())) == 5
    (_, changed) = read_sweeps(suite, ["data.batch_size=25"])
    other = pairing_digests(changed, changed.variants["sgd"], shared)
    assert not set(other.values()) & set(first.values())


def test_damaged_baselines_are_reported(suite: Path, tmp_path: Path) -> None:
    baselines = stored(suite)
    assert baselines is not None
    damaged = tmp_path / "damaged.tar.xz"
    damaged.write_bytes(baselines.archive.read_bytes()[:-10])
    with pytest.raises(OptlabError, match="damaged"):
        unpack(Baselines(damaged, baselines.info), tmp_path / "out")
    assert not (tmp_path / "out").exists()


# ---- challenges


@pytest.fixture(scope="module")
def adam(suite: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Done, Path]:
    """Return a challenge of torch's Adam and its folder."""
    out = tmp_path_factory.mktemp("adam") / "out"
    return challenge(suite, "torch.optim.Adam", "--out", out, figures=True), out


def test_adam_equals_the_stored_adam(adam: tuple[Done, Path]) -> None:
    done, out = adam
    assert done.code == 0, done.err
    found = verdicts(out)
    for problem in ("bowl", "digits"):
        one = found[problem, "adam"]
        assert one["kind"] == "no difference detectable"
        assert one["difference"] == 0
    assert "against the best baseline of each problem" in done.out


def test_the_files_of_a_challenge(adam: tuple[Done, Path]) -> None:
    _, out = adam
    document = json.loads((out / "verdict.json").read_text())
    assert document["optimizer"] == "new_Adam"
    assert set(document["tuned"]) == {"bowl", "digits"}
    assert all(one["ms_per_step"] > 0 and one["optimizer_state_bytes"] > 0 for one in document["costs"])
    figures = {path.name for path in (out / "figures").iterdir()}
    assert {"profile.target.png", "val_loss.bowl.png", "val_accuracy.digits.png"} <= figures
    table = (out / "paper_table.md").read_text()
    assert table.count("**") >= 4  # bold in both columns
    assert "lr=0.1" in table
    assert r"\textbf{" in (out / "paper_table.tex").read_text()
    with open(out / "verdicts.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == 4


def test_the_report_of_a_challenge_starts_with_the_verdicts(adam: tuple[Done, Path], tmp_path: Path) -> None:
    _, out = adam
    document = json.loads((out / "verdict.json").read_text())
    done = optlab("report", out, "-o", tmp_path / "report.html")
    assert done.code == 0, done.err
    page = (tmp_path / "report.html").read_text()
    assert "<h1>Challenge of new_Adam on bowl, digits</h1>" in page
    first = page.index("Conclusions")
    for line in document["summary"]:
        assert first < page.index(html.escape(line.strip())) < page.index("Results by group")
    # Other groups are those of any report.
    assert optlab("report", out, "-o", tmp_path / "own.html", "--by", "optimizer.name").code == 0
    assert "<h1>Challenge" not in (tmp_path / "own.html").read_text()


@pytest.mark.parametrize(
    "content", ["{", "3", '{"optimizer": "../x", "tuned": {"digits": null}}', '{"tuned": 3}']
)
def test_a_damaged_verdict_is_an_error(tmp_path: Path, content: str) -> None:
    (tmp_path / "verdict.json").write_text(content)
    done = optlab("report", tmp_path, "-o", tmp_path / "report.html")
    assert done.code == 2
    assert "verdict.json is damaged" in done.err


def test_only_the_new_optimizer_is_trained_and_a_rerun_trains_nothing(
    suite: Path, adam: tuple[Done, Path]
) -> None:
    _, out = adam
    names = {path.name for path in (out / "digits").iterdir() if path.is_dir()}
    assert names == {"final", "new_Adam"}
    before = {path: path.stat().st_mtime_ns for path in out.rglob("steps.csv")}
    assert challenge(suite, "Adam", "--out", out).code == 0
    assert {path: path.stat().st_mtime_ns for path in out.rglob("steps.csv")} == before


def test_a_broken_optimizer_is_worse(suite: Path, tmp_path: Path) -> None:
    done = challenge(
        suite, f"{suite.parent / 'own.py'}:Broken", "--problems", "bowl", "--out", tmp_path / "out"
    )
    assert done.code == 0, done.err
    assert not list((tmp_path / "out").rglob("*.png"))
    (one,) = (one for (_, baseline), one in verdicts(tmp_path / "out").items() if baseline == "adam")
    assert one["kind"] == "worse"
    assert one["difference"] > one["low"] > 0
    assert "worse than adam" in done.out


def test_runs_that_cannot_be_paired_are_refused(suite: Path, tmp_path: Path) -> None:
    for path in (suite, archive_of(suite), suite.with_suffix(".json")):
        shutil.copy(path, tmp_path)
    other = tmp_path / "mini.yaml"
    other.write_text(SUITE.replace("hidden: [8]", "hidden: [9]"))
    done = challenge(other, "Adam", "--out", tmp_path / "out")
    assert done.code == 2
    assert "digits: 5 of 5 seeds differ" in done.err
    assert "--train-baselines" in done.err
    assert not (tmp_path / "out").exists()


def test_baselines_without_stored_results_are_trained_on_request(tmp_path: Path) -> None:
    file = tmp_path / "mini.yaml"
    file.write_text(
        SUITE.replace("variants:\n", 'variants:\n  lion: {optimizer: {name: "not_there:Lion"}}\n').replace(
            "final_seeds: 5", "final_seeds: 2"
        )
    )
    done = challenge(file, "Adagrad", "--out", tmp_path / "out")
    assert done.code == 2
    assert "no baselines are stored" in done.err
    options = ("--train-baselines", "--search", "lr=0.1")
    done = challenge(file, "Adagrad", *options, "--out", tmp_path / "out")
    assert done.code == 0, done.err
    assert "left out the baseline lion" in done.err
    assert set(verdicts(tmp_path / "out")) == {
        (problem, name) for problem in ("bowl", "digits") for name in ("adam", "sgd")
    }
    targets = [(tmp_path / "out" / p / "sweep.yaml").read_text() for p in ("bowl", "digits")]
    assert all("target: val_" in text for text in targets)


def test_a_yaml_file_states_options_and_axes(suite: Path, tmp_path: Path) -> None:
    shutil.copy(suite.parent / "own.py", tmp_path)
    file = tmp_path / "mine.yaml"
    file.write_text(
        "name: mine\noptimizer: {name: own.py:NoRate}\naxes: {optimizer.strength: [0.1, 0.05, 0.01]}\n"
    )
    done = challenge(suite, str(file), "--dry-run", "--out", tmp_path / "out")
    assert done.code == 0, done.err
    assert "challenge of mine" in done.out
    assert "0.1, 0.05, 0.01" in done.out
    file.write_text("optimizer: {name: own.py:NoRate}\ndata: {batch_size: 3}\n")
    done = challenge(suite, str(file), "--dry-run")
    assert done.code == 2
    assert "mine.yaml:2" in done.err


BAD = {
    "not an optimizer": (["{own}:not_one"], "not_one"),
    "no such class": (["{own}:Missing"], "Missing"),
    "no such file": (["nowhere.py:Thing"], "nowhere.py"),
    "unknown optimizer": (["Adma"], "Adam"),
    "unknown problem": (["Adam", "--problems", "bowl,diigts"], "digits"),
    "too many seeds": (["Adam", "--seeds", "6"], "5 seeds"),
    "no search space": (["Adam", "--search", "lr"], "KEY=LOW..HIGH"),
    "not a range": (["Adam", "--search", "lr=1..0.1"], "LOW..HIGH"),
    "unknown option": (["Adam", "--search", "momentum=0,0.9"], "momentum"),
    "bad name": (["Adam", "--name", "a/b"], "letters"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_message(suite: Path, tmp_path: Path, case: str) -> None:
    arguments, words = BAD[case]
    arguments = [text.format(own=suite.parent / "own.py") for text in arguments]
    done = challenge(suite, *arguments, "--out", tmp_path / "out")
    assert done.code == 2, done.err
    assert words in done.err
    assert "Traceback" not in done.err
    assert not (tmp_path / "out").exists()


def test_an_unknown_suite_lists_the_suites() -> None:
    done = challenge(Path("tinny"), "Adam")
    assert done.code == 2
    assert "tiny" in done.err


# ---- the search space


def test_search_texts() -> None:
    assert parse_search("lr=1e-4..1") == ("optimizer.lr", {"log_uniform": [1e-4, 1.0]})
    assert parse_search("momentum=0..0.9") == ("optimizer.momentum", {"uniform": [0.0, 0.9]})
    assert parse_search("optimizer.muon.lr=0.1,0.2") == ("optimizer.muon.lr", [0.1, 0.2])
    assert parse_search("betas=[0.9,0.99],[0.8,0.9]") == ("optimizer.betas", [[0.9, 0.99], [0.8, 0.9]])


def test_the_space_has_the_budget_of_the_baselines() -> None:
    default = {"optimizer.lr": [1, 0.1, 0.01]}
    assert space_of({}, default, 3, None).axes == default
    space = space_of({}, default, 3, 5)
    assert (space.strategy, space.trials) == ("grid", 5)
    assert space.axes["optimizer.lr"] == [0.01, 0.0316, 0.1, 0.316, 1.0]
    space = space_of({"optimizer.lr": {"log_uniform": [1e-3, 1]}}, default, 4, None)
    assert (space.strategy, space.axes["optimizer.lr"]) == ("grid", [0.001, 0.01, 0.1, 1.0])
    several = space_of({"optimizer.momentum": [0, 0.9]}, default, 3, None)
    assert (several.strategy, several.trials) == ("random", 3)
    few = space_of({"optimizer.lr": [0.1], "optimizer.momentum": [0, 0.9]}, default, 3, None)
    assert (few.strategy, few.trials) == ("grid", 2)
    assert space_of({}, {}, 3, None).trials == 1


# ---- the packaged suites


def test_packaged_suites_are_sweeps_with_problems() -> None:
    counts = {name: len(read_sweeps(file)) for name, file in packaged.names("suite").items()}
    assert counts == {"tiny": 5, "small": 5, "standard": 7}
