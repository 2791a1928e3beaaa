"""Build an optimizer from a class and its options, with the fastest implementation that torch accepts.

Options are validated by torch itself: the class is built on a tiny parameter and takes one step. So new
optimizers, implementations and ranges of a new torch release are supported without changes here.
"""

from __future__ import annotations

import inspect
import math
import re
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from trainer import kernel_cache
from trainer.errors import ConfigError, unknown_name
from trainer.matching import trainable
from trainer.optimizers.groups import Group
from trainer.seeding import preserved
from trainer.user_code import code_location, describe_error, first_line

CPU = torch.device("cpu")

IMPLEMENTATIONS = ("fused", "foreach")
"""Options that select an implementation of the update rule, fastest first."""

NOT_PER_GROUP = {
    "foreach": "the implementation is chosen for the whole optimizer",
    "fused": "the implementation is chosen for the whole optimizer",
    "capturable": "it applies to the whole optimizer",
    "differentiable": "it applies to the whole optimizer",
    "initial_accumulator_value": "torch reads it only from the optimizer and would ignore the group's value",
}
"""Options that cannot be set per parameter group, with the reason."""

_VARIABLE = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)

_PHRASES = (
    ("Nesterov", "nesterov"),
    ("Adjust learning rate function", "adjust_lr_fn"),
    ("learning rate", "lr"),
    ("beta parameter", "betas"),
    ("strong_wolfe", "line_search_fn"),
    ("epsilon", "eps"),
)
"""Phrases that torch's messages use for an option instead of its name, tried in this order."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of parameter that an implementation has to support.

    Args:
        device, dtype: device and dtype of the parameters.
        sparse: whether their gradients are sparse.
        example: name of one of the parameters, for messages.
    """

    device: torch.device = CPU
    dtype: torch.dtype = torch.float32
    sparse: bool = False
    example: str = field(default="", compare=False)

    def __str__(self) -> str:
        """Return a description for messages; empty for real parameters with dense gradients."""
        if self.sparse:
            return f"the sparse gradients of {self.example}"
        if self.dtype.is_complex:
            return f"the complex parameter {self.example}"
        return ""


def kinds_of(parameters: Mapping[str, Tensor], sparse: Collection[str] = ()) -> list[Kind]:
    """Return the distinct kinds of the parameters.

    Args:
        parameters: by full name.
        sparse: names of the parameters with sparse gradients.
    """
    kinds = [Kind(value.device, value.dtype, name in sparse, name) for name, value in parameters.items()]
    return list(dict.fromkeys(kinds))


_COUNTS: Mapping[type[Optimizer], Mapping[str, int]] = {
    torch.optim.LBFGS: {"max_iter": 100_000, "max_eval": 1_000_000, "history_size": 10_000}
}
"""Upper limits of counts that torch does not check: a step runs until it reaches them."""


def torch_optimizers() -> dict[str, type[Optimizer]]:
    """Return all optimizer classes of torch.optim by name (including those that `rules` rejects)."""
    return {
        name: cls
        for name, cls in sorted(vars(torch.optim).items())
        if isinstance(cls, type) and issubclass(cls, Optimizer) and cls is not Optimizer
    }


def option_names(cls: type[Optimizer]) -> list[str]:
    """Return the option names of a class: keywords of its constructor and of bases that get its **kwargs."""
    names: dict[str, None] = {}
    for base in cls.__mro__[: cls.__mro__.index(Optimizer)]:
        if "__init__" not in vars(base):
            continue
        options = list(inspect.signature(base).parameters.values())[1:]
        kinds = {option.kind for option in options}
        names |= {option.name: None for option in options if option.kind not in _VARIABLE}
        if inspect.Parameter.VAR_KEYWORD not in kinds:
            break
    return list(names)


def needs_closure(optimizer: Optimizer | type[Optimizer]) -> bool:
    """Return whether `step()` requires a closure that recomputes the loss (LBFGS)."""
    cls = optimizer if isinstance(optimizer, type) else type(optimizer)
    closure = inspect.signature(cls.step).parameters.get("closure")
    return closure is not None and closure.default is inspect.Parameter.empty


def check_options(
    cls: type[Optimizer],
    options: Mapping[str, Any],
    *,
    kind: Kind = Kind(),
) -> None:
    """Check options by building the class on a tiny matrix and taking one step.

    Args:
        cls: any torch.optim.Optimizer class.
        options: its keyword arguments.
        kind: kind of parameter of the run (not all support `fused`).

    Raises:
        ConfigError: with torch's message; `key` is the option that the message refers to, if known.
    """
    kernel_cache.build_first_optimizer()
    for name in options:
        if name not in option_names(cls):
            raise unknown_name(f"option of {cls.__name__}", name, option_names(cls), key=name)
    _check_ranges(cls, options, kind.dtype)
    # These two depend on where the step runs; `rules.refuse` checks them.
    settings = {
        name: value for name, value in options.items() if name not in ("capturable", "differentiable")
    }
    try:
        _trial(cls, settings, kind)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a user's class may raise anything
        message = first_line(error) if isinstance(error, Exception) else describe_error(error)
        message = message or type(error).__name__
        location = code_location(error)
        chosen = next((name for name in IMPLEMENTATIONS if options.get(name)), "")
        raise ConfigError(
            f"{cls.__name__}: {message}"
            + (f" (with {kind})" if str(kind) else "")
            + (f" ({location})" if location else ""),
            key=chosen if str(kind) and chosen else _option_in_message(message, options, option_names(cls)),
            fix=_fix(cls, kind, chosen),
        ) from error


