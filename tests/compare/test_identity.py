"""Groups are keyed by full settings, code, packages and data, never by a shortened name."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from pydantic import BaseModel
from sampling import one_in

from tests.command import optlab, write_tiny
from trainer.compare import Grouping, compare_runs, group_runs
from trainer.compare.load import find
from trainer.config.identity import may_differ
from trainer.config.models import Config
from trainer.runs.rundir import load_run

A, B, OTHER_A = "/home/me/one/a.py:Foo", "/home/me/one/b.py:Foo", "/home/me/two/a.py:Foo"
OLD, NEW = "1" * 64, "2" * 64


def grouped(folder: Path, *by: str) -> Grouping:
    return group_runs(find([folder]).runs, by)


def names(folder: Path, *by: str) -> list[str]:
    return [group.label for group in grouped(folder, *by).groups]


def sizes(folder: Path) -> dict[str, int]:
    return {group.label: len(group.entries) for group in grouped(folder).groups}


def write_pairs(write_run: Any, first: dict[str, Any], second: dict[str, Any]) -> None:
    """Write two runs of each of two sets of arguments, of seeds 0 and 1."""
    for seed in (0, 1):
        write_run(f"x/a{seed}", seed=seed, **first)
        write_run(f"x/b{seed}", seed=seed, **second)


OPTIMIZER_FILE = """\
import torch


class Foo(torch.optim.SGD):
    def __init__(self, params, lr: float = 0.05):
        super().__init__(params, lr=lr, momentum=MOMENTUM)
