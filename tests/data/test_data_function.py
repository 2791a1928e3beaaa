"""Data sets from a user's function: valid return values, and one error message for all others."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from command import TINY, optlab, write_tiny

from trainer import load_config
from trainer.data.dataset import Split, make_dataset
from trainer.data.user_parts import read_parts
from trainer.errors import AbsentDataError
from trainer.training.loaded_data import load_data

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
    found = read_parts(made, where="f", seed=0, identity=[])
    stored = X[:, None] if kind != "bfloat16" else x.bfloat16().float()[:, None].numpy()
    expected = make_dataset(
        Split(torch.from_numpy(stored), y), Split(torch.from_numpy(stored[:9]), y[:9]), ["0", "1", "2"]
    )
    assert found.digest == expected.digest
    assert ["3 classes; task=regression" in note for note in found.notes] == [True]


def test_a_dict_may_have_a_validation_split_and_arrays_that_nothing_reads(tmp_path: Path) -> None:
    path = config(tmp_path, "return dict(x_train=x, y_train=y, x_test=x, y_test=y, x_val=x, y_val=y, ids=y)")
    done = optlab("train", path, "--run-dir", tmp_path / "run", "--json")
    assert done.json["final"]["values"]["val_loss"] > 0
    assert "not used: ids" in done.err


def test_a_whole_data_set_passes_as_it_is() -> None:
    images = torch.from_numpy(X)[:, None]
    made = make_dataset(Split(images, torch.from_numpy(Y)), Split(images, torch.from_numpy(Y)), "abc")
    assert read_parts(made, where="f", seed=0, identity=[]) is made


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("return None", "it returned None"),
        ("return x, y, x, y", "it returned a tuple of 4 (ndarray, ndarray, ndarray, ndarray)"),
        ("return (x, y, x), (x, y)", "its train part is a tuple of 3"),
        ("return 3", "it returned a int"),
        ("yield x", "it returned a generator"),
        ("return torch.utils.data.TensorDataset(t, k)", "it returned a TensorDataset"),
        ("return (x.tolist(), y), (x, y)", "load: x_train: a list of 60"),
        ("return (x, np.array([object()] * 60)), (x, y)", "load: y_train: an array of object"),
        ("return (x, np.int64(3)), (x, y)", "load: y_train: a int64"),
        ("return (x, np.array(3)), (x, y)", "y_train is a single value"),
        ("return (x, y[:7]), (x, y)", "x_train has 60 rows and y_train has 7"),
        ("return (x.astype(int), y), (x, y)", "load: x_train: inputs of type int64"),
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
    assert "tiny.yaml:4: data.name: " in done.err
    assert done.err.count("error:") == 1


def test_an_absent_data_set_of_a_function_stays_one(tmp_path: Path) -> None:
    absent = "from trainer.errors import AbsentDataError; raise AbsentDataError('no file', where='a.npz')"
    loaded = load_config(config(tmp_path, absent))
    with pytest.raises(AbsentDataError, match=r"tiny\.yaml:4: data\.name: a\.npz: no file"):
        load_data(loaded)


# ---- data sets of torch

TORCH = """\
import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

reads = []

