"""Sampling from language models."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trainer.errors import RunError
from trainer.models.outputs import prediction


def sample_tokens(
    model: nn.Module,
    start: Tensor,
    *,
    count: int,
    context: int,
    temperature: float,
    generator: torch.Generator,
    output: str | int | None = None,
) -> Tensor:
    """Extend tokens by a language model: each new one is drawn from softmax(logits / temperature).

    Args:
        model: int64 [N, T] -> logits [N, T, K]; in eval mode.
        start: the first tokens, int64 [T], on the device of the model; at least one.
        count: number of tokens to add.
        context: number of preceding tokens that the model reads.
        temperature: from 0; 0 = the most probable token.
        generator: the random numbers, on the CPU.
        output: which entry of what the model returns are the logits.

    Returns:
        The tokens with `start`, int64 [T + count].

    Raises:
        RunError: the logits are not finite.
    """
    tokens = start
    for _ in range(count):
        with torch.no_grad():
            returned = model(tokens[-context:].unsqueeze(0))
        logits = prediction(returned, output)[0, -1].double().cpu()
        if not logits.isfinite().all():
            raise RunError("the model returns logits that are not finite")
        # The greatest difference is 0, so that no division by a small temperature overflows to infinity.
        differences = logits - logits.max()
        if temperature > 0:
            drawn = torch.multinomial((differences / temperature).softmax(0), 1, generator=generator)
        else:
            drawn = differences.argmax().unsqueeze(0)
        tokens = torch.cat([tokens, drawn.to(tokens.device)])
    return tokens
