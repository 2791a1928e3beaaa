"""The sweep file: its meaning, and one error message with the line for every fault."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from small_sweeps import BASE, run, write

from trainer.catalog import COMPONENTS
from trainer.cli.commands.sweep_results import COMPARISON
from trainer.config.models import SeedConfig
from trainer.config.run_id import run_id
from trainer.errors import OptlabError
from trainer.runs import rundir
from trainer.sweep.file import read_sweep
from trainer.sweep.models import FINAL, RESERVED_NAMES, load_variant, override_texts, value_text
from trainer.sweep.plan import (
    SWEEP_FILE,
    SharedData,
    check_variants,
    default_overrides,
    grid_settings,
    open_shared_data,
    resolve_objective,
)
from trainer.sweep.progress import PROGRESS
from trainer.sweep.results import BEST, RESULTS, SUMMARY

HEAD = "base: base.yaml\nname: s\n"
VARIANTS = "variants:\n  sgd: {optimizer: {name: SGD}}\n"


def test_a_variant_overlays_the_base_and_its_axes_override_the_common_ones(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        HEAD
        + """\
variants:
  sgd: {optimizer: {momentum: 0.9}}
  adam: {optimizer: {name: Adam}, optimizer.lr: [0.01, 0.02], optimizer.weight_decay: 0.5}
  long: {train: {steps: 7}, axes: {model.hidden: [[4], [4, 4]]}}
