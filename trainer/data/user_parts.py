"""Read what a user's data function or class returns: arrays, or data sets of torch."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils import data as torch_data

from trainer.data.arrays import IntegerTargets, dataset_of, described, unusable
from trainer.data.cache import cached
from trainer.data.dataset import Dataset, memory_bytes
from trainer.errors import DataError
from trainer.seeding import global_stream

Progress = Callable[[int, int], None]

_NAMES = {"valid": "val", "validation": "val", "dev": "val"}
_PROBED = 64  # samples of a part that identify its content
_SELECTORS: Mapping[str, Mapping[str, Any]] = {
    "train": {"train": True, "test": False},
    "split": {"train": "train", "test": "test"},
}
"""Parameters of classes such as those of torchvision that select a part, and their values for it."""


def call(builder: Callable[..., Any], options: Mapping[str, Any]) -> Any:
    """Call a user's function or class; once per part if a parameter `train` or `split` selects the part."""
    parameters = inspect.signature(builder).parameters
    for selector, values in _SELECTORS.items():
        if selector in parameters and selector not in options and _selects(parameters[selector], values):
            return {part: builder(**options, **{selector: value}) for part, value in values.items()}
    return builder(**options)


def _selects(parameter: inspect.Parameter, values: Mapping[str, Any]) -> bool:
    required = parameter.default is parameter.empty
    kind = type(values["train"])
    return parameter.annotation in (kind, kind.__name__) if required else parameter.default in values.values()


def read_parts(
    made: Any,
    *,
    where: str,
    seed: int,
    identity: Sequence[str],
    sources: Sequence[Path] = (),
    integer_targets: IntegerTargets = "classes",
    progress: Progress | None = None,
) -> Dataset:
    """Convert the return value of a user's function, or an object of a user's class, to a data set.

    Data sets of torch are read sample by sample, once: the cache stores the result. It is keyed by the code,
    the sources, the number of samples, and some samples of every part.

    Args:
        made: a `Dataset`; arrays by the names of an .npz file; the parts train, test and val (as a mapping,
            as attributes, or as a sequence (train, test) or (train, val, test)); or a callable that returns
            one of these. A part is a pair of arrays, a map-style data set of torch, or a loader of one.
        where: the function.
        seed: seed of the random numbers that the samples may draw.
        identity: what the data depend on besides the samples and the sources: the code and its options.
        sources: files and folders that the options name.
        integer_targets: what integer targets are.
        progress: called with (samples read, number of samples).

    Raises:
        DataError: the value has another type, or its arrays are not valid.
    """
    if callable(made) and not isinstance(made, Mapping):
        made = made()
    if isinstance(made, Dataset):
        return made
    parts = _parts_of(made)
    if parts is None:
        return dataset_of(made, where=where, integer_targets=integer_targets)
    arrays: dict[str, Any] = {}
    to_read: dict[str, Any] = {}
    for name, part in parts.items():
        if isinstance(part, torch_data.DataLoader):
            part = part.dataset
        if isinstance(part, torch_data.TensorDataset):
            part = part.tensors
        if isinstance(part, tuple | list) and len(part) == 2:
            arrays |= {f"x_{name}": part[0], f"y_{name}": part[1]}
        elif (
            hasattr(part, "__getitem__") and hasattr(part, "__len__") and isinstance(part, torch_data.Dataset)
        ):
            to_read[name] = part
        else:
            raise unusable(f"its {name} part is {described(part)}", where)

    def decode() -> Dataset:
        total, done = sum(map(len, to_read.values())), 0
        for name, part in to_read.items():
            with global_stream(f"data/{name}", seed):
                read = _Reader(part, f"{where}: {name}")
                for count in read:
                    if progress is not None:
                        progress(done + count, total)
            done += len(part)
            arrays.update({f"x_{name}": read.inputs, f"y_{name}": read.targets})
        return dataset_of(arrays, where=where, integer_targets=integer_targets)

    if not to_read or arrays:
        return decode()
    probes = [
        f"{name} {len(part)} {_probe(part, f'{where}: {name}', seed)}" for name, part in to_read.items()
    ]
    files = [path for path in sources if path.is_file()]
    listed = [line for path in sources if path.is_dir() for line in _listing(path)]
    return cached(files, decode, variant=["user", *identity, str(seed), integer_targets, *probes, *listed])