"""


def test_two_files_with_one_class_name_and_an_edited_file_are_different_groups(tmp_path: Path) -> None:
    config = write_tiny(tmp_path)

    def train(file: str, momentum: float, folder: str) -> None:
        (tmp_path / file).write_text(OPTIMIZER_FILE.replace("MOMENTUM", str(momentum)))
        for seed in (0, 1):
            name = f"optimizer.name={tmp_path / file}:Foo"
            done = optlab(
                "train", config, name, f"seed={seed}", "--run-dir", tmp_path / folder / str(seed), "--quiet"
            )
            assert done.code == 0, done.err

    train("a.py", 0, "runs/a")
    train("b.py", 0.9, "runs/b")
    result = optlab("compare", tmp_path / "runs", "--json").json
    assert [(row["group"], row["n"]) for row in result["groups"]] == [("a.py:Foo", 2), ("b.py:Foo", 2)]
    assert [(row["a"], row["b"]) for row in result["differences"]] == [("a.py:Foo", "b.py:Foo")]
    assert result["differences"][0]["difference"] != 0

    train("a.py", 0.9, "edited")
    result = optlab("compare", tmp_path / "runs" / "a", tmp_path / "edited", "--json").json
    (first, second) = result["groups"]
    assert (first["n"], second["n"]) == (2, 2)
    assert first["group"].startswith("Foo code ")
    assert second["group"].startswith("Foo code ")
    assert first["group"] != second["group"]
    (note,) = [note for note in result["notes"] if "trained with different code" in note]
    assert f"{tmp_path / 'a.py'} = " in note


@pytest.mark.parametrize(
    ("key", "first", "second", "expected"),
    [
        ("optimizer.name", A, B, ["a.py:Foo", "b.py:Foo"]),
        ("optimizer.name", A, OTHER_A, ["one/a.py:Foo", "two/a.py:Foo"]),
        ("optimizer.name", "/a.py:SGD", "SGD", ["SGD", "a.py:SGD"]),
        ("optimizer.name", "one.parts:Foo", "two.parts:Foo", ["one.parts:Foo", "two.parts:Foo"]),
        ("model.name", A, B, ["a.py:Foo", "b.py:Foo"]),
        ("loss.name", A, B, ["a.py:Foo", "b.py:Foo"]),
        ("data.name", A, B, ["a.py:Foo: SGD lr=0.001", "b.py:Foo: SGD lr=0.001"]),
        ("model.activation", A, B, ["activation=a.py:Foo", "activation=b.py:Foo"]),
        ("model.activation", "relu", "/a.py:relu", ["activation=a.py:relu", "activation=relu"]),
        ("scheduler", {"name": A}, {"name": B}, ["a.py:Foo", "b.py:Foo"]),
        ("scheduler", [{"name": A}, {"name": "StepLR"}], [{"name": B}, {"name": "StepLR"}],
         ["a.py:Foo + StepLR", "b.py:Foo + StepLR"]),
        ("init", {"weight": {"name": A}}, {"weight": {"name": B}}, ["init=a.py:Foo", "init=b.py:Foo"]),
        ("data.augment", [{"name": A}], [{"name": B}], ["augment=a.py:Foo", "augment=b.py:Foo"]),
        ("data.augment", [{"name": "crop", "padding": 2}], [{"name": "crop", "padding": 4}],
         ["augment=[{name: crop, padding: 2}]", "augment=[{name: crop, padding: 4}]"]),
        ("optimizer", [{"name": "Muon", "lr": 0.1, "match": {"ndim": 2}}, {"name": A, "lr": 0.1}],
         [{"name": "Muon", "lr": 0.1, "match": {"ndim": 2}}, {"name": B, "lr": 0.1}],
         ["Muon + a.py:Foo", "Muon + b.py:Foo"]),
        ("optimizer.lr", 0.100001, 0.100002, ["lr=0.100001", "lr=0.100002"]),
        ("optimizer.lr", 0.1000000001, 0.1000000002, ["lr=0.1000000001", "lr=0.1000000002"]),
        ("data.split_seed", 2**53, 2**53 + 1, ["split_seed=9007199254740992", "split_seed=9007199254740993"]),
        ("model.mode", 1, True, ["mode=1", "mode=true"]),
        ("model.mode", 1, "1", ["mode=1", "mode=1 (2)"]),
        ("model.mode", "absent", None, ["mode=absent", "mode=null"]),
    ],
)  # fmt: skip
def test_names_are_as_long_as_needed_to_be_unique(
    write_run: Any, tmp_path: Path, key: str, first: Any, second: Any, expected: list[str]
) -> None:
    write_pairs(write_run, {"config": {key: first}}, {"config": {key: second}})
    result = grouped(tmp_path)
    assert sorted(group.label.removeprefix("SGD ").strip() for group in result.groups) == expected
    assert all(len(group.entries) == 2 for group in result.groups)
    compared = compare_runs(tmp_path, draw=False)
    assert list(compared.groups["n"]) == [2, 2]
    assert all("left out" not in note for note in compared.notes)


def test_a_missing_setting_differs_from_every_value(write_run: Any, tmp_path: Path) -> None:
    write_pairs(write_run, {"config": {"model.mode": "absent"}}, {})
    assert len(names(tmp_path)) == 2


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ({"files": {"/a.py": OLD}}, {"files": {"/a.py": NEW}}, ["Foo code 11111111", "Foo code 22222222"]),
        # A file that the optimizer's file imports, and one that was not recorded.
        ({"files": {"/a.py": OLD, "/helper.py": OLD}}, {"files": {"/a.py": OLD, "/helper.py": NEW}},
         ["Foo code 11111111", "Foo code 22222222"]),
        ({"files": {"/a.py": OLD, "/helper.py": OLD}}, {"files": {"/a.py": OLD}},
         ["Foo lr=0.1", "Foo code 11111111"]),
        ({"packages": {"pytorch_optimizer": "3.1"}}, {"packages": {"pytorch_optimizer": "3.2"}},
         ["Foo pytorch_optimizer 3.1", "Foo pytorch_optimizer 3.2"]),
        ({"digest": "a" * 64}, {"digest": "b" * 64},
         ["data content=aaaaaaaa: Foo lr=0.1", "data content=bbbbbbbb: Foo lr=0.1"]),
    ],
)  # fmt: skip
def test_recorded_code_packages_and_data_belong_to_the_identity(
    write_run: Any, tmp_path: Path, first: dict[str, Any], second: dict[str, Any], expected: list[str]
) -> None:
    own = {"optimizer": {"name": "/a.py:Foo", "lr": 0.1}}
    write_pairs(write_run, own | first, own | second)
    result = sizes(tmp_path)
    named = {
        name if name.startswith("Foo") or ": " in name else f"Foo {name}": n for name, n in result.items()
    }
    assert named == dict.fromkeys(expected, 2)
    assert not any("left out" in note for note in grouped(tmp_path).notes)


def test_different_model_code_is_a_different_problem_when_optimizers_are_compared(
    write_run: Any, tmp_path: Path
) -> None:
    for digest in (OLD, NEW):
        for name in ("SGD", "Adam"):
            write_run(
                f"x/{digest[0]}{name}", optimizer=name, config={"model.name": "/net.py:Net"},
                files={"/net.py": digest},
            )  # fmt: skip
    assert names(tmp_path) == [
        "Net code 11111111: Adam", "Net code 11111111: SGD",
        "Net code 22222222: Adam", "Net code 22222222: SGD",
    ]  # fmt: skip


EXECUTION: list[tuple[str, Any, Any]] = [
    ("train.threads", 1, 2), ("train.device", "cpu", "cuda"), ("train.engine", "eager", "compiled"),
    ("optimizer.fused", True, False), ("optimizer.foreach", True, None), ("data.root", "/a", "/b"),
    ("data.path", "/a", "/b"), ("data.eval_batch_size", 10, 20), ("train.test", "end", "never"),
    ("train.eval_every", {"epochs": 1.0}, {"steps": 5}), ("train.checkpoint_every", None, {"seconds": 9.0}),
    ("train.eval_train", False, True), ("log.every", 5, 10), ("log.gradients", False, True),
    ("name", "one", "two"),
]  # fmt: skip


@pytest.mark.parametrize(("key", "first", "second"), EXECUTION)
def test_runs_of_one_seed_that_differ_only_in_execution_are_separate_groups(
    write_run: Any, tmp_path: Path, key: str, first: Any, second: Any
) -> None:
    write_pairs(write_run, {"config": {key: first}}, {"config": {key: second}})
    result = grouped(tmp_path)
    assert [len(group.entries) for group in result.groups] == [2, 2]
    assert not any("left out" in note for note in result.notes)


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ({"engine": "eager"}, {"engine": "compiled"}, "engine = compiled (1 runs), eager (1 runs)"),
        ({"config": {"train.threads": 1}}, {"config": {"train.threads": 2}}, "train.threads = 1 (1 r"),
        ({"config": {"train.device": "cpu"}}, {"config": {"train.device": "cuda"}}, "train.device = cpu (1"),
        ({"config": {"optimizer.fused": True}}, {"config": {"optimizer.fused": None}}, "optimizer.fused = n"),
    ],
)  # fmt: skip
def test_a_group_of_mixed_execution_is_flagged(
    write_run: Any, tmp_path: Path, first: dict[str, Any], second: dict[str, Any], message: str
) -> None:
    write_run("x/a", seed=0, **first)
    write_run("x/b", seed=1, **second)
    result = grouped(tmp_path)
    assert [len(group.entries) for group in result.groups] == [2]
    (note,) = result.notes
    assert note.startswith("the runs were executed differently, also within SGD lr=0.001: ")
    assert message in note


def test_groups_of_different_engines_are_flagged(write_run: Any, tmp_path: Path) -> None:
    write_pairs(write_run, {"optimizer": "SGD"}, {"optimizer": "Adam", "engine": "compiled"})
    (note,) = [note for note in grouped(tmp_path).notes if "executed differently" in note]
    assert note.startswith("the runs were executed differently: engine = compiled (2 runs), eager (2 runs)")


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"engine": "eager"}, {"engine": "compiled"}),
        ({"torch": "2.14.0"}, {"torch": "2.15.0"}),
        ({"environment": {"device": "cpu"}}, {"environment": {"device": "NVIDIA H200"}}),
    ],
)
def test_runs_of_one_seed_on_different_machines_or_versions_are_not_duplicates(
    write_run: Any, tmp_path: Path, first: dict[str, Any], second: dict[str, Any]
) -> None:
    write_pairs(write_run, first, second)
    assert list(sizes(tmp_path).values()) == [2, 2]


def test_ties_split_only_the_groups_that_have_them(write_run: Any, tmp_path: Path) -> None:
    write_pairs(write_run, {"config": {"train.threads": 1}}, {"config": {"train.threads": 2}})
    for seed in (0, 1):
        write_run(f"x/adam{seed}", optimizer="Adam", seed=seed, config={"train.threads": 1 + seed})
    assert sizes(tmp_path) == {
        "Adam": 2, "SGD threads=1": 2, "SGD threads=2": 2,
    }  # fmt: skip


def test_a_copied_run_counts_once_for_any_grouping_keys(write_run: Any, tmp_path: Path) -> None:
    write_run("x/a", files={"/a.py": OLD})
    write_run("x/copy", files={"/a.py": OLD})
    for by in ((), ("optimizer.name",)):
        result = grouped(tmp_path, *by)
        assert [len(group.entries) for group in result.groups] == [1]
        assert f"left out {tmp_path / 'x' / 'copy'}: it has the same config, code and seed" in result.notes[0]


def test_names_from_hostile_configs_are_harmless_in_every_table(write_run: Any, tmp_path: Path) -> None:
    text = "/x/a.py:Foo\n\x1b[31mred|$\\frac{$"
    write_run("x/a", config={"model.mode": text})
    write_run("x/b", config={"model.mode": f"{text}2"})
    result = compare_runs(tmp_path, style="paper")
    assert all("\n" not in name and "\x1b" not in name for name in result.groups["group"])
    for path in result.save(tmp_path / "out", formats=["svg"]):
        if path.suffix != ".svg":
            content = path.read_text()
            assert "\x1b" not in content
    assert len((tmp_path / "out" / "table.csv").read_text().splitlines()) == 3
    printed = optlab("compare", tmp_path / "x", "--json")
    assert len(json.loads(printed.out)["groups"]) == 2


# Every key

WHOLE = """
name: whole
seed: {init: 1, batches: 1, augmentation: 1, dropout: 1}
data:
  name: digits
  path: /data/x.npz
  root: /data
  download: false
  normalize: {mean: [0.5], std: [0.5]}
  augment: [{name: random_crop, padding: 2}]
