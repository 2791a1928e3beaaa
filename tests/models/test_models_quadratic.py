"""The quadratic objective: its formula, its spectrum, and gradient descent on it in closed form."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from command import optlab, rows, train, write_tiny
from torch import Tensor

from trainer.data.noise import quadratic as noise
from trainer.models.quadratic import quadratic

CONFIG = """\
name: quadratic
data: {name: quadratic, dim: 20, samples: 200, batch_size: full}
model: quadratic
optimizer: {name: SGD, lr: 0.02}
train: {steps: 40, threads: 1, eval_every: {steps: 10}}
log: {plots: []}
"""


def spectrum(**options: Any) -> Tensor:
    hessian = quadratic((100,), **options).hessian
    assert isinstance(hessian, Tensor)
    return torch.linalg.eigvalsh(hessian.double())


def test_the_output_is_the_formula_and_the_gradient_is_that_of_the_mean() -> None:
    model, x = quadratic((20,)), noise(dim=20).train.inputs[:16].double()
    model.double()
    theta, hessian = model.theta, model.hessian
    assert isinstance(theta, Tensor)
    assert isinstance(hessian, Tensor)

    def value(of: Tensor) -> Tensor:
        return 0.5 * torch.einsum("ni,ij,nj->n", of, hessian, of)

    outputs = model(x)
    assert torch.allclose(outputs, (value(theta - x) - value(-x)).unsqueeze(1), rtol=1e-5)
    outputs.mean().backward()
    assert theta.grad is not None
    assert torch.allclose(theta.grad, hessian @ (theta - x.mean(0)).detach(), rtol=1e-4)


def test_the_default_spectrum_is_that_of_deepobs() -> None:
    values = spectrum()
    assert ((values > 0) & (values < 1)).sum() == 90
    assert ((values >= 30) & (values <= 60)).sum() == 10


def test_a_chosen_spectrum_is_kept_by_the_rotation() -> None:
    chosen = torch.linspace(1, 50, 100)
    assert torch.allclose(spectrum(eigenvalues=chosen.tolist()), chosen.double(), rtol=1e-4)
    diagonal = quadratic((100,), eigenvalues=chosen.tolist(), rotate=False).hessian
    assert isinstance(diagonal, Tensor)
    assert torch.equal(diagonal, torch.diag(chosen))


def test_the_noise_has_mean_0_and_the_chosen_deviation_in_each_split() -> None:
    data = noise(dim=50, noise=0.3)
    assert data.val is not None
    for split in (data.train, data.val, data.test):
        assert float(split.inputs.mean(0).abs().max()) < 1e-7
        assert float(split.inputs.std()) == pytest.approx(0.3, rel=0.02)
    assert not torch.equal(data.train.inputs, data.test.inputs)
    assert data.digest == noise(dim=50, noise=0.3).digest != noise(dim=50, noise=0.3, noise_seed=1).digest


def test_gradient_descent_agrees_with_its_closed_form(tmp_path: Path) -> None:
    result = train(write_tiny(tmp_path, CONFIG), run_dir=tmp_path / "run")
    hessian = quadratic((20,)).hessian
    assert isinstance(hessian, Tensor)
    values, vectors = torch.linalg.eigh(hessian.double())
    start = vectors.T @ torch.ones(20, dtype=torch.float64)

    def expected(step: int) -> float:
        return float((values * ((1 - 0.02 * values) ** step * start).square()).sum() / 2)

    measured = {
        int(row["step"]): float(row["val_suboptimality"]) for row in rows(tmp_path / "run/epochs.csv")
    }
    assert set(measured) == {0, 10, 20, 30, 40}
    for step, value in measured.items():
        assert value == pytest.approx(expected(step), rel=1e-4, abs=1e-7)
    assert result["test"]["suboptimality"] == pytest.approx(expected(40), rel=1e-4)
    assert result["test"]["loss"] == pytest.approx(result["test"]["suboptimality"], rel=1e-5)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.eigenvalues=[1, 2]", "there are 2 eigenvalues for 20 parameters"),
        ("model.eigenvalues=[-1]", "eigenvalues"),
        ("data={name: digits}", "the samples have shape"),
        ("data.normalize=dataset", "cannot be changed by data.normalize"),
        ("task=classification", "the data set is for objective, not for classification"),
    ],
)
def test_what_does_not_fit_gets_one_message(tmp_path: Path, override: str, message: str) -> None:
    done = optlab("validate", write_tiny(tmp_path, CONFIG), override)
    assert done.code == 2, done.err
    assert message in done.err
