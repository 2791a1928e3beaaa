"""The csv reader: every kind of column and target, and an error for every fault."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command import optlab, train, write_tiny
from hypothesis import given
from hypothesis import strategies as st

from trainer.data import csv_table
from trainer.data.check import check_dataset
from trainer.data.csv_table import csv
from trainer.data.dataset import Dataset
from trainer.errors import OptlabError

SIZES = ("small", "medium", "large")
HEADER = "number,kind,size,id,y"
ROWS = [f"{n / 4},{'abc'[n % 3]},{SIZES[n % 3 - 1]},n{n},{n * n / 3}" for n in range(20)]
TEXT = "\n".join([HEADER, *ROWS]) + "\n"
OPTIONS: dict[str, Any] = {
    "target": "y", "categorical": ("kind",), "ordinal": {"size": SIZES}, "drop": ("id",)
}  # fmt: skip
CONFIG = """\
name: own
data: {name: csv, path: own.csv, target: y, normalize: dataset, batch_size: 4}
model: linear
loss: mse
optimizer: {name: SGD, lr: 0.05}
train: {epochs: 1, threads: 1}
log: {plots: []}
"""


def read(folder: Path, text: str | bytes, **options: Any) -> Dataset:
    file = folder / "own.csv"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    dataset = csv(path=file, **({"target": "y"} | options))
    check_dataset(dataset, "csv")
    return dataset


def whole(dataset: Dataset) -> list[list[float]]:
    """Return all rows, features then target, in the order of the first feature."""
    parts = [torch.column_stack([split.inputs, split.targets]) for split in (dataset.train, dataset.test)]
    return sorted(torch.cat(parts).tolist())


def test_every_kind_of_column(tmp_path: Path) -> None:
    dataset = read(tmp_path, TEXT, **OPTIONS, standardize_target=False)
    assert (len(dataset.train), len(dataset.test), dataset.input_shape) == (16, 4, (5,))
    assert dataset.class_names is None
    expected = [
        [n / 4, *(float(n % 3 == k) for k in range(3)), (n % 3 - 1) % 3, np.float32(n * n / 3)]
        for n in range(20)
    ]
    assert whole(dataset) == expected


def test_a_constant_column_is_no_error(tmp_path: Path) -> None:
    assert (
        read(tmp_path, "x,y\n" + "".join(f"0.1,{n}.5\n" for n in range(23))).train.inputs.unique().numel()
        == 1
    )


def test_real_targets_are_in_standard_deviations_of_the_training_rows(tmp_path: Path) -> None:
    standard, raw = (
        read(tmp_path, TEXT, **OPTIONS, standardize_target=standardize) for standardize in (True, False)
    )
    known = raw.train.targets.double()
    expected = (raw.test.targets.double() - known.mean()) / known.std(correction=0)
    torch.testing.assert_close(standard.test.targets, expected.float())
    assert f"{float(known.mean()):.6g}" in standard.notes[0]


@pytest.mark.parametrize(
    ("cells", "options", "names"),
    [
        (["b", "a", "b", "c"] * 5, {}, ("a", "b", "c")),
        (["10", "9", "-2", "9"] * 5, {}, ("-2", "9", "10")),
        (["1.5", "0.5", "1.5", "0.5"] * 5, {"target_type": "classes"}, ("0.5", "1.5")),
        (["1", "2", "unknown", "NA"] * 5, {"target_type": "classes"}, ("1", "2", "NA", "unknown")),
        (["1.5", "2", "3", "4"] * 5, {}, None),
        (["1", "2", "3", "4"] * 5, {"target_type": "real"}, None),
    ],
)
def test_the_task_follows_from_the_target_or_is_stated(
    tmp_path: Path, cells: list[str], options: Any, names: Any
) -> None:
    text = "x,y\n" + "".join(f"{n},{cell}\n" for n, cell in enumerate(cells))
    dataset = read(tmp_path, text, **options, standardize_target=False)
    assert dataset.class_names == names
    found = [row[1] for row in whole(dataset)]
    assert found == [float(cell) if names is None else names.index(cell) for cell in cells]
    assert bool(dataset.notes) == (names == ("-2", "9", "10"))  # integers as classes are reported


@pytest.mark.parametrize(
    "text",
    [
        TEXT.replace("\n", "\r\n"),
        "\ufeff" + TEXT,
        TEXT.replace(",", " , "),
        TEXT + "\n\n",
        TEXT.replace("small", '"small"'),
        TEXT.replace("\n0.25,", "\n25e-2,"),
    ],
    ids=["CRLF", "byte-order mark", "spaces", "blank lines", "quotes", "exponent"],
)
def test_the_same_table_written_differently(tmp_path: Path, text: str) -> None:
    assert read(tmp_path, text, **OPTIONS).digest == read(tmp_path, TEXT, **OPTIONS).digest


def test_options_change_the_data_and_the_cache_keeps_them_apart(tmp_path: Path) -> None:
    changes: list[dict[str, Any]] = [
        {}, {"test_seed": 1}, {"test_size": 0.3}, {"standardize_target": False},
        {"ordinal": {"size": SIZES[::-1]}}, {"drop": ("id", "number")},
    ]  # fmt: skip
    digests = [read(tmp_path, TEXT, **OPTIONS | change).digest for change in changes]
    assert len(set(digests)) == len(changes)
    assert digests == [read(tmp_path, TEXT, **OPTIONS | change).digest for change in changes]
    assert read(tmp_path, TEXT.replace(",", ";"), **OPTIONS, separator=";").digest == digests[0]


def changed(number: int, column: int, cell: str) -> str:
    cells = [row.split(",") for row in ROWS]
    cells[number][column] = cell
    return "\n".join([HEADER, *(",".join(row) for row in cells)])


@pytest.mark.parametrize(
    ("text", "options", "says"),
    [
        ("", {}, "own.csv: the file is empty"),
        ("\n\n", {}, "own.csv: the file is empty"),
        (HEADER, {}, "5 columns and no rows"),
        (TEXT.encode("utf-16"), {}, "not a table"),
        (TEXT + "1,2,3,4,5,6\n", {}, "not a table"),
        (TEXT.replace("id", "kind", 1), {}, "columns 2 and 4 have the same name 'kind'"),
        (TEXT.replace("number", "", 1), {}, "column 1 has no name"),
        (TEXT, {"target": "Y_"}, "target: unknown column 'Y_'"),
        (TEXT, {"target": "siz"}, "did you mean 'size'?"),
        (TEXT, {"categorical": ("kinds",)}, "categorical: unknown column 'kinds'"),
        (TEXT, {"drop": ("y",)}, "'y' is listed twice: in data.target and data.drop"),
        (TEXT, {"categorical": ()}, "column 'kind': 'a' in row 2 is not a number"),
        (TEXT, {"categorical": ()}, "add 'kind' to data.categorical"),
        (TEXT, {"drop": ("id", "number", "kind", "size"), "categorical": (), "ordinal": {}}, "no feature"),
        (changed(4, 0, ""), {}, "column 'number': '' in row 6 is a missing value"),
        (changed(4, 0, "NA"), {}, "column 'number': 'NA' in row 6 is a missing value"),
        (changed(4, 1, ""), {}, "column 'kind': '' in row 6 is a missing value"),
        (changed(4, 4, ""), {}, "column 'y': '' in row 6 is a missing value"),
        (TEXT + "1,a,small\n", {}, "column 'y': '' in row 22 is a missing value"),
        (changed(4, 0, "inf"), {}, "column 'number': 'inf' in row 6 is infinite"),
        (changed(4, 4, "-1e39"), {}, "column 'y': '-1e39' in row 6 is infinite"),
        (changed(4, 4, "many"), {}, "column 'y': 'many' in row 6 is not a number"),
        (changed(4, 2, "huge"), {}, "column 'size': 'huge' in row 6 is not a category of data.ordinal"),
        (TEXT, {"ordinal": {"size": (*SIZES, "small")}}, "small repeat"),
        (TEXT, {"drop": (), "categorical": ("kind", "id")}, "occurs only in test rows"),
        (TEXT, {"test_size": 0.01}, "test_size: test_size 0.01 of 20 rows leaves an empty test split"),
        (
            changed(4, 0, "").replace("\n0.5,", "\nnan,"),
            {},
            "'nan' in row 4 is a missing value, as in 2 of 20",
        ),
        ("x,y\n1,a\n2,a\n3,a\n", {}, "column 'y': the target has 1 class, 'a'"),
        ("x,y\n" + "1,1.5\n" * 9, {}, "target: the targets of all 7 training rows are 1.5"),
        ("x,y\n" + "".join(f"1,{n}\n" for n in range(101)), {}, "101 different integers"),
        ("x,y\n" + "".join(f"{1e9 + n},{n / 2}\n" for n in range(9)), {}, "float32 cannot represent"),
    ],
)
def test_an_error_for_every_fault(tmp_path: Path, text: str | bytes, options: Any, says: str) -> None:
    base = OPTIONS if not isinstance(text, str) or text.startswith(HEADER[:6]) else {}
    with pytest.raises(OptlabError) as error:
        read(tmp_path, text, **base | options)
    assert says in str(error.value)
    assert len(error.value.problems) == 1
    assert error.value.exit_code == 2


def test_a_file_that_is_absent_not_regular_or_too_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(OptlabError, match="path: there is no file"):
        csv(path=tmp_path / "absent.csv", target="y")
    os.mkfifo(tmp_path / "pipe")
    for path, what in ((tmp_path, "a directory"), (tmp_path / "pipe", "a pipe")):
        with pytest.raises(OptlabError, match=what):
            csv(path=path, target="y")
    monkeypatch.setattr(csv_table, "memory_bytes", lambda: 1000)
    with pytest.raises(OptlabError, match="GiB of memory"):
        read(tmp_path, TEXT, **OPTIONS)
    monkeypatch.setattr(csv_table, "_MEMORY_PER_BYTE", 1)
    many = "c,y\n" + "".join(f"{n % 5},{n}.5\n" for n in range(60))
    with pytest.raises(OptlabError, match="the categories give 5 features in 60 rows"):
        read(tmp_path, many, categorical=("c",))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ("target: z", "own.yaml:2: data.target: unknown column 'z'"),
        ("target: y, categorical: [z]", "own.yaml:2: data.categorical: unknown column 'z'"),
        ("target: y, test_size: 1.5", "own.yaml:2: data.test_size"),
        ("target: y, separator: ';;'", "own.yaml:2: data.separator"),
        ("categorical: [kind]", "target"),
        ("target: y", "own.csv: data: column 'kind': 'a' in row 2"),
    ],
)
def test_a_faulty_table_leaves_no_run(tmp_path: Path, data: str, says: str) -> None:
    (tmp_path / "own.csv").write_text(TEXT)
    config = write_tiny(tmp_path, CONFIG.replace("target: y", data), "own.yaml")
    done = optlab("train", config, "--runs", tmp_path / "runs", "--quiet")
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("error: ")
    assert says in done.err
    assert not (tmp_path / "runs").exists()


def test_the_content_of_the_file_is_part_of_the_identity(tmp_path: Path) -> None:
    (tmp_path / "own.csv").write_text("x,y\n" + "".join(f"{n},{n * n}.5\n" for n in range(20)))
    config = write_tiny(tmp_path, CONFIG)
    train(config, run_dir=tmp_path / "run")
    again = ("train", config, "--run-dir", tmp_path / "run", "--skip-existing", "--quiet")
    assert optlab(*again).code == 0
    (tmp_path / "own.csv").write_text("x,y\n" + "".join(f"{n},{n**3}.5\n" for n in range(20)))
    done = optlab(*again)
    assert done.code == 2
    assert "data" in done.err


@given(numbers=st.lists(st.floats(-1e6, 1e6, width=32), min_size=8, max_size=20), seed=st.integers(0, 99))
def test_numbers_are_read_exactly(
    tmp_path_factory: pytest.TempPathFactory, numbers: list[float], seed: int
) -> None:
    folder = tmp_path_factory.mktemp("numbers")
    numbers = [0.0, *numbers, 2e6]  # so that the column is not constant but for rounding
    text = "x,y\n" + "".join(f"{number!r},{n}.5\n" for n, number in enumerate(numbers))
    dataset = read(folder, text, test_seed=seed, standardize_target=False)
    found = {float(y): float(x) for x, y in whole(dataset)}
    assert found == {n + 0.5: number for n, number in enumerate(numbers)}
