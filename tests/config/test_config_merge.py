from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.config.component_paths import spell_out
from trainer.config.merge import merge, parse_override, read_layers
from trainer.config.overrides import apply_overrides, gives
from trainer.config.yaml_reader import Origin, Tree, parse_mapping
from trainer.errors import ConfigError


def tree(text: str) -> Tree:
    read = parse_mapping(text, Origin("x.yaml", Path("/")))
    spell_out(read)
    return read


def merged(base: str, over: str) -> Any:
    return merge(tree(base), tree(over)).data


def overridden(base: str, *overrides: str) -> Any:
    return apply_overrides(tree(base), overrides)[0].data


MOMENTUM = "optimizer: {name: SGD, lr: 0.1, momentum: 0.9}"


@pytest.mark.parametrize(
    ("base", "over", "expected"),
    [
        (MOMENTUM, "optimizer: {name: SGD}", {"name": "SGD"}),
        (MOMENTUM, "optimizer: SGD", {"name": "SGD"}),
        (MOMENTUM, "optimizer: {lr: 0.2}", {"name": "SGD", "lr": 0.2, "momentum": 0.9}),
        (MOMENTUM, "optimizer: [{name: Adam}]", [{"name": "Adam"}]),
        ("optimizer: [{name: SGD, lr: 0.1}]", "optimizer: {lr: 0.2}", {"name": "SGD", "lr": 0.2}),
        ("scheduler: {name: StepLR}", "scheduler: null", None),
        ("scheduler: null", "scheduler: {name: StepLR}", {"name": "StepLR"}),
        ("loss: {name: a, l2: 0.1}", "loss: {name: b}", {"name": "b"}),
        ("model: {name: mlp, hidden: [1, 2]}", "model: {hidden: [3]}", {"name": "mlp", "hidden": [3]}),
        (
            "scheduler: {name: T, table: {0: 1, 5: 2}}",
            "scheduler: {table: {0: 3}}",
            {"name": "T", "table": {0: 3}},
        ),
        ("data: {name: a, root: r, batch_size: 2}", "data: {name: b}", {"name": "b", "batch_size": 2}),
        (
            "data: {name: a, root: r, batch_size: 2}",
            "data: {val_size: 1}",
            {"name": "a", "root": "r", "batch_size": 2, "val_size": 1},
        ),
        (
            "data: {normalize: {mean: [0], std: [1]}}",
            "data: {normalize: {mean: [2]}}",
            {"normalize": {"mean": [2]}},
        ),
        (
            "data: {augment: [{name: a}, {name: b}]}",
            "data: {augment: [{name: c}]}",
            {"augment": [{"name": "c"}]},
        ),
        (
            "init: {weight: {name: n, std: 1}, bias: z}",
            "init: {weight: {std: 2}}",
            {"weight": {"name": "n", "std": 2}, "bias": {"name": "z"}},
        ),
        ("seed: 3", "seed: {init: 4}", {"init": 4, "batches": 3, "augmentation": 3, "dropout": 3}),
        ("train: {epochs: 5, device: cpu}", "train: {steps: 9}", {"device": "cpu", "steps": 9}),
        ("train: {steps: 5}", "train: {epochs: 9}", {"epochs": 9}),
        ("train: {epochs: 5}", "train: {steps: null}", {"epochs": 5, "steps": None}),
        ("train: {epochs: 5}", "train: {steps: 2, epochs: null}", {"epochs": None, "steps": 2}),
        ("train: {eval_every: {epochs: 1}}", "train: {eval_every: {steps: 2}}", {"eval_every": {"steps": 2}}),
        (
            "train: {early_stopping: {patience: 1, metric: m}}",
            "train: {early_stopping: {patience: 2}}",
            {"early_stopping": {"patience": 2, "metric": "m"}},
        ),
    ],
)
def test_merging(base: str, over: str, expected: object) -> None:
    assert list(merged(base, over).values()) == [expected]


