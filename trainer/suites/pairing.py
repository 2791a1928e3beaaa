"""The proof that runs are paired: a digest of what optimizers share for the same seed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import islice

import torch

from trainer.sweep.models import Sweep, Variant
from trainer.sweep.plan import RunSpec, SharedData, load_run_config, spec_for
from trainer.training.building import build_experiment

NUM_BATCHES = 20
"""Number of steps whose batches are part of a digest."""


def pairing_digests(sweep: Sweep, variant: Variant, shared_data: SharedData) -> dict[int, str]:
    """Return a digest per final seed: SHA-256 of the data, the initial weights and the first batches.

    Runs with the same digest have the same data, start at the same weights and use the same batches, whatever
    their optimizer.

    Args:
        sweep: the sweep of a problem.
        variant: a variant of it, whose optimizer is built but not used.
        shared_data: the data of the sweep.
    """
    return {seed: _digest(sweep, variant, seed, shared_data) for seed in sweep.final_seeds}


def _digest(sweep: Sweep, variant: Variant, seed: int, shared_data: SharedData) -> str:
    loaded = load_run_config(sweep, first_final(sweep, variant, seed))
    experiment = build_experiment(loaded, loaded_data=shared_data.loaded_data(loaded))
    digest = hashlib.sha256(shared_data.loaded_data(loaded).dataset.digest.encode())
    for name, tensor in experiment.model.state_dict().items():
        digest.update(name.encode())
        _add(digest, tensor)
    for step in islice(experiment.remaining_batches(), NUM_BATCHES):
        for batch in step:
            for tensor in batch:
                _add(digest, tensor)
    return digest.hexdigest()


def first_final(sweep: Sweep, variant: Variant, seed: int) -> RunSpec:
    """Return the final run of a variant with the first value of every axis."""
    values = {axis.key: axis.probes()[0] for axis in variant.axes}
    return spec_for(sweep.path.parent, variant, "final", 0, values, seed)


def _add(digest: hashlib._Hash, tensor: torch.Tensor) -> None:
    digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
    digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())


def unpaired(computed: dict[int, str], stored: dict[str, str], seeds: Sequence[int]) -> list[int]:
    """Return the seeds whose digests differ from the stored ones."""
    return [seed for seed in seeds if stored.get(str(seed)) != computed[seed]]
