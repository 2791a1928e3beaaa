"""Build a data set from arrays: check their layouts, types and ranges.

The arrays come from an .npz file or from a user's function; this module reads no files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainer.data.dataset import Dataset, Split, check_labels, make_dataset
from trainer.errors import DataError

KEYS = ("x_train", "y_train", "x_test", "y_test")
VAL_KEYS = ("x_val", "y_val")
MAX_CLASSES = 65_536
_CHANNELS = (1, 3, 4)

Layout = Literal["auto", "nhwc", "nchw"]
TargetType = Literal["auto", "classes", "real"]
IntegerTargets = Literal["classes", "real"]
"""What integer targets are if no option states it: the task or the loss of the run decides."""


def check_keys(names: set[str], where: str, how: str) -> tuple[str, ...]:
    """Return the names of the arrays to read: the required ones, and those of a validation split if given.

    Args:
        names: the names of the available arrays.
        where: the file or function that the arrays come from.
        how: how to write or return the required arrays, for the message.

    Raises:
        DataError: a required array is missing, or only one array of a validation split is given.
    """
    missing = [key for key in KEYS if key not in names]
    if missing:
        raise DataError(
            f"no array {', '.join(missing)}",
            where=where,
            expected=f"arrays {', '.join(KEYS)}, and {' and '.join(VAL_KEYS)} for a validation split",
            fix=f"it has {', '.join(sorted(names)) or 'none'}; {how}",
        )
    val = [key for key in VAL_KEYS if key in names]
    if len(val) == 1:
        other = next(key for key in VAL_KEYS if key not in names)
        raise DataError(
            f"{val[0]} without {other}", where=where, expected="both, or neither", fix=f"add {other}"
        )
    return (*KEYS, *val)


def from_arrays(
    arrays: Mapping[str, NDArray[Any]],
    *,
    where: str,
    layout: Layout = "auto",
    target_type: TargetType = "auto",
    integer_targets: IntegerTargets = "classes",
    unused: Sequence[str] = (),
) -> Dataset:
    """Return the data set of x_train, y_train, x_test, y_test and, if given, x_val and y_val.

    Args:
        arrays: the arrays by name, those returned by `check_keys`.
        where: the file or function that the arrays come from.
        layout: the position of the channels in 4-dimensional inputs.
        target_type: the meaning of targets; `auto` = floats are real values, and a note reports what integers
            are.
        integer_targets: the meaning of integers with `auto`.
        unused: names of further arrays, which are not used; a note lists them.

    Raises:
        DataError: an array has a wrong type, length or shape, contains NaN or infinity, or has labels outside
            the training classes.
    """
    keys = tuple(key for key in (*KEYS, *VAL_KEYS) if key in arrays)
    parts = [key.removeprefix("x_") for key in keys if key.startswith("x_")]
    for key in keys:
        if arrays[key].ndim == 0:
            raise DataError(
                f"{key} is a single value, not an array of rows",
                where=where,
                expected="a row for every sample",
            )
    inputs = {part: _inputs(arrays[f"x_{part}"], layout, f"{where}: x_{part}") for part in parts}
    for part in parts:
        _check_like_train(part, inputs, len(arrays[f"y_{part}"]), where)
    is_assumed = target_type == "auto" and arrays["y_train"].dtype.kind in "iu"
    if is_assumed and integer_targets == "real":
        target_type = "real"
    found = {part: _targets(arrays[f"y_{part}"], target_type, f"{where}: y_{part}") for part in parts}
    for part in parts:
        if found[part].shape[1:] != found["train"].shape[1:] or found[part].dtype != found["train"].dtype:
            raise DataError(
                f"y_train and y_{part} differ in kind: "
                + " and ".join(f"{y.dtype} {list(y.shape)}" for y in (found["train"], found[part])),
                where=where,
                expected="both class numbers, or both real targets of one width",
            )
    notes = []
    if unused:
        notes.append(f"{where}: not used: {', '.join(unused)}; used: {', '.join(keys)}")
    names = None
    if not found["train"].is_floating_point():
        classes = _count_classes(found["train"], f"{where}: y_train")
        for part in parts:
            check_labels(found[part], classes, f"{where}: y_{part}")
        names = [str(number) for number in range(classes)]
    if is_assumed:
        notes.append(f"{where}: {integer_note(None if names is None else len(names))}")
    splits = {part: Split(inputs[part], found[part]) for part in parts}
    return make_dataset(splits["train"], splits["test"], names, val=splits.get("val"), notes=notes)


def integer_note(classes: int | None) -> str:
    """Return the note for integer targets that are this many classes, or None = real values."""
    if classes is None:
        return "the integer targets are real values; task=classification makes them classes"
    return f"the integer targets are {classes:,} classes; task=regression makes them real values"


def dataset_of(made: Any, *, where: str, integer_targets: IntegerTargets = "classes") -> Dataset:
    """Convert the return value of a user's function to a data set.

    Args:
        made: a `Dataset` (returned unchanged), or a mapping with the names of an .npz file (x_train ...), of
            NumPy arrays or torch tensors.
        where: the function.
        integer_targets: what integer targets are.

    Raises:
        DataError: the value has another type, or its arrays are not valid (see `from_arrays`).
    """
    if isinstance(made, Dataset):
        return made
    if not isinstance(made, Mapping):
        raise unusable(f"it returned {described(made)}", where)
    arrays = {str(key): _array(value, f"{where}: {key}") for key, value in made.items()}
    keys = check_keys(set(arrays), where, "return all of them")
    return from_arrays(
        {key: arrays[key] for key in keys},
        where=where,
        integer_targets=integer_targets,
        unused=sorted(set(arrays) - set(keys)),
    )


def _array(value: Any, where: str) -> NDArray[Any]:
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        value = (value.float() if value.dtype == torch.bfloat16 else value).numpy()
    if not isinstance(value, np.ndarray) or value.dtype.hasobject:
        raise unusable(f"{described(value)}", where)
    return value


def described(value: Any) -> str:
    """Return the kind of a value, for a message."""
    kind = type(value).__name__
    if isinstance(value, tuple | list):
        return f"a {kind} of {len(value)} ({', '.join(type(item).__name__ for item in value[:4])})"
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype}"
    return "None" if value is None else f"a {kind}"


def unusable(what: str, where: str) -> DataError:
    """Return the error for what a user's data function returned."""
    return DataError(
        f"{where}: {what}",
        key="name",
        expected="(x_train, y_train), (x_test, y_test), with (x_val, y_val) between them or without; torch "
        "Datasets in the places of these pairs; or a dict of x_train, y_train, x_test, y_test (and x_val, "
        "y_val), or of train, test (and val)",
        fix="return NumPy arrays or torch tensors: inputs uint8 or float, targets integers or floats",
    )