def test_a_nameless_mapping_over_several_optimizers_is_refused() -> None:
    with pytest.raises(ConfigError, match="the base has a list of 2"):
        merged("optimizer: [{name: A}, {name: B}]", "optimizer: {lr: 1}")


def test_locations_are_those_of_the_layer_that_set_the_value(folder: Path) -> None:
    (folder / "over.yaml").write_text("base: base.yaml\noptimizer:\n  lr: 0.5\nmodel: linear\n")
    read = read_layers(Path("over.yaml"))
    assert str(read.positions["optimizer", "lr"]) == "over.yaml:3"
    assert str(read.positions["optimizer", "momentum"]) == "base.yaml:9"
    assert str(read.positions["model", "name"]) == "over.yaml:4"
    assert ("model", "hidden") not in read.positions
    assert "base" not in read.data
    assert str(read.positions["data", "root"]) == "base.yaml:2"


def test_bases_are_relative_to_their_files_and_can_have_bases(folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "sub" / "mid.yaml").write_text("base: ../base.yaml\nname: mid\ntrain: {steps: 3}")
    (folder / "top.yaml").write_text("base: sub/mid.yaml\nname: top")
    data = read_layers(Path("top.yaml")).data
    assert data["name"] == "top"
    assert data["train"] == {"steps": 3}
    assert data["optimizer"]["momentum"] == 0.9


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name: x\nbase: bas.yaml", "x.yaml:2: base: there is no file bas.yaml"),
        ("base: bas.yaml", "did you mean 'base.yaml'?"),
        ("base: [base.yaml]", "one YAML file"),
        ("base: x.yaml", "x.yaml -> x.yaml"),
        ("base: y.yaml", "x.yaml -> y.yaml -> x.yaml"),
        ('base: "a\\0b"', "x.yaml:1: there is a NUL character"),
        ("base: none/none.yaml", "there is no file"),
        ("base: .", "there is no file"),
    ],
)
def test_invalid_bases(folder: Path, text: str, words: str) -> None:
    (folder / "x.yaml").write_text(text)
    (folder / "y.yaml").write_text("base: ./x.yaml")
    with pytest.raises(ConfigError) as error:
        read_layers(Path("x.yaml"))
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("optimizer.lr=1e-3", ("optimizer", "lr"), 1e-3),
        ("a.b=null", ("a", "b"), None),
        ("model.hidden=[200, 100]", ("model", "hidden"), [200, 100]),
        ("a={b: 1}", ("a",), {"b": 1}),
        ("a=b=c", ("a",), "b=c"),
        ("optimizer.match=*.bias", ("optimizer", "match"), "*.bias"),
        ("name='1'", ("name",), "1"),
        ("data.root=C:\\data", ("data", "root"), "C:\\data"),
    ],
)
def test_overrides_are_read_as_yaml(text: str, key: tuple[str, ...], value: object) -> None:
    override = parse_override(text)
    assert (override.key, override.value) == (key, value)
    assert str(override.position) == f"override {text!r}"


@pytest.mark.parametrize(
    "text", ["a", "=1", "a..b=1", ".a=1", "a=", "a= ", "a=[1", "a={b: 1, b: 2}", "a=[!!python/none x]"]
)
def test_invalid_overrides(text: str) -> None:
    with pytest.raises(ConfigError, match="override"):
        parse_override(text)


TWO = "optimizer: [{name: Muon, label: muon, match: {ndim: 2}, lr: 1}, {name: AdamW, lr: 2}]"


