"""Compare the parameters and the values that components compute, to find what they must not change."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor, nn
from torch.optim import Optimizer

from trainer.errors import ConfigError
from trainer.user_code import cited_definition

Values = Mapping[str, Tensor]


def layout(model: nn.Module, optimizers: Iterable[Optimizer] = ()) -> dict[str, str]:
    """Return the type, shape and device of every parameter by name, and whether an optimizer holds it."""
    held = {id(p) for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]}
    return {
        name: f"{str(p.dtype).removeprefix('torch.')} {list(p.shape)} on {p.device}"
        + (" in an optimizer" if id(p) in held else "")
        for name, p in model.named_parameters()
    }


def layout_change(before: Mapping[str, str], now: Mapping[str, str]) -> str | None:
    """Return which parameter was added, removed or replaced between two layouts; None if none was."""
    for name in {**before, **now}:
        if name not in now:
            return f"removed the parameter {name}"
        if name not in before:
            return f"added the parameter {name}"
        if before[name] != now[name]:
            return f"changed the parameter {name} from {before[name]} to {now[name]}"
    return None


def first_difference(one: Values, other: Values) -> str | None:
    """Return the name of the first tensor that differs; NaN equals NaN."""
    for name, value in one.items():
        same = other.get(name)
        if same is None or value.shape != same.shape:
            return name
        if not bool(((value == same) | (value.isnan() & same.isnan())).all()):
            return name
    return None


def require_same(one: Values, other: Values, component: str, *, key: str = "name") -> None:
    """Raise ConfigError if a component computed different values from the same random numbers."""
    different = first_difference(one, other)
    if different is not None:
        raise ConfigError(
            f"{component.rpartition(':')[2]} is not deterministic: two calls with the same random numbers "
            f"differ in {different}{cited_definition(component)}",
            key=key,
            fix="draw random numbers from the global generators of torch, Python or NumPy, and keep no state "
            "in global variables",
        )


def copies(values: Values) -> dict[str, Tensor]:
    """Return copies of tensors, which later steps do not change."""
    return {name: value.detach().clone() for name, value in values.items()}
