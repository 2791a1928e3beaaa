"""`optlab schema`: shipped files are valid, and a mistake gives one error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from command import optlab

from trainer.config import packaged
from trainer.config.yaml_reader import Origin, parse

CONFIG = """\
name: tiny
data: {name: digits, batch_size: 32, augment: [{name: random_crop, padding: 1}]}
model: {name: mlp, hidden: [16]}
loss: cross_entropy
optimizer: {name: SGD, lr: 0.05}
scheduler: null
train: {epochs: 1, early_stopping: {patience: 3}}
"""


def validator(*options: str) -> Any:
    schema = json.loads(optlab("schema", *options).out)
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def errors(schema: Any, text: str) -> list[str]:
    plain = parse(text, Origin("text", Path())).data  # YAML 1.2, as in editors: 1e-3 is a number
    return [f"{'.'.join(map(str, error.path))}: {error.message}" for error in schema.iter_errors(plain)]


@pytest.fixture(scope="module")
def configs() -> Any:
    return validator()


@pytest.fixture(scope="module")
def sweeps() -> Any:
    return validator("--sweep")


def test_packaged_files_are_valid(configs: Any, sweeps: Any) -> None:
    for file in packaged.names("config", "lesson").values():
        assert errors(configs, file.read_text(encoding="utf-8")) == [], file
    for file in packaged.names("sweep").values():
        assert errors(sweeps, file.read_text(encoding="utf-8")) == [], file
    for file in packaged.first_files():
        if file.suffix == ".yaml":
            schema = sweeps if file.stem.startswith("sweep") else configs
            assert errors(schema, file.read_text(encoding="utf-8")) == [], file


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ("lr: 0.05", "lr: fast", "optimizer.lr"),
        ("lr: 0.05", "rate: 0.05", "optimizer"),
        ("name: SGD", "name: SDG", "optimizer.name"),
        ("{name: SGD, lr: 0.05}", "SDG", "optimizer"),
        ("{name: SGD, lr: 0.05}", "[{name: SGD, lr: fast}]", "optimizer.0.lr"),
        ("hidden: [16]", "hidden: [x]", "model.hidden.0"),
        ("padding: 1", "paddin: 1", "data.augment.0"),
        ("batch_size: 32", "batch_size: -1", "data.batch_size"),
        ("epochs: 1", "epoch: 1", "train"),
        ("patience: 3", "patienc: 3", "train.early_stopping"),
        ("patience: 3", "patience: x", "train.early_stopping.patience"),
        ("scheduler: null", "scheduler: {name: StepLR, step_size: x}", "scheduler.step_size"),
        ("name: tiny", "name: tiny\nseed: abc", "seed"),
        ("name: tiny", "nam: tiny", ""),
    ],
)
def test_a_mistake_in_a_config_is_one_error(old: str, new: str, key: str, configs: Any) -> None:
    assert errors(configs, CONFIG) == []
    found = errors(configs, CONFIG.replace(old, new))
    assert [error.partition(": ")[0] for error in found] == [key]


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ("lr: 0.1", "lr: fast", "variants.a.optimizer.lr"),
        ("[1, 0.1]", "3", "axes.optimizer.lr"),
        ("[1, 0.1]", "{log_unifor: [1, 2]}", "axes.optimizer.lr"),
        ("seeds: 2", "seeds: many", "seeds"),
        ("seeds: 2", "seedz: 2", ""),
        ("seeds: 2", "seeds: 2\nobjective: {mod: max}", "objective"),
    ],
)
def test_a_mistake_in_a_sweep_is_one_error(old: str, new: str, key: str, sweeps: Any) -> None:
    text = """\
name: s
base: a.yaml
seeds: 2
variants:
  a: {optimizer: {name: SGD, lr: 0.1}, train.epochs: 3}
  b: null
axes: {optimizer.lr: [1, 0.1]}
"""
    assert errors(sweeps, text) == []
    assert [error.partition(": ")[0] for error in errors(sweeps, text.replace(old, new))] == [key]


def test_the_schema_of_sweeps_is_complete(tmp_path: Path) -> None:
    assert optlab("schema", "--sweep", "-o", tmp_path / "sweep.json").code == 0
    schema = json.loads((tmp_path / "sweep.json").read_text())
    assert {"variants", "axes", "seeds", "trials", "base"} <= set(schema["properties"])
    text = json.dumps(schema)
    references = {part.split('"')[0] for part in text.split("#/$defs/")[1:]}
    assert references <= set(schema["$defs"])
