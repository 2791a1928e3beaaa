"""The tables of scikit-learn, the test split of a table, and training on tables: known solutions, models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command import column, optlab, train, write_tiny
from hypothesis import given
from hypothesis import strategies as st

from trainer import catalog
from trainer.data import bundled
from trainer.data.bundled import breast_cancer, diabetes, wine
from trainer.data.check import check_dataset
from trainer.data.dataset import Dataset, split_dataset
from trainer.data.preprocess import dataset_mean_std, make_prepare
from trainer.data.tables import draw_test_rows
from trainer.errors import DataError

BUNDLED = {
    "diabetes": (diabetes, 354, 88, 10, "f30e39cf82d3029c"),
    "wine": (wine, 142, 36, 13, "dc2f620a73e091c0"),
    "breast_cancer": (breast_cancer, 456, 113, 30, "4b83a08efd97b3e3"),
}
CONFIG = """\
name: table
data: {name: wine, batch_size: full, normalize: dataset}
model: {name: linear}
loss: cross_entropy
optimizer: {name: SGD, lr: 0.1, momentum: 0.9}
train: {epochs: 3, threads: 1}
log: {every: 1, plots: []}
"""


def published(name: str) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], list[str] | None]:
    """The table as scikit-learn's own function returns it."""
    from sklearn import datasets

    options = {"scaled": False} if name == "diabetes" else {}
    bunch = getattr(datasets, f"load_{name}")(**options)
    names = None if name == "diabetes" else [str(text) for text in bunch.target_names]
    return bunch.data, bunch.target, names


@pytest.mark.parametrize("name", BUNDLED)
def test_a_bundled_table_is_scikit_learns_split_the_same_for_everybody(name: str) -> None:
    build, train_rows, test_rows, width, digest = BUNDLED[name]
    dataset = build()
    check_dataset(dataset, name)
    assert (len(dataset.train), len(dataset.test), dataset.input_shape) == (train_rows, test_rows, (width,))
    # Pinned: another split would make old results incomparable without a word.
    assert dataset.digest.startswith(digest)
    features, target, names = published(name)
    assert dataset.class_names == (None if names is None else tuple(names))
    together = torch.cat([dataset.train.inputs, dataset.test.inputs]).numpy()
    targets = torch.cat([dataset.train.targets, dataset.test.targets]).flatten().double().numpy()
    if name == "diabetes":
        mean, std = 155.169492, 77.523581
        targets = (targets * std + mean).round()
    ours = sorted(np.column_stack([together, targets]).tolist())
    assert ours == sorted(np.column_stack([features.astype(np.float32), target]).tolist())


def test_diabetes_in_standard_deviations_and_in_its_own_units() -> None:
    standard, raw = diabetes(), diabetes(standardize_target=False)
    assert torch.equal(standard.train.inputs, raw.train.inputs)
    known = raw.train.targets.double()
    expected = (raw.test.targets.double() - known.mean()) / known.std(correction=0)
    torch.testing.assert_close(standard.test.targets, expected.float())
    assert abs(float(standard.train.targets.mean())) < 1e-6
    assert float(standard.train.targets.square().mean()) == pytest.approx(1, abs=1e-6)
    assert (raw.notes, len(standard.notes)) == ((), 1)
    assert "155.169" in standard.notes[0]
    assert standard.digest != raw.digest


@pytest.mark.parametrize("content", [None, b"no\ntable", b"1,2\n3,4\n"])
@pytest.mark.parametrize("name", BUNDLED)
def test_a_table_comes_from_scikit_learns_function_where_its_files_are_not_the_known_ones(
    name: str, content: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if content is not None:
        for file in ("wine_data.csv", "breast_cancer.csv", "diabetes_data_raw.csv.gz"):
            (tmp_path / file).write_bytes(content)
    monkeypatch.setattr(bundled, "_FOLDER", tmp_path)
    assert BUNDLED[name][0]().digest.startswith(BUNDLED[name][4])


@given(
    counts=st.lists(st.integers(0, 20), min_size=1, max_size=6),
    share=st.floats(0.01, 0.99),
    seed=st.integers(0, 2**63 - 1),
)
def test_the_test_split_takes_its_share_of_every_class(counts: list[int], share: float, seed: int) -> None:
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]
    expected = [max(0, min(round(share * count), count - 1)) for count in counts]
    if sum(expected) == 0:
        with pytest.raises(DataError, match="empty test split"):
            draw_test_rows(labels, share, seed)
        return
    drawn = draw_test_rows(labels, share, seed)
    assert torch.bincount(labels[drawn], minlength=len(counts)).tolist() == expected
    assert torch.equal(drawn, draw_test_rows(labels, share, seed))


def test_another_seed_draws_other_test_rows_and_real_targets_are_one_group() -> None:
    targets = torch.zeros(50, 1)
    one, other = draw_test_rows(targets, 0.3, 0), draw_test_rows(targets, 0.3, 1)
    assert (int(one.sum()), int(other.sum())) == (15, 15)
    assert not torch.equal(one, other)


