from __future__ import annotations

import enum
import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import torch
from pydantic import BaseModel, Field, ValidationError
from torch.optim import lr_scheduler

from trainer.config.signature_schema import (
    DROPPED,
    is_import_path,
    is_path,
    parse_args_section,
    schema_from_signature,
)
from trainer.errors import ConfigError


def public(module: Any, base: type) -> list[type]:
    return [item for item in vars(module).values() if isinstance(item, type) and issubclass(item, base)]


INITS = [getattr(torch.nn.init, n) for n in dir(torch.nn.init) if n.endswith("_") and not n.startswith("_")]
TORCH = [*public(torch.optim, torch.optim.Optimizer), *public(lr_scheduler, lr_scheduler.LRScheduler), *INITS]


def accepts(builder: Callable[..., Any], **options: Any) -> bool:
    try:
        schema_from_signature(builder).model_validate(options)
    except ValidationError:
        return False
    return True


@pytest.mark.parametrize("builder", TORCH, ids=lambda item: item.__name__)
def test_every_torch_builder_has_a_model_of_its_keywords(builder: Callable[..., Any]) -> None:
    model = schema_from_signature(builder)
    parameters = inspect.signature(builder).parameters
    assert set(model.model_fields) == set(parameters) - set(DROPPED)
    for name, info in model.model_fields.items():
        default = parameters[name].default
        assert info.is_required() == (default is inspect.Parameter.empty)
        if not info.is_required():
            assert info.default == (list(default) if isinstance(default, tuple) else default)
    defaults = {name: info.default for name, info in model.model_fields.items() if not info.is_required()}
    required = {name: 1 for name, info in model.model_fields.items() if info.is_required()}
    # A required option may not accept 1; a default is always valid.
    faults: set[object] = set()
    try:
        model.model_validate(defaults | required)
    except ValidationError as error:
        faults = {item["loc"][0] for item in error.errors()}
    assert faults <= set(required)


@pytest.mark.parametrize(
    "builder",
    [b for b in TORCH if b.__name__ not in ("Optimizer", "LRScheduler", "_LRScheduler", "constant_", "eye_")],
    ids=lambda item: item.__name__,
)
def test_every_torch_option_is_described(builder: Callable[..., Any]) -> None:
    for name, info in schema_from_signature(builder).model_fields.items():
        assert info.description, name
        assert (
            not any(sign in info.description for sign in (":math:", ":class:", "``", "\\"))
            or "\\(" in info.description
        )
        assert "(default:" not in info.description


def test_tensors_are_not_options_and_tuples_accept_lists() -> None:
    assert accepts(torch.optim.Adam, lr=0.1, betas=[0.9, 0.99])
    assert accepts(torch.optim.Adafactor, eps=[None, 0.1])
    for bad in (
        {"lr": "0.1"},
        {"lr": True},
        {"betas": [0.9]},
        {"betas": [0.9, "x"]},
        {"betas": 0.9},
        {"momentum": 1.0},
    ):
        assert not accepts(torch.optim.Adam, **bad)
    assert not accepts(torch.optim.Adam, lr=math.inf)
    assert not accepts(torch.optim.Adam, lr=math.nan)
    assert accepts(torch.optim.SGD, lr=1, fused=None)
    assert not accepts(torch.optim.LBFGS, max_iter=1.0)
    assert not accepts(torch.optim.LBFGS, max_iter=True)


def test_torch_string_annotations_are_resolved() -> None:
    assert accepts(lr_scheduler.OneCycleLR, max_lr=[0.1, 0.2], anneal_strategy="linear")
    assert not accepts(lr_scheduler.OneCycleLR, max_lr=0.1, anneal_strategy="sin")
    assert accepts(lr_scheduler.MultiStepLR, milestones=[1, 2])
    assert not accepts(lr_scheduler.MultiStepLR, milestones=[1, "2"])
    assert accepts(lr_scheduler.LambdaLR, lr_lambda="mine.py:decay")
    assert accepts(lr_scheduler.LambdaLR, lr_lambda=["mine.py:decay", "package.module:decay"])
    assert not accepts(lr_scheduler.LambdaLR, lr_lambda="lambda epoch: 1")
    assert is_import_path(schema_from_signature(lr_scheduler.LambdaLR).model_fields["lr_lambda"])
    assert not is_import_path(schema_from_signature(lr_scheduler.StepLR).model_fields["gamma"])
    assert not accepts(torch.nn.init.kaiming_normal_, mode="fan")


class Colour(enum.Enum):
    RED = "red"


class Nested(BaseModel):
    depth: int


class Unknown:
    pass


UNKNOWN = Unknown()


