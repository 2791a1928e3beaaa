"""The cache of decoded data sets: hits, misses, and damaged or unwritable cache files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command import optlab, write_tiny
from PIL import Image
from published_files import cifar_files, svhn_files, usps_files

from trainer.data import npz as npz_room
from trainer.data.cache import cache_folder, cached, source_key
from trainer.data.dataset import Dataset, Split, make_dataset
from trainer.data.image_folder import image_folder
from trainer.data.npz import npz
from trainer.data.torchvision_sets import cifar10, cifar100, svhn, usps
from trainer.errors import DataError

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache for one test."""
    monkeypatch.setenv("OPTLAB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def small_set(real_targets: bool = False) -> Dataset:
    inputs = torch.arange(5 * 3 * 7, dtype=torch.uint8).view(5, 3, 7, 1)
    targets = torch.arange(10.0).view(5, 2) if real_targets else torch.tensor([0, 1, 1, 0, 1])
    parts = Split(inputs[:3], targets[:3]), Split(inputs[3:], targets[3:])
    return make_dataset(*parts, None if real_targets else ["Katze", "\u732b"])


def never() -> Dataset:
    raise AssertionError("decoded although it is in the cache")


def assert_equal(one: Dataset, other: Dataset) -> None:
    assert (one.digest, one.class_names) == (other.digest, other.class_names)
    for ours, theirs in ((one.train, other.train), (one.test, other.test)):
        assert torch.equal(ours.inputs, theirs.inputs)
        assert torch.equal(ours.targets, theirs.targets)
        assert (ours.inputs.dtype, ours.targets.dtype) == (theirs.inputs.dtype, theirs.targets.dtype)


def compressed(path: Path, seed: int = 0) -> Path:
    x = np.random.default_rng(seed).integers(0, 256, (6, 5, 4), dtype=np.uint8)
    y = np.array([0, 1, 2, 0, 1, 2])
    np.savez_compressed(path, x_train=x, y_train=y, x_test=x[:2], y_test=y[:2])
    return path


@pytest.mark.parametrize("real_targets", [False, True])
def test_what_was_decoded_once_comes_back_without_decoding(tmp_path: Path, real_targets: bool) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"1")
    decoded = cached([source], lambda: small_set(real_targets), variant=["small"])
    again = cached([source], never, variant=["small"])
    assert_equal(again, small_set(real_targets))
    assert decoded.notes == again.notes == ()
    again.train.inputs.zero_()  # of this process alone: the file stays as it is
    assert_equal(cached([source], never, variant=["small"]), decoded)


def test_content_and_options_decide_and_nothing_else_does(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_bytes(b"ab")
    other.write_bytes(b"c")
    key = source_key([one, other], ["x", 1])
    os.utime(one, (0, 0))
    one.rename(tmp_path / "moved")
    assert source_key([tmp_path / "moved", other], ["x", 1]) == key
    keys = {key, source_key([other, tmp_path / "moved"], ["x", 1]), source_key([other], ["x", 1])}
    for variant in (["x", "1"], ["x", None], ["y", 1]):
        keys.add(source_key([tmp_path / "moved", other], variant))
    one.write_bytes(b"a")
    other.write_bytes(b"bc")
    keys.add(source_key([one, other], ["x", 1]))
    assert len(keys) == 7


def _data_start(whole: bytes) -> int:
    header = whole.index(b"\n") + 1
    return header + -header % 64


def _flip(whole: bytes) -> bytes:
    at = _data_start(whole)
    return whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]


def _say(**changes: Any) -> Callable[[bytes], bytes]:
    """Return a function that changes values in the header and keeps the arrays."""

    def damage(whole: bytes) -> bytes:
        header = json.dumps(json.loads(whole.split(b"\n", 1)[0]) | changes).encode() + b"\n"
        return header + bytes(-len(header) % 64) + whole[_data_start(whole) :]

    return damage