model: {name: mlp, hidden: [16], activation: relu, dropout: 0.0}
init:
  weight: {name: normal_, std: 0.1}
  bias: {name: zeros_}
  layers: [{match: {kind: Linear}, weight: {name: ones_}, bias: {name: zeros_}}]
loss: {name: cross_entropy, label_smoothing: 0.1}
optimizer:
  - {name: SGD, label: first, lr: 0.1, momentum: 0.9, fused: true, foreach: false, match: {ndim: 2},
     groups: [{match: "*.weight", label: heavy, weight_decay: 0.1}]}
  - {name: "/home/me/a.py:Foo", lr: 0.01, betas: [0.9, 0.999], function: "/home/me/b.py:f",
     base: {name: SGD, lr: 0.1}}
scheduler:
  - {name: StepLR, step_size: 2, until: 3}
  - {name: ReduceLROnPlateau, patience: 2}
train:
  epochs: 2
  metrics: [{name: mse}]
  early_stopping: {metric: val_loss}
  checkpoint_every: {seconds: 5.0}
log:
  export: [{name: tensorboard}]
"""


def whole_config() -> dict[str, Any]:
    return Config.model_validate(yaml.safe_load(WHOLE)).model_dump()


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every setting in a config."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    if not value or not isinstance(value, dict | list):
        yield path
    for key, item in items:
        yield from leaves(item, (*path, key))


def changed(config: dict[str, Any], path: tuple[Any, ...]) -> dict[str, Any]:
    """Return the config with another value at one path."""
    other = copy.deepcopy(config)
    *parents, last = path
    place: Any = other
    for parent in parents:
        place = place[parent]
    old = place[last]
    if isinstance(old, bool) or old is None:
        place[last] = not old
    elif isinstance(old, int | float):
        place[last] = old + 1
    elif isinstance(old, str):
        folder, slash, name = old.rpartition("/")
        place[last] = f"{folder}/elsewhere/{name}" if slash else f"{old}_"
    else:
        place[last] = [*old, "more"]
    return other


def field_paths(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Yield the dotted key of every field of a model and of the models in it."""
    for name, field in model.model_fields.items():
        if name != "options":
            inner = [part for part in parts_of(field.annotation) if issubclass(part, BaseModel)]
            yield f"{prefix}{name}"
            for one in inner if model not in inner else ():
                yield from field_paths(one, f"{prefix}{name}.")


