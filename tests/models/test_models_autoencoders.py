"""Autoencoders and variational autoencoders: shapes, and the evidence lower bound computed directly."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from command import TINY, optlab, rows, train, write_tiny
from torch import Tensor, nn
from torch.distributions import Bernoulli, Independent, MultivariateNormal, Normal, kl_divergence

from trainer.catalog import MODELS
from trainer.losses import elbo
from trainer.models.autoencoders import Likelihood, Vae, vae
from trainer.training.engines.compiler import compiler

SHAPES = [(1, 28, 28), (1, 8, 8), (3, 7, 5), (1, 1, 1)]


@pytest.mark.parametrize("name", ["autoencoder", "conv_autoencoder", "vae", "conv_vae"])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_output_has_the_size_of_the_sample(name: str, shape: tuple[int, ...]) -> None:
    size = math.prod(shape)
    returned = MODELS[name](shape, size)(torch.rand(3, *shape))
    predicted = returned["output"] if isinstance(returned, dict) else returned
    assert predicted.shape == (3, size)


def test_a_vae_returns_the_mean_of_a_sample_given_the_drawn_variables() -> None:
    model, x = vae((6,), 6, hidden=(5,), latent=2), torch.rand(4, 6)
    torch.manual_seed(1)
    returned = model(x)
    torch.manual_seed(1)
    encoded = model.get_submodule("encoder")(x)
    z = encoded[:, :2] + (encoded[:, 2:] / 2).exp() * torch.randn(4, 2)
    assert torch.allclose(returned["logits"], model.get_submodule("decoder")(z))
    assert torch.allclose(returned["output"], returned["logits"].sigmoid())
    assert isinstance(model, Vae)
    samples = model.sample(7).detach()
    assert samples.shape == (7, 6)
    assert 0 <= float(samples.min()) <= float(samples.max()) <= 1


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
def test_the_loss_is_the_bound_of_torchs_distributions(likelihood: Likelihood) -> None:
    model, x = vae((6,), 6, latent=2, likelihood=likelihood), torch.rand(4, 6)
    returned = model(x)
    if likelihood == "bernoulli":
        x = x.round()  # torch's distribution is of 0 and 1
        given_z = Independent(Bernoulli(logits=returned["logits"]), 1)
    else:
        given_z = Independent(Normal(returned["output"], 0.3), 1)
    posterior = Normal(returned["mean"], (returned["log_variance"] / 2).exp())
    kl = kl_divergence(posterior, Normal(0.0, 1.0)).sum(1)
    for beta in (1.0, 0.5):
        expected = -(given_z.log_prob(x) - beta * kl).mean()
        loss = elbo(beta=beta, std=0.3 if likelihood == "gaussian" else None)(returned["output"], x, returned)
        assert torch.allclose(loss, expected, rtol=1e-5)


def linear_vae(std: float) -> tuple[nn.Module, Tensor, Tensor]:
    """Return a VAE with a linear decoder whose encoder is exact, its decoder's matrix [D, 2] and bias [D].

    With orthogonal columns, the posterior of z has a diagonal covariance, so that the encoder can be exact.
    """
    torch.manual_seed(0)
    model = vae((5,), 5, hidden=(), latent=2, likelihood="gaussian").double()
    w = torch.linalg.qr(torch.randn(5, 2, dtype=torch.float64))[0] * torch.tensor([2.0, 0.5])
    bias = torch.randn(5, dtype=torch.float64)
    variance = 1 / (1 + w.square().sum(0) / std**2)
    decoder, encoder = model.get_submodule("decoder.0"), model.get_submodule("encoder.1")
    assert isinstance(decoder, nn.Linear)
    assert isinstance(encoder, nn.Linear)
    to_mean = variance[:, None] * w.T / std**2
    with torch.no_grad():
        decoder.weight.copy_(w)
        decoder.bias.copy_(bias)
        encoder.weight.copy_(torch.cat([to_mean, torch.zeros(2, 5)]))
        encoder.bias.copy_(torch.cat([-to_mean @ bias, variance.log()]))
    return model, w, bias


def test_the_bound_is_the_likelihood_for_an_exact_encoder_and_below_it_for_another() -> None:
    std, repeats = 0.7, 20_000
    model, w, bias = linear_vae(std)
    x = bias + torch.randn(1, 5, dtype=torch.float64)
    covariance = w @ w.T + std**2 * torch.eye(5, dtype=torch.float64)
    likelihood = float(MultivariateNormal(bias, covariance).log_prob(x))
    batch = x.expand(repeats, 5)

    def bound() -> float:
        with torch.no_grad():
            returned = model(batch)
            return -float(elbo(std=std)(returned["output"], batch, returned))

    assert bound() == pytest.approx(likelihood, abs=0.02)
    encoder = model.get_submodule("encoder.1")
    assert isinstance(encoder, nn.Linear)
    with torch.no_grad():
        encoder.bias += torch.tensor([0.5, 0.0, 0.0, 0.3])
    assert bound() < likelihood - 0.1


def test_the_bound_is_below_an_importance_weighted_estimate_of_the_likelihood() -> None:
    torch.manual_seed(0)
    model = vae((6,), 6, hidden=(8,), latent=2).double()
    x, draws = torch.rand(1, 6, dtype=torch.float64).round(), 50_000
    with torch.no_grad():
        returned = model(x.expand(draws, 6))
        loss = float(elbo()(returned["output"], x.expand(draws, 6), returned))
        # By hand: p(x) is the mean over z from q(z|x) of p(x|z) p(z) / q(z|x).
        mean, log_variance = model.get_submodule("encoder")(x).chunk(2, dim=1)
        std = (log_variance / 2).exp()
        z = mean + std * torch.randn(draws, 2, dtype=torch.float64)
        logits = model.get_submodule("decoder")(z)
        log_p = (x * logits.sigmoid().log() + (1 - x) * (1 - logits.sigmoid()).log()).sum(1)
        log_ratio = (-(z**2) / 2 + ((z - mean) / std) ** 2 / 2 + std.log()).sum(1)
        likelihood = float((log_p + log_ratio).logsumexp(0)) - math.log(draws)
        # The gap is the divergence of q(z|x) from the true posterior: the mean of -log weights.
        gap = likelihood - float((log_p + log_ratio).mean())
    assert gap > 0
    assert -loss == pytest.approx(likelihood - gap, abs=0.02)


CONFIG = TINY.replace("loss: cross_entropy\n", "task: reconstruction\n").replace(
    "  name: mlp\n  hidden: [16]", "  name: vae\n  hidden: [16]\n  latent: 2"
)


def test_evaluations_draw_the_same_numbers_and_leave_those_of_training(tmp_path: Path) -> None:
    config = write_tiny(tmp_path, CONFIG)
    train(config, "optimizer.lr=0", "train.epochs=3", run_dir=tmp_path / "frozen")
    assert len({row["val_loss"] for row in rows(tmp_path / "frozen" / "epochs.csv")}) == 1
    steps = []
    for every in (1, 3):
        run_dir = tmp_path / f"every{every}"
        train(config, "train.epochs=3", f"train.eval_every={{epochs: {every}}}", run_dir=run_dir)
        steps.append([row["loss"] for row in rows(run_dir / "steps.csv")])
    assert steps[0] == steps[1]
    assert len(set(steps[0])) == len(steps[0])


def test_a_vae_resumes_bit_for_bit(tmp_path: Path) -> None:
    config = write_tiny(tmp_path, CONFIG)
    train(config, "train.epochs=4", run_dir=tmp_path / "whole")
    train(config, "train.epochs=2", run_dir=tmp_path / "parts")
    assert optlab("resume", tmp_path / "parts", "train.epochs=4").code == 0
    for table, column in (("steps.csv", "loss"), ("epochs.csv", "val_loss")):
        whole, parts = ([row[column] for row in rows(tmp_path / one / table)] for one in ("whole", "parts"))
        assert whole == parts


@pytest.mark.nightly
@pytest.mark.skipif(compiler() is None, reason="there is no C++ compiler here")
@pytest.mark.parametrize(
    "model", ["{name: vae, latent: 2}", "{name: conv_vae, latent: 2}", "conv_autoencoder"]
)
def test_compiled_steps_are_those_of_eager(model: str, tmp_path: Path) -> None:
    config = write_tiny(tmp_path, CONFIG)
    losses = []
    for engine in ("eager", "compiled"):
        result = train(config, f"model={model}", f"train.engine={engine}", run_dir=tmp_path / engine)
        assert result["engine"] == engine
        losses.append([float(row["loss"]) for row in rows(tmp_path / engine / "steps.csv")])
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["data.normalize=dataset"], "a Bernoulli likelihood needs values in [0, 1]"),
        (["model=mlp", "loss=elbo"], "elbo needs a model that returns a dict with `mean`"),
        (["task=classification"], "vae returns the 64 values of a sample, but 10 outputs are required"),
        (["loss={name: elbo, std: 0.5}"], "a Bernoulli likelihood has no standard deviation"),
        (["model.output=logit"], "with the keys output, logits, mean, log_variance"),
    ],
)
def test_what_a_vae_cannot_be_used_for(overrides: list[str], says: str, tmp_path: Path) -> None:
    done = optlab("validate", write_tiny(tmp_path, CONFIG), *overrides)
    assert done.code == 2
    assert says in done.err


def test_loss_options_without_a_name_are_those_of_the_default_loss(tmp_path: Path) -> None:
    config = write_tiny(tmp_path, CONFIG)
    assert optlab("validate", config, "loss.beta=4").code == 0
    wrong = optlab("validate", config, "loss.label_smoothing=0.1")
    assert (wrong.code, "unknown key 'label_smoothing'" in wrong.err) == (2, True)


def test_the_default_loss_of_a_vae_is_the_bound(tmp_path: Path) -> None:
    result = train(write_tiny(tmp_path, CONFIG), "data.normalize=dataset", "model.likelihood=gaussian",
                   run_dir=tmp_path / "run")  # fmt: skip
    assert "name: elbo" in (tmp_path / "run" / "config.yaml").read_text(encoding="utf-8")
    # 64 values with variance 1: the constant of the density alone is 58.8.
    assert result["test"]["loss"] > 32 * math.log(2 * math.pi)
