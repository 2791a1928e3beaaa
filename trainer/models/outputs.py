"""The prediction in what a model returns: a tensor, or one of the entries of a tuple or a dict."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from trainer.errors import ConfigError

DEFAULT = "output"
"""The entry of a dict that is the prediction unless the config states another one."""


def prediction(returned: object, output: str | int | None = None) -> Tensor:
    """Return the prediction of a model: the tensor that the metrics and the loss compare with the targets.

    Args:
        returned: what the model returned.
        output: `model.output` of the config: a key of a dict, a field of a named tuple, or a position from 0;
            None = the model returns a tensor, or a dict with the entry `output`.

    Raises:
        ConfigError: there is no such entry, or it is not a tensor; `key` is "output".
    """
    if isinstance(returned, Tensor):
        if output is None:
            return returned
        raise ConfigError("the model returns one tensor", key="output", fix="leave out `output`")
    entry: object = None
    if isinstance(returned, Mapping):
        entry = returned.get(DEFAULT if output is None else output)
    elif isinstance(output, str):
        entry = getattr(returned, output, None)
    elif isinstance(returned, list | tuple) and output is not None and output < len(returned):
        entry = returned[output]
    if isinstance(entry, Tensor):
        return entry
    kind = type(returned).__name__
    raise ConfigError(
        f"the model returns a {kind}{_entries(returned)}"
        + (", and the config does not say which entry is the prediction" if output is None else "")
        + (f"; its entry {output!r} is a {type(entry).__name__}" if entry is not None else ""),
        key="name" if output is None else "output",
        expected="a tensor, or the key or the position of one",
        fix="state model.output" if output is None else "",
    )


def _entries(returned: object) -> str:
    if isinstance(returned, Mapping):
        return f" with the keys {', '.join(map(str, returned))}"
    if isinstance(returned, list | tuple):
        fields = getattr(returned, "_fields", None)
        return f" with the fields {', '.join(fields)}" if fields else f" of {len(returned)} entries"
    return ""
