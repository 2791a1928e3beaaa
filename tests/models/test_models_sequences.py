"""Models of tokens: published sizes, causality, agreement with the formula of attention, learning."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from trainer.errors import ConfigError
from trainer.models.describe import check_shapes
from trainer.models.recurrent import gru, lstm, rnn
from trainer.models.transformer import transformer
from trainer.seeding import global_stream

BUILDERS: list[Callable[..., nn.Module]] = [transformer, rnn, gru, lstm]
CONTEXT, VOCABULARY = 8, 11


def build(builder: Callable[..., nn.Module], seed: int = 0, **options: object) -> nn.Module:
    small = (
        {"layers": 2, "heads": 2, "width": 16} if builder is transformer else {"hidden": 16, "embedding": 8}
    )
    with global_stream("init", seed):
        return builder((CONTEXT,), VOCABULARY, **{**small, **options})


def tokens(count: int = 3) -> Tensor:
    return torch.randint(VOCABULARY, (count, CONTEXT), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("builder", BUILDERS)
def test_a_model_of_tokens_keeps_the_contract(builder: Callable[..., nn.Module]) -> None:
    model, twin, other = build(builder), build(builder), build(builder, seed=1)
    check_shapes(model, (CONTEXT,), VOCABULARY, tokens=True)
    inputs = tokens()
    assert torch.equal(model(inputs), twin(inputs))
    assert not torch.equal(model(inputs), other(inputs))
    functional.cross_entropy(model(inputs).flatten(0, 1), inputs.flatten()).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []
    with pytest.raises(ConfigError, match="needs tokens"):
        builder((1, 8, 8), 10)


@pytest.mark.parametrize("builder", BUILDERS)
def test_logits_depend_on_earlier_tokens_only(builder: Callable[..., nn.Module]) -> None:
    model, inputs = build(builder, layers=2), tokens()
    changed = inputs.clone()
    changed[:, 5] = (changed[:, 5] + 1) % VOCABULARY
    before, after = model(inputs), model(changed)
    torch.testing.assert_close(before[:, :5], after[:, :5])
    assert not torch.allclose(before[:, 5:], after[:, 5:], atol=1e-5)
    torch.testing.assert_close(model(inputs[:, :3]), before[:, :3])


@pytest.mark.parametrize("builder", BUILDERS)
def test_it_learns_a_sequence_by_heart(builder: Callable[..., nn.Module]) -> None:
    model, inputs = build(builder), tokens(1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(60):
        loss = functional.cross_entropy(model(inputs)[0, :-1], inputs[0, 1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.1


@pytest.mark.parametrize("builder", BUILDERS)
def test_dropout_follows_the_global_generator(builder: Callable[..., nn.Module]) -> None:
    model, inputs = build(builder, layers=2, dropout=0.5), tokens()
    outputs = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        outputs.append(model(inputs))
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])
    model.eval()
    assert torch.equal(model(inputs), model(inputs))


@pytest.mark.parametrize(
    ("layers", "heads", "width", "context", "millions"), [(4, 4, 128, 64, 0.80), (6, 6, 384, 256, 10.65)]
)
def test_the_transformer_has_as_many_parameters_as_nanogpts(
    layers: int, heads: int, width: int, context: int, millions: float
) -> None:
    with torch.device("meta"):
        model = transformer((context,), 65, layers=layers, heads=heads, width=width)
    counted = sum(p.numel() for p in model.parameters()) - context * width  # without positions, as it counts
    assert round(counted / 1e6, 2) == millions


def test_attention_is_the_softmax_of_scaled_products() -> None:
    model = build(transformer, layers=1, bias=True)
    attention = model.get_submodule("blocks.0.attention")
    x = torch.randn(2, CONTEXT, 16)
    q, k, v = (
        part.view(2, CONTEXT, 2, 8).transpose(1, 2)
        for part in attention.get_submodule("queries_keys_values")(x).chunk(3, dim=-1)
    )
    scores = q @ k.transpose(-2, -1) / math.sqrt(8)
    future = torch.ones(CONTEXT, CONTEXT, dtype=torch.bool).triu(1)
    mixed = scores.masked_fill(future, -math.inf).softmax(-1) @ v
    expected = attention.get_submodule("output")(mixed.transpose(1, 2).reshape(2, CONTEXT, 16))
    torch.testing.assert_close(attention(x), expected)


def test_the_initial_weights_have_nanogpts_scales() -> None:
    model = build(transformer, layers=2, width=128, heads=4, bias=True)
    for name, weight in model.named_parameters():
        if weight.ndim == 2:
            adds = name.endswith(("attention.output.weight", "mlp.2.weight"))
            assert float(weight.detach().std()) == pytest.approx(0.01 if adds else 0.02, rel=0.1), name
        elif name.endswith("bias"):
            assert not weight.any(), name
    assert model.get_parameter("tokens.weight") is model.get_submodule("output").weight
    assert "output.weight" in dict(build(transformer, tied=False).named_parameters())
