"""The npz reader: every supported layout, and an error for every fault."""

from __future__ import annotations

import contextlib
import os
import socket
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from trainer.data import npz as room
from trainer.data.arrays import KEYS
from trainer.data.cache import cached
from trainer.data.dataset import split_dataset
from trainer.data.file_readers import check_md5, read_idx, read_pickle, read_svhn
from trainer.data.npz import npz
from trainer.errors import DataError

RNG = np.random.default_rng(0)
X = RNG.integers(0, 256, (6, 5, 4), dtype=np.uint8)
Y = np.array([0, 1, 2, 0, 1, 2])


def write(path: Path, **arrays: Any) -> str:
    file = path / "set.npz"
    default = {"x_train": X, "y_train": Y, "x_test": X[:2], "y_test": Y[:2]}
    np.savez(file, **{name: array for name, array in (default | arrays).items() if array is not None})
    return str(file)


@pytest.mark.parametrize(
    ("shape", "layout", "stored"),
    [
        ((6, 5, 4), "auto", (1, 5, 4)),
        ((6, 5, 4, 3), "auto", (3, 5, 4)),
        ((6, 3, 5, 4), "nchw", (3, 5, 4)),
        ((6, 3, 5, 7), "auto", (3, 5, 7)),
        ((6, 3, 3, 3), "nhwc", (3, 3, 3)),
        ((6, 5, 4, 2), "nhwc", (2, 5, 4)),
        ((6, 7), "auto", (7,)),
    ],
)
@pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.float32, np.float64])
def test_inputs_of_every_layout(
    tmp_path: Path, shape: tuple[int, ...], layout: Any, stored: tuple[int, ...], dtype: Any
) -> None:
    x = RNG.integers(0, 256, shape).astype(dtype)
    dataset = npz(path=write(tmp_path, x_train=x, x_test=x[:2]), layout=layout)
    assert dataset.input_shape == stored
    assert dataset.train.inputs.dtype == (torch.uint8 if dtype == np.uint8 else torch.float32)
    channels_last = len(shape) == 4 and stored[0] == shape[3] and layout != "nchw"
    expected = np.moveaxis(x, 3, 1) if channels_last else x.reshape(6, *stored)
    assert np.array_equal(dataset.train.inputs.numpy(), expected)
    assert dataset.train.inputs.is_contiguous()
    assert dataset.num_classes == 3


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int32, np.uint64])
def test_class_labels_of_any_integer_type_and_as_one_column(tmp_path: Path, dtype: Any) -> None:
    y = Y.astype(dtype)
    dataset = npz(path=write(tmp_path, y_train=y[:, None], y_test=y[:2]))
    assert dataset.train.targets.dtype == torch.int64
    assert dataset.train.targets.tolist() == Y.tolist()
    assert dataset.class_names == ("0", "1", "2")


@pytest.mark.parametrize(("shape", "targets"), [((6,), 1), ((6, 1), 1), ((6, 4), 4)])
def test_float_targets_are_real_targets(tmp_path: Path, shape: tuple[int, ...], targets: int) -> None:
    y = RNG.normal(size=shape)
    dataset = npz(path=write(tmp_path, y_train=y, y_test=y[:2]))
    assert dataset.class_names is None
    assert dataset.num_classes == targets
    assert dataset.train.targets.dtype == torch.float32
    assert np.allclose(dataset.train.targets.numpy(), y.reshape(6, targets))


