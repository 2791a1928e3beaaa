from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from trainer.config.json_schema import json_schema
from trainer.config.load import Components, Loaded, dump, from_tree, load
from trainer.config.models import Config, SeedConfig
from trainer.config.run_id import run_id
from trainer.config.yaml_reader import Origin, Tree, parse_mapping
from trainer.errors import ConfigError, Problem

MINIMAL: dict[str, Any] = {
    "data": "digits",
    "model": "linear",
    "optimizer": {"name": "SGD"},
    "train": {"epochs": 1},
}


def load_text(text: str, components: Components) -> Loaded:
    return from_tree(parse_mapping(text, Origin("text", Path().absolute())), components=components)


def load_mapping(mapping: dict[Any, Any], components: Components, overrides: Sequence[str] = ()) -> Loaded:
    return from_tree(Tree(mapping), overrides, components=components)


def problems(load_it: Any) -> list[Problem]:
    with pytest.raises(ConfigError) as error:
        load_it()
    return list(error.value.problems)


def problems_of(components: Components, **changes: Any) -> dict[str, Problem]:
    found = problems(lambda: load_mapping(MINIMAL | changes, components))
    return {problem.key: problem for problem in found}


def test_fills_in_every_default(folder: Path, components: Components) -> None:
    loaded = load(Path("base.yaml"), components=components)
    config = loaded.config
    assert config.optimizer[0].options == {"lr": 0.01, "momentum": 0.9, "nesterov": False}
    assert config.model.options == {"hidden": [200], "activation": "relu", "dropout": 0.0}
    assert config.data.options == {"root": str(folder / "data"), "download": True}
    assert config.loss.name == "cross_entropy"
    assert config.scheduler == []
    assert config.seed == SeedConfig()


def test_values_have_their_location(folder: Path, components: Components) -> None:
    (folder / "top.yaml").write_text("base: base.yaml\n\ntrain: {epochs: 2}\n")
    loaded = load(Path("top.yaml"), ["optimizer.lr=1e-3"], components=components)
    assert loaded.where("train.epochs") == "top.yaml:3"
    assert loaded.where("train.device") == "top.yaml:3"
    assert loaded.where("model.hidden") == "base.yaml:5"
    assert loaded.where("optimizer.lr") == "override 'optimizer.lr=1e-3'"
    assert loaded.where("optimizer.0.lr") == "override 'optimizer.lr=1e-3'"
    assert loaded.where("optimizer.nesterov") == "base.yaml:6"
    assert loaded.where("log.every") == "top.yaml:1"


def test_the_item_of_a_list_of_one_is_found_without_its_index(components: Components) -> None:
    text = "data: digits\nmodel: linear\noptimizer:\n  - name: SGD\n    lr: 1\ntrain: {steps: 1}\n"
    loaded = load_text(text, components)
    assert loaded.where("optimizer.lr") == "text:5"
    assert loaded.where("optimizer.0.lr") == "text:5"


def test_all_problems_of_both_passes_are_reported_in_file_order(folder: Path, components: Components) -> None:
    (folder / "bad.yaml").write_text(
        "nme: x\n"
        "data: {name: mnst}\n"
        "model: {name: mlp, hiden: [1]}\n"
        "optimizer:\n  name: SGD\n  lr: abc\n  nesterov: yes\n"
        "  groups: [{match: '*.bias', lrr: 0, momentum: x}, {lr: 1}]\n"
        "scheduler: {gamma: 0.1}\n"
        "train: {epochs: 0, precision: float23, eval_every: {epochs: 1, steps: 2}}\n"
    )
    found = problems(lambda: load(Path("bad.yaml"), ["log.evry=1"], components=components))
    assert [(problem.where, problem.key) for problem in found] == [
        ("bad.yaml:1", "nme"),
        ("bad.yaml:2", "data.name"),
        ("bad.yaml:3", "model.hidden"),
        ("bad.yaml:3", "model.hiden"),
        ("bad.yaml:6", "optimizer.lr"),
        ("bad.yaml:7", "optimizer.nesterov"),
        ("bad.yaml:8", "optimizer.groups.0.momentum"),
        ("bad.yaml:8", "optimizer.groups.0.lrr"),
        ("bad.yaml:8", "optimizer.groups.1.match"),
        ("bad.yaml:9", "scheduler.name"),
        ("bad.yaml:10", "train.epochs"),
        ("bad.yaml:10", "train.precision"),
        ("bad.yaml:10", "train.eval_every"),
        ("override 'log.evry=1'", "log.evry"),
    ]
    by_key = {problem.key: problem for problem in found}
    assert by_key["nme"].fix == "did you mean 'name'?"
    assert by_key["data.name"].what == "unknown dataset 'mnst'"
    assert by_key["data.name"].fix == "did you mean 'mnist'?"
    assert by_key["model.hiden"].fix == "did you mean 'hidden'?"
    assert by_key["optimizer.lr"].what == "got 'abc'"
    assert by_key["optimizer.lr"].expected == "a number"
    assert by_key["optimizer.nesterov"].fix == "write true"
    assert by_key["optimizer.groups.0.lrr"].fix == "did you mean 'lr'?"
    assert by_key["train.epochs"].expected == "a number above 0"
    assert by_key["train.precision"].fix == "did you mean 'float32'?"
    assert by_key["train.eval_every"].what == "give either epochs or steps"
    assert by_key["log.evry"].fix == "did you mean 'every'?"


