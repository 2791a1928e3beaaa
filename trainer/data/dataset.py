"""Data sets in memory, and splitting off validation samples. This module reads no files.

Shapes: N samples, R rows (of which a text has more than samples), C channels, H x W pixels, D features,
T tokens, K classes or real targets.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from trainer.errors import DataError
from trainer.seeding import generator


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """Samples and their targets, row by row.

    The rows of a text are all its windows, which overlap: each starts one token after the one before. A pass
    over the text takes every `stride`-th of them, and an epoch starts this pass at a random row.

    Args:
        inputs: uint8 [R, C, H, W] (pixels 0 to 255), or float32 [R, C, H, W], or uint8 / float32 [R, D], or
            int64 [R, T] (tokens).
        targets: int64 [R] (class numbers from 0), float32 [R, K] (real targets) or int64 [R, T] (tokens).
        stride: distance in rows between the samples of a pass; 1 = every row is a sample.
    """

    inputs: Tensor
    targets: Tensor
    stride: int = 1

    def __post_init__(self) -> None:
        """Check that there are as many inputs as targets."""
        assert len(self.inputs) == len(self.targets), (self.inputs.shape, self.targets.shape)

    def __len__(self) -> int:
        """Return the number of samples in a pass, which is the same from every start."""
        rows = len(self.inputs)
        return max(rows // self.stride, min(rows, 1))

    @property
    def num_starts(self) -> int:
        """The number of rows at which a pass can start."""
        return min(self.stride, len(self.inputs) - (len(self) - 1) * self.stride)

    def to(self, device: torch.device | str) -> Split:
        """Return the split on a device; tensors that are on it are not copied."""
        return Split(_moved(self.inputs, device), _moved(self.targets, device), self.stride)

    def take(self, indices: Tensor) -> Split:
        """Return a copy of the samples at `indices` (int64 [M]) of the first pass, in this order."""
        rows = indices * self.stride
        return Split(self.inputs[rows], self.targets[rows])

    def first_pass(self) -> Split:
        """Return the samples of the pass that starts at the first row, without copying them."""
        if self.stride == 1:
            return self
        rows = slice(0, len(self) * self.stride, self.stride)
        return Split(self.inputs[rows], self.targets[rows])


def stored_values(tensor: Tensor) -> Tensor:
    """Return the values of a tensor as a vector; overlapping windows [R, T] of a text are the text."""
    if _overlaps(tensor):
        return tensor.as_strided((len(tensor) + tensor.shape[1] - 1,), (1,))
    return tensor.contiguous().view(-1)


def _overlaps(tensor: Tensor) -> bool:
    return tensor.ndim == 2 and len(tensor) > 1 and tensor.shape[1] > 1 and tensor.stride() == (1, 1)


def _moved(tensor: Tensor, device: torch.device | str) -> Tensor:
    if not _overlaps(tensor):
        return tensor.to(device)
    return stored_values(tensor).to(device).unfold(0, tensor.shape[1], 1)


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """A data set: a training split, a test split and optionally a validation split, with equal sample shapes.

    Args:
        train: the training split (`split_dataset` can split validation samples off it).
        test: the test split, evaluated once at the end of a run.
        class_names: one name per class, in the order of the labels, or the text of every token; None = real
            targets.
        digest: SHA-256 of the content, in hex; equal content has the same digest, whatever its source.
        notes: messages for the user about reading the data set.
        val: the data set's own validation split; None = it has none.
        task: what the targets are: a name of `tasks.TASKS`; empty = next_token for tokens, classification if
            there are class names, else regression.
    """

    train: Split
    test: Split
    class_names: tuple[str, ...] | None
    digest: str
    notes: tuple[str, ...] = ()
    val: Split | None = None
    task: str = ""

    def __post_init__(self) -> None:
        """Derive the task from the targets if it is not given."""
        if not self.task and isinstance(self.train, Split):
            tokens = getattr(self.train.inputs, "dtype", None) == torch.int64
            by_names = "regression" if self.class_names is None else "classification"
            object.__setattr__(self, "task", "next_token" if tokens else by_names)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one sample: (C, H, W), (D,) or (T,)."""
        return tuple(self.train.inputs.shape[1:])

    @property
    def num_classes(self) -> int:
        """The number of classes or tokens, or of real targets per sample."""
        return len(self.class_names) if self.class_names is not None else self.train.targets.shape[1]


@dataclass(frozen=True, slots=True, eq=False)
class Splits:
    """The disjoint splits of an experiment's data; `val` is None without validation."""

    train: Split
    val: Split | None
    test: Split


def make_dataset(
    train: Split,
    test: Split,
    class_names: Sequence[str] | None,
    *,
    val: Split | None = None,
    notes: Sequence[str] = (),
    task: str = "",
) -> Dataset:
    """Create a data set and compute its digest."""
    names = None if class_names is None else tuple(class_names)
    digest = hashlib.sha256(repr(names).encode())
    for split in (train, test, val):
        for tensor in (split.inputs, split.targets) if split is not None else ():
            digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
            digest.update(stored_values(tensor).view(torch.uint8).numpy().data)
    return Dataset(train, test, names, digest.hexdigest(), tuple(notes), val, task)


def data_root(root: str | Path | None) -> Path:
    """Return the folder of downloaded data sets: `root`, else $OPTLAB_DATA, else the user's cache."""
    chosen = root or os.environ.get("OPTLAB_DATA")
    if chosen:
        return Path(chosen).expanduser()
    return user_cache() / "data"


