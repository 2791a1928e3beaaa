"""Run identity: every config key with every command, and user code, packages and data."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command import optlab
from pydantic import BaseModel

from trainer import catalog, imports
from trainer.config.identity import (
    Code,
    _section_of,
    code_of,
    config_differences,
    may_differ,
    source_files,
)
from trainer.config.models import Config, Verb
from trainer.config.run_id import value_names
from trainer.runs import launch

# Every section is set, so that each key below changes one of its settings.
FULL = """\
name: full
seed: 0
data: {name: digits, batch_size: 32, val_size: 100, limit: 200, normalize: {mean: [0.5], std: [0.5]},
       augment: [{name: random_crop, padding: 1}]}
model: {name: mlp, hidden: [16]}
init: {weight: {name: kaiming_uniform_}, bias: {name: zeros_},
       layers: [{match: {name: "*1*"}, weight: {name: ones_}, bias: {name: zeros_}}]}
loss: {name: cross_entropy}
optimizer: {name: SGD, lr: 0.01, groups: [{match: {name: "*.bias"}, lr: 0.02}]}
scheduler: {name: StepLR, step_size: 1, gamma: 0.9}
train: {epochs: 1, threads: 1, early_stopping: {patience: 3}, eval_every: {epochs: 1}}
log: {every: 2, plots: []}
"""

# One override per key that changes FULL.
CHANGES = {
    "name": "name=other",
    "seed.init": "seed.init=1",
    "seed.batches": "seed.batches=1",
    "seed.augmentation": "seed.augmentation=1",
    "seed.dropout": "seed.dropout=1",
    "data.batch_size": "data.batch_size=16",
    "data.eval_batch_size": "data.eval_batch_size=50",
    "data.val_size": "data.val_size=90",
    "data.val_from": "data.val_from=end",
    "data.split_seed": "data.split_seed=1",
    "data.limit": "data.limit=190",
    "data.repeat": "data.repeat=2",
    "data.shuffle": "data.shuffle=once",
    "data.drop_last": "data.drop_last=true",
    "data.normalize.mean": "data.normalize={mean: [0.4], std: [0.5]}",
    "data.normalize.std": "data.normalize={mean: [0.5], std: [0.4]}",
    "data.resize": "data.resize=10",
    "data.pad": "data.pad=1",
    "data.augment.name": "data.augment=[]",
    "task": "task=classification",
    "model.name": "model={name: linear}",
    "model.hidden": "model.hidden=[17]",
    "model.output": "model.output=logits",
    "init.weight.name": "init.weight={name: kaiming_normal_}",
    "init.bias.name": "init.bias=null",
    "init.layers.weight.name": "init.layers.0.weight={name: zeros_}",
    "init.layers.bias.name": "init.layers.0.bias={name: ones_}",
    "init.layers.match.name": 'init.layers.0.match={name: "*3*"}',
    "init.layers.match.kind": "init.layers.0.match={kind: Linear}",
    "init.layers.match.ndim": "init.layers.0.match={ndim: 2}",
    "init.layers.match.min_ndim": "init.layers.0.match={min_ndim: 2}",
    "loss.name": "loss={name: multi_margin}",
    "loss.l1": "loss.l1=1e-4",
    "loss.l2": "loss.l2=1e-4",
    "optimizer.name": "optimizer={name: Adam, lr: 0.01}",
    "optimizer.lr": "optimizer.lr=0.02",
    "optimizer.label": "optimizer.label=mine",
    "optimizer.match.name": 'optimizer.match={name: "*"}',
    "optimizer.match.kind": 'optimizer.match={kind: "*"}',
    "optimizer.match.ndim": "optimizer.match={ndim: 2}",
    "optimizer.match.min_ndim": "optimizer.match={min_ndim: 0}",
    "optimizer.groups.match.name": 'optimizer.groups.0.match={name: "*1*"}',
    "optimizer.groups.match.kind": "optimizer.groups.0.match={kind: Linear}",
    "optimizer.groups.match.ndim": "optimizer.groups.0.match={ndim: 2}",
    "optimizer.groups.match.min_ndim": "optimizer.groups.0.match={min_ndim: 2}",
    "optimizer.groups.label": "optimizer.groups.0.label=biases",
    "optimizer.step": "optimizer.step=closure",
    "optimizer.base.name": "optimizer.base={name: SGD}",
    "optimizer.fused": "optimizer.fused=false",
    "optimizer.foreach": "optimizer.foreach=true",
    "optimizer.differentiable": "optimizer.differentiable=true",
    "scheduler.name": "scheduler=null",
    "scheduler.gamma": "scheduler.gamma=0.8",
    "scheduler.interval": "scheduler.interval=step",
    "scheduler.warmup": "scheduler.warmup=1",
    "scheduler.monitor": "scheduler={name: ReduceLROnPlateau, monitor: val_accuracy}",
    "scheduler.until": "scheduler=[{name: StepLR, step_size: 1, gamma: 0.9, until: 1}, {name: ConstantLR}]",
    "train.epochs": "train.epochs=2",
    "train.steps": "train.steps=9",
    "train.seconds": "train.seconds=100",
    "train.precision": "train.precision=bfloat16",
    "train.engine": "train.engine=compiled",
    "train.threads": "train.threads=2",
    "train.deterministic": "train.deterministic=true",
    "train.accumulate": "train.accumulate=2",
    "train.clip_grad_norm": "train.clip_grad_norm=1",
    "train.clip_grad_value": "train.clip_grad_value=1",
    "train.zero_grad": "train.zero_grad=never",
    "train.eval_every.epochs": "train.eval_every=0.5",
    "train.eval_every.steps": "train.eval_every={steps: 7}",
    "train.metrics.name": "train.metrics=[mse]",
    "train.metrics.mode": "train.metrics=[{name: mse, mode: min}]",
    "train.eval_train": "train.eval_train=true",
    "train.early_stopping.metric": "train.early_stopping.metric=val_accuracy",
    "train.early_stopping.patience": "train.early_stopping.patience=2",
    "train.early_stopping.min_delta": "train.early_stopping.min_delta=0.1",
    "train.early_stopping.mode": "train.early_stopping.mode=max",
    "train.select": "train.select=val_loss",
    "train.checkpoint_every.epochs": "train.checkpoint_every=1",
    "train.checkpoint_every.steps": "train.checkpoint_every={steps: 3}",
    "train.checkpoint_every.seconds": "train.checkpoint_every={seconds: 9}",
    "train.test": "train.test=never",
    "train.check_finite": "train.check_finite=true",
    "train.max_loss": "train.max_loss=1e9",
    "log.every": "log.every=3",
    "log.gradients": "log.gradients=true",
    "log.groups": "log.groups=true",
    "log.histograms": "log.histograms=true",
    "log.plots": "log.plots=[png]",
    "log.export.name": "log.export=[tensorboard]",
}

# What each verb allows; a key that is not here is part of a run's identity for all of them. Repeated here,
# independently of the fields, so that a changed declaration is noticed.
ALLOWED: dict[str, set[Verb]] = {
    "name": {"group"},
    "seed": {"group"},
    "data.root": {"name", "group", "skip", "resume", "unset"},
    "data.download": {"name", "group", "skip", "resume", "unset"},
    "data.path": {"name", "group"},
    "data.eval_batch_size": {"group"},
    "optimizer.step": {"unset"},
    "optimizer.fused": {"group", "resume", "unset"},
    "optimizer.foreach": {"group", "resume", "unset"},
    "optimizer.capturable": {"group"},
    "optimizer.differentiable": {"group"},
    "train.epochs": {"resume"},
    "train.steps": {"resume"},
    "train.seconds": {"resume"},
    "train.device": {"name", "group", "resume", "unset"},
    "train.engine": {"name", "group", "unset"},
    "train.threads": {"name", "group", "resume", "unset"},
    "train.metrics": {"name", "group"},
    "train.eval_train": {"group"},
    "train.checkpoint_every": {"group", "skip", "resume"},
    "train.test": {"group", "resume"},
    "train.check_finite": {"resume"},
    "log.every": {"name", "group"},
    "log.gradients": {"name", "group"},
    "log.groups": {"name", "group"},
    "log.histograms": {"name", "group"},
    "log.plots": {"name", "group", "skip", "resume", "unset"},
    "log.export.name": {"name", "group", "skip", "resume", "unset"},
}
VERBS: tuple[Verb, ...] = ("name", "group", "skip", "resume", "unset")


def allowed(key: str) -> set[Verb]:
    parts = key.split(".")
    heads = [".".join(parts[:n]) for n in range(1, len(parts) + 1)]
    return set().union(*(ALLOWED.get(head, set()) for head in heads))


def keys_of(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Yield the dotted keys of all settings of a model, without the options of components."""
    for name, info in model.model_fields.items():
        if name in ("options", "format"):
            continue
        below = _section_of(info.annotation)
        if below is None:
            yield prefix + name
        elif below is not model:  # the base of a base
            yield from keys_of(below, f"{prefix}{name}.")


