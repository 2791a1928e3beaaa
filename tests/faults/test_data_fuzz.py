"""Randomly damaged data files give an error that names the file, or the complete data; never partial data."""

from __future__ import annotations

import bz2
import contextlib
import io
import os
import pickle
import struct
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.io import savemat

from trainer.data.csv_table import csv
from trainer.data.dataset import Dataset, Split
from trainer.data.file_readers import read_cifar_batch, read_idx, read_images, read_svhn, read_usps
from trainer.data.image_folder import image_folder
from trainer.errors import ConfigError, DataError

FUZZ = settings(suppress_health_check=list(HealthCheck))
COUNT = 3
LABELS = [3, 0, 9]
RNG = np.random.default_rng(0)

Damage = Callable[[bytes], bytes]


def apply(steps: list[tuple[str, int, Any]]) -> Damage:
    def damage(content: bytes) -> bytes:
        for kind, where, what in steps:
            at = where % (len(content) + 1)
            if kind == "cut":
                content = content[:at]
            elif kind == "flip" and at < len(content):
                content = content[:at] + bytes([content[at] ^ (1 << what)]) + content[at + 1 :]
            elif kind == "insert":
                content = content[:at] + what + content[at:]
            elif kind == "overwrite":
                content = content[:at] + what + content[at + len(what) :]
            elif kind == "remove":
                content = content[:at] + content[at + what :]
            elif kind == "replace":
                content = what
        return content

    return damage


PLACES = st.integers(0, 250) | st.integers(0, 2**31)  # headers are short, and worth as much as the pixels
PIECES = st.binary(min_size=1, max_size=12)
STEPS = (
    st.tuples(st.just("cut"), PLACES, st.none())
    | st.tuples(st.just("flip"), PLACES, st.integers(0, 7))
    | st.tuples(st.just("insert"), PLACES, PIECES)
    | st.tuples(st.just("overwrite"), PLACES, PIECES)
    | st.tuples(st.just("remove"), PLACES, st.integers(1, 12))
)
NOISE = st.tuples(st.just("replace"), st.just(0), st.binary(max_size=200)).map(lambda step: [step])
DAMAGE = (st.lists(STEPS, min_size=1, max_size=4) | NOISE).map(apply)


