"""Every experiment in configs/ validates and trains a few steps, on data of the same shape as its own."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from trainer.catalog import find, load_config
from trainer.data.dataset import Dataset, split_dataset
from trainer.records import StepRecord
from trainer.training.building import build_experiment
from trainer.training.loaded_data import LoadedData
from trainer.training.loop import train

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = (ROOT / "configs", ROOT / "configs/lessons", ROOT / "configs/init")
FILES = sorted(
    file for folder in FOLDERS for file in folder.glob("*.yaml") if not file.stem.startswith("sweep")
)
NAMES = [str(path.relative_to(ROOT)) for path in FILES]
PROMISED = {
    *("quickstart", "mnist_mlp", "sgd", "sgd_momentum", "nesterov", "adagrad", "rmsprop", "adam", "adamw"),
    *("adadelta", "muon_adamw", "cifar10_cnn", "cifar10_resnet", "fashion_2c2d", "diabetes_linear"),
    *("shakespeare_transformer", "quadratic_deep", "mnist_vae"),
}
# The schedules stay as they are shipped: the run is not shortened but left after three steps.
QUICK = ("log.every=1", "train.threads=1")


def test_what_the_project_promises_is_there() -> None:
    assert {path.stem for path in FILES} >= PROMISED


@pytest.fixture(scope="module")
def stand_ins(mnist_root: Path, cifar_npz: Path, shared_data: Path) -> Mapping[str, Dataset]:
    """Data of the shape of every set that the configs name, read once."""
    mnist = find("dataset", "mnist")(root=mnist_root, download=False)
    cifar10 = find("dataset", "npz")(path=cifar_npz)
    bundled = {name: find("dataset", name)() for name in ("digits", "diabetes", "quadratic")}
    shakespeare = find("dataset", "tiny_shakespeare")(root=shared_data, download=False)
    images = {"mnist": mnist, "fashion_mnist": mnist, "cifar10": cifar10}
    return {**images, **bundled, "tiny_shakespeare": shakespeare}


@pytest.mark.real_data
@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_a_shipped_config_validates_and_trains(path: Path, stand_ins: Mapping[str, Dataset]) -> None:
    smaller = ("data.batch_size=8",) if "resnet" in path.stem else ()  # 3 x 64 images at 96 pixels take 10 s
    own_val = path.stem in ("shakespeare_transformer", "quadratic_deep")
    val = () if own_val else ("data.val_size=20",)
    loaded = load_config(path, (*QUICK, *smaller, *val))
    data = loaded.config.data
    dataset = stand_ins[data.name]
    splits = split_dataset(dataset, val_size=data.val_size, val_from=data.val_from, limit=data.limit)
    experiment = build_experiment(loaded, loaded_data=LoadedData(dataset, splits))
    records = train(experiment)
    losses = []
    for record in records:
        losses += [record.values["loss"]] if isinstance(record, StepRecord) else []
        if experiment.progress.step == 3:
            break
    records.close()
    assert len(losses) == 3
    assert all(loss is not None and math.isfinite(loss) for loss in losses)


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_a_shipped_config_begins_with_what_it_is(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    first = next(line for line in text.splitlines() if "yaml-language-server" not in line)
    assert re.match(r"# \S.{15,}[.,:;a-z]$", first), f"{path} begins with {first!r}"
    assert not re.search(r"\t|[ ]$", text, flags=re.MULTILINE)
