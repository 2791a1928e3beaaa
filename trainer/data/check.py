"""Check a data set that a user's function returned, before it is used."""

from __future__ import annotations

import torch
from torch import Tensor

from trainer.data.dataset import Dataset, Split
from trainer.errors import DataError
from trainer.tasks import TASKS

_EXPECTED = "a trainer.data.dataset.Dataset, as make_dataset(Split(x, y), Split(x, y), class_names) returns"


def check_dataset(found: object, name: str) -> None:
    """Raise DataError if an object is not a valid data set.

    Args:
        found: the return value of the function.
        name: the name of the function, for the message.
    """
    if not isinstance(found, Dataset):
        raise DataError(f"{name} returned a {type(found).__name__}", key="name", expected=_EXPECTED)
    names = found.class_names
    if names is not None and not (
        isinstance(names, tuple) and names and all(isinstance(one, str) for one in names)
    ):
        raise _wrong(name, f"class_names are {str(names)[:80]}", "a tuple of str, or None for real targets")
    if not isinstance(found.digest, str):
        raise _wrong(name, f"digest is a {type(found.digest).__name__}", "a str; make_dataset computes it")
    for part in ("train", "test", "val"):
        split = getattr(found, part)
        if split is None and part == "val":
            continue
        if not isinstance(split, Split):
            raise _wrong(name, f"{part} is a {type(split).__name__}", "a trainer.data.dataset.Split")
        _check_inputs(name, f"{part}.inputs", split.inputs)
        _check_targets(name, f"{part}.targets", split, None if names is None else len(names))
        _check_like_training(name, part, found.train, split)
    if found.task not in TASKS:
        raise _wrong(name, f"task is {found.task!r:.80}", f"one of {', '.join(TASKS)}, or empty")


def _check_like_training(name: str, part: str, train: Split, other: Split) -> None:
    if train.inputs.shape[1:] != other.inputs.shape[1:]:
        raise _wrong(
            name,
            f"training samples have the shape {list(train.inputs.shape[1:])}, {part} samples "
            f"{list(other.inputs.shape[1:])}",
            "the same shape",
        )
    if train.inputs.dtype != other.inputs.dtype:  # the scaling of pixels depends on the type
        kinds = f"{train.inputs.dtype} and {other.inputs.dtype}"
        raise _wrong(name, f"the inputs of training and {part} have different types: {kinds}", "one type")
    if train.targets.shape[1:] != other.targets.shape[1:] or train.targets.dtype != other.targets.dtype:
        raise _wrong(name, f"the targets of training and {part} differ in type or width", "equal ones")


def _check_inputs(name: str, part: str, inputs: object) -> None:
    expected = (
        "a tensor on the CPU, uint8 or float32, [N, C, H, W] or [N, D], or int64 [N, T] (tokens), "
        "with at least one sample"
    )
    if not isinstance(inputs, Tensor):
        raise _wrong(name, f"{part} is a {type(inputs).__name__}", expected)
    fits = inputs.dtype in (torch.uint8, torch.float32) and inputs.ndim in (2, 4) and inputs.numel()
    fits = fits or (inputs.dtype == torch.int64 and inputs.ndim == 2 and inputs.numel())
    if not fits or inputs.device.type != "cpu" or inputs.layout != torch.strided:
        raise _wrong(name, f"{part} is {_described(inputs)}", expected)
    if inputs.is_floating_point() and not bool(inputs.isfinite().all()):
        raise _wrong(name, f"{part} contains NaN or infinity", "finite numbers")


def _check_targets(name: str, part: str, split: Split, classes: int | None) -> None:
    targets: object = split.targets
    tokens = split.inputs.dtype == torch.int64
    expected = (
        "a tensor on the CPU: int64 [N], classes"
        if classes is not None
        else "a tensor on the CPU: float32 [N, K], real targets (class_names is None)"
    )
    if tokens:
        expected = "a tensor on the CPU: int64 [N, T], tokens (class_names has the text of every token)"
    if not isinstance(targets, Tensor):
        raise _wrong(name, f"{part} is a {type(targets).__name__}", expected)
    if tokens:
        fits = classes is not None and targets.dtype == torch.int64 and targets.shape == split.inputs.shape
    elif classes is None:
        fits = targets.dtype == torch.float32 and targets.ndim == 2 and targets.shape[1] > 0
    elif targets.is_floating_point():  # probabilities
        fits = targets.dtype == torch.float32 and targets.ndim == 2 and targets.shape[1] == classes
    else:
        fits = targets.dtype == torch.int64 and targets.ndim == 1
    if not fits or targets.device.type != "cpu":
        raise _wrong(name, f"{part} is {_described(targets)}", expected)
    if targets.is_floating_point():
        if not bool(targets.isfinite().all()):
            raise _wrong(name, f"{part} contains NaN or infinity", "finite numbers")
    elif classes is not None and not bool(((targets >= 0) & (targets < classes)).all()):
        low, high = (int(end) for end in targets.aminmax())
        raise _wrong(name, f"{part} has values from {low} to {high}", f"classes from 0 to {classes - 1}")


def _described(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)} on {tensor.device}"


def _wrong(name: str, what: str, expected: str) -> DataError:
    return DataError(f"{name}: {what}", key="name", expected=expected)