def everything(
    *args: Any,
    a: Annotated[int, Field(ge=1)],
    b: float = math.inf,
    c: torch.Tensor | None = None,
    d: float | torch.Tensor = 1,
    e: int = 3,
    f: Path | None = None,
    g: tuple[int, ...] = (1, 2),
    h: Mapping[int, float] = {0: 0.1},
    i: Colour = Colour.RED,
    j: Nested | None = None,
    k: Callable[[float], float] = math.sin,
    m: Any = None,
    n=5,
    o: Unknown = UNKNOWN,
    p: int | None = None,
    q: int = 1e-8,
    r: Sequence[int] | None = None,
    s: Iterable[tuple[str, int]] = (),
    t: type[Unknown] | None = None,
    u: Literal["x", 1] = "x",
    copy: bool = False,
    _hidden: int = 0,
    **kwargs: Any,
) -> None:
    """Everything.

    Parameters:
        a: the first,
            continued.
        b, c: two at once.
        *args: the rest.

    Returns:
        d: nothing.
    """


# As in other packages: a name imported for type checkers only, and a default that does not match its type.
everything.__annotations__ |= {"e": "NotImported | int", "p": "int"}


def test_signatures_of_every_kind() -> None:
    fields = schema_from_signature(everything).model_fields
    assert set(fields) == set("abcdefghijkmnpqrstu") | {
        "copy"
    }  # not o: YAML cannot represent it, and it has a default
    assert fields["a"].description == "the first, continued."
    assert fields["b"].description == fields["c"].description == "two at once."
    assert fields["d"].description is None
    assert [name for name, info in fields.items() if is_path(info)] == ["f"]
    good = [
        {"b": math.inf},
        {"b": 1.5},
        {"c": None},
        {"e": 4},
        {"f": "data"},
        {"g": [3]},
        {"h": {1: 2.0}},
        {"i": "red"},
        {"j": {"depth": 3}},
        {"k": "math:cos"},
        {"m": object()},
        {"n": "anything"},
        {"p": None},
        {"q": 1},
        {"q": 1e-3},
        {"s": [["x", 1]]},
        {"t": "mine.py:Thing"},
        {"u": 1},
        {"copy": True},
    ]
    assert [extra for extra in good if not accepts(everything, a=1, **extra)] == []
    bad = [
        {"a": 0},
        {"b": math.nan},
        {"d": math.inf},
        {"c": 3},
        {"e": "x"},
        {"f": 3},
        {"g": ["x"]},
        {"h": {"0": 1.0}},
        {"i": "blue"},
        {"j": {"width": 3}},
        {"k": 3},
        {"p": "x"},
        {"r": "abc"},
        {"s": [["x"]]},
        {"copy": 1},
        {"o": 1},
        {"kwargs": {}},
        {"_hidden": 1},
    ]
    assert [extra for extra in bad if accepts(everything, **{"a": 1, **extra})] == []


def test_defaults_are_complete_and_values_fixed() -> None:
    options = schema_from_signature(everything).model_validate({"a": 1})
    assert options.g == (1, 2)
    with pytest.raises(ValidationError):
        options.a = 2


def test_kwargs_accept_the_options_of_the_base_class() -> None:
    class Mine(torch.optim.SGD):
        def __init__(self, params: Any, lr: float = 0.5, *, extra: int, **kwargs: Any) -> None:
            super().__init__(params, lr=lr, **kwargs)

    fields = schema_from_signature(Mine).model_fields
    assert list(fields)[:2] == ["lr", "extra"]
    assert fields["lr"].default == 0.5
    assert {"momentum", "nesterov", "weight_decay"} <= set(fields)


def test_partials_have_the_remaining_options() -> None:
    def build(name: str, *, pretrained: bool = False) -> None: ...

    assert list(schema_from_signature(partial(build, "resnet")).model_fields) == ["pretrained"]


def test_required_parameters_can_be_declared_optional() -> None:
    model = schema_from_signature(lr_scheduler.CosineAnnealingLR, optional=("T_max",))
    assert model.model_validate({}).T_max is None
    with pytest.raises(ValidationError):
        model.model_validate({"T_max": 1.5})


def test_a_builder_without_a_signature_is_refused() -> None:
    class Opaque:
        __signature__ = "none"

    with pytest.raises(ConfigError, match="cannot read the options of") as error:
        schema_from_signature(Opaque)
    assert error.value.problems[0].key == "name"


def test_args_sections_of_both_styles() -> None:
    doc = inspect.cleandoc(
        r"""Title.

        Args:
            lr (float, Tensor, optional): learning rate, see
                :class:`~torch.optim.SGD` and `the paper <http://x>`_ (default: 1e-3)
            betas (Tuple[float, float], optional):
                on its own line (default: (0.9, 0.999)). More.
            plain: ``code`` and :math:`\gamma^{2}`.

                .. note:: left out

        Example:
            >>> no: entry
        """
    )
    assert parse_args_section(doc) == {
        "lr": "learning rate, see torch.optim.SGD and the paper",
        "betas": "on its own line More.",
        "plain": "`code` and gamma^2.",
    }
    assert parse_args_section("no section") == {}
