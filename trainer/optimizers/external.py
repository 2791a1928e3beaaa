"""Build optimizers of users and of other packages: any class or function, and wrappers of optimizers.

The parameters of a builder decide by their names what it gets besides its options: `model`,
`named_parameters`, an inner optimizer, and numbers of the run (`CONTEXT`). Every other first parameter gets
the parameters to train. Nothing is checked on dummy parameters; the rehearsal of the run tries the optimizer
on a copy of the model.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from trainer.errors import ConfigError, Problem, nearest, unknown_name
from trainer.matching import trainable
from trainer.optimizers.groups import Group
from trainer.user_code import describe_with_line, first_line

OBJECTS = ("model", "named_parameters")
"""Parameters of a builder that get the model, or the names and parameters to train."""

INNER = ("optimizer", "base_optimizer", "base", "inner_optimizer", "wrapped_optimizer")
"""Parameters of a wrapper that get the inner optimizer: an instance, or a function that builds it."""

CONTEXT = ("num_iterations", "total_steps", "num_training_steps", "num_data", "batch_size")
"""Required parameters that get a number of the run if the config does not set them: steps, samples."""

_KEYWORDS = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


@dataclass(frozen=True, slots=True)
class OptimizerSpec:
    """An optimizer as described in the config.

    Args:
        name: its name in the config, for messages.
        builder: the class, or a function that returns an optimizer.
        options: its keyword arguments.
        base: the inner optimizer of a wrapper; None = it is no wrapper.
    """

    name: str
    builder: Callable[..., Any]
    options: Mapping[str, Any]
    base: OptimizerSpec | None = None

    @property
    def short_name(self) -> str:
        """The name without folders."""
        return self.name.rpartition("/")[2]


def build_external(
    spec: OptimizerSpec, model: nn.Module, groups: Sequence[Group], context: Mapping[str, int | None]
) -> Optimizer:
    """Build an optimizer over the parameters of the groups.

    Args:
        spec: what to build.
        model: the model.
        groups: parameter groups from `assign_groups`.
        context: the numbers of the run, by the names of `CONTEXT`; None = unknown.

    Raises:
        ConfigError: the builder fails, needs something that is not available, or does not return an
            optimizer that holds the parameters; keys are relative to the optimizer.
    """
    parameters = trainable(model)
    owned = {name: parameters[name] for group in groups for name in group.names}
    members: list[Any] = [
        {"params": [parameters[name] for name in group.names], **group.options} for group in groups
    ]
    try:
        optimizer = _build(spec, model, owned, members, context)
    except ConfigError:
        if len(groups) > 1 or groups[0].options:
            raise
        with suppress(ConfigError):  # some constructors take only parameters, not groups
            return _build(spec, model, owned, list(owned.values()), context)
        raise
    innermost = spec
    while innermost.base is not None:
        innermost = innermost.base
    for index, group in enumerate(groups):
        for name in group.options:
            if not _reads(innermost.builder, name):
                raise unknown_name(
                    f"group option of {innermost.name.rpartition(':')[2]}",
                    name,
                    _parameter_names(innermost.builder),
                    key=f"groups.{index}.{name}",
                )
    return optimizer


def derived_numbers(spec: OptimizerSpec, context: Mapping[str, int | None]) -> dict[str, int | None]:
    """Return the numbers of the run that an optimizer and those that it wraps get, by dotted option."""
    required = _required(spec.builder)
    numbers = {name: context[name] for name in CONTEXT if name in required and name not in spec.options}
    inner = derived_numbers(spec.base, context) if spec.base is not None else {}
    return numbers | {f"base.{name}": number for name, number in inner.items()}


def dropped_names(builder: Callable[..., Any]) -> list[str]:
    """Return the parameters of a builder that get parameters, the model or an optimizer: no options."""
    try:
        signature = list(inspect.signature(builder).parameters.values())
    except (TypeError, ValueError):  # reported when the options are derived
        return []
    first = [p.name for p in signature[:1] if p.default is p.empty]
    required = [p.name for p in signature if p.default is p.empty]
    return [*first, *INNER, *(name for name in OBJECTS if name in required)]


def _build(
    spec: OptimizerSpec,
    model: nn.Module,
    owned: Mapping[str, Tensor],
    members: list[Any],
    context: Mapping[str, int | None],
) -> Optimizer:
    signature = inspect.signature(spec.builder).parameters.values()
    required = [p.name for p in signature if p.default is p.empty and p.kind in _KEYWORDS]
    names = [p.name for p in signature if p.kind in _KEYWORDS]
    for name in spec.options:
        if name not in names and nearest(name, names):  # `**kwargs` would take the misspelt option
            raise unknown_name(f"option of {spec.short_name}", name, names, key=name)
    given: dict[str, Any] = _call_arguments(spec, context, required)
    objects = {"model": model, "named_parameters": list(owned.items())}
    given |= {name: objects[name] for name in OBJECTS if name in required}
    inner = next((name for name in INNER if name in names), None)
    if spec.base is not None and inner is None:
        raise ConfigError(
            f"{spec.short_name} has no parameter for an inner optimizer ({', '.join(INNER)})", key="base"
        )
    if spec.base is None and inner in required:
        raise ConfigError(
            f"{spec.short_name} wraps another optimizer, and none is given",
            key="name",
            fix=f"write {{name: {spec.short_name}, base: {{name: AdamW, lr: 1e-3}}}}",
        )
    first = next((p for p in signature if p.kind not in (p.KEYWORD_ONLY, p.VAR_KEYWORD)), None)
    takes_members = first is not None and first.name not in (*OBJECTS, inner, *given)
    if not takes_members:
        takes_members = "params" in required
    if spec.base is not None and inner is not None:
        base = spec.base
        annotation = str(inspect.signature(spec.builder).parameters[inner].annotation).lower()
        if takes_members and any(word in annotation for word in ("type", "class", "callable", "empty")):
            # A wrapper such as SAM builds the inner optimizer itself, over its own groups.
            numbers = _call_arguments(base, context, _required(base.builder))
            given[inner] = _with_options(base.builder, numbers)
        else:
            with _prefixed("base"):
                given[inner] = _build(base, model, owned, members, context)
    try:
        if not takes_members:
            optimizer: Any = spec.builder(**given)
        elif first is not None and first.name in (*OBJECTS, inner):
            optimizer = spec.builder(**given, params=members)
        else:
            optimizer = spec.builder(members, **given)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a user's class may raise anything
        raise failure(spec, error) from error
    _check_holds(spec, optimizer, owned)
    built: Optimizer = optimizer
    return built


def failure(spec: OptimizerSpec, error: BaseException) -> ConfigError:
    """Return the error to report for an exception of an optimizer before the run, with its line."""
    text = first_line(error) if isinstance(error, Exception) else ""
    key = next(
        (name for name in (*spec.options, *_parameter_names(spec.builder)) if name in text.split()), ""
    )
    key = key if key in spec.options else ""
    short = spec.name.rpartition(":")[2]
    return ConfigError(f"{short} {describe_with_line(error, spec.name)}", key=key or "name")


def _call_arguments(
    spec: OptimizerSpec, context: Mapping[str, int | None], required: Sequence[str]
) -> dict[str, Any]:
    """Return the options for the call, with the required numbers of the run."""
    signature = inspect.signature(spec.builder).parameters

    def wants_list(name: str) -> bool:
        return name in signature and "list" in str(signature[name].annotation).lower()

    given = {
        name: tuple(value) if isinstance(value, list) and not wants_list(name) else value
        for name, value in spec.options.items()
        if value is not None or name not in required
    }
    for name in CONTEXT:
        if name in required and name not in given:
            if context.get(name) is None:
                raise ConfigError(
                    f"{spec.short_name} needs {name}: only a time budget ends this run",
                    key="name",
                    fix=f"set {name}, or give the run a length (train.epochs or train.steps)",
                )
            given[name] = context[name]
    return given


def _check_holds(spec: OptimizerSpec, optimizer: object, owned: Mapping[str, Tensor]) -> None:
    """Raise ConfigError if this is no optimizer, or does not hold the parameters that it was given."""
    short = spec.name.rpartition(":")[2]
    methods = ("step", "zero_grad", "state_dict", "load_state_dict")
    if not all(callable(getattr(optimizer, name, None)) for name in methods):
        raise ConfigError(
            f"{short} returned a {type(optimizer).__name__}", key="name", expected="an optimizer"
        )
    groups = getattr(optimizer, "param_groups", None)
    if groups is None:
        raise ConfigError(
            f"{short} has no param_groups",
            key="name",
            fix="call super().__init__(params, defaults) in its __init__",
        )
    held = {id(parameter) for group in groups for parameter in group["params"]}
    unheld = [name for name, parameter in owned.items() if id(parameter) not in held]
    if unheld:
        raise ConfigError(
            f"{short} does not hold {len(unheld)} of the {len(owned)} parameters that it was given, "
            f"including {unheld[0]}",
            key="name",
            expected="an optimizer over the parameters themselves, not copies",
        )


def _with_options(builder: Callable[..., Any], options: Mapping[str, Any]) -> Callable[..., Any]:
    """Return a builder with the options as defaults; for a class a subclass, which wrappers may check."""
    if not isinstance(builder, type):
        return partial(builder, **options)

    cls: Any = builder
    init = cls.__init__

    def init_with_options(self: Any, *arguments: Any, **keywords: Any) -> None:
        init(self, *arguments, **{**options, **keywords})

    same = {"__module__": builder.__module__, "__qualname__": builder.__qualname__}
    return type(builder.__name__, (builder,), {**same, "__init__": init_with_options})


def rate_holder(optimizer: Optimizer) -> Optimizer:
    """Return the optimizer whose groups have the learning rates: of a wrapper, the innermost one."""
    inner = [value for value in vars(optimizer).values() if isinstance(value, Optimizer)]
    return rate_holder(inner[0]) if inner and inner[0] is not optimizer else optimizer


def group_numbers(group: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers in a parameter group by name, without the learning rate; `betas.0` of a sequence."""
    numbers: dict[str, float] = {}
    for name, value in group.items():
        if name in ("params", "lr", "initial_lr"):
            continue
        if isinstance(value, list | tuple):
            items = {f"{name}.{index}": item for index, item in enumerate(value)}
        else:
            items = {name: value}
        for key, item in items.items():
            if isinstance(item, Tensor) and item.numel() == 1 and not item.is_complex():
                numbers[key] = item.item()
            elif isinstance(item, int | float) and not isinstance(item, bool):
                numbers[key] = float(item)
    return numbers


def _required(builder: Callable[..., Any]) -> list[str]:
    parameters = inspect.signature(builder).parameters.values()
    return [p.name for p in parameters if p.default is p.empty and p.kind in _KEYWORDS]


def _parameter_names(builder: Callable[..., Any]) -> list[str]:
    return [p.name for p in inspect.signature(builder).parameters.values() if p.kind in _KEYWORDS]


def _reads(builder: Callable[..., Any], key: str) -> bool:
    """Return whether a builder has a parameter of this name, or its source file contains it as a string."""
    if key in _parameter_names(builder):
        return True
    classes = builder.__mro__ if isinstance(builder, type) else (inspect.unwrap(builder),)
    for one in classes:
        if one in (object, Optimizer):
            continue
        try:
            source = Path(inspect.getsourcefile(one) or "").read_text(encoding="utf-8", errors="replace")
        except (OSError, TypeError):
            continue
        if f"'{key}'" in source or f'"{key}"' in source:
            return True
    return False


@contextmanager
def _prefixed(prefix: str) -> Iterator[None]:
    """Add a prefix to the keys of config errors raised in the block."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError.of(
            Problem(p.what, f"{prefix}.{p.key}", p.where, p.expected, p.fix) for p in error.problems
        ) from error
