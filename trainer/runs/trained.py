"""The trained model of a run, with its data: what commands use that ask the model for something."""

from __future__ import annotations

from pathlib import Path

from trainer import catalog
from trainer.config.identity import import_paths
from trainer.runs import checkpoint, ownership, rundir
from trainer.runs.resume import refuse_other_data, refuse_untrusted_code
from trainer.training.building import RunSetup, set_up_run


def load_trained(folder: Path, *, trust: bool = False) -> RunSetup:
    """Build the experiment of a run with the weights of its best checkpoint, else of its last one.

    Args:
        folder: the run directory; the run may still be running.
        trust: execute user files and packages even if the run directory was made elsewhere.

    Raises:
        RunError: there is no run or no readable checkpoint, or its code or data have changed.
        ConfigError, DataError: the experiment is not valid any more.
    """
    ownership.require_run(folder)
    saved = rundir.load_config(folder)
    if not trust:
        refuse_untrusted_code(folder, import_paths(saved))
    best = folder / rundir.CHECKPOINTS / checkpoint.BEST
    path = best if best.exists() else best.with_name(checkpoint.LAST)
    state = checkpoint.load_checkpoint(path)
    setup = set_up_run(catalog.load_config(folder / rundir.CONFIG))
    refuse_other_data(folder, rundir.read_environment(folder), setup)
    try:
        setup.experiment.state.load_weights(state["experiment"])
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise checkpoint.DamagedError(f"{path} does not match the config of the run: {reason}") from error
    return setup