def parts_of(annotation: Any) -> Iterator[type]:
    if isinstance(annotation, type) and not get_args(annotation):
        yield annotation
    for part in get_args(annotation):
        yield from parts_of(part)


def test_the_cases_below_cover_every_field() -> None:
    keys = {".".join(str(part) for part in path if isinstance(part, str)) for path in leaves(whole_config())}
    reached = {key[:end] for key in keys for end in [m.start() for m in re.finditer(r"\.", key)]} | keys
    assert set(field_paths(Config)) <= reached


@pytest.mark.parametrize(
    "path",
    one_in(3, ((path,) for path in leaves(whole_config()))),
    ids=lambda path: ".".join(map(str, path)),
)
def test_runs_that_differ_in_one_key_are_different_groups_unless_the_key_may_differ(
    write_run: Any, tmp_path: Path, path: tuple[Any, ...]
) -> None:
    one = load_run(write_run("x"))
    config = whole_config()
    first, second = (replace(one, config=result) for result in (config, changed(config, path)))
    if path[0] == "seed":
        assert len(group_runs([first, second]).groups) == 1
        return
    result = group_runs([first, second])
    assert [len(group.entries) for group in result.groups] == [1, 1], "no run of equal seed is dropped"
    assert len({group.label for group in result.groups}) == 2
    other_seed = replace(second, config=second.config | {"seed": 7})
    result = group_runs([first, other_seed])
    key = ".".join(map(str, path))
    assert len(result.groups) == (1 if may_differ(key, "group") else 2)
    if key in ("train.device", "train.threads") or path[-1] in ("fused", "foreach"):
        assert "executed differently" in result.notes[0]
    pooled = group_runs([first, other_seed], ["model.name"])
    assert len(pooled.groups) == 1 or path == ("model", "name") or path == ("data", "name")
    if not may_differ(key, "group") and len(pooled.groups) == 1:
        assert any("pools runs that differ in" in note for note in pooled.notes)