def _check_like_train(part: str, inputs: Mapping[str, Tensor], rows: int, where: str) -> None:
    """Raise DataError if inputs and training inputs, or inputs and targets, do not match."""
    train, mine = inputs["train"], inputs[part]
    for name, one, other in (("inputs", train.shape[1:], mine.shape[1:]), ("types", train.dtype, mine.dtype)):
        if one != other:
            raise DataError(f"x_train and x_{part} have different {name}: {one} and {other}", where=where)
    if len(mine) != rows:
        raise DataError(
            f"x_{part} has {len(mine):,} rows and y_{part} has {rows:,}",
            where=where,
            expected="one target for every input",
        )


def _inputs(array: NDArray[Any], layout: Layout, where: str) -> Tensor:
    """Return inputs as uint8 or float32, [N, C, H, W] or [N, D]."""
    if not (array.dtype == np.uint8 or array.dtype.kind == "f"):
        raise DataError(
            f"inputs of type {array.dtype}",
            where=where,
            expected="uint8 (pixels 0 to 255) or a float type",
            fix="convert with .astype(np.uint8) or .astype(np.float32)",
        )
    if array.ndim not in (2, 3, 4) or 0 in array.shape:
        raise DataError(
            f"inputs of shape {list(array.shape)}",
            where=where,
            expected="[N, D], [N, H, W], [N, H, W, C] or [N, C, H, W], none of them 0",
        )
    if array.ndim == 3:
        array = array[:, None]
    elif array.ndim == 4 and _channels_last(array.shape, layout, where):
        array = array.transpose(0, 3, 1, 2)
    dtype = np.uint8 if array.dtype == np.uint8 else np.float32
    with np.errstate(over="ignore"):  # overflow gives infinity, which `_finite` rejects
        tensor = torch.from_numpy(np.ascontiguousarray(array, dtype=dtype))
    return _finite(tensor, where)


def _channels_last(shape: tuple[int, ...], layout: Layout, where: str) -> bool:
    if layout != "auto":
        return layout == "nhwc"
    first, last = shape[1] in _CHANNELS, shape[3] in _CHANNELS
    if first == last:
        raise DataError(
            f"inputs of shape {list(shape)} have an ambiguous channel dimension",
            where=where,
            expected="1, 3 or 4 channels in either dimension 1 or dimension 3, not both",
            fix="set data.layout=nhwc or data.layout=nchw; in Python, transpose them to [N, C, H, W]",
        )
    return last


def _finite(tensor: Tensor, where: str) -> Tensor:
    if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
        wrong = (~tensor.flatten(1).isfinite()).any(1).nonzero().flatten()
        raise DataError(
            f"NaN or infinity (as float32) in {len(wrong):,} of {len(tensor):,} rows: {int(wrong[0])} ...",
            where=where,
            expected="finite numbers",
        )
    return tensor


def _targets(array: NDArray[Any], target_type: TargetType, where: str) -> Tensor:
    """Return class numbers as int64 [N], or real targets as float32 [N, K]."""
    kind, shape = array.dtype.kind, array.shape
    real = kind == "f" or (kind in "iu" and target_type == "real")
    if real and target_type != "classes" and len(shape) in (1, 2) and 0 not in shape:
        with np.errstate(over="ignore"):  # as in _inputs
            values = torch.from_numpy(array.astype(np.float32).reshape(shape[0], -1))
        return _finite(values, where)
    if kind in "iu" and target_type != "real" and (len(shape) == 1 or (len(shape) == 2 and shape[1] == 1)):
        largest = int(array.max(initial=0))
        if largest >= MAX_CLASSES:  # also keeps uint64 from wrapping around
            raise DataError(
                f"label {largest}",
                where=where,
                expected=f"classes from 0, below {MAX_CLASSES:,}",
                fix="for a regression, set data.target_type=real or store floats",
            )
        return torch.from_numpy(array.astype(np.int64).reshape(-1))
    several = kind in "iub" and len(shape) == 2
    raise DataError(
        f"targets of type {array.dtype} and shape {list(shape)}",
        where=where,
        expected={
            "auto": "class numbers: integers [N] or [N, 1]; real targets: floats [N] or [N, K]",
            "classes": "class numbers (data.target_type=classes): integers [N] or [N, 1]",
            "real": "real targets (data.target_type=real): floats or integers, [N] or [N, K]",
        }[target_type],
        fix="convert one-hot rows to class numbers with .argmax(1); for a regression, store floats"
        if several
        else "",
    )


def _count_classes(labels: Tensor, where: str) -> int:
    """Return the number of classes: the largest training label plus one."""
    classes = int(labels.max()) + 1
    check_labels(labels, max(classes, 1), where)
    return classes
