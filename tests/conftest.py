"""Fixtures for every room: real data where it is, and torch on one thread so that runs are comparable."""

from __future__ import annotations

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[1].parent / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data beside the checkout; the test skips, and says so, where it is absent."""
    if not SHARED.is_dir():
        pytest.skip(f"no real data at {SHARED}")
    return SHARED


@pytest.fixture(scope="session")
def mnist_root(shared_data: Path) -> Path:
    """The root of the official MNIST in torchvision's layout."""
    return shared_data / "mnist"


@pytest.fixture(scope="session")
def cifar_npz(shared_data: Path) -> Path:
    """12,000 CIFAR-10 images in the npz format."""
    return shared_data / "cifar10_jpeg_12k.npz"
