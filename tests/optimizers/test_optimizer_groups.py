"""Assignment of parameters to groups and to several optimizers, and errors for incomplete assignments."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from trainer.errors import ConfigError
from trainer.matching import trainable
from trainer.optimizers.groups import GroupSpec, assign_groups, assign_owners


def net() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Linear(2, 3))


NAMES = ["0.weight", "0.bias", "1.weight", "1.bias", "2.weight", "2.bias"]


def keys(error: ConfigError) -> list[str]:
    return [problem.key for problem in error.problems]


def test_without_specs_there_is_one_unnamed_group() -> None:
    (group,) = assign_groups(net(), NAMES, [])
    assert (group.label, group.names, group.options) == ("", tuple(NAMES), {})
    assert group.parameters == 18 + 2 + 2 + 2 + 6 + 3


def test_the_first_match_wins_and_the_rest_is_last() -> None:
    specs = [
        GroupSpec({"name": "*.bias"}, None, {"weight_decay": 0.0}),
        GroupSpec({"kind": "*Norm*"}, "norms", {"lr": 0.1}),
    ]
    groups = assign_groups(net(), NAMES, specs)
    assert [(group.label, group.names, dict(group.options)) for group in groups] == [
        ("*.bias", ("0.bias", "1.bias", "2.bias"), {"weight_decay": 0.0}),
        ("norms", ("1.weight",), {"lr": 0.1}),
        ("rest", ("0.weight", "2.weight"), {}),
    ]
    assert [group.parameters for group in groups] == [7, 2, 24]


def test_no_rest_when_nothing_is_left_and_labels_describe_the_match() -> None:
    specs = [GroupSpec({"ndim": 1, "kind": None}), GroupSpec({"min_ndim": 2, "kind": "*"})]
    assert [group.label for group in assign_groups(net(), NAMES, specs)] == ["ndim=1", "min_ndim=2,kind=*"]


def test_groups_share_only_what_the_optimizer_owns() -> None:
    groups = assign_groups(net(), ["0.weight", "2.weight", "2.bias"], [GroupSpec({"name": "*.bias"})])
    assert [group.names for group in groups] == [("2.bias",), ("0.weight", "2.weight")]


@pytest.mark.parametrize(
    ("specs", "key", "words"),
    [
        ([GroupSpec({"name": "3.*"})], "groups.0.match", "'3.*' matches no trainable parameter"),
        (
            [GroupSpec({"name": "*"}, "all"), GroupSpec({"name": "*.bias"})],
            "groups.1.match",
            "'*.bias' matches only parameters already in 'all'",
        ),
        ([GroupSpec({"kind": "Linear"})], "groups.0.match", "another optimizer owns"),
        (
            [GroupSpec({"name": "0.bias"}, "a"), GroupSpec({"name": "1.bias"}, "a")],
            "groups.0.label",
            "2 groups have the label 'a'",
        ),
        ([GroupSpec({"name": "0.bias"}, "rest")], "groups.0.label", "reserved for the remaining parameters"),
    ],
)
def test_groups_that_cannot_be(specs: list[GroupSpec], key: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        assign_groups(net(), NAMES[:4], specs)
    assert keys(caught.value) == [key]
    assert words in str(caught.value)


def test_a_pattern_that_matches_nothing_lists_the_names_and_all_faults_come_together() -> None:
    with pytest.raises(ConfigError) as caught:
        assign_groups(net(), NAMES, [GroupSpec({"name": "x"}), GroupSpec({"kind": "Conv3d"})])
    assert keys(caught.value) == ["groups.0.match", "groups.1.match"]
    assert ", ".join(NAMES) in str(caught.value)


def test_optimizers_share_the_parameters_out() -> None:
    matches = {"muon": {"ndim": 2}, "adamw": None}
    assert assign_owners(net(), matches) == {
        "muon": ["2.weight"],
        "adamw": ["0.weight", "0.bias", "1.weight", "1.bias", "2.bias"],
    }
    assert assign_owners(net(), {"sgd": None}) == {"sgd": NAMES}
    assert assign_owners(net(), {"a": {"name": "[01].*"}, "b": {"kind": "Linear"}}) == {
        "a": NAMES[:4],
        "b": NAMES[4:],
    }


@pytest.mark.parametrize(
    ("matches", "key", "words"),
    [
        ({"a": {"name": "9.*"}, "b": None}, "a.match", "'9.*' matches no trainable parameter"),
        ({"a": {"name": "*"}, "b": {"name": "*.bias"}}, "b.match", "both claim 0.bias, 1.bias, 2.bias"),
        (
            {"a": {"name": "*.bias"}, "b": {"kind": "Linear", "ndim": 2}},
            "",
            "no optimizer owns 0.weight, 1.weight",
        ),
        ({"a": None, "b": None}, "b.match", "only one optimizer can get the remaining"),
        ({"a": {"name": "*"}, "b": None}, "b.match", "no parameters remain for 'b'"),
    ],
)
def test_owners_that_cannot_be(matches: Mapping[str, Mapping[str, Any] | None], key: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        assign_owners(net(), matches)
    assert keys(caught.value) == [key]
    assert words in str(caught.value)


def test_a_model_with_nothing_to_train_is_told() -> None:
    with pytest.raises(ConfigError, match="no trainable parameters"):
        assign_owners(net().requires_grad_(False), {"sgd": None})


@given(st.lists(st.sampled_from(["*.bias", "*.weight", "0.*", "1.*", "2.*", "[02].weight", "*"]), max_size=4))
def test_every_parameter_goes_to_its_first_match_and_empty_groups_are_refused(patterns: list[str]) -> None:
    model = net()
    specs = [GroupSpec({"name": pattern}, str(index)) for index, pattern in enumerate(patterns)]
    first = {name: next((i for i, p in enumerate(patterns) if fnmatchcase(name, p)), None) for name in NAMES}
    expected = [tuple(name for name in NAMES if first[name] == index) for index in range(len(patterns))]
    if not all(expected):
        with pytest.raises(ConfigError):
            assign_groups(model, NAMES, specs)
        return
    groups = assign_groups(model, NAMES, specs)
    rest = tuple(name for name in NAMES if first[name] is None)
    assert [group.names for group in groups] == [*expected, *([rest] if rest else [])]
    assert sum(group.parameters for group in groups) == sum(p.numel() for p in trainable(model).values())
