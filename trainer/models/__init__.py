"""Builders of networks.

Every builder takes the shape of one sample and the number of classes, and returns a module that maps a batch
of that shape to logits [N, num_classes]. It draws the initial weights from torch's global generator (see
`trainer.seeding.global_stream`).
"""

from __future__ import annotations

import math

SIZES = ("n_classes", "in_chans", "in_channels")
"""Parameters of users' models that get a size of the data unless the config sets them, see `sizes`."""


def sizes(input_shape: tuple[int, ...], num_classes: int) -> dict[str, int]:
    """Return the values of `SIZES` and of `in_features`; only images [C, H, W] have channels.

    Args:
        input_shape: shape of one preprocessed sample.
        num_classes: number of outputs.
    """
    found = {"n_classes": num_classes, "in_features": math.prod(input_shape)}
    if len(input_shape) == 3:
        found |= {"in_chans": input_shape[0], "in_channels": input_shape[0]}
    return found
