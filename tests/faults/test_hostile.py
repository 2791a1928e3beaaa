"""Damaged, foreign and malicious files give one error message each and never execute code."""

from __future__ import annotations

import io
import os
import pickle
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command import TINY, optlab, train, write_tiny
from forks import Forks
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from same_run import differences

from trainer import catalog
from trainer.errors import OptlabError
from trainer.records import read_table
from trainer.runs import checkpoint, rundir

FUZZ = settings(suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    train(write_tiny(folder), "train.epochs=2", "train.checkpoint_every={steps: 4}", run_dir=folder / "run")
    return folder / "run"


class Evil:
    def __reduce__(self) -> Any:
        return os.system, ("touch /tmp/optlab-was-here",)


def evil_torch() -> bytes:
    buffer = io.BytesIO()
    torch.save({"format": 1, "experiment": Evil()}, buffer)
    return buffer.getvalue()


def swollen() -> bytes:
    """A torch file whose entries are compressed: 100 MB in 100 kB."""
    plain = io.BytesIO()
    torch.save({"format": 1, "x": torch.zeros(25_000_000)}, plain)
    packed = io.BytesIO()
    with zipfile.ZipFile(plain) as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    return packed.getvalue()


def expanded() -> bytes:
    """A tensor of one number whose declared size is a tebibyte."""
    buffer = io.BytesIO()
    torch.save({"format": 1, "x": torch.zeros(1).expand(2**38)}, buffer)
    return buffer.getvalue()


def of_format(number: object) -> bytes:
    buffer = io.BytesIO()
    torch.save({"format": number}, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not a readable checkpoint"),
        (b"PK\x03\x04" + bytes(100), "not a readable checkpoint"),
        (pickle.dumps(Evil()), "not a readable checkpoint"),
        (evil_torch(), "not a readable checkpoint"),
        (swollen(), "compressed"),
        (expanded(), "larger than the file"),
        (of_format(2), "has format '2'.*\n.*format 1\n.*release"),
        (of_format("x" * 1000), "has format"),
        (of_format(1), "does not match its checksum"),
    ],
    ids=["empty", "zip", "pickle", "evil", "swollen", "expanded", "format", "odd format", "no checksum"],
)
def test_a_hostile_checkpoint_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "last.pt"
    path.write_bytes(content)
    with pytest.raises(checkpoint.DamagedError, match=words):
        checkpoint.load_checkpoint(path)
    assert not Path("/tmp/optlab-was-here").exists()