def _check_ranges(cls: type[Optimizer], options: Mapping[str, Any], dtype: torch.dtype) -> None:
    """Raise ConfigError for numbers outside the range of the dtype and for counts outside their limits."""
    largest = torch.finfo(dtype).max
    for name, value in options.items():
        for number in value if isinstance(value, list | tuple) else [value]:
            if isinstance(number, float) and largest < abs(number) < math.inf:
                kind = str(dtype).removeprefix("torch.")
                raise ConfigError(f"{number:g} exceeds {kind}", key=name, expected=f"at most {largest:.3g}")
    for name, most in _COUNTS.get(cls, {}).items():
        if options.get(name) is not None and not 1 <= options[name] <= most:
            raise ConfigError(f"got {options[name]}", key=name, expected=f"from 1 to {most:,}")


def _fix(cls: type[Optimizer], kind: Kind, chosen: str) -> str:
    if str(kind) and chosen:
        return f"leave out {chosen}; a supported implementation is then selected"
    if kind.sparse:
        return "use an optimizer that supports them (SGD, Adagrad), or build the layer with sparse=False"
    return f"`optlab show optimizer {cls.__name__}` lists its options" if _is_torchs(cls) else ""


def resolve_implementation(
    cls: type[Optimizer], options: Mapping[str, Any], kinds: Collection[Kind] = (Kind(),)
) -> dict[str, bool]:
    """Return the values of `fused` and `foreach`, if the class has these options.

    Values that the user set (not None) are kept. Otherwise fused, foreach and neither are tried in this
    order; the first one that torch accepts for all kinds of parameters is used.
    """
    known = [name for name in IMPLEMENTATIONS if name in option_names(cls)]
    chosen = {name: bool(options[name]) for name in known if options.get(name) is not None}
    for name in known:
        if name not in chosen:
            attempt = {**options, **dict.fromkeys(known, False), **chosen, name: True}
            chosen[name] = not any(chosen.values()) and all(_accepts(cls, attempt, kind) for kind in kinds)
    return {name: chosen[name] for name in known}


def describe_implementations(optimizers: Iterable[Optimizer]) -> list[str]:
    """Return a line for each torch implementation that optimizers use."""
    return list(dict.fromkeys(line for line in map(describe_implementation, optimizers) if line is not None))


def describe_implementation(optimizer: Optimizer) -> str | None:
    """Return a description of the torch implementation that an optimizer uses; None if it has only one.

    If neither `fused` nor `foreach` is given, torch uses the loop over parameters on a CPU and foreach on a
    GPU. The implementations round differently.
    """
    known = [name for name in IMPLEMENTATIONS if name in optimizer.defaults]
    name = type(optimizer).__name__
    if not known or not _is_torchs(type(optimizer)):
        return None
    on_cpu = all(p.device.type == "cpu" for group in optimizer.param_groups for p in group["params"])
    default = "loop" if on_cpu else "foreach"
    used = next((one for one in known if optimizer.defaults[one]), "loop")
    if used == default:
        return f"{name}: torch's default implementation ({_IMPLEMENTATION_NAMES[used]})"
    options = {one: one == default for one in known}
    settings = ", ".join(f"{one}: {str(value).lower()}" for one, value in options.items())
    return (
        f"{name}: torch's {_IMPLEMENTATION_NAMES[used]} implementation; "
        f"`{settings}` gives torch's default ({_IMPLEMENTATION_NAMES[default]}) bit for bit"
    )


_IMPLEMENTATION_NAMES = {"fused": "fused", "foreach": "foreach", "loop": "a loop over the parameters"}


def build_optimizer(
    cls: type[Optimizer],
    model: nn.Module,
    groups: Sequence[Group],
    options: Mapping[str, Any],
    *,
    sparse: Collection[str] = (),
) -> Optimizer:
    """Build an optimizer over the model's parameters, in the given groups.

    Args:
        cls: any torch.optim.Optimizer class.
        model: the model, already on its device.
        groups: parameter groups from `assign_groups`.
        options: keyword arguments of the class. Lists become tuples. If fused and foreach are None or absent,
            they are selected.
        sparse: names of the parameters with sparse gradients.

    Raises:
        ConfigError: torch rejects an option of the optimizer or of a group (`groups.N.<option>`), or the
            optimizer does not hold the model's parameters.
    """
    parameters = trainable(model)
    owned = {name: parameters[name] for group in groups for name in group.names}
    kinds = kinds_of(owned, sparse)
    chosen = resolve_implementation(cls, options, kinds)
    for kind in kinds:
        check_options(cls, {**options, **chosen}, kind=kind)
    for index, group in enumerate(groups):
        _check_group(cls, index, group, options)
    members = [
        {"params": [parameters[name] for name in group.names], **_arguments(cls, group.options)}
        for group in groups
    ]
    optimizer = cls(members, **_arguments(cls, {**options, **chosen}))
    _check_holds(cls, optimizer, owned)
    for index, group in enumerate(groups):
        for name in group.options:
            if name not in optimizer.defaults:
                raise _not_per_group(
                    index, name, f"{cls.__name__} does not keep it per group and would ignore it"
                )
    return optimizer


