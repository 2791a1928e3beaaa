"""Settings and fixtures for all tests: hypothesis profiles, real data if available."""

from __future__ import annotations

import atexit
import gc
import os
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("ordinary", max_examples=50, deadline=None)
settings.register_profile("thorough", max_examples=300, deadline=None)  # with --hypothesis-profile=thorough
settings.load_profile("ordinary")

SHARED = Path(__file__).resolve().parents[1].parent / "shared" / "data"


def pytest_collection() -> None:
    """Collect no garbage while pytest collects tests, whose half a million objects are all kept."""
    gc.disable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start with the slowest tests, so that no process waits for another at the end."""
    slow = ("tests/training/engines/", "tests/sweep/")
    items.sort(key=lambda item: not item.nodeid.startswith(slow))


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


def pytest_sessionfinish() -> None:
    """Collect garbage once; pytest then does it five times, which takes seconds with all objects.

    At the end of the process, extension modules report objects that are not released.
    """
    gc.collect()
    gc.freeze()
    atexit.register(gc.unfreeze)


@pytest.fixture(scope="session", autouse=True)
def decoded_sets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache folder of decoded data sets for all tests and their subprocesses, not the user's cache."""
    folder = tmp_path_factory.mktemp("decoded")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPTLAB_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session", autouse=True)
def unsynced_files() -> Iterator[None]:
    """Do not wait for the disk: a training run calls fsync 15 times, and no test cuts the power."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def figures_drawn_here() -> Iterator[None]:
    """Draw the figures of a run in this process: a new one needs longer to start than most tests take."""
    from trainer.runs import drawing

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drawing, "in_child_process", lambda enabled: nullcontext(drawing.draw_run))
        yield


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data next to the checkout; skip the test if it does not exist."""
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