@pytest.mark.parametrize(
    ("base", "overrides", "expected"),
    [
        (MOMENTUM, ["optimizer.lr=5"], {"name": "SGD", "lr": 5, "momentum": 0.9}),
        (MOMENTUM, ["optimizer.lr=5", "optimizer.name=Adam"], {"name": "Adam", "lr": 5}),
        (MOMENTUM, ["optimizer=Adam"], {"name": "Adam"}),
        (MOMENTUM, ["optimizer={lr: 5}"], {"name": "SGD", "lr": 5, "momentum": 0.9}),
        (MOMENTUM, ["optimizer={lr: 5}", "optimizer.0.name=Adam"], {"name": "Adam", "lr": 5}),
        (MOMENTUM, ["optimizer={name: Adam}", "optimizer.lr=5"], {"name": "Adam", "lr": 5}),
        (MOMENTUM, ["optimizer.betas=[0.8, 0.9]", "optimizer=Adam"], {"name": "Adam", "betas": [0.8, 0.9]}),
        (
            MOMENTUM,
            ["optimizer=[{name: Muon}, {name: Adam}]", "optimizer.Adam.lr=5"],
            [{"name": "Muon"}, {"name": "Adam", "lr": 5}],
        ),
        (MOMENTUM, ["optimizer.0.lr=5"], {"name": "SGD", "lr": 5, "momentum": 0.9}),
        (MOMENTUM, ["optimizer.lr=null"], {"name": "SGD", "lr": None, "momentum": 0.9}),
        (
            "optimizer: {name: SGD, label: main}",
            ["optimizer.main.lr=5"],
            {"name": "SGD", "label": "main", "lr": 5},
        ),
        ("optimizer: [{name: SGD}]", ["optimizer.lr=5"], [{"name": "SGD", "lr": 5}]),
        (
            TWO,
            ["optimizer.muon.lr=5", "optimizer.AdamW.lr=6"],
            [{"name": "Muon", "label": "muon", "match": {"ndim": 2}, "lr": 5}, {"name": "AdamW", "lr": 6}],
        ),
        (
            TWO,
            ["optimizer.muon.lr=5", "optimizer.muon.name=SGD"],
            [{"name": "SGD", "label": "muon", "match": {"ndim": 2}, "lr": 5}, {"name": "AdamW", "lr": 2}],
        ),
        (
            TWO,
            ["optimizer.AdamW.lr=6", "optimizer.AdamW.name=SGD", "optimizer.muon.label=main"],
            [{"name": "Muon", "label": "main", "match": {"ndim": 2}, "lr": 1}, {"name": "SGD", "lr": 6}],
        ),
        (TWO, ["optimizer=SGD"], {"name": "SGD"}),
        ("model: mlp", ["model.hidden=[1]"], {"name": "mlp", "hidden": [1]}),
        (
            "model: {name: mlp, hidden: [2]}",
            ["model.hidden=[1]", "model=mlp"],
            {"name": "mlp", "hidden": [1]},
        ),
        (
            "data: {name: a, root: r, batch_size: 2}",
            ["data.root=s", "data=b", "data.batch_size=3"],
            {"name": "b", "root": "s", "batch_size": 3},
        ),
        (
            "scheduler: null",
            ["scheduler.name=StepLR", "scheduler.step_size=2"],
            {"name": "StepLR", "step_size": 2},
        ),
        (
            "scheduler: {name: T, table: {0: 1, 5: 2}}",
            ["scheduler.table.5=3", "scheduler.table.9=4"],
            {"name": "T", "table": {0: 1, 5: 3, 9: 4}},
        ),
        (
            "data: {name: a, augment: [{name: crop, padding: 4}]}",
            ["data.augment.0.padding=2"],
            {"name": "a", "augment": [{"name": "crop", "padding": 2}]},
        ),
        (
            "data: {name: a, augment: [{name: crop, padding: 4}]}",
            ["data.augment.crop.padding=2"],
            {"name": "a", "augment": [{"name": "crop", "padding": 2}]},
        ),
        ("data: {name: a, root: r, batch_size: 2}", ["data.name=b"], {"name": "b", "batch_size": 2}),
        ("seed: 3", ["seed.init=4"], {"init": 4, "batches": 3, "augmentation": 3, "dropout": 3}),
        ("seed: {init: 4}", ["seed=5"], {"init": 5, "batches": 5, "augmentation": 5, "dropout": 5}),
        ("train: {epochs: 5}", ["train.steps=9"], {"steps": 9}),
        ("train: {epochs: 5}", ["train={steps: 9}"], {"steps": 9}),
        ("train: {epochs: 5}", ["train.steps=9", "train.epochs=2"], {"epochs": 2, "steps": 9}),
        (
            "train: {early_stopping: null}",
            ["train.early_stopping.patience=2"],
            {"early_stopping": {"patience": 2}},
        ),
    ],
)
def test_overriding(base: str, overrides: list[str], expected: object) -> None:
    assert list(overridden(base, *overrides).values()) == [expected]
    assert list(overridden(base, *reversed(overrides)).values()) == [expected]


