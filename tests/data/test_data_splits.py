"""Splits are disjoint, complete and reproducible; digits is the default data set."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainer.data import bundled
from trainer.data.dataset import Dataset, Split, data_root, make_dataset, split_dataset
from trainer.data.digits import digits
from trainer.errors import DataError


def numbered(count: int, test: int = 3) -> Dataset:
    """A data set whose sample n has the single feature n, sorted by its 5 classes."""

    def split(size: int, first: int) -> Split:
        rows = torch.arange(first, first + size)
        return Split(rows.float()[:, None], rows * 5 // max(first + size, 1))

    return make_dataset(split(count, 0), split(test, 10_000), [str(n) for n in range(5)])


def rows(split: Split | None) -> list[int]:
    return [] if split is None else [int(value) for value in split.inputs[:, 0]]


@given(
    total=st.integers(2, 60),
    share=st.floats(0, 0.99),
    as_count=st.booleans(),
    end=st.booleans(),
    seed=st.integers(0, 3),
)
def test_validation_and_training_share_nothing_and_lose_nothing(
    total: int, share: float, as_count: bool, end: bool, seed: int
) -> None:
    dataset = numbered(total)
    expected = int(share * total) if as_count else round(share * total)
    if expected == 0 or expected >= total:
        expected, val_size = 0, 0.0
    else:
        val_size = float(expected) if as_count else share
    splits = split_dataset(dataset, val_size=val_size, val_from="end" if end else "random", split_seed=seed)
    assert len(rows(splits.val)) == expected
    assert sorted(rows(splits.train) + rows(splits.val)) == list(range(total))
    assert rows(splits.test) == rows(dataset.test)
    if end and expected:
        assert rows(splits.val) == list(range(total - expected, total))


def test_the_split_depends_on_its_seed_alone_and_not_on_limit() -> None:
    dataset = numbered(100)
    first, again, other = (split_dataset(dataset, val_size=20, split_seed=seed) for seed in (1, 1, 2))
    assert rows(first.val) == rows(again.val) != rows(other.val)
    limited = split_dataset(dataset, val_size=20, split_seed=1, limit=10)
    assert rows(limited.val) == rows(first.val)
    assert set(rows(limited.train)) <= set(rows(first.train))


def test_limit_mixes_the_classes_of_a_sorted_file_and_grows_by_adding() -> None:
    dataset = numbered(100)
    small, large = (split_dataset(dataset, limit=limit).train for limit in (20, 40))
    assert rows(large)[:20] == rows(small)
    assert set(small.targets.tolist()) == {0, 1, 2, 3, 4}


def test_without_validation_the_training_split_is_not_copied() -> None:
    dataset = numbered(10)
    splits = split_dataset(dataset)
    assert splits.val is None
    assert splits.train.inputs.data_ptr() == dataset.train.inputs.data_ptr()


@pytest.mark.parametrize(
    ("options", "key", "told"),
    [
        ({"val_size": 10}, "val_size", "10 of 10"),
        ({"val_size": 11}, "val_size", "11 of 10"),
        ({"val_size": 0.99}, "val_size", "10 of 10"),
        ({"val_size": 0.01}, "val_size", "empty validation"),
        ({"val_size": 2.5}, "val_size", "2.5"),
        ({"val_size": -1}, "val_size", "-1"),
        ({"limit": 11}, "limit", "10 training samples"),
        ({"limit": 9, "val_size": 2}, "limit", "8 training samples after 2"),
        ({"limit": 0}, "limit", "limit 0"),
    ],
)
def test_sizes_that_cannot_be_are_refused_with_the_numbers(options: dict, key: str, told: str) -> None:
    with pytest.raises(DataError, match=told) as caught:
        split_dataset(numbered(10), **options)
    assert caught.value.problems[0].key == key


def test_the_digest_follows_the_content() -> None:
    one, same, other = numbered(10), numbered(10), numbered(10)
    assert one.digest == same.digest
    other.train.inputs[3] += 1
    changed = make_dataset(other.train, other.test, other.class_names)
    renamed = make_dataset(one.train, one.test, "abcde")
    assert len({one.digest, changed.digest, renamed.digest}) == 3


def test_digits_are_scikit_learns_and_split_the_same_for_everybody() -> None:
    from sklearn.datasets import load_digits

    dataset = digits()
    assert (dataset.input_shape, dataset.num_classes) == ((1, 8, 8), 10)
    assert dataset.train.inputs.dtype == torch.uint8
    assert (len(dataset.train), len(dataset.test)) == (1501, 296)
    # Pinned: another order or split would make old results incomparable without a word.
    assert dataset.digest.startswith("80739af1846c83b4")
    per_class = torch.bincount(dataset.test.targets)
    assert set(per_class.tolist()) == {29, 30}
    # All images are there once, and the grey values are those stored: value / 16 up to rounding to 1 / 255.
    together = torch.cat([dataset.train.inputs, dataset.test.inputs]).float().flatten(1) / 255
    stored = torch.from_numpy(load_digits().data).float() / 16
    assert len(together) == len(stored)
    ours, theirs = together.mul(16).round(), stored.mul(16)
    assert sorted(ours.tolist()) == sorted(theirs.tolist())
    assert (together - ours / 16).abs().max() <= 0.5 / 255 + 1e-6


@pytest.mark.parametrize(
    "content",
    [None, b"not compressed", gzip.compress(b"1,2\n3,4\n"), gzip.compress(b"1,x")],
    ids=["absent", "not compressed", "two numbers", "no number"],  # compressed bytes hold the time
)
def test_digits_come_from_scikit_learn_itself_where_its_file_is_not_the_known_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None
) -> None:
    if content is not None:
        (tmp_path / "digits.csv.gz").write_bytes(content)
    monkeypatch.setattr(bundled, "_FOLDER", tmp_path)
    assert digits().digest.startswith("80739af1846c83b4")


def test_where_downloads_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPTLAB_DATA", "/somewhere")
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert str(data_root("/here")) == "/here"
    assert str(data_root(None)) == "/somewhere"
    monkeypatch.delenv("OPTLAB_DATA")
    assert str(data_root(None)) == "/cache/optlab/data"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    assert str(data_root(None)) == "/home/me/.cache/optlab/data"
