"""channels_last images give the same numbers and do not change the memory layout of the weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trainer.models.convolutional import cnn
from trainer.models.layers import feed_channels_last


def test_a_convolutional_model_computes_the_same() -> None:
    torch.manual_seed(0)
    plain, fed = cnn((3, 32, 32), 10), cnn((3, 32, 32), 10)
    fed.load_state_dict(plain.state_dict())
    assert feed_channels_last(fed, (3, 32, 32))
    images = torch.rand(4, 3, 32, 32)
    for model in (plain, fed):
        model(images).square().sum().backward()
    torch.testing.assert_close(plain(images), fed(images), rtol=1e-4, atol=1e-5)
    for ours, theirs in zip(fed.parameters(), plain.parameters(), strict=True):
        assert ours.is_contiguous()
        assert ours.grad is not None
        assert ours.grad.is_contiguous()  # LBFGS flattens gradients with `view`
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-4)


class Viewing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.convolution(images).view(len(images), -1)


def test_what_cannot_or_need_not_is_left_alone() -> None:
    viewing = Viewing()
    assert not feed_channels_last(viewing, (3, 8, 8))
    assert viewing(torch.rand(2, 3, 8, 8)).shape == (2, 144)
    assert not feed_channels_last(nn.Linear(4, 2), (4,))
    assert not feed_channels_last(nn.Conv2d(1, 2, 3), (1, 8, 8))
