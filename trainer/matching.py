"""Select parameters of a model by name, layer class or number of dimensions.

Parameter groups, the parameters of several optimizers and initializations all use these four conditions. An
empty result is not an error here; the caller decides.
"""

from __future__ import annotations

from fnmatch import fnmatchcase

from torch import nn


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that require gradients by full dotted name; shared ones have their first name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def matching(
    model: nn.Module,
    *,
    name: str | None = None,
    kind: str | None = None,
    ndim: int | None = None,
    min_ndim: int | None = None,
) -> list[str]:
    """Return the names of the trainable parameters that satisfy every given condition.

    Args:
        model: the module that has the parameters.
        name: shell pattern (`*`, `?`, `[...]`), case-sensitive, for the full dotted name; None = any.
        kind: shell pattern for the class name of the module that directly owns the parameter; None = any.
        ndim: number of dimensions; None = any.
        min_ndim: minimum number of dimensions; None = any.

    Returns:
        Full dotted names in the order of `named_parameters`; empty when nothing matches.
    """
    owners = dict(model.named_modules())

    def satisfies(full: str, parameter: nn.Parameter) -> bool:
        owner = type(owners[full.rpartition(".")[0]]).__name__
        return (
            (name is None or fnmatchcase(full, name))
            and (kind is None or fnmatchcase(owner, kind))
            and (ndim is None or parameter.ndim == ndim)
            and (min_ndim is None or parameter.ndim >= min_ndim)
        )

    return [full for full, parameter in trainable(model).items() if satisfies(full, parameter)]
