"""Problems of two parameters with known minima, to watch optimizers on. No data, no networks."""

from __future__ import annotations

from trainer.problems.surfaces import SURFACES, Surface

__all__ = ["SURFACES", "Surface"]