@pytest.mark.parametrize(
    ("base", "override", "words"),
    [
        (TWO, "optimizer.lr=1", "expected: optimizer.muon or optimizer.AdamW"),
        (TWO, "optimizer.moun.lr=1", "did you mean 'muon'?"),
        ("name: x", "name.first=1", "name is 'x', which has no keys"),
        ("data: {augment: []}", "data.augment.0.p=1", "data.augment is a list of 0"),
        ("data: {augment: [{name: a}]}", "data.augment.1.p=1", "has no item '1'"),
        ("optimizer: [[]]", "optimizer.lr=1", "has no item 'lr'"),
        ("name: x", "base=y.yaml", "an override cannot set base"),
    ],
)
def test_overrides_of_keys_that_cannot_be_set(base: str, override: str, words: str) -> None:
    with pytest.raises(ConfigError) as error:
        overridden(base, override)
    assert words in str(error.value)
    assert f"override {override!r}" in str(error.value)


@pytest.mark.parametrize(
    ("base", "one", "other", "key"),
    [
        (MOMENTUM, "optimizer.0.lr=1", "optimizer.lr=2", "optimizer.lr"),
        (MOMENTUM, "optimizer={lr: 1}", "optimizer.lr=2", "optimizer.lr"),
        (MOMENTUM, "optimizer=[{lr: 1}]", "optimizer.lr=2", "optimizer.lr"),
        (MOMENTUM, "optimizer=Adam", "optimizer.name=SGD", "optimizer.name"),
        (MOMENTUM, "optimizer.lr=1", "optimizer.lr= 1", "optimizer.lr"),
        ("optimizer: [{name: SGD}]", "optimizer.SGD.lr=1", "optimizer.lr=2", "optimizer.lr"),
        ("optimizer: {name: SGD, label: m}", "optimizer.m.lr=1", "optimizer.0.lr=2", "optimizer.lr"),
        (TWO, "optimizer.muon.lr=1", "optimizer.0.lr=2", "optimizer.0.lr"),
        (TWO, "optimizer.muon={lr: 1}", "optimizer.0.lr=2", "optimizer.0.lr"),
        ("train: {epochs: 1}", "train={epochs: 3}", "train.epochs=4", "train.epochs"),
        ("seed: 0", "seed=1", "seed.init=2", "seed.init"),
        ("scheduler: null", "scheduler=null", "scheduler.step_size=2", "scheduler"),
        ("model: {name: mlp}", "model.hidden=[1, 2]", "model.hidden.0=3", "model.hidden.0"),
        (
            "data: {augment: [crop]}",
            "data.augment=[flip]",
            "data.augment.0={name: crop}",
            "data.augment.0.name",
        ),
    ],
)
def test_two_overrides_of_one_key_are_a_contradiction(base: str, one: str, other: str, key: str) -> None:
    reported = set()
    for overrides in ((one, other), (other, one)):
        with pytest.raises(ConfigError) as error:
            overridden(base, *overrides)
        reported.add(str(error.value))
    assert len(reported) == 1
    assert f"{key} is also set by" in reported.pop()
    assert {one, other} == {text for text in (one, other) if repr(text) in str(error.value)}


def test_gives_recognizes_every_way_to_set_a_key() -> None:
    assert gives(["a=1", "train.threads=2"], "train.threads")
    assert gives(["train={threads: 2}"], "train.threads")
    assert gives(["log.plots=[]"], "log")
    assert not gives(["train={steps: 2}", "train.test=end"], "train.threads")