@pytest.mark.parametrize(
    ("changes", "key", "what", "expected"),
    [
        (
            {"data": {"name": "digits", "batch_size": 0}},
            "data.batch_size",
            "got 0",
            "a number of at least 1 or 'full'",
        ),
        (
            {"data": {"name": "digits", "batch_size": "ful"}},
            "data.batch_size",
            "got 'ful'",
            "a whole number or 'full'",
        ),
        ({"data": {"name": "digits", "val_size": 1.5}}, "data.val_size", "got 1.5", ""),
        (
            {"data": {"name": "digits", "normalize": {"mean": [0.1]}}},
            "data.normalize.std",
            "'std' is missing",
            "",
        ),
        (
            {"data": {"name": "digits", "normalize": {"mean": 1, "std": [1]}}},
            "data.normalize.mean",
            "got 1",
            "a list",
        ),
        ({"data": {"name": "digits", "augment": [{"p": 1}]}}, "data.augment.0.name", "'name' is missing", ""),
        (
            {"data": {"name": "digits", "augment": [{"name": "flip", "p": 2}]}},
            "data.augment.0.p",
            "got 2",
            "at most 1",
        ),
        ({"model": 3}, "model", "got 3", "a mapping"),
        ({"model": {"name": 3}}, "model.name", "got 3", "text"),
        ({"model": {"name": "mlp"}}, "model.hidden", "'hidden' is missing", "units of each hidden layer"),
        ({"model": {"name": "mlp", "hidden": 5}}, "model.hidden", "got 5", "a list"),
        ({"model": {"name": "linear", "options": {}}}, "model.options", "unknown key 'options'", ""),
        ({"optimizer": []}, "optimizer", "got []", "at least 1"),
        ({"optimizer": {"name": "SGD", "lr": math.inf}}, "optimizer.lr", "got inf", "a finite number"),
        ({"optimizer": {"name": "SGD", "lr": True}}, "optimizer.lr", "got true", "a number"),
        ({"optimizer": {"name": "SGD", "lr": "1_000"}}, "optimizer.lr", "got '1_000'", "a number"),
        ({"optimizer": {"name": "SGD", "match": {}}}, "optimizer.match", "a match needs name", ""),
        ({"optimizer": {"name": "Adam", "betas": [1]}}, "optimizer.betas.1", "is missing", ""),
        (
            {"optimizer": [{"name": "SGD"}, {"name": "Adam", "lr": "x"}]},
            "optimizer.1.lr",
            "got 'x'",
            "a number",
        ),
        ({"seed": -1}, "seed", "got -1", "a number of at least 0"),
        ({"seed": {"init": -1, "dropout": 3}}, "seed.init", "got -1", "a number of at least 0"),
        ({"seed": "x"}, "seed", "got 'x'", "a mapping"),
        ({"train": {"epochs": 1, "steps": 2}}, "train", "epochs and steps are both set", ""),
        ({"train": {}}, "train", "the run has no length", ""),
        ({"train": None}, "train", "got null", "a mapping"),
        (
            {"scheduler": {"name": "Table", "table": {"x": 1}}},
            "scheduler.table.x",
            "got 'x'",
            "a whole number",
        ),
        ({"scheduler": {"name": "LambdaLR", "lr_lambda": "x"}}, "scheduler.lr_lambda", "import path", ""),
        ({"init": {"weigth": "zeros_"}}, "init.weigth", "unknown key 'weigth'", "weight"),
        ({3: 4}, "3", "unknown key 3", "model"),
    ],
)
def test_messages_for_invalid_values(
    components: Components, changes: Any, key: str, what: str, expected: str
) -> None:
    found = problems(lambda: load_mapping({**MINIMAL, **changes}, components))
    assert key in [problem.key for problem in found]
    problem = next(problem for problem in found if problem.key == key)
    assert what in problem.what
    assert expected in problem.expected
    assert "pydantic" not in str(problem)