def _parts_of(made: Any) -> dict[str, Any] | None:
    """Return the parts by name; None if these are not parts."""
    if isinstance(made, tuple | list) and len(made) in (2, 3):
        return dict(zip(("train", "test") if len(made) == 2 else ("train", "val", "test"), made, strict=True))
    if isinstance(made, Mapping):
        found = {_NAMES.get(str(key), str(key)): part for key, part in made.items()}
    else:
        found = {
            _NAMES.get(name, name): getattr(made, name)
            for name in ("train", "test", "val", *_NAMES)
            if getattr(made, name, None) is not None
        }
    if not {"train", "test"} <= set(found):
        return None
    return {name: part for name, part in found.items() if name in ("train", "test", "val")}


class _Reader:
    """Reads the samples of a data set of torch into two arrays; iterating yields the number read so far."""

    def __init__(self, part: Any, where: str) -> None:
        self._part, self._where = part, where
        self.inputs = self.targets = np.empty(0)

    def __iter__(self) -> Iterator[int]:
        total = len(self._part)
        for index in range(total):
            inputs, targets = _sample(self._part, index, self._where)
            if index == 0:
                self._check_size(total, inputs)
                self.inputs = np.empty((total, *inputs.shape), inputs.dtype)
                self.targets = np.empty((total, *targets.shape), targets.dtype)
            for array, value, what in ((self.inputs, inputs, "input"), (self.targets, targets, "target")):
                if value.shape != array.shape[1:] or not np.can_cast(value.dtype, array.dtype, "same_kind"):
                    raise DataError(
                        f"{self._where}: the {what} of sample {index} is {value.dtype} {list(value.shape)}, "
                        f"that of sample 0 {array.dtype} {list(array.shape[1:])}",
                        key="name",
                        expected="samples of one shape and type",
                    )
                array[index] = value
            yield index + 1

    def _check_size(self, total: int, inputs: NDArray[Any]) -> None:
        if total * inputs.nbytes > memory_bytes():
            raise DataError(
                f"{self._where}: {total:,} samples of {inputs.nbytes:,} bytes exceed the memory of "
                f"{memory_bytes() / 2**30:,.1f} GiB, and data sets are kept in memory",
                key="name",
            )


def _sample(part: Any, index: int, where: str) -> tuple[NDArray[Any], NDArray[Any]]:
    item = part[index]
    if not (isinstance(item, tuple | list) and len(item) == 2):
        raise DataError(
            f"{where}: sample {index} is {described(item)}", key="name", expected="(input, target)"
        )
    return _array(item[0], f"{where}: input {index}"), _array(item[1], f"{where}: target {index}")


def _array(value: Any, where: str) -> NDArray[Any]:
    """Return a tensor, an array, a number or an image of PIL as an array."""
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        value = (value.float() if value.dtype == torch.bfloat16 else value).numpy()
    array = np.asarray(value)
    if array.dtype.kind not in "biuf":
        raise DataError(
            f"{where} is {described(value)}", key="name", expected="a tensor, an array, a number or an image"
        )
    return array


def _probe(part: Any, where: str, seed: int) -> str:
    """Return a digest of the number of samples and of some, evenly spaced from the first to the last."""
    digest = hashlib.sha256(f"{where} {len(part)}".encode())
    with global_stream("data/probe", seed):
        for index in np.unique(np.linspace(0, len(part) - 1, _PROBED).astype(int)) if len(part) else ():
            for array in _sample(part, int(index), where):
                digest.update(f"{array.dtype}{array.shape}".encode() + array.tobytes())
    return digest.hexdigest()


def _listing(folder: Path) -> Iterator[str]:
    """Yield the path, size and time of change of every file in a folder."""
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            status = file.stat()
            yield f"{file} {status.st_size} {status.st_mtime_ns}"
