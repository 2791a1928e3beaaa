"""Axes and seeds on the command line: what they mean, and that the result is that of a sweep file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from command import optlab, write_tiny
from hypothesis import given
from hypothesis import strategies as st
from small_sweeps import BASE, results, run, write

from trainer.config.merge import SWEEP_KEYS
from trainer.config.models import Config
from trainer.errors import ConfigError
from trainer.runs import rundir
from trainer.sweep.command_line import read_overrides
from trainer.sweep.file import read_sweep
from trainer.sweep.models import SweepConfig, value_text


def read(text: str) -> tuple[str, Any]:
    (override,) = read_overrides([text])
    return ".".join(override.key), override.value


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("optimizer.lr=1e-2,1e-3", "axes.optimizer.lr", [0.01, 0.001]),
        ("optimizer.lr=0.1", "optimizer.lr", 0.1),
        ("train.epochs=1..3", "axes.train.epochs", [1, 2, 3]),
        ("seed=0..4", "seeds", [0, 1, 2, 3, 4]),
        ("seed=0..2,7", "seeds", [0, 1, 2, 7]),
        ("seed=3", "seeds", [3]),
        ("seeds=3", "seeds", 3),
        ("final_seeds=7,9", "final_seeds", [7, 9]),
        ("model.hidden=[100,50]", "model.hidden", [100, 50]),
        ("model.hidden=[100,50],[20]", "axes.model.hidden", [[100, 50], [20]]),
        ("optimizer={name: SGD, lr: 1},Adam", "axes.optimizer", [{"name": "SGD", "lr": 1}, "Adam"]),
        ("data.path='a,b.npz'", "data.path", "a,b.npz"),
        ("""data.path="a,b.npz",it's.npz""", "axes.data.path", ["a,b.npz", "it's.npz"]),
        (
            "scheduler=null,{name: StepLR, step_size: 1}",
            "axes.scheduler",
            [None, {"name": "StepLR", "step_size": 1}],
        ),
        ("data.root=../a", "data.root", "../a"),
        ("optimizer.groups.0.match=*.bias", "optimizer.groups.0.match", "*.bias"),
        ("optimizer.lr=1,,2", "optimizer.lr", "1,,2"),
        ("axes.optimizer.lr=[1,2]", "axes.optimizer.lr", [1, 2]),
        ("name=a,b", "name", "a,b"),
    ],
)
def test_several_values_make_an_axis(text: str, key: str, value: Any) -> None:
    assert read(text) == (key, value)


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text("ab,'\"[]{}: .0", max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab", min_size=1), inner, max_size=2),
    max_leaves=4,
).filter(lambda value: not (isinstance(value, str) and ".." in value))


@given(st.lists(plain, min_size=2, max_size=4))
def test_values_written_by_the_sweep_are_parsed_back(values: list[Any]) -> None:
    key, actual = read("k.v=" + ",".join(value_text([value])[1:-1] for value in values))
    assert key == "axes.k.v"
    assert actual == values


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed=4..1", "4..1 is not a valid range"),
        ("seed=0..100000000", "0..100000000 is not a valid range"),
        ("lr", "not an override"),
    ],
)
def test_a_bad_list_is_an_error_that_names_the_override(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        read_overrides([text])
    assert repr(text) in str(caught.value)


def test_a_config_with_axes_gives_the_same_sweep_as_the_saved_sweep_file(tmp_path: Path) -> None:
    config = tmp_path / "own.yaml"
    config.write_text(BASE)
    runs = tmp_path / "runs"
    assert run(config, "optimizer.lr=0.1,0.01", "seed=0,1", "train.epochs=1", runs=runs) == 0
    root = runs / "own-lr"
    assert {(row["optimizer.lr"], row["seed"]) for row in results(root)} == {
        (lr, seed) for lr in ("0.1", "0.01") for seed in "01"
    }
    finished = {path: path.stat().st_mtime_ns for path in root.rglob("summary.json")}
    assert len(finished) == 5
    assert run(root / "sweep.yaml", runs=runs) == 0  # the same sweep: all its runs exist
    for path, time in finished.items():
        assert path.parent == root or path.stat().st_mtime_ns == time


def test_axes_of_the_command_line_replace_those_of_a_sweep_file(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        {
            "base": "base.yaml",
            "name": "s",
            "seeds": 5,
            "axes": {"optimizer.lr": [1.0], "model.hidden": [[4]]},
        },
    )
    sweep = read_sweep(file, ["optimizer.lr=0.1,0.2", "seed=7", "train.epochs=3"])
    (variant,) = sweep.variants.values()
    assert {axis.key: axis.values for axis in variant.axes} == {
        "optimizer.lr": (0.1, 0.2),
        "model.hidden": ([4],),
    }
    assert sweep.seeds == [7]
    assert "train.epochs=3" in variant.overrides


def test_a_config_without_axes_is_not_a_sweep(tmp_path: Path) -> None:
    write(tmp_path, {})
    with pytest.raises(ConfigError, match=r"base\.yaml is the config of one run"):
        read_sweep(tmp_path / "base.yaml", ["train.epochs=3"])


def test_a_file_with_any_key_of_a_sweep_is_a_sweep_for_every_verb(tmp_path: Path) -> None:
    assert set(SWEEP_KEYS) == {"problems", "variants", "axes", *SweepConfig.model_fields} - {
        "format",
        "base",
        "name",
    }
    assert not set(SWEEP_KEYS) & set(Config.model_fields)
    write(tmp_path, {"base": "base.yaml", "name": "s", "seeds": 2})
    assert read_sweep(tmp_path / "sweep.yaml").seeds == [0, 1]
    done = optlab("validate", tmp_path / "sweep.yaml")
    assert done.code == 2
    assert f"optlab sweep {tmp_path}/sweep.yaml" in done.err


def test_a_sweep_can_vary_only_the_seeds(tmp_path: Path) -> None:
    write(tmp_path, {})
    sweep = read_sweep(tmp_path / "base.yaml", ["seed=2..4"])
    assert (sweep.config.name, sweep.seeds) == ("base-seeds", [2, 3, 4])
    assert not sweep.searches


def test_paths_of_an_axis_start_at_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "configs", {})
    (tmp_path / "own.py").write_text("from torch.optim import SGD\n\nclass Mine(SGD):\n    pass\n")
    monkeypatch.chdir(tmp_path)
    values = "optimizer={name: own.py:Mine, lr: 0.1},{name: SGD, lr: 0.1}"
    assert run(Path("configs/base.yaml"), values, runs=Path("runs")) == 0
    saved = [yaml.safe_load(path.read_text()) for path in Path("runs").rglob(rundir.CONFIG)]
    assert {config["optimizer"]["name"] for config in saved} == {f"{tmp_path}/own.py:Mine", "SGD"}
    monkeypatch.chdir("runs")
    assert run(Path("base-optimizer/sweep.yaml"), runs=tmp_path / "runs") == 0