def test_the_cases_cover_every_key_of_the_config() -> None:
    assert set(keys_of(Config)) - set(CHANGES) == {
        "train.device",
        "data.name",
    }  # there is no second device or data set here


@pytest.mark.parametrize("key", [*CHANGES, *ALLOWED])
def test_the_declarations_equal_the_table_here(key: str) -> None:
    assert {verb for verb in VERBS if may_differ(key, verb)} == allowed(key)


def test_labels_and_indices_address_the_same_keys() -> None:
    for key in ("optimizer.0.fused", "optimizer.muon.fused", "optimizer.fused", "optimizer.0.groups.1.fused"):
        assert may_differ(key, "resume"), key
    for key in ("model.fused", "optimizer.0.lr", "scheduler.0.gamma", "data.augment.0.root", "loss.path"):
        assert not any(may_differ(key, verb) for verb in VERBS), key


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of FULL beside its config."""
    folder = tmp_path_factory.mktemp("full")
    (folder / "full.yaml").write_text(FULL)
    done = optlab("train", folder / "full.yaml", "--run-dir", folder / "run", "--quiet")
    assert done.code == 0, done.err
    return folder


@pytest.mark.parametrize("key", CHANGES)
def test_a_run_with_another_config_is_never_reused(full: Path, key: str) -> None:
    config, run = full / "full.yaml", full / "run"
    loaded = catalog.load_config(config, [CHANGES[key]])
    base = catalog.load_config(config)
    folders = [
        launch.folder_for(base, [], Path("runs")),
        launch.folder_for(loaded, [CHANGES[key]], Path("runs")),
    ]
    if "name" not in allowed(key):
        assert folders[0] != folders[1]
    done = optlab("train", config, CHANGES[key], "--skip-existing", "--run-dir", run, "--quiet", "--json")
    if "skip" in allowed(key):
        assert (done.code, done.json["skipped"]) == (0, True), done.err
    else:
        assert done.code == 2, f"{key}: {done.out}"
        assert "contains another run" in done.err


REFUSED_ON_RESUMING = [key for key in CHANGES if "resume" not in allowed(key)]


@pytest.mark.parametrize("key", REFUSED_ON_RESUMING)
def test_settings_that_affect_past_steps_cannot_change_on_resuming(full: Path, key: str) -> None:
    before = {path: path.read_bytes() for path in (full / "run").rglob("*") if path.is_file()}
    done = optlab("resume", full / "run", CHANGES[key], "train.epochs=3", "--quiet")
    assert done.code == 2, f"{key}: {done.out}"
    assert {path: path.read_bytes() for path in (full / "run").rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("key", CHANGES)
def test_configs_are_compared_by_the_declarations(full: Path, key: str) -> None:
    saved = catalog.load_config(full / "run" / "config.yaml").config.model_dump()
    changes = ["optimizer.fused=null"] * key.endswith(("foreach", "differentiable")) + [CHANGES[key]]
    requested = catalog.load_config(full / "run" / "config.yaml", changes).config.model_dump()
    for verb in VERBS[2:4]:
        assert bool(config_differences(saved, requested, verb)) != (verb in allowed(key)), verb


def test_auto_and_its_resolved_value_match_an_existing_run(full: Path) -> None:
    config, run = full / "full.yaml", full / "run"
    same = ("train.threads=auto", "train.engine=auto", "train.device=cpu", "optimizer.fused=true")
    for override in same:
        done = optlab("train", config, override, "--skip-existing", "--run-dir", run, "--quiet", "--json")
        assert (done.code, done.json["skipped"]) == (0, True), done.err


# ---- code


def write_parts(folder: Path) -> Path:
    """Write an optimizer that imports a module next to it, a package and, in a function, another module."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "mine.py").write_text(
        "import torch\nfrom rule import scaled\nimport kit.deep as deep\n"
        "class Mine(torch.optim.SGD):\n"
        "    def __init__(self, params, lr=0.1):\n"
        "        from late import FACTOR\n"
        "        super().__init__(params, lr=scaled(lr) * deep.ONE * FACTOR)\n"
    )
    (folder / "rule.py").write_text("def scaled(lr):\n    return lr\n")
    (folder / "late.py").write_text("FACTOR = 1\n")
    (folder / "unused.py").write_text("raise RuntimeError\n")
    (folder / "kit").mkdir(exist_ok=True)
    (folder / "kit" / "__init__.py").write_text("")
    (folder / "kit" / "deep.py").write_text("ONE = 1\n")
    return folder / "mine.py"