def test_all_invalid_overrides_are_reported_at_once() -> None:
    with pytest.raises(ConfigError) as error:
        overridden("name: x", "a", "name.b=1", "name=1", "name=2")
    assert len(error.value.problems) == 3


def test_a_new_name_is_noted_with_the_options_it_drops() -> None:
    _, notes = apply_overrides(tree(MOMENTUM), ["optimizer.name=Adam"])
    assert notes == [
        "override 'optimizer.name=Adam' drops lr=0.1, momentum=0.9; its other options get their defaults"
    ]
    _, notes = apply_overrides(tree(TWO), ["optimizer.muon.name=SGD"])
    assert notes == ["override 'optimizer.muon.name=SGD' drops lr=1; its other options get their defaults"]
    assert apply_overrides(tree(MOMENTUM), ["optimizer.lr=1"])[1] == []


# Layers of every shape, valid and invalid.
VALUES = st.none() | st.integers(0, 9) | st.floats(0, 1) | st.sampled_from(["a", "SGD", "mlp"])
OPTIONS = st.dictionaries(
    st.sampled_from(["name", "lr", "hidden", "root", "batch_size", "label"]), VALUES, max_size=4
)
LAYERS = st.fixed_dictionaries(
    {},
    optional={
        "name": VALUES,
        "seed": st.integers(0, 9) | st.dictionaries(st.sampled_from(["init", "batches"]), st.integers(0, 9)),
        "data": OPTIONS | st.just("mnist"),
        "model": OPTIONS | st.just("mlp"),
        "optimizer": OPTIONS | st.lists(OPTIONS, min_size=1, max_size=1) | st.just("SGD"),
        "scheduler": st.none() | OPTIONS,
        "init": st.none() | st.dictionaries(st.sampled_from(["weight", "bias"]), OPTIONS),
        "train": st.dictionaries(st.sampled_from(["epochs", "steps", "device"]), VALUES),
        "strange": st.recursive(
            VALUES, lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=2), inner)
        ),
    },
)


def layer(data: Any) -> Tree:
    made = Tree(data)
    spell_out(made)
    return made


@given(LAYERS)
def test_an_empty_layer_changes_nothing(data: Any) -> None:
    full = layer(data)
    assert merge(full, Tree({})).data == full.data
    assert merge(Tree({}), full).data == full.data
    assert apply_overrides(full, [])[0].data == full.data


@given(LAYERS, LAYERS)
def test_merging_is_idempotent_and_does_not_change_its_arguments(first: Any, second: Any) -> None:
    base, over = layer(first), layer(second)
    before = repr((base, over))
    once = merge(base, over)
    assert merge(once, over).data == once.data
    assert repr((base, over)) == before


@given(LAYERS, LAYERS, LAYERS)
def test_a_named_component_replaces_that_of_every_lower_layer(first: Any, second: Any, third: Any) -> None:
    top = layer(third)
    result = merge(merge(layer(first), layer(second)), top).data
    for key in ("model", "optimizer"):
        if isinstance(top.data.get(key), dict) and "name" in top.data[key]:
            assert result[key] == top.data[key]


KEYS = (
    "optimizer.lr",
    "model.name",
    "model.hidden",
    "train.steps",
    "train.epochs",
    "seed.init",
    "data.name",
    "optimizer.name",
)


@given(LAYERS, st.sampled_from(KEYS), st.integers(1, 9) | st.sampled_from(["SGD", "mlp", "digits"]))
def test_an_override_is_a_layer_of_one_key(data: Any, key: str, value: Any) -> None:
    base = layer(data)
    if isinstance(base.data.get("optimizer"), list) and key.startswith("optimizer"):
        return  # overrides do not turn a list into a mapping
    head, tail = key.split(".")
    over = layer({head: {tail: value}})
    assert apply_overrides(base, [f"{key}={value}"])[0].data == merge(base, over).data


