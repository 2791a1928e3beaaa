"""Which parameters of a model a pattern means (floor 1, imports torch only).

Parameter groups, owners of several optimizers and initialisations all say "these parameters" in the same
four ways; this is the one place that answers. It changes nothing and raises nothing: an empty answer is
the caller's to should_prune.
"""

from __future__ import annotations

from fnmatch import fnmatchcase

from torch import nn


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that require gradients, by full dotted name, shared ones once (first name)."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def matching(
    model: nn.Module,
    *,
    name: str | None = None,
    kind: str | None = None,
    ndim: int | None = None,
    min_ndim: int | None = None,
) -> list[str]:
    """Return the names of the trainable parameters for which every given condition holds.

    Args:
        model: the module whose parameters are meant.
        name: shell pattern (`*`, `?`, `[...]`), case-sensitive, on the full dotted name; null = any.
        kind: shell pattern on the class name of the module that directly owns the parameter; null = any.
        ndim: exactly so many dimensions; null = any.
        min_ndim: at least so many dimensions; null = any.

    Returns:
        Full dotted names in the order of `named_parameters`; empty when nothing matches.
    """
    owners = dict(model.named_modules())

    def holds(full: str, parameter: nn.Parameter) -> bool:
        owner = type(owners[full.rpartition(".")[0]]).__name__
        return (
            (name is None or fnmatchcase(full, name))
            and (kind is None or fnmatchcase(owner, kind))
            and (ndim is None or parameter.ndim == ndim)
            and (min_ndim is None or parameter.ndim >= min_ndim)
        )

    return [full for full, parameter in trainable(model).items() if holds(full, parameter)]