def test_paths_in_a_sweep_file_start_at_its_folder(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "base": "base.yaml",
            "name": "s",
            "axes": {"data.path": ["a.npz", "../b.npz"], "optimizer.name": ["own.py:Mine", "SGD"]},
            "variants": {
                "one": {"loss.name": "my.py:Loss", "axes": {"model": {"choice": [{"name": "m.py:M"}]}}}
            },
        },
    )
    (variant,) = read_sweep(tmp_path / "sweep.yaml").variants.values()
    assert {axis.key: axis.values for axis in variant.axes} == {
        "data.path": (f"{tmp_path}/a.npz", f"{tmp_path.parent}/b.npz"),
        "optimizer.name": (f"{tmp_path}/own.py:Mine", "SGD"),
        "model": ({"name": f"{tmp_path}/m.py:M"},),
    }
    assert variant.overrides == (f"loss.name={tmp_path}/my.py:Loss",)


@pytest.mark.parametrize("verb", ["train", "validate"])
@pytest.mark.parametrize("text", ["optimizer.lr=0.1,0.01", "seed=0..4"])
def test_several_values_for_one_run_suggest_a_sweep(tmp_path: Path, verb: str, text: str) -> None:
    config = write_tiny(tmp_path)
    done = optlab(verb, config, "train.epochs=1", text)
    assert done.code == 2
    assert f"optlab sweep {config} train.epochs=1 {text}" in done.err


def test_the_result_names_an_own_optimizer_shortly_and_the_command_that_compares(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert optlab("init").code == 0
    optimizers = "optimizer.name=my_optimizer.py:MyOptimizer,Adam"
    done = optlab("sweep", "my_optimizer.yaml", optimizers, "train.steps=1", "--no-figures", "--workers", "1")
    assert done.code == 0, done.err
    assert "MyOptimizer" in done.out
    assert str(tmp_path) not in done.out
    assert done.err.splitlines()[-1].endswith("optlab compare runs/my_optimizer-name")


def test_a_string_with_a_comma_is_one_value_of_a_run(tmp_path: Path) -> None:
    done = optlab("validate", write_tiny(tmp_path), "model.hidden=[8,8]")
    assert done.code == 0, done.err


def test_a_sweep_says_which_options_another_name_drops(tmp_path: Path) -> None:
    done = optlab("sweep", write_tiny(tmp_path), "model.name=linear,mlp", "--dry-run", "--runs", tmp_path)
    assert done.code == 0
    assert "override 'model.name=linear' drops hidden=" in done.err


def test_the_best_component_is_written_as_in_the_name_of_its_run(tmp_path: Path) -> None:
    axis = "model={name: mlp, hidden: [8]},{name: mlp, hidden: [9]}"
    done = optlab("sweep", write_tiny(tmp_path), axis, "--workers", "1", "--no-figures", "--runs", tmp_path)
    assert done.code == 0
    assert "model=mlp,hidden=" in done.out


def test_several_optimizers_are_tuned_separately(tmp_path: Path) -> None:
    optimizers = "optimizer=SGD,{name: SGD, momentum: 0.9}"
    axes = (optimizers, "optimizer.lr=0.1,0.01", "final_seeds=2")
    done = optlab("sweep", write_tiny(tmp_path), *axes, "--workers", "1", "--runs", tmp_path, "--json")
    assert done.code == 0
    variants = done.json["variants"]
    assert list(variants) == ["SGD", "SGD_momentum_0.9"]
    assert [part["final"]["n"] for part in variants.values()] == [2, 2]


def test_a_sweep_of_optimizers_with_one_setting_each_says_that_they_are_not_tuned(tmp_path: Path) -> None:
    config = write_tiny(tmp_path)
    done = optlab("sweep", config, "optimizer=SGD,Adam", "--workers", "1", "--runs", tmp_path)
    assert "each optimizer has one setting" in done.err
    done = optlab("sweep", config, "optimizer=SGD,Adam", "train.epochs=3", "--dry-run", "--runs", tmp_path)
    assert "2 existing runs differ from this sweep" in done.err
