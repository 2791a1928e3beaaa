"""Training batches of any epoch, and evaluation batches, from splits in memory.

Every batch depends only on the seeds, the epoch and the number of the batch. Therefore a resumed run gets
bitwise identical batches, and so do runs with different optimizers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from trainer.data.augment import Augmentation
from trainer.data.dataset import Split
from trainer.data.preprocess import Prepare
from trainer.errors import DataError
from trainer.seeding import generator

_BLOCK_VALUES = 2**19  # float32 values gathered and prepared at once: 2 MiB, which fits in the cache

Shuffle = Literal["each_epoch", "once", "never"]


class Batch(NamedTuple):
    """Prepared samples.

    Inputs are float32 [B, C, H, W] or [B, D], or int64 [B, T] (tokens). Targets are int64 [B] or [B, T], or
    float32 [B, K].
    """

    inputs: Tensor
    targets: Tensor


class Batches:
    """The training batches of every epoch.

    The order of epoch e is drawn on the CPU from (`seed`, e), and the augmentation of batch b from
    (`augmentation_seed`, e, b), on every device.

    Args:
        split: the training split; the whole split is moved to the device.
        batch_size: samples per batch; `full` = all samples in one batch.
        shuffle: draw a new order `each_epoch`, `once` for all epochs, or `never` (keep the stored order).
        drop_last: drop the last batch of an epoch if it is not full.
        seed: seed of the order (stream `batches`).
        augmentation_seed: seed of the augmentations' parameters (stream `augmentation`).
        prepare: the preprocessing of every sample.
        augment: augmentations, applied in this order to float images in [0, 1].
        device: device of the batches.
        repeat: how often every sample occurs in an epoch; copies are shuffled together and use no memory.
        reconstruct: whether the targets are the inputs, flattened, instead of those of the split.

    Attributes:
        split, prepare: the arguments on the device, for engines that prepare batches in a compiled step.
        batch_size, batches_per_epoch, samples_per_epoch: counts, including the copies of `repeat`.

    Raises:
        DataError: `batch_size` exceeds the number of samples, or the split is empty.
        ConfigError: an augmentation does not support the samples.
    """

    def __init__(
        self,
        split: Split,
        *,
        batch_size: int | Literal["full"],
        shuffle: Shuffle = "each_epoch",
        drop_last: bool = False,
        seed: int = 0,
        augmentation_seed: int = 0,
        prepare: Prepare,
        augment: Sequence[Augmentation] = (),
        device: torch.device | str = "cpu",
        repeat: int = 1,
        reconstruct: bool = False,
    ) -> None:
        """See the class."""
        total = len(split) * repeat
        self.batch_size = total if batch_size == "full" else batch_size
        if self.batch_size > total:
            raise DataError(
                f"batch_size {batch_size:,} is more than the {total:,} training samples"
                + (f" ({repeat} copies of {len(split):,})" if repeat > 1 else ""),
                key="batch_size",
                expected=f"at most {total:,}, or `full` for all of them",
            )
        if total == 0:
            raise DataError("the training split is empty", key="limit")
        for number, augmentation in enumerate(augment):
            augmentation.check(split, key=f"augment.{number}")
        self.split = split.to(device)
        self.prepare = prepare.to(device)
        self._shuffle = shuffle
        self._seed = seed
        self._augmentation_seed = augmentation_seed
        self._augment = tuple(augment)
        self._repeat = repeat
        self._reconstruct = reconstruct
        # With drop_last at least one batch is full, since batch_size is at most the total.
        self.samples_per_epoch = total - total % self.batch_size if drop_last else total
        self.batches_per_epoch = -(-self.samples_per_epoch // self.batch_size)

    @property
    def augmentations(self) -> Sequence[Augmentation]:
        """The augmentations, in their order."""
        return self._augment

    def order(self, epoch: int) -> Tensor:
        """Return the rows of the split in the order of an epoch: int64 [samples_per_epoch], on the CPU."""
        total, start = len(self.split) * self._repeat, 0
        if self._shuffle == "never":
            order = torch.arange(total)
        else:
            counter = epoch if self._shuffle == "each_epoch" else 0
            stream = generator("batches", self._seed, counter)
            order = torch.randperm(total, generator=stream)
            if self.split.num_starts > 1:
                start = int(torch.randint(self.split.num_starts, (), generator=stream))
        if self._repeat > 1:
            order.remainder_(len(self.split))
        if self.split.stride > 1:
            order.mul_(self.split.stride).add_(start)
        return order[: self.samples_per_epoch]

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of one epoch, starting at batch `start`.

        Args:
            epoch: index of the epoch, from 0.
            start: number of batches of this epoch to skip (in a resumed run), 0 to batches_per_epoch.
        """
        if start >= self.batches_per_epoch:  # torch.split yields one empty part for an empty tensor
            return
        size = self.batch_size
        order = self.order(epoch)[start * size :].to(self.split.inputs.device)
        if self._augment:
            for number, indices in enumerate(torch.split(order, size), start=start):
                yield self._augmented(indices, epoch, number)
            return
        for indices in torch.split(order, size * self._batches_per_block()):
            inputs = self.prepare(self.split.inputs.index_select(0, indices))
            targets = _flat_copy(inputs) if self._reconstruct else self.split.targets.index_select(0, indices)
            yield from map(Batch, torch.split(inputs, size), torch.split(targets, size))

    def _batches_per_block(self) -> int:
        """Return the number of batches to prepare at once, which saves Python overhead for small batches."""
        values = self.batch_size
        for size in self.prepare.output_shape:
            values *= size
        return max(1, _BLOCK_VALUES // values)

    def _augmented(self, indices: Tensor, epoch: int, number: int) -> Batch:
        images = self.prepare.unit(self.split.inputs.index_select(0, indices))
        targets = self.split.targets.index_select(0, indices)
        stream = generator("augmentation", self._augmentation_seed, epoch, number)
        for augmentation in self._augment:
            drawn = augmentation.draw(len(images), tuple(images.shape[1:]), stream)
            params = {name: values.to(images.device) for name, values in drawn.items()}
            images, targets = augmentation.apply(images, targets, params)
        inputs = self.prepare.finish(images)
        return Batch(inputs, _flat_copy(inputs) if self._reconstruct else targets)


def _flat_copy(inputs: Tensor) -> Tensor:
    """Return inputs as targets [N, D]; a copy, because in-place layers may overwrite a batch."""
    return inputs.flatten(1).clone()


def eval_batches(
    split: Split,
    *,
    batch_size: int,
    prepare: Prepare,
    device: torch.device | str = "cpu",
    reconstruct: bool = False,
) -> Iterator[Batch]:
    """Yield the batches of a split in its order, without augmentation; the last one may be smaller.

    Args:
        split: the split; if it is not on the device, it is moved batch by batch.
        batch_size: samples per batch, from 1.
        prepare: the preprocessing of every sample.
        device: device of the batches.
        reconstruct: as of `Batches`.
    """
    prepare, split = prepare.to(device), split.first_pass()
    batch_size = min(batch_size, len(split.targets))  # torch.split accepts only 64-bit integers
    for stored, targets in zip(
        torch.split(split.inputs, batch_size), torch.split(split.targets, batch_size), strict=True
    ):
        inputs = prepare(stored.to(device))
        # Callers may overwrite a batch (in-place layers do), but not the data set.
        inputs = inputs.clone() if inputs is stored else inputs
        yield Batch(inputs, _flat_copy(inputs) if reconstruct else targets.to(device))
