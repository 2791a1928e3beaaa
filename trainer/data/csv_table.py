"""Read a user's table from a .csv file: every column is a number or a category, one column is the target."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from trainer.data.arrays import MAX_CLASSES, IntegerTargets, TargetType, integer_note
from trainer.data.cache import cached
from trainer.data.dataset import Dataset, memory_bytes
from trainer.data.files import user_file
from trainer.data.tables import TestSeed, TestSize, draw_test_rows, table_dataset
from trainer.errors import ConfigError, DataError, unknown_name

if TYPE_CHECKING:
    import pandas as pd

_MEMORY_PER_BYTE = 40  # decoding a file of one-digit cells took 13 bytes of memory per byte of the file
_MOST_ASSUMED_CLASSES = 100  # more different integers may be real values: the config must say which
_MISSING = {"", "na", "n/a", "nan", "null", "none", "?"}  # in a column of numbers, in lower case


@dataclass(frozen=True, slots=True)
class _Column:
    """A column of a file: its name, and its cells without white space around them."""

    file: Path
    name: str
    cells: pd.Series[str]

    def error(self, what: str, *, expected: str = "", fix: str = "") -> DataError:
        return DataError(f"column {self.name!r}: {what}", where=str(self.file), expected=expected, fix=fix)

    def cell(self, index: int) -> str:
        """Return a cell and its row in the file, for a message; row 1 has the names."""
        return f"{self.cells.iloc[index]!r} in row {index + 2}"


def csv(
    *,
    path: str | Path,
    target: str,
    target_type: TargetType = "auto",
    categorical: tuple[str, ...] = (),
    ordinal: Mapping[str, tuple[str, ...]] = {},
    drop: tuple[str, ...] = (),
    separator: Annotated[str, Field(min_length=1, max_length=1)] = ",",
    test_size: TestSize = 0.2,
    test_seed: TestSeed = 0,
    standardize_target: bool = True,
    integer_targets: IntegerTargets = "classes",
) -> Dataset:
    """Return the table of a .csv file: UTF-8, with the names of the columns in the first row.

    Every column except the target is a feature: a number, unless `categorical`, `ordinal` or `drop` lists it.
    Features are stored as they are; `data.normalize: dataset` standardizes every column, also the 0 and 1 of
    categories, by the training split. White space around cells is removed. The test split is drawn with
    `test_seed` and is stratified by class. Errors name rows of the file: row 1 has the names of the columns,
    and blank lines do not count.

    Args:
        path: the file.
        target: name of the column to predict.
        target_type: classes = every different text of the target is a class; real = real values (regression);
            auto = texts are classes, numbers are real values; integers are classes unless the task or the
            loss is one of a regression.
        categorical: columns of categories, encoded one-hot: one feature per category of the training rows.
        ordinal: ordered categories by column, encoded as one feature 0, 1, 2 ... in the order given.
        drop: columns that are not used.
        separator: the character between columns.
        test_size: fraction of the rows, of every class, for the test split.
        test_seed: seed of the test split; the same for all values of `seed`.
        standardize_target: measure real targets in standard deviations from the mean of the training rows
            (validation rows included). Then an mse of 1 is that of always predicting the mean; false = the
            units of the file.
        integer_targets: what integers are with auto.

    Raises:
        ConfigError: a column that an option names does not exist, or two options name it.
        DataError: the file is missing, empty, too large or not a table; names of columns repeat; a cell is
            missing, is not a finite number or not a listed category; a category occurs only in test rows;
            there is one class, or an integer target has so many values that `target_type` must be stated.
    """
    file = user_file(path)
    size, memory = file.stat().st_size, memory_bytes()
    if size > memory // _MEMORY_PER_BYTE:
        raise DataError(
            f"a table of {size / 2**30:,.1f} GiB, with {memory / 2**30:,.1f} GiB of memory",
            where=str(file),
            expected=f"a file that takes 1/{_MEMORY_PER_BYTE} of the memory",
            fix="convert it to an .npz file, which takes less memory to read",
        )
    roles = [("categorical", list(categorical)), ("ordinal", list(ordinal)), ("drop", list(drop))]

    def decode() -> Dataset:
        table = _read(file, separator)
        role_of = _roles(list(table), target, roles)
        targets, class_names, notes = _targets(table[target], target_type, integer_targets)
        test = draw_test_rows(targets, test_size, test_seed)
        features = _features(table, role_of, ordinal, test, file)
        return table_dataset(
            features, targets, class_names, test, standardize_target=standardize_target, notes=notes
        )

    # The import of pandas takes half a second; a run that finds the table in the cache does without.
    options = [
        target,
        target_type,
        integer_targets,
        roles,
        dict(ordinal),
        separator,
        test_size,
        test_seed,
        standardize_target,
    ]
    return cached([file], decode, variant=["csv", json.dumps(options)])


def _read(file: Path, separator: str) -> dict[str, _Column]:
    """Return the columns of a file by name, in their order."""
    import pandas as pd

    try:
        with file.open("rb") as stream:
            frame = pd.read_csv(
                stream,
                sep=separator,
                header=None,  # with a header, pandas renames columns of the same name
                dtype=str,
                keep_default_na=False,
                compression=None,
                encoding="utf-8-sig",
                engine="c",
                low_memory=False,
            )
    except pd.errors.EmptyDataError:
        raise DataError("the file is empty", where=str(file), expected="a row of names, then data") from None
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror or error}", where=str(file)) from error
    except Exception as error:  # for a damaged file, pandas raises many kinds of exceptions
        raise DataError(
            f"not a table: {str(error).strip()}",
            where=str(file),
            expected=f"UTF-8, and in every row the same number of cells, separated by {separator!r}",
            fix="set data.separator if the file has another separator",
        ) from error
    names = [str(cell).strip() for cell in frame.iloc[0]]
    for number, name in enumerate(names, start=1):
        if not name:
            raise DataError(
                f"column {number} has no name",
                where=str(file),
                expected="the names of all columns in the first row",
                fix="name it, or write the file without an index (pandas: to_csv(path, index=False))",
            )
        if name in names[: number - 1]:
            first = names.index(name) + 1
            raise DataError(
                f"columns {first} and {number} have the same name {name!r}",
                where=str(file),
                expected="different names",
            )
    if len(frame) < 2:
        raise DataError(
            f"the table has {len(names)} columns and no rows", where=str(file), expected="rows of data"
        )
    return {name: _Column(file, name, frame.iloc[1:, at].str.strip()) for at, name in enumerate(names)}


def _roles(names: Sequence[str], target: str, options: Sequence[tuple[str, Sequence[str]]]) -> dict[str, str]:
    """Return the option that names a column, for each of these columns."""
    role_of: dict[str, str] = {}
    for option, columns in (("target", [target]), *options):
        for name in columns:
            if name not in names:
                raise unknown_name("column", name, names, key=option)
            if name in role_of:
                raise ConfigError(
                    f"column {name!r} is listed twice: in data.{role_of[name]} and data.{option}",
                    key=option,
                    expected="every column at most once",
                )
            role_of[name] = option
    return role_of


def _targets(
    column: _Column, target_type: TargetType, integer_targets: IntegerTargets
) -> tuple[Tensor, list[str] | None, list[str]]:
    """Return classes, int64 [N], or real targets, float64 [N, 1]; the names of the classes; notes."""
    import pandas as pd

    _check_present(column, {""})
    notes = []
    if target_type == "auto":
        is_number = pd.to_numeric(column.cells, errors="coerce").notna()
        integers = bool(column.cells.str.fullmatch(r"[+-]?[0-9]+").all())
        target_type = "classes" if integers or not is_number.any() else "real"
        if integers and integer_targets == "real":
            target_type = "real"
            notes.append(integer_note(None))
        elif integers:
            count = column.cells.nunique()
            if count > _MOST_ASSUMED_CLASSES:
                raise column.error(
                    f"the target has {count:,} different integers: classes or real values?",
                    fix="set data.target_type=real for a regression, or data.target_type=classes",
                )
            notes.append(integer_note(count))
    if target_type == "real":
        fix = "for a classification, set data.target_type=classes"
        return torch.tensor(_numbers(column, fix))[:, None], None, notes
    names, labels = np.unique(column.cells.to_numpy(dtype=object), return_inverse=True)
    if not 2 <= len(names) <= MAX_CLASSES:
        raise column.error(
            f"the target has {len(names):,} class{'es' if len(names) > 1 else f', {names[0]!r}'}",
            expected=f"2 to {MAX_CLASSES:,} classes",
        )
    values = pd.to_numeric(pd.Series(names), errors="coerce").to_numpy(np.float64)
    if np.isfinite(values).all():  # in the order of the numbers: 2 comes before 10
        order = values.argsort(kind="stable")
        names, labels = names[order], order.argsort()[labels]
    return torch.from_numpy(labels.astype(np.int64)), [str(name) for name in names], notes


def _features(
    table: Mapping[str, _Column],
    role_of: Mapping[str, str],
    ordinal: Mapping[str, Sequence[str]],
    test: Tensor,
    file: Path,
) -> Tensor:
    """Return the features, float32 [N, D], in the order of the columns."""
    parts: list[tuple[NDArray[np.float64] | NDArray[np.int64], int]] = []  # numbers, or categories and count
    for name, column in table.items():
        role = role_of.get(name)
        if role == "categorical":
            parts.append(_categories(column, test.numpy()))
        elif role == "ordinal":
            parts.append((_positions(column, ordinal[name]), 0))
        elif role is None:
            fix = f"add {name!r} to data.categorical (one-hot), data.ordinal or data.drop"
            parts.append((_resolved(column, _numbers(column, fix)), 0))
    if not parts:
        raise DataError("there is no feature", where=str(file), expected="a column beside the target")
    rows, width = len(test), sum(max(count, 1) for _, count in parts)
    if 4 * rows * width > memory_bytes() // 4:  # the splits are copies, and batches need memory too
        raise DataError(
            f"the categories give {width:,} features in {rows:,} rows, more than the memory holds",
            where=str(file),
            fix="drop the columns with the most categories",
        )
    features = np.zeros((rows, width), np.float32)
    at = 0
    for values, count in parts:
        if count:
            features[np.arange(rows), at + values.astype(np.int64)] = 1
        else:
            features[:, at] = values
        at += max(count, 1)
    return torch.from_numpy(features)


def _numbers(column: _Column, fix: str) -> NDArray[np.float64]:
    import pandas as pd

    _check_present(column, _MISSING)
    values: NDArray[np.float64] = pd.to_numeric(column.cells, errors="coerce").to_numpy(np.float64)
    with np.errstate(over="ignore"):  # overflow gives infinity, which is rejected
        wrong = np.flatnonzero(~np.isfinite(values.astype(np.float32)))
    if len(wrong):
        first = int(wrong[0])
        infinite = not np.isnan(values[first])
        raise column.error(
            f"{column.cell(first)} is " + ("infinite (as float32)" if infinite else "not a number"),
            expected="finite numbers",
            fix="" if infinite else fix,
        )
    return values


def _resolved(column: _Column, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Raise DataError if float32 rounds differences of a column by about 1 % or more of their size."""
    spread = values.std()
    if np.ptp(values) > 0 and np.abs(values).max() * np.finfo(np.float32).eps > 0.01 * spread:
        raise column.error(
            f"values around {values.mean():.6g} differ by only {spread:.3g} (the standard deviation), which "
            "float32 cannot represent",
            fix="subtract a constant from the column",
        )
    return values