def _check_holds(cls: type[Optimizer], optimizer: object, owned: Mapping[str, Tensor]) -> None:
    """Raise ConfigError if this is not an optimizer, or does not hold the parameters that it was given."""
    if not isinstance(optimizer, Optimizer):
        raise ConfigError(
            f"{cls.__name__} returned a {type(optimizer).__name__}", key="name", expected="an optimizer"
        )
    if not hasattr(optimizer, "param_groups"):
        raise ConfigError(
            f"{cls.__name__} has no param_groups",
            key="name",
            fix="call super().__init__(params, defaults) in its __init__",
        )
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    unheld = [name for name, parameter in owned.items() if id(parameter) not in held]
    if unheld:
        raise ConfigError(
            f"{cls.__name__} does not hold {len(unheld)} of the {len(owned)} parameters that it was given, "
            f"including {unheld[0]}",
            key="name",
            expected="an optimizer over the parameters themselves, not copies",
        )


def state_bytes(optimizers: Iterable[Optimizer]) -> int:
    """Return the number of bytes of the tensors in the optimizers' state (moments, histories, counters)."""
    return sum(
        tensor.numel() * tensor.element_size()
        for optimizer in optimizers
        for tensor in _tensors(list(optimizer.state.values()))
    )


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)


def _arguments(cls: type[Optimizer], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options with lists converted to tuples, except where the signature requires a list."""
    signature = inspect.signature(cls).parameters

    def wants_list(name: str) -> bool:
        return name in signature and "list" in str(signature[name].annotation).lower()

    return {
        name: tuple(value) if isinstance(value, list) and not wants_list(name) else value
        for name, value in options.items()
    }


def _check_group(cls: type[Optimizer], index: int, group: Group, options: Mapping[str, Any]) -> None:
    for name in group.options:
        key = f"groups.{index}.{name}"
        if name not in option_names(cls):
            raise unknown_name(f"option of {cls.__name__}", name, option_names(cls), key=key)
        if name in NOT_PER_GROUP:
            raise _not_per_group(index, name, NOT_PER_GROUP[name])
    if group.options:
        try:
            check_options(cls, {**options, **group.options})
        except ConfigError as error:
            problem = error.problems[0]
            # Report an option of the group even if torch's message names one that the group inherits.
            name = problem.key if problem.key in group.options else next(iter(group.options))
            raise ConfigError(problem.what, key=f"groups.{index}.{name}", fix=problem.fix) from error


def _not_per_group(index: int, name: str, reason: str) -> ConfigError:
    return ConfigError(
        f"a parameter group cannot have its own {name!r}: {reason}",
        key=f"groups.{index}.{name}",
        fix=f"set {name!r} on the optimizer itself",
    )


def _trial(cls: type[Optimizer], options: Mapping[str, Any], kind: Kind) -> None:
    """Build the class on one 2 x 2 matrix (Muon needs two dimensions) and take one step; no side effects."""
    device, dtype = kind.device, kind.dtype
    cuda_devices = [device] if device.type == "cuda" else []
    with preserved(), torch.random.fork_rng(devices=cuda_devices), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        matrix = nn.Parameter(torch.eye(2, device=device, dtype=dtype))
        optimizer = cls([matrix], **_arguments(cls, options))
        matrix.grad = torch.ones_like(matrix)
        if kind.sparse:  # whole rows, as for an embedding
            matrix.grad = matrix.grad.to_sparse(1)
        if needs_closure(cls):
            optimizer.step(lambda: 1.0)
        else:
            optimizer.step()


def _accepts(cls: type[Optimizer], options: Mapping[str, Any], kind: Kind) -> bool:
    try:
        _trial(cls, options, kind)
    except Exception:  # torch's and users' classes may raise anything
        return False
    return True


def _option_in_message(message: str, options: Mapping[str, Any], known: Sequence[str]) -> str:
    """Return the option that torch's message refers to; options that the user set come first."""
    for wording, name in _PHRASES:
        if wording.lower() in message.lower() and name in known:
            return name
    for name in [*options, *known]:
        if re.search(rf"\b{re.escape(name)}\b", message):
            return name
    return ""


def _is_torchs(cls: type[Optimizer]) -> bool:
    return cls in torch_optimizers().values()