def test_a_missing_section_is_reported(components: Components) -> None:
    found = problems(lambda: load_mapping({}, components))
    assert {problem.key for problem in found} == {"data", "model", "optimizer", "train"}


def test_paths_are_relative_to_the_file_that_sets_them(folder: Path, components: Components) -> None:
    (folder / "sub").mkdir()
    (folder / "sub" / "mine.yaml").write_text(
        "base: ../base.yaml\nmodel: ../models/net.py:Net\n"
        "scheduler: {name: LambdaLR, lr_lambda: decay.py:half}\nloss: package.module:Loss\n"
    )
    config = load(Path("sub/mine.yaml"), ["optimizer=opt.py:Mine"], components=components).config
    assert config.model.name == f"{folder}/models/net.py:Net"
    assert config.scheduler[0].options["lr_lambda"] == f"{folder}/sub/decay.py:half"
    assert config.loss.name == "package.module:Loss"
    assert config.optimizer[0].name == f"{folder}/opt.py:Mine"
    assert config.data.options["root"] == f"{folder}/data"
    home = load(Path("sub/mine.yaml"), ["data.root=~/data"], components=components).config
    assert home.data.options["root"] == str(Path.home() / "data")
    here = load(Path("sub/mine.yaml"), ["data.root=here"], components=components).config
    assert here.data.options["root"] == f"{folder}/here"


def test_a_parameter_group_has_only_the_given_options(components: Components) -> None:
    groups = [{"match": "*.bias", "momentum": 0}, {"match": {"ndim": 1}, "label": "norms"}]
    config = load_mapping(MINIMAL | {"optimizer": {"name": "SGD", "groups": groups}}, components).config
    assert [group.options for group in config.optimizer[0].groups] == [{"momentum": 0.0}, {}]


def test_errors_of_the_catalog_get_a_location() -> None:
    def broken(kind: str, name: str) -> None:
        raise ConfigError(f"{name} fails to import", key="name", fix="mend it")

    found = problems(lambda: load_text("data: digits\nmodel: m.py:X\n", Components(broken, {})))
    mine = next(problem for problem in found if problem.key == "model.name")
    assert (mine.where, mine.fix) == ("text:2", "mend it")
    assert mine.what.endswith("m.py:X fails to import")


def test_a_required_option_named_like_a_key_of_the_config_is_refused(components: Components) -> None:
    from trainer.config.signature_schema import schema_from_signature

    def build(*, label: int) -> None: ...

    clashing = Components(
        lambda kind, name: (
            schema_from_signature(build) if kind == "optimizer" else components.models(kind, name)
        ),
        components.names,
    )
    found = problems(lambda: load_mapping(MINIMAL, clashing))
    assert "has a required parameter label" in found[0].what


def test_notes_list_what_an_override_dropped(folder: Path, components: Components) -> None:
    loaded = load(Path("base.yaml"), ["optimizer.name=Adam"], components=components)
    assert loaded.notes == [
        "override 'optimizer.name=Adam' drops lr=0.01, momentum=0.9; its other options get their defaults"
    ]


def is_folder_name(text: str) -> bool:
    return text.isprintable() and all(part not in ("", ".", "..") for part in text.split("/"))