@pytest.mark.parametrize(
    ("arrays", "told"),
    [
        ({"y_test": None}, "no array y_test"),
        ({"x_train": X[:5]}, "x_train has 5 rows and y_train has 6"),
        ({"x_test": X[:2, :4]}, "different inputs"),
        ({"x_test": X[:2].astype(np.float32)}, "different types"),
        ({"x_train": X.astype(np.int64)}, "x_train: inputs of type int64"),
        ({"x_train": X[:, 0, 0]}, "x_train: inputs of shape"),
        ({"x_train": X[:0], "y_train": Y[:0]}, "x_train: inputs of shape"),
        ({"x_train": np.full((6, 5, 4), np.nan)}, "x_train: NaN or infinity .* in 6 of 6"),
        ({"x_train": np.full((6, 5, 4), 1e300)}, "x_train: NaN or infinity"),
        ({"y_train": np.full(6, np.inf), "y_test": np.ones(2)}, "y_train: NaN or infinity"),
        ({"y_train": Y - 1}, "y_train: label -1 in row 0"),
        ({"y_test": np.array([0, 3])}, "y_test: label 3 in row 1"),
        ({"y_train": np.full(6, 2**63, dtype=np.uint64)}, "y_train: label 9223372036854775808"),
        ({"y_train": np.eye(3, dtype=np.int64)[Y]}, "argmax"),
        ({"y_train": np.array(["a"] * 6)}, "y_train: targets of type <U1"),
        ({"y_test": np.ones(2)}, "differ in kind"),
        ({"y_train": np.array([object()] * 6)}, "y_train has Python objects"),
        ({"x_train": np.zeros((6, 3, 3, 3), np.uint8)}, "layout=nhwc"),
        ({"x_train": np.zeros((6, 9, 9, 9), np.uint8)}, "layout=nhwc"),
        ({"y_train": np.int64(3)}, "y_train is a single value"),
        ({"y_test": np.float32(0.5)}, "y_test is a single value"),
        ({"x_train": np.uint8(1)}, "x_train is a single value"),
        ({"x_val": X}, "x_val without y_val"),
        ({"y_val": Y}, "y_val without x_val"),
        ({"x_val": X[:3], "y_val": Y}, "x_val has 3 rows and y_val has 6"),
        ({"x_val": X[:, :4], "y_val": Y}, "x_train and x_val have different inputs"),
        ({"x_val": X, "y_val": np.ones(6)}, "y_train and y_val differ in kind"),
        ({"x_val": X, "y_val": Y + 1}, "y_val: label 3 in row 2"),
        ({"x_val": X[:0], "y_val": Y[:0]}, "x_val: inputs of shape"),
        ({"x_val": X, "y_val": np.array([object()] * 6)}, "y_val has Python objects"),
        ({"y_train": Y.astype(complex)}, "targets of type complex128"),
        ({"y_train": Y.astype([("a", int)])}, "targets of type"),
    ],
)
def test_a_fault_is_named_with_file_and_array(tmp_path: Path, arrays: dict[str, Any], told: str) -> None:
    path = write(tmp_path, **arrays)
    with pytest.raises(DataError, match=told) as caught:
        npz(path=path)
    assert path in str(caught.value)


def test_a_file_cut_short_anywhere_is_refused(tmp_path: Path) -> None:
    path = Path(write(tmp_path))
    whole = path.read_bytes()
    for length in range(0, len(whole), 97):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"set\.npz"):
            npz(path=str(path))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_flipped_byte_of_the_content_is_noticed(tmp_path: Path, save: Any) -> None:
    path = tmp_path / "set.npz"
    save(path, x_train=X, y_train=Y, x_test=X[:2], y_test=Y[:2])
    whole = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        entry = archive.getinfo("x_train.npy")
    middle = entry.header_offset + 30 + len("x_train.npy") + 20 + entry.compress_size // 2
    whole[middle] ^= 0x10
    path.write_bytes(whole)
    with pytest.raises(DataError, match=r"set\.npz"):
        npz(path=str(path))


def test_an_array_beyond_the_memory_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path)
    monkeypatch.setattr(room, "memory_bytes", lambda: 100)
    monkeypatch.setattr(room, "_read_array", lambda *_: pytest.fail("read the array"))
    with pytest.raises(DataError, match="GiB of memory"):
        npz(path=path)


def test_a_forged_header_does_not_allocate(tmp_path: Path) -> None:
    path = Path(write(tmp_path))
    header = "{'descr': '|u1', 'fortran_order': False, 'shape': (4000000000, 4000000000, 9), }"
    forged = b"\x93NUMPY\x01\x00" + (118).to_bytes(2, "little") + header.ljust(117).encode() + b"\n"
    with zipfile.ZipFile(path, "w") as archive:
        for key in KEYS:
            archive.writestr(f"{key}.npy", forged)
    with pytest.raises(DataError, match="GiB of memory"):
        npz(path=str(path))


def test_an_absent_file_and_a_folder_are_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no file") as caught:
        npz(path=str(tmp_path / "none.npz"))
    assert caught.value.problems[0].key == "path"
    with pytest.raises(DataError, match="directory"):
        npz(path=str(tmp_path))


@pytest.mark.real_data
def test_the_cifar_file(cifar_npz: Path) -> None:
    dataset = npz(path=str(cifar_npz))
    assert dataset.input_shape == (3, 32, 32)
    assert (len(dataset.train), len(dataset.test), dataset.num_classes) == (10_000, 2_000, 10)
    stored = np.load(cifar_npz)
    assert np.array_equal(dataset.test.inputs.permute(0, 2, 3, 1).numpy(), stored["x_test"])
    assert np.array_equal(dataset.train.targets.numpy(), stored["y_train"])


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_validation_arrays_are_the_validation_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, save: Any
) -> None:
    monkeypatch.setenv("OPTLAB_CACHE", str(tmp_path / "cache"))
    plain, file = npz(path=write(tmp_path)), tmp_path / "val.npz"
    arrays = {"x_train": X, "y_train": Y, "x_test": X[:2], "y_test": Y[:2]}
    save(file, **arrays, x_val=X[2:5], y_val=Y[2:5])
    for _ in range(2):  # the second time from the cache, where it is compressed
        dataset = npz(path=str(file))
        assert dataset.val is not None
        assert torch.equal(dataset.val.inputs[:, 0], torch.from_numpy(X[2:5]))
        assert dataset.val.targets.tolist() == Y[2:5].tolist()
        assert dataset.digest != plain.digest
        splits = split_dataset(dataset, limit=4)
        assert (len(splits.train), splits.val, splits.test) == (4, dataset.val, dataset.test)
        with pytest.raises(DataError, match="a validation split of its own") as caught:
            split_dataset(dataset, val_size=0.5)
        assert caught.value.problems[0].key == "val_size"
    save(file, **arrays, x_val=X[1:4], y_val=Y[1:4])
    assert npz(path=str(file)).digest != dataset.digest