def _first(dtype: str, *shape: int) -> Callable[[bytes], bytes]:
    rest = [["int64", [3]], ["uint8", [2, 3, 7, 1]], ["int64", [2]]]
    return _say(tensors=[[dtype, list(shape)], *rest])


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda whole: b"",
    "cut": lambda whole: whole[:-1],
    "longer": lambda whole: whole + b"\0",
    "header alone": lambda whole: whole.split(b"\n")[0],
    "no header": lambda whole: whole[_data_start(whole) :],
    "a list": lambda whole: b"[]" + whole[whole.index(b"\n") :],
    "a pixel": _flip,
    "names": _say(class_names=["a", "b"]),
    "no names": _say(class_names=None),
    "turned": _first("uint8", 3, 7, 3, 1),
    "negative": _first("uint8", -3, 3, 7, 1),
    "huge": _first("uint8", 2**62, 3, 7, 1),
    "fractional": _first("uint8", 1.5, 2),
    "another type": _first("float32", 3, 3, 7, 1),
    "objects": _first("object", 3, 3, 7, 1),
    "another set": _say(key="0" * 64),
    "another format": _say(format=0),
}


@pytest.mark.parametrize("kind", list(DAMAGES))
def test_a_damaged_file_is_decoded_again_replaced_and_told(tmp_path: Path, folder: Path, kind: str) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"1")
    cached([source], small_set, variant=[])
    (file,) = folder.iterdir()
    whole = file.read_bytes()
    file.write_bytes(DAMAGES[kind](whole))
    dataset = cached([source], small_set, variant=[])
    assert_equal(dataset, small_set())
    assert len(dataset.notes) == 1
    assert "decoded the data again" in dataset.notes[0]
    assert str(file) in dataset.notes[0]
    assert file.read_bytes() == whole