class Images(Dataset):
    def __init__(self, count: int, kind: str = "image"):
        self.count, self.kind = count, kind

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        reads.append(index)
        pixels = np.full((5, 5), index % 7, np.uint8)
        image = {"image": Image.fromarray(pixels), "array": pixels, "tensor": torch.from_numpy(pixels)[None],
                 "random": torch.rand(1, 5, 5), "odd": pixels[: 5 - index // 30], "text": "pixels"}[self.kind]
        return (image, index % 3) if self.kind != "alone" else image

def load(kind: str = "image"):
    return Images(60, kind), Images(20, kind)

def with_val():
    return Images(60), Images(10), Images(20)

def loaders():
    return {"train": DataLoader(Images(60)), "validation": Subset(Images(60), range(10)), "test": Images(20)}

def tensors():
    x, y = torch.rand(60, 1, 5, 5), torch.arange(60) % 3
    return TensorDataset(x, y), (x.numpy(), y)

class Parts:
    def __init__(self, size: int = 60):
        self.train, self.val, self.test = Images(size), Images(10), Images(20)

class Selected(Images):
    def __init__(self, train: bool = True, kind: str = "image"):
        super().__init__(60 if train else 20, kind)

class Split(Images):
    def __init__(self, split: str = "train"):
        super().__init__(60 if split == "train" else 20)

class Called:
    def __call__(self):
        return load()

def counts(n: int = 60):
    x = torch.rand(n, 5)
    return (x, 1000 * torch.arange(n)), (x, torch.arange(n))

class Endless(torch.utils.data.IterableDataset):
    def __iter__(self):
        yield from load()[0]

def endless():
    return Endless(), Images(20)
"""


def torch_config(folder: Path, name: str) -> Path:
    path = config(folder, "return None")
    (folder / "my_data.py").write_text(TORCH)
    path.write_text(path.read_text().replace("my_data.py:load", f"my_data.py:{name}"))
    return path


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OPTLAB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize(
    ("name", "val"),
    [
        ("load", None),
        ("with_val", 10),
        ("loaders", 10),
        ("Parts", 10),
        ("Selected", None),
        ("Split", None),
        ("Called", None),
    ],
)
def test_data_sets_of_torch_are_read_once(name: str, val: int | None, tmp_path: Path, cache: Path) -> None:
    loaded = load_config(torch_config(tmp_path, name))
    shown: list[tuple[int, int]] = []
    data = load_data(loaded, progress=lambda *done: shown.append(done))
    train, test = data.dataset.train, data.dataset.test
    assert (train.inputs.shape, test.inputs.shape) == ((60, 1, 5, 5), (20, 1, 5, 5))
    assert train.inputs[:, 0, 0, 0].tolist() == [index % 7 for index in range(60)]
    assert train.targets.tolist() == [index % 3 for index in range(60)]
    assert (None if data.splits.val is None else len(data.splits.val)) == val
    total = 80 + (val or 0)
    assert shown[-1] == (total, total)
    again = load_data(loaded, progress=lambda *done: shown.append(done))
    assert len(shown) == total, "read again instead of from the cache"
    assert again.dataset.digest == data.dataset.digest
    assert len(list(cache.glob("*.set"))) == 1


@pytest.mark.parametrize("kind", ["array", "tensor", "random"])
def test_samples_may_be_arrays_tensors_or_random(kind: str, tmp_path: Path, cache: Path) -> None:
    path = torch_config(tmp_path, "load")
    digests = set()
    for _ in range(2):
        digests.add(load_data(load_config(path, [f"data.kind={kind}"])).dataset.digest)
        for file in cache.glob("*.set"):
            file.unlink()
    assert len(digests) == 1
    image = load_data(load_config(path)).dataset.digest
    assert (digests == {image}) == (kind != "random")


def test_the_cache_is_keyed_by_code_options_and_content(tmp_path: Path, cache: Path) -> None:
    path = torch_config(tmp_path, "load")
    for overrides in (["data.kind=image"], ["data.kind=array"], ["data.split_seed=1"]):
        load_data(load_config(path, overrides))
    assert len(list(cache.glob("*.set"))) == 3
    source = tmp_path / "my_data.py"
    source.write_text(TORCH.replace("index % 7", "index % 5"))
    changed = load_data(load_config(path)).dataset.train.inputs
    assert changed[:, 0, 0, 0].tolist() == [index % 5 for index in range(60)]


def test_pairs_and_data_sets_of_torch_can_be_mixed(tmp_path: Path) -> None:
    data = load_data(load_config(torch_config(tmp_path, "tensors")))
    assert torch.equal(data.dataset.train.inputs, data.dataset.test.inputs)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("{name: my_data.py:load, kind: odd}", "the input of sample 30 is uint8 [4, 5], that of sample 0"),
        ("{name: my_data.py:load, kind: text}", "input 0 is a str"),
        ("{name: my_data.py:load, kind: alone}", "(my_data.py:18)"),
        ("my_data.py:endless", "its train part is a Endless"),
    ],
)
def test_what_cannot_be_read_is_reported(name: str, told: str, tmp_path: Path, cache: Path) -> None:
    path = torch_config(tmp_path, "load")
    done = optlab("validate", path, f"data={name.replace('my_data.py', str(tmp_path / 'my_data.py'))}")
    assert done.code == 2
    assert told.replace("(my_data.py", f"({tmp_path / 'my_data.py'}") in done.err
    assert done.err.count("error:") == 1


@pytest.mark.parametrize(
    "overrides", [["loss=mse"], ["loss=bce_with_logits", "task=regression"], ["loss=torch.nn:L1Loss"]]
)
def test_integers_are_real_values_if_the_loss_or_the_task_is_one_of_a_regression(
    overrides: list[str], tmp_path: Path
) -> None:
    path = torch_config(tmp_path, "counts")
    data = load_data(load_config(path, overrides)).dataset
    assert (data.task, data.class_names, data.train.targets[7].item()) == ("regression", None, 7000.0)
    done = optlab("train", path, *overrides, "optimizer.lr=1e-9", "--run-dir", tmp_path / "run")
    assert done.code == 0, done.err
    assert "real values; task=classification" in done.err
    classes = load_data(load_config(path, [*overrides[:1], "task=classification"])).dataset
    assert classes.task == "classification"
    assert load_data(load_config(path)).dataset.task == "classification"


def test_the_test_split_can_be_the_validation_split(tmp_path: Path) -> None:
    path = torch_config(tmp_path, "load")
    run = tmp_path / "run"
    done = optlab("train", path, "data.val_from=test", "--run-dir", run)
    assert done.code == 0, done.err
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    assert summary["test"]["used_for"] == "validation"
    assert summary["best"]["values"]["val_loss"] == summary["test"]["loss"]
    assert "also used for validation" in done.out
    assert "data.val_from=test" in done.err
    note = "all runs used the test split for validation"
    assert note in optlab("compare", run).err
    optlab("report", run, "-o", tmp_path / "report.html")
    assert note in (tmp_path / "report.html").read_text(encoding="utf-8")
    other = optlab("train", path, "optimizer.lr=0.02", "data.val_size=5", "--run-dir", tmp_path / "other")
    assert other.code == 0, other.err
    assert "test split for validation" not in optlab("compare", tmp_path / "other").err
    assert "used the test split for validation" in optlab("compare", run, tmp_path / "other").err
    own_val = f"data.name={tmp_path / 'my_data.py'}:with_val"
    for override, key in (("data.val_size=5", "data.val_size=0"), (own_val, "data.val_from=random")):
        done = optlab("validate", path, "data.val_from=test", override)
        assert done.code == 2
        assert key in done.err