FLOATS = st.floats(allow_nan=False, allow_infinity=False)
POSITIVE = st.floats(min_value=1e-300, max_value=1e12)
OPTIMIZERS = st.fixed_dictionaries(
    {"name": st.just("SGD")},
    optional={
        "lr": FLOATS,
        "momentum": st.integers(0, 5) | FLOATS,
        "label": st.text(min_size=1, max_size=6).filter(lambda text: "\0" not in text),
        "match": st.text(max_size=6).filter(lambda text: "\0" not in text)
        | st.fixed_dictionaries({"ndim": st.integers(0, 3)}),
        "groups": st.lists(
            st.fixed_dictionaries({"match": st.just("*.bias")}, optional={"lr": FLOATS}), max_size=2
        ),
    },
) | st.fixed_dictionaries(
    {"name": st.just("Adam")}, optional={"betas": st.lists(FLOATS, min_size=2, max_size=2)}
)
SCHEDULERS = st.sampled_from(["StepLR"]).map(
    lambda name: {"name": name, "step_size": 3}
) | st.fixed_dictionaries(
    {"name": st.just("Table"), "table": st.dictionaries(st.integers(0, 99), FLOATS, max_size=3)}
)
CONFIGS = st.fixed_dictionaries(
    {
        "data": st.fixed_dictionaries(
            {"name": st.just("mnist")},
            optional={
                "root": st.none() | st.text(max_size=8).filter(lambda text: "\0" not in text),
                "batch_size": st.integers(1, 999) | st.just("full"),
                "val_size": st.integers(0, 100) | st.floats(0, 0.99),
                "normalize": st.none() | st.just("dataset") | st.just({"mean": [0.1307], "std": [0.3081]}),
                "augment": st.lists(st.sampled_from(["crop", "flip"]), max_size=2),
            },
        ),
        "model": st.fixed_dictionaries(
            {"name": st.just("mlp"), "hidden": st.lists(st.integers(1, 9), max_size=3)}
        ),
        "optimizer": OPTIMIZERS | st.lists(OPTIMIZERS, min_size=1, max_size=2),
        "train": st.one_of(
            st.fixed_dictionaries({"epochs": POSITIVE}),
            st.fixed_dictionaries({"steps": st.integers(1, 10**9)}),
        ),
    },
    optional={
        "name": st.text(min_size=1, max_size=8).filter(is_folder_name),
        "seed": st.integers(0, 2**63 - 1) | st.fixed_dictionaries({"init": st.integers(0, 9)}),
        "init": st.none() | st.just({"weight": {"name": "normal_", "std": 1e-3}, "layers": []}),
        "scheduler": st.none() | SCHEDULERS | st.lists(SCHEDULERS, max_size=2),
        "log": st.fixed_dictionaries({}, optional={"plots": st.just([]), "every": st.integers(1, 5)}),
    },
)


@given(CONFIGS)
def test_dumped_configs_load_as_equal_configs(components: Components, mapping: dict[str, Any]) -> None:
    config = load_mapping(mapping, components).config
    text = dump(config)
    again = load_text(text, components).config
    assert again == config
    assert dump(again) == text
    assert Config.model_validate(config.model_dump()) == config


@given(FLOATS)
def test_floats_are_bitwise_equal_in_any_yaml_reader(components: Components, number: float) -> None:
    config = load_mapping(MINIMAL | {"optimizer": {"name": "SGD", "lr": number}}, components).config
    text = dump(config)
    assert load_text(text, components).config.optimizer[0].options["lr"].hex() == number.hex()
    assert yaml.safe_load(text)["optimizer"]["lr"].hex() == number.hex()


@given(
    st.sampled_from(
        [
            "1e-3",
            "1E5",
            "yes",
            "null",
            "0o7",
            "012",
            "1:30",
            ".5",
            "+1",
            "~",
            "*a",
            "- a",
            "a: b",
            "=",
            "<<",
            "",
        ]
    )
    | st.text(max_size=9).filter(lambda text: "\0" not in text)
)
def test_strings_are_read_back_as_strings(components: Components, text: str) -> None:
    config = load_mapping(MINIMAL | {"optimizer": {"name": "SGD", "label": text}}, components).config
    assert load_text(dump(config), components).config.optimizer[0].label == text


def test_a_dump_is_readable(components: Components) -> None:
    lines = dump(load_mapping(MINIMAL, components).config).splitlines()
    assert lines[:4] == ["format: 1", "name: experiment", "seed: 0", "data:"]
    assert "optimizer:" in "\n".join(lines)
    assert "scheduler: null" in lines


FRAGMENTS = st.sampled_from(
    [
        *(
            "name",
            "data",
            "model",
            "optimizer",
            "scheduler",
            "train",
            "init",
            "loss",
            "seed",
            "log",
            "base",
            "groups",
        ),
        *(
            "mlp",
            "SGD",
            "options",
            "lr",
            "epochs",
            "match",
            "weight",
            "layers",
            "augment",
            "hidden",
            "normalize",
        ),
        *(
            ": ",
            "\n",
            "\n  ",
            "- ",
            "{",
            "}",
            "[",
            "]",
            ", ",
            "1",
            "-1",
            "1e-3",
            "null",
            "true",
            "'",
            '"',
            "&a ",
            "*a",
        ),
    ]
)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=4)
    | st.sampled_from(["SGD", "mlp"])
)
KEYS = (
    st.sampled_from(["name", "options", "groups", "match", "lr", "weight", "layers", "augment", "epochs"])
    | SCALARS
)
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=8,
)


def loaded_or_refused(load_it: Any) -> None:
    """Fail on every other exception."""
    try:
        loaded = load_it()
    except ConfigError:
        return
    assert isinstance(loaded, Loaded)
    assert yaml.safe_load(dump(loaded.config))["format"] == 1