def read_or_none(path: Path, read: Callable[[], Any]) -> Any:
    """Return what a reader returns, or None if its error names the file; other exceptions fail the test."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # warnings of PIL and scipy about the damage
            return read()
    except DataError as error:
        message = str(error)
    assert path.name in message
    return None


def whole(split: Split | None, shape: tuple[int, ...], classes: int = 10) -> None:
    if split is None:
        return
    assert (split.inputs.shape, split.inputs.dtype) == ((COUNT, *shape), torch.uint8)
    assert (split.targets.shape, split.targets.dtype) == ((COUNT,), torch.int64)
    assert 0 <= int(split.targets.min()) <= int(split.targets.max()) < classes


# --- idx --------------------------------------------------------------------------------------------------


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


IDX_IMAGES = idx(RNG.integers(0, 256, (COUNT, 28, 28), dtype=np.uint8))
IDX_LABELS = idx(np.array(LABELS, dtype=np.uint8))


@given(DAMAGE)
@FUZZ
def test_fuzzed_idx_images(tmp_path: Path, damage: Damage) -> None:
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(damage(IDX_IMAGES))
    images = read_or_none(path, lambda: read_images(path, (28, 28)))
    assert images is None or (images.shape, images.dtype) == ((COUNT, 1, 28, 28), torch.uint8)


@given(DAMAGE)
@FUZZ
def test_fuzzed_idx_labels(tmp_path: Path, damage: Damage) -> None:
    path = tmp_path / "train-labels-idx1-ubyte"
    content = damage(IDX_LABELS)
    path.write_bytes(content)
    labels = read_or_none(path, lambda: read_idx(path, 1))
    if labels is None:
        return
    assert labels.dtype in (torch.uint8, torch.int64)
    assert len(labels) == int.from_bytes(content[4:8], "big")
    # A file of the old length has the old count: another count takes a header that was made to fit.
    assert len(labels) == COUNT or len(content) != len(IDX_LABELS)


# --- csv --------------------------------------------------------------------------------------------------

TABLE = "x,kind,y\n" + "".join(f"{n / 8},{'ab'[n % 2]},{n * n}.5\n" for n in range(30))


@given(DAMAGE)
@FUZZ
def test_fuzzed_tables(tmp_path: Path, damage: Damage) -> None:
    path = tmp_path / "own.csv"
    content = damage(TABLE.encode())
    path.write_bytes(content)
    with contextlib.suppress(ConfigError, DataError):  # ConfigError: the damage renamed a column
        complete_table(csv(path=path, target="y", categorical=("kind",)), content)


def complete_table(dataset: Dataset, content: bytes) -> None:
    if b'"' not in content:  # line breaks in quotes are part of a cell
        lines = [line for line in content.decode("utf-8-sig").replace("\r", "\n").split("\n") if line.strip()]
        assert len(dataset.train) + len(dataset.test) == len(lines) - 1
        assert bool(dataset.train.inputs.isfinite().all() and dataset.test.inputs.isfinite().all())


# --- CIFAR ------------------------------------------------------------------------------------------------

CIFAR_IMAGES = RNG.integers(0, 256, (COUNT, 3072), dtype=np.uint8)


def python2_batch() -> bytes:
    """A batch as in the published files: pickled by Python 2, with pixels as a byte string."""
    pixels = CIFAR_IMAGES.tobytes()
    return b"".join(
        [
            b"\x80\x02}q\x01(U\x0bbatch_labelq\x02U\x15training batch 1 of 5q\x03U\x06labelsq\x04]q\x05(",
            b"".join(b"K" + bytes([label]) for label in LABELS),
            b"eU\x04dataq\x06cnumpy.core.multiarray\n_reconstruct\nq\x07cnumpy\nndarray\nq\x08K\x00\x85U\x01b\x87Rq\x09",
            b"(K\x01K\x03M\x00\x0c\x86cnumpy\ndtype\nq\x0aU\x02u1K\x00K\x01\x87Rq\x0b",
            b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T",
            struct.pack("<I", len(pixels)),
            pixels,
            b"r\x0c\x00\x00\x00tbu.",
        ]
    )


CIFAR = {
    "python 2": python2_batch(),
    "python 3": pickle.dumps({"labels": LABELS, "data": CIFAR_IMAGES}, protocol=2),
}


@pytest.mark.parametrize("kind", CIFAR)
def test_the_undamaged_cifar_batches_are_read(tmp_path: Path, kind: str) -> None:
    (tmp_path / "batch").write_bytes(CIFAR[kind])
    split = read_cifar_batch(tmp_path / "batch", "labels", 10)
    assert np.array_equal(split.inputs.flatten(1).numpy(), CIFAR_IMAGES)
    assert split.targets.tolist() == LABELS


@pytest.mark.parametrize("kind", CIFAR)
@given(DAMAGE)
@FUZZ
def test_fuzzed_cifar_batches(tmp_path: Path, kind: str, damage: Damage) -> None:
    path = tmp_path / "data_batch_1"
    path.write_bytes(damage(CIFAR[kind]))
    whole(read_or_none(path, lambda: read_cifar_batch(path, "labels", 10)), (3, 32, 32))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.binary(max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=6,
)


@given(labels=VALUES | st.lists(VALUES, min_size=COUNT, max_size=COUNT), data=VALUES, sound=st.booleans())
@FUZZ
def test_cifar_batches_with_arbitrary_values(tmp_path: Path, labels: Any, data: Any, sound: bool) -> None:
    path = tmp_path / "data_batch_1"
    path.write_bytes(pickle.dumps({"labels": labels, "data": CIFAR_IMAGES if sound else data}, protocol=4))
    split = read_or_none(path, lambda: read_cifar_batch(path, "labels", 10))
    whole(split, (3, 32, 32))
    assert split is None or split.targets.tolist() == labels


def test_an_empty_cifar_batch_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "data_batch_1"
    path.write_bytes(pickle.dumps({"labels": [], "data": CIFAR_IMAGES[:0]}, protocol=2))
    assert read_or_none(path, lambda: read_cifar_batch(path, "labels", 10)) is None


class Evil:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("function", [os.system, os.mkdir, exec, eval, np.save, np.lib.format.open_memmap])
def test_a_cifar_batch_cannot_execute_code(tmp_path: Path, function: Any, protocol: int) -> None:
    path, marker = tmp_path / "data_batch_1", tmp_path / "marker"
    if function is os.system:
        arguments: tuple[Any, ...] = (f"touch {marker}",)
    elif function in (exec, eval):
        arguments = (f"open({str(marker)!r}, 'w')",)
    elif function is os.mkdir:
        arguments = (str(marker),)
    else:
        arguments = (str(marker), "w+") if function is not np.save else (str(marker), 1)
    for entry in (
        Evil(function, *arguments),
        {"labels": LABELS, "data": CIFAR_IMAGES, "filenames": Evil(function, *arguments)},
    ):
        path.write_bytes(pickle.dumps(entry, protocol=protocol))
        assert read_or_none(path, lambda: read_cifar_batch(path, "labels", 10)) is None
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


OPCODES = [
    b"\x80\x02", b"\x80\x04", b"cos\nsystem\n", b"cbuiltins\nexec\n", b"cnumpy\ndtype\n",
    b"cnumpy\nndarray\n", b"cnumpy.core.multiarray\n_reconstruct\n", b"c_codecs\nencode\n",
    b"U\x06mkdir ", b"U\x06latin1", b"U\x01O", b"U\x02u1", b"U\x08__code__", b"U\x08__dict__", b"N",
    b"K\x00", b"K\x05", b"I9\n", b"L99999999999999999999L\n", b"(", b")", b"t", b"\x85", b"\x86", b"\x87",
    b"}", b"]", b"a", b"e", b"s", b"u", b"0", b"2", b"R", b"b", b"\x81", b"\x92", b"o", b"ios\nsystem\n",
    b"\x93", b"\x94", b"q\x01", b"h\x01", b"\x82\x01", b"Pid\n", b"Q",
    b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7f", b"\x95\xff\xff\xff\xff\xff\xff\xff\x7f", b"U\x04data",
    b"U\x06labels", b"r\xff\xff\xff\xff", b"p4294967295\n", b"\x96\xff\xff\xff\xff\x7f\x00\x00\x00",
]  # fmt: skip


@given(st.lists(st.sampled_from(OPCODES), max_size=25).map(lambda pieces: b"".join(pieces) + b"."))
@FUZZ
def test_pickles_of_random_instructions(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "data_batch_1"
    path.write_bytes(content)
    whole(read_or_none(path, lambda: read_cifar_batch(path, "labels", 10)), (3, 32, 32))


def test_a_nine_byte_pickle_that_allocates_64_gib_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "data_batch_1"
    for content in (b"\x80\x02Nr\xff\xff\xff\xff.", b"Np4294967295\n."):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"data_batch_1: not a CIFAR batch.*the memo index 4,294,967,295"):
            read_cifar_batch(path, "labels", 10)


# --- SVHN -------------------------------------------------------------------------------------------------


def mat(compressed: bool) -> bytes:
    buffer = io.BytesIO()
    images = RNG.integers(0, 256, (32, 32, 3, COUNT), dtype=np.uint8)
    savemat(buffer, {"X": images, "y": np.array([10, 1, 9], np.uint8)[:, None]}, do_compression=compressed)
    return buffer.getvalue()


MAT = {"plain": mat(False), "compressed": mat(True)}


@pytest.mark.parametrize("kind", MAT)
@given(DAMAGE)
@FUZZ
def test_fuzzed_svhn(tmp_path: Path, kind: str, damage: Damage) -> None:
    path = tmp_path / "train_32x32.mat"
    path.write_bytes(damage(MAT[kind]))
    whole(read_or_none(path, lambda: read_svhn(path)), (3, 32, 32))


@given(labels=VALUES | st.lists(VALUES, min_size=COUNT, max_size=COUNT))
@FUZZ
def test_svhn_with_arbitrary_labels(tmp_path: Path, labels: Any) -> None:
    path = tmp_path / "train_32x32.mat"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            savemat(path, {"X": np.zeros((32, 32, 3, COUNT), np.uint8), "y": labels})
    except Exception:  # not every value can be encoded in this format
        return
    whole(read_or_none(path, lambda: read_svhn(path)), (3, 32, 32))


# --- USPS -------------------------------------------------------------------------------------------------

PIXELS = RNG.uniform(-1, 1, (COUNT, 256)).round(3)
TEXT = "".join(
    f"{label + 1} " + " ".join(f"{n}:{cell}" for n, cell in enumerate(row, start=1)) + "\n"
    for label, row in zip(LABELS, PIXELS, strict=True)
).encode()
FIRST = bz2.compress(TEXT[: TEXT.index(b"\n") + 1])
REST = bz2.compress(TEXT[TEXT.index(b"\n") + 1 :])


@given(DAMAGE)
@FUZZ
def test_fuzzed_usps(tmp_path: Path, damage: Damage) -> None:
    path = tmp_path / "usps.bz2"
    path.write_bytes(damage(bz2.compress(TEXT)))
    whole(read_or_none(path, lambda: read_usps(path)), (1, 16, 16))


def test_a_usps_file_with_a_damaged_second_stream_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "usps.bz2"
    path.write_bytes(FIRST + REST)
    whole(read_usps(path), (1, 16, 16))
    for rest in (b"BZx", REST[:-9], b"A" + REST[1:], b"garbage"):
        path.write_bytes(FIRST + rest)
        assert read_or_none(path, lambda: read_usps(path)) is None


WORDS = st.sampled_from(
    [b"9" * 30, b"-1", b"1e400", b"nan", b"\n", b" ", b":", b"2:", b"\x0c", b"\xff", b"1_0"]
)
PUT_WORD = st.tuples(st.sampled_from(["insert", "overwrite"]), PLACES, WORDS)


@given(st.lists(STEPS | PUT_WORD, min_size=1, max_size=4).map(apply))
@FUZZ
def test_fuzzed_usps_text(tmp_path: Path, damage: Damage) -> None:
    path = tmp_path / "usps.bz2"
    text = damage(TEXT)
    path.write_bytes(bz2.compress(text))
    split = read_or_none(path, lambda: read_usps(path))
    if split is not None:  # a text has no header: what was cut between two lines is not to be seen in it
        assert split.inputs.shape == (text.count(b"\n") + (not text.endswith(b"\n")), 1, 16, 16)
        assert split.targets.shape == split.inputs.shape[:1]


@pytest.mark.parametrize("label", [b"9" * 30, b"0", b"11", b"1.5"])
def test_a_usps_label_out_of_range_is_refused(tmp_path: Path, label: bytes) -> None:
    path = tmp_path / "usps.bz2"
    path.write_bytes(bz2.compress(label + TEXT[TEXT.index(b" ") :]))
    assert read_or_none(path, lambda: read_usps(path)) is None


def test_a_usps_pixel_with_a_wrong_index_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "usps.bz2"
    path.write_bytes(bz2.compress(TEXT.replace(b" 7:", b" 6:")))
    assert read_or_none(path, lambda: read_usps(path)) is None


# --- image folders ----------------------------------------------------------------------------------------


def encoded(kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(RNG.integers(0, 256, (9, 7, 3), dtype=np.uint8)).save(buffer, kind)
    return buffer.getvalue()


IMAGES = {kind: encoded(kind) for kind in ("png", "jpeg", "bmp", "gif", "ppm", "tiff", "webp")}


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for name in ("train/ant/a.png", "train/cat/b.png", "test/cat/t.png"):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(IMAGES["png"])
    return tmp_path


def complete(images: Path, kind: str, damage: Damage, size: int | None) -> None:
    path = images / "train" / "cat" / f"damaged.{kind}"
    path.write_bytes(damage(IMAGES[kind]))
    dataset = read_or_none(path, lambda: image_folder(path=images, size=size))
    if dataset is not None:
        height, width = (size, size) if size else (9, 7)
        assert (dataset.train.inputs.shape, dataset.train.inputs.dtype) == (
            (3, 3, height, width),
            torch.uint8,
        )
        assert dataset.test.inputs.shape == (1, 3, height, width)
        assert (dataset.train.targets.tolist(), dataset.test.targets.tolist()) == ([0, 1, 1], [1])


@pytest.mark.parametrize("kind", ["png", "jpeg"])
@given(damage=DAMAGE, size=st.sampled_from([None, 5]))
@FUZZ
def test_fuzzed_images(images: Path, kind: str, damage: Damage, size: int | None) -> None:
    complete(images, kind, damage, size)


@pytest.mark.parametrize("kind", ["bmp", "gif", "ppm", "tiff", "webp"])
@given(damage=DAMAGE, size=st.sampled_from([None, 5]))
@settings(FUZZ, max_examples=25)
def test_fuzzed_images_of_rare_formats(images: Path, kind: str, damage: Damage, size: int | None) -> None:
    complete(images, kind, damage, size)


@pytest.mark.parametrize("kind", ["jpeg", "tiff", "png"])
@pytest.mark.parametrize("orientation", range(10))
def test_images_with_an_exif_orientation(images: Path, kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = images / "train" / "cat" / f"turned.{kind}"
    Image.fromarray(RNG.integers(0, 256, (9, 7, 3), dtype=np.uint8)).save(path, exif=exif)
    dataset = read_or_none(path, lambda: image_folder(path=images))
    assert dataset is None or dataset.train.inputs.shape == (3, 3, 9, 7)
