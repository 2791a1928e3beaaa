"""Metrics in a config, from validation over training to comparison; users' own metrics among them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from command import optlab, rows

from trainer import compare_runs

DOCUMENT = (Path(__file__).resolve().parents[2] / "docs" / "metrics.md").read_text(encoding="utf-8")
BASE: dict[str, Any] = {
    "name": "m",
    "data": {"name": "digits", "batch_size": 64, "limit": 200, "val_size": 0.2},
    "model": {"name": "mlp", "hidden": [8]},
    "optimizer": {"name": "SGD", "lr": 0.1},
    "train": {"epochs": 2, "threads": 1, "engine": "eager"},
    "log": {"plots": []},
}
OWN = """\
import torch
from trainer.metrics import Metric

def worst(outputs, targets, factor: float = 1.0):
    return factor * (outputs.argmax(1) != targets)

def mean_by_mistake(outputs, targets):
    return outputs.abs().mean().double()

wrong = Metric("wrong", "min", sums=mean_by_mistake)
accuracy = Metric("accuracy", "max", sums=mean_by_mistake)
half = Metric(
    "half", "max", label="half of it", unit="%", sums=lambda o, t: torch.tensor(len(t) / 2).double()
)

def makes(share: float):
    return Metric("made", "max", sums=lambda o, t: torch.tensor(share * len(t)).double())

def makes_nothing():
    return 3

def raises(outputs, targets):
    raise KeyError("no such sample")

def rows_of(outputs, targets):
    return outputs

def own_loss(outputs, targets):
    return outputs.square().mean()