def _categories(column: _Column, test: NDArray[np.bool_]) -> tuple[NDArray[np.int64], int]:
    """Return the number of every cell's category, and the number of categories in the training rows."""
    import pandas as pd

    _check_present(column, {""})
    known = sorted(column.cells[~test].unique())
    codes = pd.Index(known).get_indexer(pd.Index(column.cells)).astype(np.int64)
    if (codes < 0).any():
        first = int((codes < 0).argmax())
        raise column.error(
            f"the category {column.cell(first)} occurs only in test rows",
            expected="categories that the training rows have",
            fix="merge rare categories, drop the column, or use another data.test_seed",
        )
    return codes, len(known)


def _positions(column: _Column, order: Sequence[str]) -> NDArray[np.int64]:
    import pandas as pd

    _check_present(column, {""})
    if len(set(order)) < len(order):
        raise ConfigError(f"the categories {', '.join(order)} repeat", key="ordinal", expected="each once")
    codes = pd.Index(list(order), dtype=object).get_indexer(pd.Index(column.cells)).astype(np.int64)
    if (codes < 0).any():
        first = int((codes < 0).argmax())
        raise column.error(
            f"{column.cell(first)} is not a category of data.ordinal",
            expected=f"one of {', '.join(order)}",
        )
    return codes


def _check_present(column: _Column, missing: set[str]) -> None:
    absent = column.cells.str.lower().isin(missing).to_numpy()
    if absent.any():
        count = int(absent.sum())
        raise column.error(
            f"{column.cell(int(absent.argmax()))} is a missing value"
            + (f", as in {count:,} of {len(absent):,} rows" if count > 1 else ""),
            expected="a value in every row",
            fix="remove such rows, fill in values, or set data.drop for the column",
        )