def test_a_damaged_last_checkpoint_falls_back_with_a_message(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    rundir.write_json(tmp_path / "run" / "status.json", {"format": 1, "status": "running"})
    last = tmp_path / "run" / "checkpoints" / "last.pt"
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 1
    last.write_bytes(content)
    done = optlab("resume", tmp_path / "run", "--quiet")
    assert done.code == 0, done.err
    assert "last.pt is" in done.err
    assert f"falling back to {tmp_path}/run/checkpoints/previous.pt" in done.err
    assert "resuming after step 12" in done.err
    assert differences(run, tmp_path / "run") == []

    rundir.write_json(tmp_path / "run" / "status.json", {"format": 1, "status": "running"})
    for name in ("last.pt", "previous.pt"):
        (last.parent / name).write_bytes(b"PK")
    done = optlab("resume", tmp_path / "run", "--quiet")
    assert (done.code, "no checkpoint of this run can be read" in done.err) == (2, True)


def test_edited_tables_are_refused(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    steps = tmp_path / "run" / "steps.csv"
    steps.write_text("\n".join(steps.read_text().splitlines()[:3]) + "\n")
    done = optlab("resume", tmp_path / "run", "train.epochs=3", "--quiet")
    assert (done.code, "steps.csv has fewer rows than when" in done.err) == (2, True)


def survives(read: Any, path: Path, content: bytes) -> None:
    path.write_bytes(content)
    try:
        read(path)
    except OptlabError as error:
        message = str(error)
    else:
        return
    assert path.name in message or str(path.parent) in message


def damaged(content: bytes, position: int, piece: bytes, cut: bool) -> bytes:
    """Overwrite a random piece of the file, or truncate it there."""
    at = position % (len(content) + 1)
    return content[:at] + piece if cut else content[:at] + piece + content[at + len(piece) :]


@given(position=st.integers(0, 2**31), piece=st.binary(max_size=9), cut=st.booleans())
@FUZZ
def test_fuzzed_checkpoints(run: Path, tmp_path: Path, position: int, piece: bytes, cut: bool) -> None:
    content = (run / "checkpoints" / "last.pt").read_bytes()
    whole = checkpoint.load_checkpoint(run / "checkpoints" / "last.pt")
    path = tmp_path / "last.pt"
    path.write_bytes(damaged(content, position, piece, cut))
    try:
        found = checkpoint.load_checkpoint(path)
    except checkpoint.DamagedError:
        return
    # If it still loads, it is bitwise equal: the damage affected only padding.
    assert checkpoint.digest(found) == checkpoint.digest(whole)


@given(position=st.integers(0, 2**31), piece=st.binary(max_size=9), cut=st.booleans())
@FUZZ
def test_fuzzed_tables(run: Path, tmp_path: Path, position: int, piece: bytes, cut: bool) -> None:
    survives(
        read_table, tmp_path / "steps.csv", damaged((run / "steps.csv").read_bytes(), position, piece, cut)
    )


@given(content=st.binary(max_size=200))
@FUZZ
def test_fuzzed_tables_of_noise(tmp_path: Path, content: bytes) -> None:
    survives(read_table, tmp_path / "steps.csv", content)


@given(position=st.integers(0, 2**31), piece=st.binary(max_size=9), cut=st.booleans())
@FUZZ
def test_fuzzed_configs(run: Path, tmp_path: Path, position: int, piece: bytes, cut: bool) -> None:
    content = (run / "config.yaml").read_bytes()
    survives(catalog.load_config, tmp_path / "config.yaml", damaged(content, position, piece, cut))


YAML_PIECES = (
    "a;b: ;- ;{;};[;];&x ;*x;<<: ;!!python/object:os.system ;? ;| ;> ;';\";\n;\n  ;\t;#;: ;,;1e9;.nan;-.inf;"
    "null;~;\0;\ufeff;%YAML 9\n;---\n;...\n;name: ;optimizer:;model: mlp\n;\u2028;data: digits\n;train:"
)


@given(st.lists(st.sampled_from(YAML_PIECES.split(";")), max_size=40).map("".join))
@FUZZ
def test_fuzzed_yaml(tmp_path: Path, text: str) -> None:
    survives(catalog.load_config, tmp_path / "config.yaml", text.encode())


@given(position=st.integers(0, 2**31), piece=st.binary(max_size=9), cut=st.booleans())
@FUZZ
@pytest.mark.parametrize("name", ["status.json", "summary.json", "environment.json", "config.yaml"])
def test_fuzzed_run_files(
    run: Path, tmp_path: Path, name: str, position: int, piece: bytes, cut: bool
) -> None:
    if not (tmp_path / "copy").exists():
        shutil.copytree(run, tmp_path / "copy")
    content = damaged((run / name).read_bytes(), position, piece, cut)
    survives(lambda path: rundir.load_run(path.parent), tmp_path / "copy" / name, content)
    survives(lambda path: rundir.read_environment(path.parent), tmp_path / "copy" / name, content)


def laughs(levels: int) -> str:
    rows = [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, levels)]
    return "".join(["a0: &a0 [ha]\n", *rows])


BOMBS = {
    "billion laughs": (laughs(12), "aliases expanded"),
    "merged mappings": (
        "m0: &m0 {a: 1}\n" + "".join(f"m{i}: &m{i} {{<<: [*m{i - 1}, *m{i - 1}]}}\n" for i in range(1, 40)),
        "aliases expanded",
    ),
    "gigantic": ("#" * (64 << 20), "larger than 1 MiB"),
    "NUL": (TINY + "x: \0", "NUL"),
    "a tag": (TINY + "x: !!python/object/apply:os.system [ls]", "unknown tag"),
    "deep lists": ("a: " + "[" * 500_000, "deep"),
    "deep mappings": ("{a: " * 200_000, "deep"),
    "duplicate key": (TINY + "name: again\n", "is already set in line 1"),
    "unknown keys": (TINY + "".join(f"k{i}: 1\n" for i in range(9_000)), "8,900 more problems"),
    "a long key": (TINY + "? " + "k" * 1_000_000 + "\n: 1\n", "more than 5,000 characters"),
    "augmentations": (
        TINY.replace("  limit", f"  augment: [{'cutout, ' * 9_000}]\n  limit"),
        "100 components",
    ),
    "layers": (TINY.replace("[16]", f"[{'1, ' * 19_000}]"), "at most 1000 values"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_hostile_config_is_refused_in_bounded_time_and_memory(
    forks: Forks, tmp_path: Path, name: str
) -> None:
    text, words = BOMBS[name]
    write_tiny(tmp_path, text)
    ended = forks.run(tmp_path, "train", "tiny.yaml", most_seconds=5, most_bytes=200 << 20)
    assert ended.code == 2, ended
    assert words in ended.err
    assert ended.err.startswith("error: ")
    assert len(ended.err) < 50_000
    assert not (tmp_path / "runs").exists()


def npz(folder: Path) -> bytes:
    path = folder / "data.npz"
    draw = np.random.default_rng(0)
    arrays = {f"x_{part}": draw.integers(0, 256, (6, 4, 4), dtype=np.uint8) for part in ("train", "test")} | {
        f"y_{part}": np.arange(6) % 3 for part in ("train", "test")
    }
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return path.read_bytes()


@given(position=st.integers(0, 2**31), piece=st.binary(max_size=9), cut=st.booleans())
@FUZZ
def test_fuzzed_npz(tmp_path: Path, position: int, piece: bytes, cut: bool) -> None:
    content = npz(tmp_path)

    def read(path: Path) -> None:
        dataset = catalog.DATASETS["npz"](path=path)
        assert (len(dataset.train), len(dataset.test)) == (
            6,
            6,
        )  # never an incomplete data set

    survives(read, tmp_path / "data.npz", damaged(content, position, piece, cut))


def test_an_npz_that_expands_to_a_huge_size_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.data.npz._SWOLLEN_BYTES", 1 << 20)
    arrays = {"x_train": np.zeros((4, 1024, 1024), np.uint8), "x_test": np.zeros((1, 1024, 1024), np.uint8)}
    np.savez_compressed(tmp_path / "bomb.npz", **arrays, y_train=np.arange(4), y_test=np.arange(1))
    with pytest.raises(OptlabError, match=r"x_train\.npy decompresses"):
        catalog.DATASETS["npz"](path=tmp_path / "bomb.npz")


HUGE = ["1000000000000000000", "9223372036854775808", "1" + "0" * 40, "-1"]
SIZES = [
    "data.batch_size", "data.limit", "data.pad", "data.resize", "data.val_size", "model.hidden",
    "train.threads", "data.augment=[{name: random_crop, padding: _}]",
    "data.augment=[{name: cutout, size: _}]",
    "model={name: resnet8, width: _}", "model={name: cnn, hidden: _}", "seed", "log.every",
]  # fmt: skip


@pytest.mark.parametrize("key", SIZES)
def test_numbers_too_large_for_memory(tmp_path: Path, key: str) -> None:
    for number in HUGE:
        value = f"[{number}]" if key.endswith("hidden") else number
        override = key.replace("_}", f"{number}}}") if "=" in key else f"{key}={value}"
        done = optlab("validate", write_tiny(tmp_path), override)
        assert done.code in (0, 2), done.err
        assert ("error" in done.err) == (done.code == 2)
        assert "Traceback" not in done.err