def test_a_file_without_validation_arrays_keeps_its_digest(tmp_path: Path) -> None:
    x, y = np.arange(24, dtype=np.uint8).reshape(6, 4), Y
    dataset = npz(path=write(tmp_path, x_train=x, x_test=x[:2], y_train=y, y_test=y[:2]))
    assert dataset.digest == "d339e59ff1bbb566f8a553993304b85eb3e716d691d956111f6aa521348e4d37"


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_that_nothing_reads_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, save: Any
) -> None:
    monkeypatch.setenv("OPTLAB_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "set.npz"
    save(file, x_train=X, y_train=Y, x_test=X[:2], y_test=Y[:2], y_valid=Y, huge=np.array([object()]))
    for _ in range(2):
        assert any("not used: huge, y_valid;" in note for note in npz(path=str(file)).notes)


def test_integer_targets_are_what_the_config_says_and_a_note_tells_the_default(tmp_path: Path) -> None:
    path = write(tmp_path)
    found = npz(path=path)
    assert found.num_classes == 3
    assert ["3 classes; task=regression" in note for note in found.notes] == [True]
    classes = npz(path=path, target_type="classes")
    assert (classes.digest, classes.notes) == (found.digest, ())
    real = npz(path=path, target_type="real")
    assert (real.class_names, real.num_classes, real.notes) == (None, 1, ())
    assert real.train.targets.tolist() == [[float(y)] for y in Y]
    assumed = npz(path=path, integer_targets="real")
    assert assumed.digest == real.digest
    assert ["real values; task=classification" in note for note in assumed.notes] == [True]
    assert npz(path=path, target_type="classes", integer_targets="real").digest == found.digest
    rows = np.arange(18).reshape(6, 3)
    assert npz(path=write(tmp_path, y_train=rows, y_test=rows[:2]), target_type="real").num_classes == 3
    floats = write(tmp_path, y_train=Y + 0.5, y_test=Y[:2] + 0.5)
    assert npz(path=floats).notes == ()
    with pytest.raises(DataError, match="target_type"):
        npz(path=floats, target_type="classes")


@pytest.mark.parametrize("order", ["big-endian", "columns first", "strided"])
def test_arrays_are_read_by_value_however_they_lie_in_memory(tmp_path: Path, order: str) -> None:
    x, y = RNG.normal(size=(6, 5, 4)).astype(np.float32), Y.astype(np.int32)
    odd = {
        "big-endian": lambda array: array.astype(array.dtype.newbyteorder(">")),
        "columns first": np.asfortranarray,
        "strided": lambda array: np.repeat(array, 2, axis=0)[::2],
    }[order]
    plain = npz(path=write(tmp_path, x_train=x, y_train=y, x_test=x[:2], y_test=y[:2]))
    arrays = {"x_train": odd(x), "y_train": odd(y), "x_test": odd(x)[:2], "y_test": odd(y)[:2]}
    assert npz(path=write(tmp_path, **arrays)).digest == plain.digest


@pytest.mark.parametrize("kind", ["device", "pipe", "socket", "sparse"])
def test_what_is_no_regular_file_of_a_sensible_size_is_not_read(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "set.npz"
    with contextlib.ExitStack() as stack:
        if kind == "device":
            path.symlink_to("/dev/zero")
        elif kind == "pipe":
            os.mkfifo(path)
        elif kind == "socket":
            stack.enter_context(socket.socket(socket.AF_UNIX)).bind(str(path))
        else:
            with path.open("wb") as file:
                file.truncate(2**43)
        told = {"sparse": "a file of 8,192.0 GiB"}.get(kind, f"this is a {kind}")
        for read in (
            lambda: npz(path=str(path)),
            lambda: read_idx(path, 3),
            lambda: read_pickle(path),
            lambda: read_svhn(path),
            lambda: check_md5(path, "", "usps"),
            lambda: cached([path], lambda: pytest.fail("decoded"), variant=["x"]),
        ):
            with pytest.raises(DataError, match=told) as caught:
                read()
            assert "set.npz" in str(caught.value)