axes: {optimizer.lr: [1, 0.1]}
""",
    )
    sweep = read_sweep(file, ["train.eval_every=2"])
    axes = {name: grid_settings(variant) for name, variant in sweep.variants.items()}
    assert axes["sgd"] == [{"optimizer.lr": 1}, {"optimizer.lr": 0.1}]
    assert axes["adam"] == [{"optimizer.lr": 0.01}, {"optimizer.lr": 0.02}]
    assert len(axes["long"]) == 4
    configs = {
        name: load_variant(variant, axes[name][-1], 7, COMPONENTS).config
        for name, variant in sweep.variants.items()
    }
    assert configs["sgd"].optimizer[0].options["momentum"] == 0.9
    assert configs["adam"].optimizer[0].name == "Adam"
    assert configs["adam"].optimizer[0].options["weight_decay"] == 0.5
    assert configs["adam"].optimizer[0].options["lr"] == 0.02
    assert configs["long"].train.steps == 7
    assert configs["long"].model.options["hidden"] == [4, 4]
    assert {config.seed.init for config in configs.values()} == {7}
    assert {config.train.eval_every.epochs for config in configs.values()} == {2}
    assert [config.name for config in configs.values()] == ["sgd", "adam", "long"]


@pytest.mark.parametrize(
    "value", [0.1, 1e-7, 3, True, None, "relu", "1e-3", "null", "", "a: b", ["x", 1.5], {"a": [1, "b"]}]
)
def test_an_override_parses_back_to_the_same_value(value: object) -> None:
    from trainer.config.merge import parse_override

    assert parse_override(f"key={value_text(value)}").value == value


def test_run_names_equal_those_of_single_runs(tmp_path: Path) -> None:
    texts = override_texts({"optimizer.lr": 0.1, "model.hidden": [8, 8]})
    assert run_id(texts, SeedConfig.model_validate(3)) == "hidden=[8,8],lr=0.1,seed=3"


BAD = {
    "unknown key": (HEAD + VARIANTS + "sedes: 3\n", "sweep.yaml:5", "sedes"),
    "axis on a key that is not there": (
        HEAD + VARIANTS + "axes:\n  optimizer.lrr: [0.1]\n",
        "sweep.yaml:6",
        "lrr",
    ),
    "empty axis": (HEAD + VARIANTS + "axes:\n  optimizer.lr: []\n", "sweep.yaml:6", "empty"),
    "value that does not fit": (
        HEAD + VARIANTS + "axes:\n  optimizer.lr: [0.1, -1]\n",
        "sweep.yaml:6",
        "lr",
    ),
    "variant that does not validate": (
        HEAD + "variants:\n  sgd:\n    optimizer: {name: SDG}\n",
        "sweep.yaml:5",
        "SDG",
    ),
    "variant that cannot be built": (
        HEAD + "variants:\n  sgd: {}\n  twice:\n    optimizer: {nesterov: true}\n",
        "sweep.yaml:6",
        "esterov",
    ),
    "the same variant under two names": (
        HEAD + "variants:\n  a: {optimizer: {name: SGD, lr: 0.1}}\n  b: {}\n",
        "sweep.yaml:5",
        "the same experiment",
    ),
    "the same name twice": (HEAD + "variants:\n  a: {}\n  a: {}\n", "sweep.yaml:5", "'a'"),
    "trials with a grid": (HEAD + VARIANTS + "trials: 5\n", "sweep.yaml:5", "grid"),
    "a search without trials": (
        HEAD + VARIANTS + "axes: {optimizer.lr: [0.1]}\nstrategy: tpe\n",
        "sweep.yaml:6",
        "trials",
    ),
    "a search without axes": (HEAD + VARIANTS + "strategy: tpe\ntrials: 4\n", "sweep.yaml", "search"),
    "a range in a grid": (
        HEAD + VARIANTS + "axes: {optimizer.lr: {log_uniform: [0.1, 1]}}\n",
        "sweep.yaml",
        "range",
    ),
    "grids of unequal size": (
        HEAD
        + "variants:\n  a: {}\n  b: {optimizer: {momentum: 0.5}, optimizer.lr: [1, 2, 3]}\n"
        + "axes: {optimizer.lr: [0.1, 1]}\n",
        "sweep.yaml:6",
        "allow_unequal",
    ),
    "pruning a grid": (
        HEAD + VARIANTS + "axes: {optimizer.lr: [0.1, 1]}\nprune: median\n",
        "sweep.yaml:6",
        "grid",
    ),
    "pruning by what is known at the end": (
        HEAD
        + "variants:\n  a: {train: {eval_every: 2}}\naxes: {optimizer.lr: [0.1, 1]}\nstrategy: random\n"
        + "trials: 4\nprune: median\n",
        "sweep.yaml:8",
        "at the end",
    ),
    "choosing on the test set": (
        HEAD + VARIANTS + "objective: {metric: test_accuracy}\n",
        "sweep.yaml:5",
        "validation",
    ),
    "a metric that is not measured": (
        HEAD + VARIANTS + "objective: {metric: val_f1}\n",
        "sweep.yaml:5",
        "val_accuracy",
    ),
    "final seeds that were searched on": (HEAD + VARIANTS + "final_seeds: [0, 1]\n", "sweep.yaml:5", "fresh"),
    "a seed twice": (HEAD + VARIANTS + "seeds: [1, 1]\n", "sweep.yaml:5", "twice"),
    "seed as an axis": (HEAD + VARIANTS + "axes: {seed: [1, 2]}\n", "sweep.yaml:5", "seeds"),
    "no such base": ("base: bass.yaml\nname: s\n" + VARIANTS, "sweep.yaml:1", "base.yaml"),
    "a name that is no folder": ("base: base.yaml\nname: ../s\n" + VARIANTS, "sweep.yaml:2", "folder"),
    "a variant called final": (HEAD + "variants:\n  final: {}\n", "sweep.yaml:4", "final"),
    "two variants in one folder": (
        HEAD + 'variants:\n  1: {}\n  "1": {}\n',
        "sweep.yaml:5",
        "share a folder",
    ),
    "two variants in one folder of another system": (
        HEAD + "variants:\n  sgd: {}\n  SGD: {}\n",
        "sweep.yaml:5",
        "share a folder",
    ),
    "a variant called as a file of the sweep": (
        HEAD + "variants:\n  Results.CSV: {}\n",
        "sweep.yaml:4",
        "writes a file or folder of that name",
    ),
    "an axis twice": (HEAD + VARIANTS + 'axes:\n  1: [1]\n  "1": [2]\n', "sweep.yaml:7", "twice"),
    "an axis in two spellings": (
        HEAD + VARIANTS + "axes:\n  optimizer.lr: [1]\n  optimizer.0.lr: [2]\n",
        "sweep.yaml:6",
        "optimizer.lr is also set by",
    ),
    "a fixed value beside its axis": (
        HEAD + "variants:\n  a:\n    optimizer.lr: 0.5\naxes: {optimizer.lr: [1, 2]}\n",
        "sweep.yaml:5",
        "is an axis of this sweep",
    ),
    "an axis beside itself": (
        HEAD + "variants:\n  a:\n    axes: {optimizer.lr: [1]}\n    optimizer.lr: [2]\n",
        "sweep.yaml:6",
        "keep one of them",
    ),
    "a dotted key against its mapping": (
        HEAD + "variants:\n  a:\n    optimizer: {lr: 0.5}\n    optimizer.0.lr: 0.6\n",
        "sweep.yaml:6",
        "it changes optimizer.lr",
    ),
    "a dotted name that drops what its mapping gives": (
        HEAD + "variants:\n  a:\n    optimizer.name: Adam\n    optimizer: {lr: 0.5}\n",
        "sweep.yaml:5",
        "it changes optimizer.lr",
    ),
    "a seed of a variant": (HEAD + "variants:\n  a:\n    seed.init: 3\n", "sweep.yaml:5", "seeds"),
    "a section that is none": (
        HEAD + "variants:\n  a:\n    loss: [3]\n    train: 3\n",
        "sweep.yaml:6",
        "got 3",
    ),
    "no YAML": (HEAD + "variants: [\n", "sweep.yaml", "YAML"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_one_clear_message_before_anything_runs(case: str, tmp_path: Path) -> None:
    text, where, word = BAD[case]
    file = write(tmp_path, text)
    with pytest.raises(OptlabError) as caught:
        run(file, runs=tmp_path / "runs")
    assert caught.value.exit_code == 2
    assert where in str(caught.value)
    assert word in str(caught.value)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("overrides", "options", "word"),
    [
        (["optimizer.lr=0.5"], {}, "axes.optimizer.lr"),
        (["optimizer.lrr=0.5"], {}, "lrr"),
        (["axes.optimizer.lr=0.5"], {}, "axis"),
        (["optimizer.0.lr=0.5"], {}, "optimizer.lr"),
        (["trials=2", "trials=3"], {}, "trials is also set by 'trials=2'"),
        (["objective=val_loss", "objective={metric: val_accuracy}"], {}, "objective is also set by"),
        (["axes={optimizer.lr: [1]}", "axes.optimizer.lr=[2]"], {}, "axes.optimizer.lr is also set by"),
        (["train.epochs=1", "train.epochs=2"], {}, "train.epochs is also set by"),
        (["seeds.first=1", "seeds=2"], {}, "seeds is also set by"),
        (["seeds.first=1"], {}, "no keys"),
        (["seed.init=3"], {}, "use seeds=5"),
        (["train.test=end"], {}, "which runs read the test set"),
        ([], {"only": ["smd"]}, "sgd"),
        ([], {"shard": "3/2"}, "I/N"),
        ([], {"on": "slurm"}, "HOST:PORT"),
    ],
)
def test_bad_usage_gets_one_clear_message(
    overrides: list[str], options: dict[str, object], word: str, tmp_path: Path
) -> None:
    file = write(tmp_path, HEAD + VARIANTS + "seeds: [1]\naxes: {optimizer.lr: [0.1, 1]}\n")
    with pytest.raises(OptlabError, match=word):
        run(file, *overrides, runs=tmp_path / "runs", **options)
    assert not (tmp_path / "runs").exists()


def test_overrides_reach_the_sweep_its_axes_and_every_config(tmp_path: Path) -> None:
    file = write(tmp_path, HEAD + VARIANTS + "axes: {optimizer.lr: [0.1, 1]}\n", BASE)
    sweep = read_sweep(
        file, ["seeds=[4,5]", "axes.optimizer.lr=[2,3,4]", "objective.mode=min", "train.epochs=1"]
    )
    assert sweep.seeds == [4, 5]
    assert len(grid_settings(sweep.variants["sgd"])) == 3
    assert sweep.config.objective is not None
    assert sweep.config.objective.mode == "min"
    assert load_variant(sweep.variants["sgd"], {"optimizer.lr": 2}, 4, COMPONENTS).config.train.epochs == 1


def test_the_cores_of_a_run_are_its_threads(tmp_path: Path) -> None:
    file = write(tmp_path, HEAD + VARIANTS + "axes: {optimizer.lr: [0.1, 1]}\n", BASE)

    def threads(*overrides: str) -> int | str:
        variant = read_sweep(file, overrides).variants["sgd"]
        return load_variant(variant, {"optimizer.lr": 1}, 0, COMPONENTS).config.train.threads

    assert threads() == 1
    assert threads("resources.cpus=2.5") == 2
    assert threads("resources.cpus=0.5") == 1
    assert threads("resources.cpus=2", "train.threads=3") == 3
    assert read_sweep(file, ["resources.gpus=0.25"]).config.gpus_per_run == 0.25
    assert read_sweep(file, ["runs_per_gpu=4"]).config.gpus_per_run == 0.25
    with pytest.raises(OptlabError, match="both set"):
        read_sweep(file, ["runs_per_gpu=4", "resources.gpus=0.25"])


def test_the_order_of_axes_keys_and_overrides_never_matters(tmp_path: Path) -> None:
    axes = ["optimizer.betas: [[0.8, 0.9], [0.7, 0.99]]", "optimizer.name: [Adam, AdamW]"]
    dotted = ["model.hidden: 3", "model.name: my_model", "train.steps: 7"]
    given = ["train={threads: 2}", "optimizer.weight_decay=0.5", "objective.mode=min", "objective=val_loss"]
    actual = set()
    for order in (1, -1):
        lines = [f"    {line}" for line in dotted[::order]]
        text = HEAD + "variants:\n  a:\n" + "\n".join(lines) + f"\naxes: {{{', '.join(axes[::order])}}}\n"
        file = write(tmp_path, text.replace("my_model", "mlp").replace("hidden: 3", "dropout: 0.5"))
        sweep = read_sweep(file, given[::order])
        variant = sweep.variants["a"]
        values = {"optimizer.betas": [0.7, 0.99], "optimizer.name": "AdamW"}
        config = load_variant(
            variant, values, 3, COMPONENTS, default_overrides(sweep, variant, "search")
        ).config
        assert config.optimizer[0].options["betas"] == [0.7, 0.99]
        assert config.optimizer[0].name == "AdamW"
        assert config.model.options["dropout"] == 0.5
        assert config.train.threads == 2
        actual.add((config.model_dump_json(), str(sweep.config.objective)))
    assert len(actual) == 1


def test_a_variant_cannot_have_the_name_of_a_file_of_the_sweep() -> None:
    written = {FINAL, COMPARISON, SWEEP_FILE, RESULTS, SUMMARY, BEST, PROGRESS, rundir.LOCK}
    of_a_run = {rundir.STATUS, rundir.CONFIG, rundir.ENVIRONMENT}
    assert written | of_a_run == RESERVED_NAMES


def test_workers_share_a_data_sets_own_validation_split(tmp_path: Path) -> None:
    x, y = np.arange(240, dtype=np.uint8).reshape(60, 4), np.arange(60) % 3
    np.savez(tmp_path / "a.npz", x_train=x, y_train=y, x_test=x[:9], y_test=y[:9], x_val=x[:6], y_val=y[:6])
    base = BASE.replace("name: digits, limit: 200, val_size: 200", "name: npz, path: a.npz, limit: 40")
    sweep = read_sweep(write(tmp_path, HEAD + VARIANTS + "axes: {optimizer.lr: [0.1, 1]}\n", base))
    shared_data = SharedData(tmp_path / "shared_data")
    infos = check_variants(sweep, shared_data)
    objective = resolve_objective(sweep, infos)
    assert objective is not None
    assert objective.metric == "val_accuracy"
    shared = open_shared_data(
        shared_data.put(load_variant(sweep.variants["sgd"], {"optimizer.lr": 1}, 0, COMPONENTS))
    )
    assert shared.splits.val is not None
    assert shared.splits.val.targets.tolist() == y[:6].tolist()
    assert len(shared.splits.train) == 40