def test_the_code_of_a_file_includes_what_it_imports_from_its_folder(tmp_path: Path) -> None:
    actual = [str(path.relative_to(tmp_path)) for path in source_files(write_parts(tmp_path))]
    assert actual == ["mine.py", "kit/__init__.py", "kit/deep.py", "late.py", "rule.py"]


def own_config(folder: Path) -> Path:
    write_parts(folder)
    text = FULL.replace("{name: SGD, lr: 0.01,", "{name: mine.py:Mine, lr: 0.01,")
    (folder / "own.yaml").write_text(text)
    return folder / "own.yaml"


@pytest.fixture
def _late_imports(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Make the import inside the function find the module of its folder, as with PYTHONPATH."""
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("late", None)


@pytest.mark.usefixtures("_late_imports")
@pytest.mark.parametrize("changed", ["mine.py", "rule.py", "late.py", "kit/deep.py"])
def test_a_run_with_other_code_is_not_reused(tmp_path: Path, changed: str) -> None:
    config, run = own_config(tmp_path), tmp_path / "run"
    command = ("train", config, "--skip-existing", "--run-dir", run, "--quiet", "--json")
    assert optlab(*command).json["skipped"] is False
    assert optlab(*command).json["skipped"] is True
    recorded = json.loads((run / "environment.json").read_text())["components"]
    assert {Path(part["source"]).name for part in recorded} == {
        "mine.py",
        "rule.py",
        "late.py",
        "deep.py",
        "__init__.py",
    }
    for part in recorded:
        assert (run / part["copy"]).read_bytes() == Path(part["source"]).read_bytes()

    with open(tmp_path / changed, "a") as file:
        file.write("# another line\n")
    for verb in (command, ("resume", run, "train.epochs=2"), (*command[:2], "--resume", *command[3:])):
        done = optlab(*verb)
        assert (done.code, changed.rpartition("/")[2] in done.err) == (2, True), done.err


def test_changed_modules_of_the_folder_are_imported_again(tmp_path: Path) -> None:
    folder = tmp_path
    (folder / "model.py").write_text("from size import SIZE\ndef width():\n    return SIZE\n")
    (folder / "size.py").write_text("SIZE = 1\n")
    assert imports.find_object(f"{folder}/model.py:width")() == 1
    assert "size" not in sys.modules
    (folder / "size.py").write_text("SIZE = 22\n")
    os.utime(folder / "size.py", (1, 1))
    assert imports.find_object(f"{folder}/model.py:width")() == 22


def test_two_folders_can_have_modules_of_the_same_name(tmp_path: Path) -> None:
    for number in (1, 2):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "part.py").write_text("import helper\ndef get():\n    return helper.N\n")
        (tmp_path / str(number) / "helper.py").write_text(f"N = {number}\n")
    actual = [imports.find_object(f"{tmp_path}/{number}/part.py:get")() for number in (1, 2)]
    assert actual == [1, 2]


def test_packages_are_identified_by_version_and_other_code_by_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = FULL.replace("{name: SGD, lr: 0.01,", "{name: 'torch.optim:SGD', lr: 0.01,")
    (tmp_path / "torch.yaml").write_text(text)
    code = code_of(catalog.load_config(tmp_path / "torch.yaml").config)
    assert code == Code({}, {"torch": metadata.version("torch")})
    (tmp_path / "homemade").mkdir()
    (tmp_path / "homemade" / "__init__.py").write_text("from torch.optim import SGD\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "own.yaml").write_text(text.replace("torch.optim:SGD", "homemade:SGD"))
    code = code_of(catalog.load_config(tmp_path / "own.yaml").config)
    assert list(code.files) == [str(tmp_path / "homemade" / "__init__.py")]
    assert code.packages == {}


def test_another_version_of_a_package_is_another_run(full: Path, tmp_path: Path) -> None:
    text = FULL.replace("{name: SGD, lr: 0.01,", "{name: 'torch.optim:SGD', lr: 0.01,")
    (tmp_path / "torch.yaml").write_text(text)
    command = ("train", tmp_path / "torch.yaml", "--skip-existing", "--run-dir", tmp_path / "run", "--quiet")
    assert optlab(*command).code == 0
    around = tmp_path / "run" / "environment.json"
    recorded = json.loads(around.read_text())
    recorded["packages"]["torch"] = "1.0"
    around.write_text(json.dumps(recorded))
    done = optlab(*command)
    assert (done.code, "package torch: was 1.0" in done.err) == (2, True), done.err


# ---- data


def write_npz(path: Path, seed: int) -> Path:
    random = np.random.default_rng(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, Any] = {}
    for part, count in (("train", 60), ("test", 20)):
        arrays[f"x_{part}"] = random.integers(0, 255, (count, 4, 4), dtype=np.uint8)
        arrays[f"y_{part}"] = np.arange(count) % 3
    np.savez(path, **arrays)
    return path


NPZ = """\
data: {name: npz, path: set.npz, batch_size: 20, val_size: 20}
model: {name: mlp, hidden: [4]}
optimizer: {name: SGD, lr: 0.1}
train: {epochs: 1, threads: 1}
log: {plots: []}
"""


def test_other_data_at_the_same_path_are_another_run(tmp_path: Path) -> None:
    (tmp_path / "npz.yaml").write_text(NPZ)
    write_npz(tmp_path / "set.npz", 0)
    command = ("train", tmp_path / "npz.yaml", "--skip-existing", "--run-dir", tmp_path / "run", "--quiet")
    assert optlab(*command).code == 0
    assert "skipped" in optlab(*command).err
    write_npz(tmp_path / "set.npz", 1)
    done = optlab(*command)
    assert (done.code, "data content: SHA-256 was" in done.err) == (2, True), done.err


def test_a_run_with_a_damaged_or_missing_environment_is_not_reused(full: Path, tmp_path: Path) -> None:
    shutil.copytree(full / "run", tmp_path / "run")
    command = ("train", full / "full.yaml", "--skip-existing", "--run-dir", tmp_path / "run", "--quiet")
    (tmp_path / "run" / "environment.json").write_text("{")
    done = optlab(*command)
    assert (done.code, "environment.json is damaged" in done.err) == (2, True)
    (tmp_path / "run" / "environment.json").unlink()
    done = optlab(*command)
    assert (done.code, "cannot be compared" in done.err) == (2, True)


# ---- names


def test_values_of_an_axis_have_unique_names() -> None:
    assert value_names("data.path", ["a/set.npz", "other.npz"]) == ["set.npz", "other.npz"]
    one, other = value_names("data.path", ["a/set.npz", "b/set.npz"])
    assert one != other
    assert one.startswith("set.npz~")
    assert value_names("x", [1, "1", None, "null", True, "true", 0.1, "0.1"]) == [
        *("1", '"1"', "null", '"null"', "true", '"true"', "0.1", '"0.1"')
    ]
    names = value_names("optimizer.name", ["/a/mine.py:Mine", "/b/mine.py:Mine", "SGD", "mine.py:Other"])
    assert len(set(names)) == 4
    assert names[2:] == ["SGD", "mine.py:Other"]