def folder_with(inside: str, root: str | Path | None) -> Path:
    """Return the folder that has, or is to have, a data set's own folder in it.

    It is `data_root(root)`; but a root that points at the data set's folder, into it, or at a folder with a
    single subfolder that has it, is understood.

    Args:
        inside: the data set's folder, as `MNIST/raw`.
        root: as in `data_root`.
    """
    folder, parts = data_root(root), Path(inside).parts
    with suppress(OSError):
        if (folder / inside).is_dir():
            return folder
        for count in range(len(parts), 0, -1):
            if folder.parts[-count:] == parts[:count]:
                return folder.parents[count - 1]
        below = list(folder.glob(f"[!.]*/{inside}"))
        if len(below) == 1:
            return below[0].parents[len(parts) - 1]
    return folder


def user_cache() -> Path:
    """Return optlab's folder in the user's cache: $XDG_CACHE_HOME/optlab, else ~/.cache/optlab."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "optlab"


def memory_bytes() -> int:
    """Return the size of the machine's memory in bytes; files that declare more are not read."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def check_labels(labels: Tensor, classes: int, where: str) -> Tensor:
    """Return class labels as int64 [N]; raise DataError if one is outside 0 .. classes-1.

    Args:
        labels: integers, [N].
        classes: number of classes.
        where: source of the labels: the file, and the key in it.
    """
    labels = labels.long()
    wrong = ((labels < 0) | (labels >= classes)).nonzero()
    if len(wrong):
        row = int(wrong[0])
        raise DataError(
            f"label {int(labels[row])} in row {row} ({len(wrong):,} of {len(labels):,} are out of range)",
            where=where,
            expected=f"labels from 0 to {classes - 1}",
        )
    return labels


def _val_count(val_size: float, total: int) -> int:
    """Return the number of validation samples; `val_size` is a count, or a fraction of `total` below 1."""
    if val_size < 0 or (val_size >= 1 and val_size != int(val_size)):
        raise DataError(
            f"val_size {val_size} is neither a count nor a fraction",
            key="val_size",
            expected="0 (none), a fraction below 1, or a whole number of samples",
        )
    count = int(val_size) if val_size >= 1 else round(val_size * total)
    if val_size > 0 and count == 0:
        raise DataError(
            f"val_size {val_size} of {total:,} training samples leaves an empty validation split",
            key="val_size",
            fix="use a larger fraction, or 0 for no validation",
        )
    if count >= total:
        raise DataError(
            f"val_size takes {count:,} of {total:,} training samples: none is left to train on",
            key="val_size",
            expected=f"fewer than {total:,}",
        )
    return count


def split_dataset(
    dataset: Dataset,
    *,
    val_size: float = 0,
    val_from: Literal["random", "end", "test"] = "random",
    split_seed: int = 0,
    limit: int | None = None,
) -> Splits:
    """Split validation samples off the training split, then reduce the training split to `limit` samples.

    The validation split does not depend on `limit`, so quick trials validate on the same samples. Of a text,
    samples are the windows of the first pass; epochs then do not start at a random row. `Batches`
    makes the copies of the training split (`data.repeat`), without using memory for them.

    Args:
        dataset: the data set; its test split and its own validation split are not changed.
        val_size: number of validation samples: a count from 1, or a fraction below 1; 0 = none.
        val_from: `random` draws with `split_seed`; `end` takes the last samples; both keep the stored order.
            `test` uses the test split for validation as well.
        split_seed: seed of the validation split and of the samples that `limit` keeps.
        limit: maximum number of training samples, drawn at random (so that a file sorted by class gives all
            classes); None = all, in their order.

    Raises:
        DataError: a split would be empty, `limit` exceeds the number of training samples, or `val_size` is
            not 0 although the data set has its own validation split.
    """
    if dataset.val is not None and val_size:
        raise DataError(
            f"the data set has a validation split of its own ({len(dataset.val):,} samples)",
            key="val_size",
            expected="0, because the data set has its own validation split",
            fix="set data.val_size=0, or remove the validation arrays from the data",
        )
    if val_from == "test" and (val_size or dataset.val is not None):
        raise DataError(
            "val_from: test uses the whole test split for validation, but "
            + ("val_size asks for other samples" if val_size else "the data set has a validation split"),
            key="val_from",
            fix="set data.val_size=0" if val_size else "set data.val_from=random",
        )
    total = len(dataset.train)
    count = _val_count(val_size, total)
    train, val = dataset.train, dataset.test if val_from == "test" else dataset.val
    if count or limit is not None:
        train = train.first_pass()
    if count and val_from == "end":
        val = Split(train.inputs[total - count :], train.targets[total - count :])
        train = Split(train.inputs[: total - count], train.targets[: total - count])
    elif count:
        drawn = torch.randperm(total, generator=generator("split", split_seed, 0))
        val, train = train.take(drawn[:count].sort().values), train.take(drawn[count:].sort().values)
    if limit is not None:
        if not 1 <= limit <= len(train):
            raise DataError(
                f"limit {limit:,} is out of range: there are {len(train):,} training samples"
                + (f" after {count:,} for validation" if count else ""),
                key="limit",
                expected=f"1 to {len(train):,}",
            )
        train = train.take(torch.randperm(len(train), generator=generator("split", split_seed, 1))[:limit])
    return Splits(train, val, dataset.test)