# Keys in every spelling, for configs of every shape.
HEADS = {
    "optimizer": ["", "name", "lr", "0", "0.name", "0.lr", "muon.lr", "muon.label", "muon.name", "betas"],
    "model": ["", "name", "hidden", "hidden.0"],
    "data": ["", "name", "root", "augment", "augment.0.padding", "augment.crop.name"],
    "init": ["weight", "weight.std"],
    "scheduler": ["", "step_size", "table.5"],
    "train": ["", "epochs", "steps"],
    "seed": ["", "init"],
}
KEYS_OF = {head: [f"{head}.{tail}".rstrip(".") for tail in tails] for head, tails in HEADS.items()}
OPTIMIZER_KEYS = [*KEYS_OF["optimizer"], "optimizer.groups.0.lr"]
OTHER_KEYS = [key for head, keys in KEYS_OF.items() if head != "optimizer" for key in keys]
BASES = (
    (MOMENTUM, OPTIMIZER_KEYS),
    (TWO, OPTIMIZER_KEYS),
    ("optimizer: [{name: SGD, label: muon, lr: 0.1, groups: [{match: x, lr: 1}]}]", OPTIMIZER_KEYS),
    ("optimizer: {name: SGD, label: muon}", OPTIMIZER_KEYS),
    ("{model: {name: mlp, hidden: [1, 2]}, scheduler: {name: StepLR, table: {0: 1, 5: 2}}}", OTHER_KEYS),
    (
        "{data: {name: a, root: r, augment: [{name: crop, padding: 4}]}, train: {epochs: 5}, seed: 3}",
        OTHER_KEYS,
    ),
    ("{model: {name: mlp, hidden: [1]}, scheduler: null, init: {weight: {name: n, std: 1}}}", OTHER_KEYS),
)
# Each `#` is replaced by a unique number, so that every value can be identified.
GIVEN = st.sampled_from(
    [
        "#",
        "[#, #]",
        "b#",
        "null",
        "[]",
        "{lr: #}",
        "{name: b#}",
        "{name: b#, lr: #, root: x#}",
        "{epochs: #}",
        "{init: #}",
        "[{name: b#}]",
        "[{name: b#, lr: #}, {name: c#, label: muon}]",
    ]
)
SETS = st.sampled_from(BASES).flatmap(
    lambda base: st.tuples(
        st.just(base[0]), st.lists(st.tuples(st.sampled_from(base[1]), GIVEN), min_size=2, max_size=3)
    )
)


def outcome(base: str, overrides: Sequence[str]) -> tuple[Any, frozenset[str]]:
    try:
        data, notes = apply_overrides(tree(base), overrides)
    except ConfigError as error:
        return None, frozenset(map(str, error.problems))
    return data.data, frozenset(notes)


def leaves(value: Any, key: Any) -> Iterator[tuple[str, str]]:
    """Yield every plain value with the last part of its key."""
    if isinstance(value, dict):
        for below, item in value.items():
            yield from leaves(item, below)
    elif isinstance(value, list) and value:
        for index, item in enumerate(value):
            yield from leaves(item, index)
    else:
        yield str(key), repr(value)


@given(SETS)
def test_the_order_of_overrides_does_not_matter_and_none_is_dropped(drawn: Any) -> None:
    base, pairs = drawn
    numbers = itertools.count(1000)
    overrides = [f"{key}=" + re.sub("#", lambda _: str(next(numbers)), value) for key, value in pairs]
    data, reported = outcome(base, overrides)
    for order in itertools.permutations(overrides):
        assert outcome(base, order) == (data, reported)
    actual = set(leaves(data, ""))
    for override in map(parse_override, overrides) if data is not None else ():
        for key, value in leaves(override.value, override.key[-1]):
            short = {("name", value), ("init", value)}  # `model=mlp`, `seed=3`
            in_list = {(str(index), value) for index in range(2)}  # a label or name addressed the item
            assert ({(key, value)} | short | in_list) & actual, override.text