"""


def config(folder: Path, metrics: Any, **train: Any) -> Path:
    (folder / "own.py").write_text(OWN, encoding="utf-8")
    path = folder / "c.yaml"
    text = yaml.safe_dump(BASE | {"train": BASE["train"] | {"metrics": metrics} | train}, sort_keys=False)
    path.write_text(text, encoding="utf-8")
    return path


def train(path: Path, run: Path, *overrides: str) -> Path:
    done = optlab("train", path, *overrides, "--run-dir", run, "--quiet")
    assert done.code == 0, done.err
    return run


def test_the_documented_files_work(tmp_path: Path) -> None:
    blocks = dict(re.findall(r"```(python|yaml)\n(.*?)```", DOCUMENT, re.DOTALL))
    (tmp_path / "my_metrics.py").write_text(blocks["python"], encoding="utf-8")
    (tmp_path / "c.yaml").write_text(blocks["yaml"], encoding="utf-8")
    run = train(tmp_path / "c.yaml", tmp_path / "run", "log.plots=[]")
    last = rows(run / "epochs.csv")[-1]
    wanted = 2.718281828 ** -float(last["val_loss"])
    assert float(last["val_probability"]) == pytest.approx(wanted, rel=1e-5)
    assert 0 < float(last["val_confident"]) < float(last["val_accuracy"])
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    assert summary["best_metric"] == "val_probability"
    values = [float(row["val_probability"]) for row in rows(run / "epochs.csv")[1:]]
    assert summary["best"]["values"]["val_probability"] == max(values)


def test_the_document_lists_the_built_in_metrics() -> None:
    listed = optlab("list", "metric", "--json").json["metric"]
    assert re.findall(r"^\| `(\w+)` \| (?:higher|lower)", DOCUMENT, re.MULTILINE) == list(listed)


def test_added_metrics_change_no_other_number(tmp_path: Path) -> None:
    metrics = ["mse", "top5_accuracy", {"name": "own.py:worst", "mode": "min", "factor": 2.0}, "own.py:half"]
    plain = rows(train(config(tmp_path, None), tmp_path / "plain") / "epochs.csv")
    more = rows(train(config(tmp_path, metrics), tmp_path / "more") / "epochs.csv")
    assert [name for name in more[0] if name.startswith("val_")] == [
        f"val_{name}" for name in ("loss", "accuracy", "mse", "top5_accuracy", "worst", "half")
    ]
    for one, other in zip(plain, more, strict=True):
        same = {name: other[name] for name in one if name != "train_seconds"}
        assert same == {name: value for name, value in one.items() if name != "train_seconds"}
        assert float(other["val_worst"]) == pytest.approx(2 - 2 * float(other["val_accuracy"]))
        assert float(other["val_half"]) == 0.5


def test_metrics_given_as_null_and_as_the_default_ones_are_the_default(tmp_path: Path) -> None:
    for number, metrics in enumerate((None, [], ["accuracy"], "missing")):
        path = config(tmp_path, metrics)
        if metrics == "missing":
            path.write_text(yaml.safe_dump(BASE), encoding="utf-8")
        run = train(path, tmp_path / str(number), "train.epochs=0.2")
        names = list(rows(run / "epochs.csv")[0])[5:]
        assert names == ["train_loss", "train_accuracy", "val_loss", "val_accuracy"]


@pytest.mark.parametrize(
    ("metrics", "key", "said"),
    [
        (["acuracy"], "0.name", "accuracy"),
        (["mse", "own.py:nothing"], "1.name", "nothing"),
        (["own.py:worst"], "0.mode", "higher or lower"),
        ([{"name": "own.py:worst", "mode": "up"}], "0.mode", "'up'"),
        ([{"name": "own.py:worst", "mode": "min", "factors": 2}], "0.factors", "factor"),
        ([{"name": "mse", "mode": "max"}], "0.mode", "mse has mode min"),
        (["own.py:wrong"], "0.name", "do not add up"),
        (["own.py:accuracy"], "0.name", "is taken"),
        ([{"name": "own.py:raises", "mode": "max"}], "0.name", "own.py:23"),
        ([{"name": "own.py:rows_of", "mode": "max"}], "0.name", "Tensor of torch.float32 [64, 10]"),
        (["own.py:makes_nothing"], "0.name", "returned a int"),
        (["os:getpid"], "0.name", "standard library"),
        (["torch.nn:Linear"], "0.name", "kind metric"),
        ("mse", "", "list"),
    ],
)
def test_a_wrong_metric_is_reported_with_its_line(tmp_path: Path, metrics: Any, key: str, said: str) -> None:
    path = config(tmp_path, metrics)
    done = optlab("train", path, "--run-dir", tmp_path / "run")
    assert done.code == 2
    assert said in done.err
    assert "train.metrics" + (f".{key}" if key else "") in done.err
    lines = path.read_text(encoding="utf-8").splitlines()
    first = next(number for number, line in enumerate(lines, 1) if line.startswith("  metrics:"))
    assert first <= int(re.findall(r"c\.yaml:(\d+)", done.err)[0]) <= len(lines)
    assert not (tmp_path / "run").exists()


def test_metrics_of_classes_are_refused_on_real_targets(tmp_path: Path) -> None:
    import numpy as np

    draw = np.random.default_rng(0)
    x, y = draw.normal(size=(90, 4)).astype("float32"), draw.normal(size=90).astype("float32")
    np.savez(tmp_path / "d.npz", x_train=x[:60], y_train=y[:60], x_test=x[60:], y_test=y[60:])
    data = [f"data={{name: npz, path: {tmp_path}/d.npz, batch_size: 20, limit: null}}", "loss=mse"]
    path = config(tmp_path, ["r2", "rmse"])
    values = rows(train(path, tmp_path / "run", *data) / "epochs.csv")[-1]
    assert float(values["val_rmse"]) == pytest.approx(float(values["val_loss"]) ** 0.5)
    done = optlab("train", path, *data, "train.metrics=[accuracy]", "--run-dir", tmp_path / "other")
    assert done.code == 2
    assert "accuracy needs classes" in done.err


def test_the_code_of_a_metric_belongs_to_the_identity_of_a_run(tmp_path: Path) -> None:
    path = config(tmp_path, ["own.py:half", {"name": "own.py:makes", "share": 0.25}])
    run = train(path, tmp_path / "run")
    assert optlab("train", path, "--run-dir", run, "--skip-existing").code == 0
    assert optlab("train", path, "train.metrics=[]", "--run-dir", run, "--skip-existing").code == 2
    (tmp_path / "own.py").write_text(OWN + "\n# changed\n", encoding="utf-8")
    done = optlab("train", path, "--run-dir", run, "--skip-existing")
    assert (done.code, "own.py" in done.err) == (2, True)


def test_users_metrics_are_compared_and_drawn_without_their_code(tmp_path: Path) -> None:
    metrics = ["own.py:half", {"name": "own.py:worst", "mode": "min"}]
    path = config(tmp_path, metrics, eval_train=True, epochs=6)
    for lr in (0.001, 0.5):
        for seed in (0, 1, 2):
            train(path, tmp_path / "runs" / f"{lr}-{seed}", f"optimizer.lr={lr}", f"seed={seed}")
    (tmp_path / "own.py").unlink()
    found = compare_runs(tmp_path / "runs", metric="val_worst", targets=["val_worst=0.8"])
    assert found.targets[0].mode == found.selection.rule.mode == "min"
    assert found.differences["verdict"].tolist() == ["lr=0.5 is better"]
    assert {"val_half", "val_worst", "val_accuracy", "val_loss"} <= set(found.figures)
    assert found.figures["val_half"].axes[0].get_ylabel() == "validation half of it (%)"
    shown = optlab("compare", tmp_path / "runs").out
    assert "final val half of it %" in shown
    listed = optlab("runs", tmp_path / "runs", "--sort=val_worst", "--json").json
    assert [row["val_worst"] for row in listed] == sorted(row["val_worst"] for row in listed)
    run = tmp_path / "runs" / "0.5-0"
    assert optlab("plot", run).code == 0
    names = {file.stem for file in (run / "plots").iterdir()}
    assert names == {"loss", "loss_logx", "accuracy", "half", "worst", "lr"}
    assert optlab("train", run / "config.yaml", "--run-dir", run, "--force").code == 2, "its code is gone"


def test_runs_that_disagree_on_a_direction_are_not_compared(tmp_path: Path) -> None:
    for mode, lr in (("min", 0.1), ("max", 0.2)):
        path = config(tmp_path, [{"name": "own.py:worst", "mode": mode}])
        train(path, tmp_path / "runs" / mode, f"optimizer.lr={lr}")
    done = optlab("compare", tmp_path / "runs")
    assert (done.code != 0, "worst has mode" in done.err) == (True, True)


def test_a_run_without_descriptions_is_read(tmp_path: Path) -> None:
    """Runs of earlier releases have accuracy in their columns, and nothing about it in environment.json."""
    run = train(config(tmp_path, None), tmp_path / "runs" / "a")
    file = run / "environment.json"
    fields = json.loads(file.read_text(encoding="utf-8"))
    del fields["metrics"]
    file.write_text(json.dumps(fields), encoding="utf-8")
    assert compare_runs(tmp_path / "runs", targets=["val_accuracy=0.1"], draw=False).targets[0].mode == "max"


@pytest.mark.parametrize(
    "wrong",
    [{"name": "../../x"}, {"mode": "up"}, {"label": "$\\frac$"}, {"format": ".999999999f"}, {"unit": 3}],
)
def test_a_damaged_description_is_reported(tmp_path: Path, wrong: dict[str, Any]) -> None:
    run = train(config(tmp_path, None), tmp_path / "run", "train.epochs=0.2")
    file = run / "environment.json"
    fields = json.loads(file.read_text(encoding="utf-8"))
    fields["metrics"][0] |= wrong
    file.write_text(json.dumps(fields), encoding="utf-8")
    done = optlab("plot", run)
    assert (done.code, "environment.json is damaged" in done.err) == (2, True)


def test_a_plateau_schedule_and_early_stopping_follow_the_direction(tmp_path: Path) -> None:
    path = config(tmp_path, [{"name": "own.py:worst", "mode": "max"}])
    plateau = "scheduler={name: ReduceLROnPlateau, monitor: val_worst}"
    done = optlab("validate", path, plateau)
    assert (done.code, "set mode: max" in done.err) == (2, True)
    assert optlab("validate", path, plateau.replace("}", ", mode: max}")).code == 0
    stopping = "train.early_stopping={metric: val_half, patience: 1}"
    run = train(path, tmp_path / "run", stopping, f"train.metrics=[{tmp_path}/own.py:half]", "train.epochs=5")
    assert json.loads((run / "summary.json").read_text(encoding="utf-8"))["status"] == "early_stopped"


def test_resuming_measures_the_same(tmp_path: Path) -> None:
    metrics = ["mse", "r2", {"name": "own.py:worst", "mode": "min"}]
    path = config(tmp_path, metrics)
    whole = train(path, tmp_path / "whole")
    short = train(path, tmp_path / "short", "train.epochs=1.4")
    assert optlab("resume", short, "train.epochs=2").code == 0

    def measured(run: Path) -> list[dict[str, str]]:
        return [{k: v for k, v in row.items() if k != "train_seconds"} for row in rows(run / "epochs.csv")]

    assert measured(short) == measured(whole)
