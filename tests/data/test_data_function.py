"""Data sets from a user's function: valid return values, and one error message for all others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from command import TINY, optlab, write_tiny

from trainer.data.arrays import dataset_of
from trainer.data.dataset import Split, make_dataset

RNG = np.random.default_rng(0)
X = RNG.integers(0, 256, (60, 4, 4), dtype=np.uint8)
Y = RNG.integers(0, 3, 60)
HEAD = """\
import numpy as np
import torch
from trainer.data.dataset import Dataset, Split

x = np.zeros((60, 4, 4), np.uint8)
y = np.arange(60) % 3
t, k = torch.from_numpy(x)[:, None], torch.from_numpy(y)


def load(*, scale: float = 1.0):
    RETURN
"""


def config(folder: Path, body: str) -> Path:
    """Write a data function and a config that uses it."""
    (folder / "my_data.py").write_text(HEAD.replace("RETURN", body))
    text = TINY.replace("name: digits", "name: my_data.py:load").replace("val_size: 100", "val_size: 0")
    return write_tiny(folder, text.replace("limit: 200", "limit: 40"))


@pytest.mark.parametrize("kind", ["pairs", "lists", "dict", "tensors", "bfloat16"])
def test_arrays_are_read_as_those_of_an_npz_file_are(kind: str) -> None:
    x, y = torch.from_numpy(X), torch.from_numpy(Y)
    made = {
        "pairs": ((X, Y), (X[:9], Y[:9])),
        "lists": [[X, y], [x[:9], Y[:9]]],
        "dict": {"x_train": X, "y_train": Y, "x_test": X[:9], "y_test": Y[:9]},
        "tensors": ((x, y), (x[:9], y[:9])),
        "bfloat16": ((x.bfloat16(), y), (x[:9].bfloat16(), y[:9])),
    }[kind]
    found = dataset_of(made, where="f")
    stored = X[:, None] if kind != "bfloat16" else x.bfloat16().float()[:, None].numpy()
    expected = make_dataset(
        Split(torch.from_numpy(stored), y), Split(torch.from_numpy(stored[:9]), y[:9]), ["0", "1", "2"]
    )
    assert found.digest == expected.digest
    assert ["floating-point targets for a regression" in note for note in found.notes] == [True]


def test_a_dict_may_have_a_validation_split_and_arrays_that_nothing_reads(tmp_path: Path) -> None:
    path = config(tmp_path, "return dict(x_train=x, y_train=y, x_test=x, y_test=y, x_val=x, y_val=y, ids=y)")
    done = optlab("train", path, "--run-dir", tmp_path / "run", "--json")
    assert done.json["final"]["values"]["val_loss"] > 0
    assert "not used: ids" in done.err


def test_a_whole_data_set_passes_as_it_is() -> None:
    images = torch.from_numpy(X)[:, None]
    made = make_dataset(Split(images, torch.from_numpy(Y)), Split(images, torch.from_numpy(Y)), "abc")
    assert dataset_of(made, where="f") is made


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("return None", "it returned None"),
        ("return x, y, x, y", "it returned a tuple of 4 (ndarray, ndarray, ndarray, ndarray)"),
        ("return (x, y, x), (x, y)", "it returned a tuple of 2"),
        ("return 3", "it returned a int"),
        ("yield x", "it returned a generator"),
        ("return torch.utils.data.TensorDataset(t, k)", "it returned a TensorDataset"),
        ("return (x.tolist(), y), (x, y)", "load: x_train: a list of 60"),
        ("return (x, np.array([object()] * 60)), (x, y)", "load: y_train: an array of object"),
        ("return (x, np.int64(3)), (x, y)", "load: y_train: a int64"),
        ("return (x, np.array(3)), (x, y)", "y_train is a single value"),
        ("return (x, y[:7]), (x, y)", "x_train has 60 rows and y_train has 7"),
        ("return dict(x_train=x)", "no array y_train, x_test, y_test"),
        ("return dict(x_train=x, y_train=y, x_test=x, y_test=y, x_val=x)", "x_val without y_val"),
        ("return Dataset(None, Split(t, k), ('a', 'b', 'c'), 'd')", "train is a NoneType"),
        ("return Dataset(Split(t, k), Split(t, k), ('a', 'b', 'c'), None)", "digest is a NoneType"),
        (
            "return Dataset(Split(t[:, 0], k), Split(t, k), ('a', 'b', 'c'), 'd')",
            "train.inputs is uint8 [60, 4, 4]",
        ),
        (
            "return Dataset(Split(t, k), Split(t.float(), k), ('a', 'b', 'c'), 'd')",
            "training and test have different types",
        ),
        ("return Dataset(Split(t, k), Split(t, k), None, 'd')", "train.targets is int64 [60]"),
        ("return Dataset(Split(t, k), Split(t, k), ('a',), 'd')", "train.targets has values from 0 to 2"),
        ("return Dataset(Split(t, k), Split(t, k), ('a', 'b', 'c'), 'd', val=t)", "val is a Tensor"),
        ("raise KeyError('x')", "my_data.py:11)"),
        ("return Split(t, k[:3])", "my_data.py:11)"),
    ],
)
def test_anything_else_gets_one_message_with_what_to_return(tmp_path: Path, body: str, told: str) -> None:
    done = optlab("validate", config(tmp_path, body))
    assert done.code == 2
    assert told in done.err
    assert "my_data.py" in done.err
    assert done.err.count("error:") == 1