@given(st.lists(FRAGMENTS, max_size=25).map("".join) | st.text(max_size=50))
def test_any_text_is_a_config_or_a_config_error(components: Components, text: str) -> None:
    loaded_or_refused(lambda: load_text(text, components))


@given(
    st.dictionaries(st.sampled_from(list(Config.model_fields)) | st.text(max_size=3), ANYTHING, max_size=5)
)
def test_any_mapping_is_a_config_or_a_config_error(components: Components, changes: dict[Any, Any]) -> None:
    loaded_or_refused(lambda: load_text(yaml.safe_dump(MINIMAL | changes, sort_keys=False), components))


PARTS = st.sampled_from(
    ["data", "optimizer", "groups", "0", "lr", "name", "train", "epochs", "augment", "init", "seed"]
)


@given(st.lists(st.tuples(st.lists(PARTS, min_size=1, max_size=4).map(".".join), ANYTHING), max_size=3))
def test_any_overrides_give_a_config_or_a_config_error(
    components: Components, pairs: list[tuple[str, Any]]
) -> None:
    overrides = [f"{key}={value}" for key, value in pairs]
    base = MINIMAL | {"data": {"name": "digits", "augment": ["crop"]}, "optimizer": [{"name": "SGD"}]}
    loaded_or_refused(lambda: load_mapping(base, components, overrides))


@given(st.binary(max_size=60))
def test_any_file_is_a_config_or_a_config_error(
    components: Components, tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.yaml"
    path.write_bytes(content)
    loaded_or_refused(lambda: load(path, components=components))


def test_the_json_schema_has_every_component_and_section(components: Components) -> None:
    schema = json_schema(components)
    text = json.dumps(schema)
    definitions = schema["$defs"]
    assert set(schema["properties"]) == {*Config.model_fields, "base"}
    for kind, names in components.names.items():
        cases = definitions[kind]["else"]["allOf"]
        assert [case["then"]["title"] for case in cases] == list(names)
        assert definitions[f"{kind}.name"]["else"] == {"enum": list(names)}
    sgd = definitions["optimizer"]["else"]["allOf"][list(components.names["optimizer"]).index("SGD")]["then"]
    assert sgd["properties"]["lr"]["description"] == "learning rate"
    assert {"name", "lr", "momentum", "nesterov", "label", "match", "groups", "step", "base"} == set(
        sgd["properties"]
    )
    references = {part.split('"')[0] for part in text.split("#/$defs/")[1:]}
    assert references <= set(definitions)


def test_run_ids_contain_the_overrides_and_the_seed() -> None:
    seeds = SeedConfig()
    assert run_id([], seeds) == "seed=0"
    assert run_id(["optimizer.lr=1e-1"], seeds) == "lr=0.1,seed=0"
    actual = run_id(
        ["optimizer.a.lr=1", "optimizer.b.lr=2", "train.device=cpu", "log.every=1", "seed=3"], seeds
    )
    assert actual == "a.lr=1,b.lr=2,seed=0"
    assert run_id([], SeedConfig(augmentation=1)) == "seed=0-0-1-0"
    name = run_id(["name=x", "model.activation=a/b c:d"], seeds)
    assert name == "activation=a%2Fb%20c%3Ad,seed=0"
    whole = "optimizer={name: SGD, lr: 1e-1, groups: [{match: '*.bias', lr: 0}]}"
    assert run_id([whole], seeds).startswith("optimizer=SGD,groups=[{match%3A%2A.bias,lr%3A0}],lr=0.1,")
    assert run_id(["optimizer=SGD", "optimizer.lr=0.1"], seeds) == "optimizer=SGD,lr=0.1,seed=0"
    assert run_id(["optimizer={name: SGD, lr: 0.1}"], seeds) == "optimizer=SGD,lr=0.1,seed=0"
    assert run_id(["train={epochs: 3, threads: 1}", "init.weight={name: zeros_}"], seeds) == (
        "weight=zeros_,epochs=3,seed=0"
    )
    long = run_id([f"model.hidden={list(range(90))}"], seeds)
    assert len(long) <= 120
    assert long.endswith(",seed=0")
    assert long != run_id([f"model.hidden={list(range(91))}"], seeds)


def test_a_float_key_is_an_unknown_key(components: Components) -> None:
    found = problems(lambda: load_text("data: {name: digits, 0.5: 1}\nmodel: mlp\n", components))
    assert "unknown key 0.5" in str(found)