@pytest.mark.parametrize("make", ["file", "loop", "read-only", "full"])
def test_a_folder_that_takes_nothing_stops_no_run(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, make: str
) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"1")
    if make == "file":
        folder.write_text("not a folder")
    elif make == "loop":
        folder.symlink_to(folder)
    elif make == "read-only":
        monkeypatch.setenv("OPTLAB_CACHE", "/proc/optlab")  # root may write to folders without the right
    else:

        def full(_: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
    dataset = cached([source], small_set, variant=[])
    assert_equal(dataset, small_set())
    assert len(dataset.notes) == 1
    assert "cannot save the decoded data in" in dataset.notes[0]
    assert not folder.is_dir() or list(folder.iterdir()) == []


def test_half_written_files_go_away_once_they_are_old(tmp_path: Path, folder: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"1")
    folder.mkdir()
    old, fresh = folder / "a.1.tmp", folder / "a.2.tmp"
    old.write_bytes(b"half")
    fresh.write_bytes(b"half")
    os.utime(old, (time.time() - 10_000,) * 2)
    cached([source], small_set, variant=[])
    assert not old.exists()
    assert fresh.exists()


def test_a_source_that_changes_while_it_is_decoded_is_not_kept(tmp_path: Path, folder: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"1")

    def decode() -> Dataset:
        source.write_bytes(b"2")
        return small_set()

    assert_equal(cached([source], decode, variant=[]), small_set())
    assert not folder.exists()


def test_what_decoding_raises_passes_and_nothing_is_kept(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(DataError, match="there is no file"):
        npz(path=tmp_path / "none.npz")
    file = compressed(tmp_path / "set.npz")
    file.write_bytes(file.read_bytes()[:-30])
    with pytest.raises(DataError, match=r"set\.npz"):
        npz(path=file)
    assert not folder.exists()


def test_a_compressed_npz_is_unpacked_once_and_again_when_it_changes(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = compressed(tmp_path / "set.npz")
    first = npz(path=file)
    changed = compressed(tmp_path / "other.npz", seed=1)
    second = npz(path=changed)
    assert len(list(folder.iterdir())) == 2
    monkeypatch.setattr(npz_room, "_read_arrays", lambda _: pytest.fail("unpacked"))
    assert_equal(npz(path=file), first)
    os.replace(changed, file)
    assert_equal(npz(path=file), second)


def test_an_npz_of_plain_bytes_is_read_where_it_lies(tmp_path: Path, folder: Path) -> None:
    x = RNG.integers(0, 256, (6, 5, 4), dtype=np.uint8)
    np.savez(tmp_path / "set.npz", x_train=x, y_train=np.arange(6), x_test=x, y_test=np.arange(6))
    assert len(npz(path=tmp_path / "set.npz").train) == 6
    assert not folder.exists()


def test_an_image_folder_is_decoded_again_when_an_image_moves_changes_or_is_sized_otherwise(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "images"
    for name in ("train/cat/a.png", "train/cat/b.png", "train/dog/c.png", "test/dog/d.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(RNG.integers(0, 256, (6, 6), dtype=np.uint8)).save(root / name)
    first = image_folder(path=root)
    half = image_folder(path=root, size=3)
    with monkeypatch.context() as patch:
        patch.setattr(Image, "open", lambda *_, **__: pytest.fail("decoded"))
        assert_equal(image_folder(path=root), first)
        assert_equal(image_folder(path=root, size=3), half)
    assert len(list(folder.iterdir())) == 2
    (root / "train/cat/b.png").rename(root / "train/dog/b.png")
    moved = image_folder(path=root)
    assert moved.train.targets.tolist() == [0, 1, 1]
    assert torch.equal(moved.train.inputs, first.train.inputs)
    Image.fromarray(np.zeros((6, 6), np.uint8)).save(root / "train/dog/b.png")
    assert int(image_folder(path=root).train.inputs[1].sum()) == 0
    (root / "train/cat/a.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"a\.png"):
        image_folder(path=root)


def test_a_later_process_reads_every_named_set_without_torchvision_scipy_or_scikit_learn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = str(tmp_path)
    cifar_files(tmp_path, monkeypatch, "CIFAR10", "labels", 10)
    cifar_files(tmp_path, monkeypatch, "CIFAR100", "fine_labels", 100)
    svhn_files(tmp_path, monkeypatch)
    usps_files(tmp_path, monkeypatch)
    builders: list[Callable[..., Dataset]] = [cifar10, cifar100, svhn, usps]
    digests = [build(root=root, download=False).digest for build in builders]
    digests.append(npz(path=compressed(tmp_path / "set.npz")).digest)
    # The sums that torchvision knows are those of the real files: decoding these here would fail.
    code = f"""
import sys
from trainer.data.digits import digits
from trainer.data.npz import npz
from trainer.data.torchvision_sets import cifar10, cifar100, mnist, svhn, usps
from trainer.errors import DataError
sets = [build(root={root!r}, download=False) for build in (cifar10, cifar100, svhn, usps)]
sets.append(npz(path={root + "/set.npz"!r}))
assert digits().num_classes == 10
try:
    mnist(root={root!r}, download=False)
except DataError as error:
    assert "mnist is not on disk" in str(error)
print(*[one.digest for one in sets])
print([name for name in ("torchvision", "sklearn", "scipy") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [" ".join(digests), "[]"]


def test_prepare_fills_the_cache_doctor_measures_it_and_a_run_tells_of_damage(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPTLAB_DATA", str(tmp_path))
    assert optlab("doctor", "--json").json["cache"] == {"folder": str(folder), "sets": 0, "size": "0.0 MB"}
    file = compressed(tmp_path / "set.npz")
    assert "6 samples" in optlab("prepare", "npz", f"path={file}").out
    (kept,) = folder.iterdir()
    megabytes = f"{kept.stat().st_size / 1e6:,.1f} MB"
    assert optlab("doctor", "--json").json["cache"] == {"folder": str(folder), "sets": 1, "size": megabytes}
    kept.write_bytes(b"damaged")
    config = write_tiny(tmp_path)
    data = ["data.name=npz", f"data.path={file}", "data.batch_size=2", "data.limit=null", "data.val_size=0"]
    done = optlab("train", config, *data, "--run-dir", tmp_path / "run")
    assert done.code == 0
    assert "decoded the data again" in done.err
    assert "damaged" not in optlab("train", config, *data, "--run-dir", tmp_path / "run", "--force").err


def test_where_decoded_sets_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    assert str(cache_folder()).endswith("cache")
    monkeypatch.delenv("OPTLAB_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert str(cache_folder()) == "/cache/optlab/decoded"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    assert str(cache_folder()) == "/home/me/.cache/optlab/decoded"
