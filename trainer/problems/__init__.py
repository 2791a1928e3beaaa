"""Test functions of two parameters with known minima, to visualize optimizers. No data, no networks."""

from __future__ import annotations

from trainer.problems.surfaces import SURFACES, Surface

__all__ = ["SURFACES", "Surface"]
