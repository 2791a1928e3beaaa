"""Texts as data: tokens, windows, contiguous parts, and the order of an epoch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from command import optlab, train, write_tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.data.batches import Batches, eval_batches
from trainer.data.check import check_dataset
from trainer.data.dataset import Dataset, Split, split_dataset, stored_values
from trainer.data.preprocess import make_prepare
from trainer.data.text import decode, encode, text, text_dataset, tiny_shakespeare
from trainer.errors import DataError

VERSES = "Shall I compare thee to a summer's day?\nThou art more lovely and more temperate.\n" * 12
PARTS = (0.8, 0.1, 0.1)
CONFIG = """\
name: text
data: {name: text, path: verses.txt, context: 8, batch_size: 4, parts: [0.8, 0.1, 0.1]}
model: {name: transformer, layers: 1, heads: 2, width: 8, dropout: 0.1}
optimizer: {name: AdamW, lr: 0.01}
train: {steps: 12, threads: 1, eval_every: {steps: 5}}
log: {every: 1, plots: []}
"""


def dataset(content: str = VERSES, context: int = 8) -> Dataset:
    return text_dataset(content.encode(), where="verses", context=context, unit="characters", parts=PARTS)


def batches(split: Split, seed: int = 0, batch_size: int = 4) -> Batches:
    prepare = make_prepare(input_shape=tuple(split.inputs.shape[1:]))
    return Batches(split, batch_size=batch_size, seed=seed, prepare=prepare)


def test_the_parts_are_contiguous_and_targets_are_the_tokens_that_follow() -> None:
    found = dataset()
    check_dataset(found, "verses")
    assert found.task == "next_token"
    assert found.class_names == tuple(sorted(set(VERSES)))
    assert found.val is not None
    parts = [
        [*stored_values(part.inputs).tolist(), int(part.targets[-1, -1])]
        for part in (found.train, found.val, found.test)
    ]
    assert "".join(decode(part, found.class_names, "characters") for part in parts) == VERSES
    assert [len(part) for part in parts] == [778, 97, 97]
    for split in (found.train, found.val, found.test):
        assert torch.equal(split.inputs[:, 1:], split.targets[:, :-1])
        assert torch.equal(split.inputs[1:, 0], split.inputs[:-1, 1])


def test_all_windows_share_the_memory_of_the_text_and_stay_so_when_moved() -> None:
    split = dataset().train
    moved = split.to("cpu")
    assert torch.equal(moved.inputs, split.inputs)
    assert split.inputs.untyped_storage().nbytes() == 778 * 8
    assert stored_values(split.inputs).data_ptr() == split.inputs.data_ptr()


@settings(max_examples=30, deadline=None)
@given(length=st.integers(3, 60), context=st.integers(1, 12), seed=st.integers(0, 5))
def test_an_epoch_is_a_pass_over_adjacent_windows_from_a_random_start(
    length: int, context: int, seed: int
) -> None:
    tokens = torch.arange(length + context)
    split = Split(tokens[:-1].unfold(0, context, 1), tokens[1:].unfold(0, context, 1), stride=context)
    made = batches(split, seed, batch_size=1)
    for epoch in range(3):
        found = list(made.epoch(epoch))
        starts = sorted(int(batch.inputs[0, 0]) for batch in found)
        assert len(found) == len(split) == max(1, (length - 1 + 1) // context)
        assert starts == list(range(starts[0], starts[0] + len(split) * context, context))
        assert all(torch.equal(batch.targets, batch.inputs + 1) for batch in found)
        assert 0 <= starts[0] < split.num_starts
        later = list(made.epoch(epoch, start=len(found) - 1))
        assert torch.equal(later[0].inputs, found[-1].inputs)


def test_epochs_start_at_different_tokens_and_depend_on_the_seed() -> None:
    made = batches(dataset().train)
    starts = {int(made.order(epoch).min()) for epoch in range(40)}
    assert starts == set(range(8))
    assert not torch.equal(made.order(0), batches(dataset().train, seed=1).order(0))


def test_evaluation_reads_every_window_of_the_first_pass_once() -> None:
    split = dataset().test
    found = list(eval_batches(split, batch_size=5, prepare=make_prepare(input_shape=(8,))))
    read = torch.cat([batch.inputs for batch in found])
    assert torch.equal(read.flatten(), stored_values(split.inputs)[: len(split) * 8])


def test_a_limit_keeps_windows_of_the_first_pass() -> None:
    splits = split_dataset(dataset(), limit=3)
    assert (len(splits.train), splits.train.stride) == (3, 1)
    assert len(split_dataset(dataset()).train) == 96


def test_bytes_are_tokens_of_any_file() -> None:
    content = bytes(range(256)) * 4
    found = text_dataset(content, where="bytes", context=4, unit="bytes", parts=PARTS)
    assert found.num_classes == 256
    assert found.class_names is not None
    tokens = encode("né\n", found.class_names, "bytes")
    assert tokens.tolist() == list("né\n".encode())
    assert decode(tokens.tolist(), found.class_names, "bytes") == "né\n"


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (VERSES.encode(), {"context": 200}, "the validation part has 97 characters; a window needs 201"),
        (b"", {}, "the training part has 0 characters"),
        (b"\xff" + VERSES.encode(), {}, "byte 0 (0xff) is not UTF-8"),
        (VERSES.encode() + b"%" * 9, {}, "the test part has 1 characters that the training part lacks: '%'"),
        (VERSES.encode(), {"parts": [0.8, 0.1, 0.2]}, "add up to 1.1"),
        (VERSES.encode(), {"context": 0}, "context"),
    ],
)
def test_bad_texts_get_one_message(
    tmp_path: Path, content: bytes, options: dict[str, object], message: str
) -> None:
    (tmp_path / "verses.txt").write_bytes(content)
    config = write_tiny(tmp_path, CONFIG)
    done = optlab("validate", config, *(f"data.{key}={value}" for key, value in options.items()))
    assert done.code == 2, done.err
    assert message in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.normalize=dataset", "cannot be changed by data.normalize"),
        ("data.augment=[{name: mixup}]", "cannot be changed by data.augment"),
        ("train.metrics=[mse]", "mse is not a metric of tokens"),
        ("task=regression", "the data set is for next_token, not for regression"),
        ("model={name: mlp}", "the model's output has the shape"),
        ("model={name: cnn}", "cnn needs images"),
        ("loss=mse", "the loss fails on targets"),
        ("model.heads=3", "width 8 cannot be divided among 3 heads"),
        ("data.val_size=0.1", "has a validation split of its own"),
    ],
)
def test_what_does_not_fit_tokens_gets_one_message(tmp_path: Path, override: str, message: str) -> None:
    (tmp_path / "verses.txt").write_text(VERSES)
    done = optlab("validate", write_tiny(tmp_path, CONFIG), override)
    assert done.code == 2, done.err
    assert message in done.err


def test_a_resumed_run_on_text_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    (tmp_path / "verses.txt").write_text(VERSES)
    config = write_tiny(tmp_path, CONFIG)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    result = train(config, run_dir=whole)
    assert {"loss", "perplexity", "bits_per_char"} <= set(result["test"])
    train(config, "train.steps=7", run_dir=parts)
    assert optlab("resume", parts, "train.steps=12", "--quiet").code == 0
    one, other = (
        torch.load(folder / "checkpoints/last.pt", weights_only=True)["experiment"]["model"]
        for folder in (whole, parts)
    )
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_tiny_shakespeare_is_the_published_file(shared_data: Path, tmp_path: Path) -> None:
    found = tiny_shakespeare(root=shared_data, download=False)
    assert (found.num_classes, len(found.train), len(found.test)) == (65, 15684, 870)
    assert found.digest == tiny_shakespeare(root=shared_data / "tiny_shakespeare", download=False).digest
    file = shared_data / "tiny_shakespeare/input.txt"
    assert found.digest == text(path=file).digest
    (tmp_path / "tiny_shakespeare").mkdir()
    (tmp_path / "tiny_shakespeare/input.txt").write_bytes(file.read_bytes()[:-1])
    with pytest.raises(DataError, match="not the published one"):
        tiny_shakespeare(root=tmp_path, download=False)
    with pytest.raises(DataError, match="is not on disk"):
        tiny_shakespeare(root=tmp_path / "absent", download=False)
