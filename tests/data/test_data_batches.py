"""Batches contain every sample once and are reproducible, also mid-epoch and for every block size."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainer.data import batches as room
from trainer.data.augment import color_jitter, mixup, random_affine, random_crop
from trainer.data.batches import Batch, Batches, eval_batches
from trainer.data.dataset import Split
from trainer.data.preprocess import make_prepare
from trainer.errors import ConfigError, DataError
from trainer.seeding import generator

PLAIN = make_prepare(input_shape=(1,))


def numbered(count: int) -> Split:
    """A data set whose sample n has the single feature n and the target n."""
    return Split(torch.arange(count).float()[:, None], torch.arange(count))


def images(count: int = 23) -> Split:
    pixels = torch.randint(0, 256, (count, 3, 6, 5), dtype=torch.uint8, generator=generator("test", 0))
    return Split(pixels, torch.arange(count) % 4)


def numbers(batches: Batches, epoch: int, start: int = 0) -> list[list[int]]:
    return [batch.targets.tolist() for batch in batches.epoch(epoch, start)]


def flat(batches: list[list[int]]) -> list[int]:
    return [number for batch in batches for number in batch]


def same(one: list[Batch], other: list[Batch]) -> bool:
    return len(one) == len(other) and all(
        torch.equal(a.inputs, b.inputs) and torch.equal(a.targets, b.targets)
        for a, b in zip(one, other, strict=True)
    )


@given(
    count=st.integers(1, 40),
    size=st.integers(1, 40),
    repeat=st.integers(1, 3),
    shuffle=st.sampled_from(["each_epoch", "once", "never"]),
    drop_last=st.booleans(),
    data=st.data(),
)
def test_an_epoch_holds_every_sample_once_per_copy(
    count: int, size: int, repeat: int, shuffle: Any, drop_last: bool, data: st.DataObject
) -> None:
    size = min(size, count * repeat)
    batches = Batches(
        numbered(count), batch_size=size, shuffle=shuffle, drop_last=drop_last, prepare=PLAIN, repeat=repeat
    )
    epoch = numbers(batches, 2)
    seen = flat(epoch)
    assert len(epoch) == batches.batches_per_epoch
    assert len(seen) == batches.samples_per_epoch
    assert all(len(batch) == size for batch in epoch[:-1])
    if drop_last:
        assert len(epoch[-1]) == size
        assert count * repeat - len(seen) < size
        assert all(seen.count(number) <= repeat for number in range(count))
    else:
        assert sorted(seen) == sorted(list(range(count)) * repeat)
    start = data.draw(st.integers(0, len(epoch)))
    assert numbers(batches, 2, start) == epoch[start:]


def test_inputs_and_targets_stay_together() -> None:
    for batch in Batches(numbered(50), batch_size=7, prepare=PLAIN).epoch(1):
        assert torch.equal(batch.inputs[:, 0].long(), batch.targets)


def test_the_order_is_the_seed_streams_permutation() -> None:
    batches = Batches(numbered(30), batch_size=8, seed=5, prepare=PLAIN)
    for epoch in (0, 3):
        expected = torch.randperm(30, generator=generator("batches", 5, epoch))
        assert torch.equal(torch.tensor(flat(numbers(batches, epoch))), expected)


def test_shuffle() -> None:
    def orders(shuffle: Any, seed: int = 0) -> list[list[list[int]]]:
        batches = Batches(numbered(30), batch_size=8, shuffle=shuffle, seed=seed, prepare=PLAIN)
        return [numbers(batches, epoch) for epoch in (0, 1, 0)]

    first, second, again = orders("each_epoch")
    assert first != second
    assert first == again
    assert orders("each_epoch", seed=1)[0] != first
    once = orders("once")
    assert once[0] == once[1] == first
    assert flat(orders("never")[1]) == list(range(30))


def test_full_is_one_batch_of_all_copies() -> None:
    batches = Batches(numbered(5), batch_size="full", prepare=PLAIN, repeat=3)
    assert (batches.batch_size, batches.batches_per_epoch) == (15, 1)
    assert sorted(numbers(batches, 0)[0]) == sorted(list(range(5)) * 3)


AUGMENT = (random_crop(padding=2), random_affine(), color_jitter(brightness=0.3), mixup(num_classes=4))


@pytest.mark.parametrize("augment", [(), AUGMENT], ids=["plain", "augmented"])
@pytest.mark.parametrize("options", [{}, {"mean": [0.5], "std": [0.2], "pad": 1}, {"resize": 9}])
def test_values_depend_on_neither_block_size_nor_where_an_epoch_is_taken_up(
    augment: tuple[Any, ...], options: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = images()
    prepare = make_prepare(input_shape=(3, 6, 5), **options)
    every = []
    for block in (1, 700, 1500, 2**19):
        monkeypatch.setattr(room, "_BLOCK_VALUES", block)
        batches = Batches(split, batch_size=4, prepare=prepare, augment=augment)
        every.append(list(batches.epoch(1)))
        for start in (1, 3, 6):
            assert same(list(batches.epoch(1, start)), every[0][start:])
    assert all(same(epoch, every[0]) for epoch in every)
    assert all(batch.inputs.is_contiguous() for batch in every[-1])
    assert {batch.inputs.shape[1:] for batch in every[0]} == {prepare.output_shape}


def test_augmentation_has_a_seed_of_its_own() -> None:
    prepare = make_prepare(input_shape=(3, 6, 5))

    def epoch(number: int, **seeds: int) -> list[Batch]:
        batches = Batches(
            images(),
            batch_size=4,
            shuffle="never",
            prepare=prepare,
            augment=[random_crop(padding=2)],
            **seeds,
        )
        return list(batches.epoch(number))

    assert same(epoch(0), epoch(0))
    assert not same(epoch(0), epoch(0, augmentation_seed=1))
    assert not same(epoch(0), epoch(1))
    assert same(epoch(0), epoch(0, seed=1))  # the order is fixed here, so only augmentation could differ


def test_augmentations_see_the_unit_range_and_come_before_normalisation() -> None:
    white = Split(torch.full((4, 1, 3, 3), 255, dtype=torch.uint8), torch.zeros(4).long())
    prepare = make_prepare(input_shape=(1, 3, 3), mean=[0.5], std=[0.25])
    batch = next(Batches(white, batch_size=4, prepare=prepare, augment=[random_crop(padding=3)]).epoch(0))
    assert set(batch.inputs.flatten().tolist()) == {2.0, -2.0}  # white, and black that was cropped in


def test_training_batches_and_the_stored_data_are_apart() -> None:
    split = Split(torch.rand(6, 1, 2, 2), torch.zeros(6))
    before = split.inputs.clone()
    prepare = make_prepare(input_shape=(1, 2, 2))
    for batch in Batches(split, batch_size=2, shuffle="never", prepare=prepare).epoch(0):
        batch.inputs.zero_()
    for batch in eval_batches(split, batch_size=4, prepare=prepare):
        batch.inputs.zero_()
    assert torch.equal(split.inputs, before)


def test_evaluation_keeps_the_order_and_the_last_small_batch() -> None:
    split = images()
    prepare = make_prepare(input_shape=(3, 6, 5), mean=[0.5], std=[0.2])
    batches = list(eval_batches(split, batch_size=10, prepare=prepare))
    assert [len(batch.inputs) for batch in batches] == [10, 10, 3]
    assert torch.equal(torch.cat([batch.inputs for batch in batches]), prepare(split.inputs))
    assert torch.equal(torch.cat([batch.targets for batch in batches]), split.targets)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(DataError, match="batch_size 8 is more than the 7") as caught:
        Batches(numbered(7), batch_size=8, prepare=PLAIN)
    assert caught.value.problems[0].key == "batch_size"
    with pytest.raises(DataError, match="2 copies of 7"):
        Batches(numbered(7), batch_size=15, prepare=PLAIN, repeat=2)
    with pytest.raises(DataError, match="empty"):
        Batches(numbered(0), batch_size="full", prepare=PLAIN)
    with pytest.raises(ConfigError, match="random_crop needs images") as refused:
        Batches(numbered(7), batch_size=2, prepare=PLAIN, augment=[mixup(num_classes=7), random_crop()])
    assert refused.value.problems[0].key == "augment.1"


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("augment", [(), AUGMENT], ids=["plain", "augmented"])
def test_the_device_changes_neither_order_nor_parameters(augment: tuple[Any, ...]) -> None:
    prepare = make_prepare(input_shape=(3, 6, 5), mean=[0.5], std=[0.2])
    here, there = (
        list(Batches(images(), batch_size=4, prepare=prepare, augment=augment, device=device).epoch(1))
        for device in ("cpu", "cuda")
    )
    for one, other in zip(here, there, strict=True):
        assert other.inputs.device.type == "cuda"
        torch.testing.assert_close(other.inputs.cpu(), one.inputs, rtol=0, atol=1e-5)
        torch.testing.assert_close(other.targets.cpu(), one.targets)