def test_every_column_is_standardized_by_the_training_split_alone() -> None:
    dataset = breast_cancer()
    splits = split_dataset(dataset, val_size=0.25)
    mean, std = dataset_mean_std(splits.train)
    prepare = make_prepare(input_shape=dataset.input_shape, mean=mean, std=std)
    prepared = prepare(splits.train.inputs).double()
    assert prepared.mean(0).abs().max() < 1e-5
    assert (prepared.std(0, correction=0) - 1).abs().max() < 1e-5
    raw = splits.train.inputs.double().numpy()
    expected = (splits.test.inputs.double().numpy() - raw.mean(0)) / raw.std(0)
    assert np.allclose(prepare(splits.test.inputs).numpy(), expected, atol=1e-4)


def least_squares(dataset: Dataset) -> tuple[float, float]:
    """Return the mse of the least-squares solution on the training and on the test split, from NumPy."""
    x, y = dataset.train.inputs.double().numpy(), dataset.train.targets.double().numpy()
    mean, std = x.mean(0), x.std(0)

    def design(inputs: torch.Tensor) -> np.ndarray[Any, Any]:
        standard = (inputs.double().numpy() - mean) / std
        return np.column_stack([standard, np.ones(len(standard))])

    weights = np.linalg.lstsq(design(dataset.train.inputs), y, rcond=None)[0]
    errors = [
        design(split.inputs) @ weights - split.targets.double().numpy()
        for split in (dataset.train, dataset.test)
    ]
    return float((errors[0] ** 2).mean()), float((errors[1] ** 2).mean())


@pytest.mark.parametrize("standardize", [True, False])
def test_lbfgs_reaches_the_least_squares_solution_on_diabetes(tmp_path: Path, standardize: bool) -> None:
    text = CONFIG.replace("wine", f"diabetes, standardize_target: {str(standardize).lower()}")
    text = text.replace("cross_entropy", "mse").replace("epochs: 3", "epochs: 6")
    text = text.replace(
        "{name: SGD, lr: 0.1, momentum: 0.9}", "{name: LBFGS, lr: 1, line_search_fn: strong_wolfe}"
    )
    result = train(write_tiny(tmp_path, text), run_dir=tmp_path / "run")
    train_mse, test_mse = least_squares(diabetes(standardize_target=standardize))
    assert float(column(tmp_path / "run/steps.csv", "loss")[-1]) == pytest.approx(train_mse, rel=1e-5)
    assert result["test"]["loss"] == pytest.approx(test_mse, rel=1e-3)


def test_the_config_of_linear_regression_reaches_the_least_squares_solution(tmp_path: Path) -> None:
    config = Path(__file__).resolve().parents[2] / "configs/diabetes_linear.yaml"
    train(config, "data.val_size=0", "train.epochs=1000", "log.plots=[]", "train.eval_every={epochs: 1000}",
          run_dir=tmp_path / "run")  # fmt: skip
    expected = least_squares(diabetes())[0]
    assert float(column(tmp_path / "run/steps.csv", "loss")[-1]) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("name", ["wine", "breast_cancer"])
def test_a_perceptron_learns_a_table(tmp_path: Path, name: str) -> None:
    text = CONFIG.replace("wine", name).replace("{name: linear}", "{name: mlp, hidden: [32]}")
    result = train(write_tiny(tmp_path, text.replace("epochs: 3", "epochs: 60")), run_dir=tmp_path / "run")
    assert result["test"]["accuracy"] > 0.93
    assert result["final"]["values"]["train_accuracy"] > 0.98


@pytest.mark.parametrize("model", ["linear", "mlp"])
@pytest.mark.parametrize("name", ["diabetes", "wine", "breast_cancer", "csv"])
def test_a_run_on_a_table_trains_and_repeats_itself(name: str, model: str, tmp_path: Path) -> None:
    (tmp_path / "own.csv").write_text("a,c,y\n" + "".join(f"{n},{'uv'[n % 2]},{n / 3}\n" for n in range(40)))
    data = "csv, path: own.csv, target: y, categorical: [c]" if name == "csv" else name
    text = CONFIG.replace("wine", data).replace("linear", model)
    real = catalog.DATASETS[name]().class_names is None if name != "csv" else True
    config = write_tiny(tmp_path, text.replace("cross_entropy", "mse") if real else text)
    first, second = (
        train(config, "data.batch_size=16", "optimizer.lr=0.01", run_dir=tmp_path / run) for run in "ab"
    )
    losses = column(tmp_path / "a/steps.csv", "loss")
    assert float(losses[-1]) < float(losses[0])
    assert losses == column(tmp_path / "b/steps.csv", "loss")
    assert first["final"]["values"] == second["final"]["values"]
    assert ("train_accuracy" in first["final"]["values"]) == (not real)


@pytest.mark.parametrize("change", ["model={name: cnn}", "data.resize=8", "data.augment=[random_crop]"])
def test_what_needs_images_is_refused(change: str, tmp_path: Path) -> None:
    done = optlab("train", write_tiny(tmp_path, CONFIG), change, "--run-dir", tmp_path / "run", "--quiet")
    assert done.code == 2
    assert done.err.startswith("error: ")
    assert not (tmp_path / "run").exists()
