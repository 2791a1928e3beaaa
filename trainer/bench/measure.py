"""Runs the loops in alternating rounds and tells medians and ratios (floor 6). Prints nothing."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from trainer import catalog, rundir
from trainer.bench import peers
from trainer.bench.peers import Run
from trainer.building import build_experiment
from trainer.experiment import Experiment
from trainer.loop import train
from trainer.records import POSITION_COLUMNS, StepRecord

CONFIG = """\
name: bench
data: {name: mnist, normalize: {mean: [0.1307], std: [0.3081]}}
model: {name: mlp, hidden: [200], activation: relu}
optimizer: {name: SGD, lr: 0.01, momentum: 0.9, weight_decay: 0.0005}
train: {steps: 1000000000, eval_every: {steps: 1000000000}, test: never}
log: {every: 30}
"""
LOG_EVERY = 30
BARE = "best bare eager loop"


@dataclass(frozen=True, slots=True)
class Row:
    """One loop's times.

    Args:
        name: the loop.
        microseconds: per step, one number per round.
        to_bare: median over the rounds of its time over the best bare eager loop's in the same round.
        note: what there is to say, as the seconds of compiling.
    """

    name: str
    microseconds: list[float]
    to_bare: float
    note: str = ""

    @property
    def median(self) -> float:
        """Median microseconds per step."""
        return statistics.median(self.microseconds)

    @property
    def spread(self) -> float:
        """Half the range of the middle half of the rounds, in microseconds."""
        if len(self.microseconds) < 2:
            return 0.0
        low, _, high = statistics.quantiles(self.microseconds, n=4, method="inclusive")
        return (high - low) / 2


def measure(
    root: Path | None, *, batch_size: int, steps: int, rounds: int, threads: int | None = None
) -> list[Row]:
    """Measure every loop that can run here: each round runs all of them one after the other.

    Args:
        root: folder of MNIST; None = the usual one.
        batch_size: samples per step, at most 60,000.
        steps: steps per loop and round; an epoch's at most.
        rounds: rounds that count; one more before them does not.
        threads: CPU threads of torch; None = the usable cores.

    Raises:
        DataError: MNIST is not there.
    """
    with tempfile.TemporaryDirectory() as folder:
        overrides = [f"data.batch_size={batch_size}"]
        overrides += [f"data.root={root.absolute()}"] if root else []
        overrides += [f"train.threads={threads}"] if threads else []
        experiments = {
            engine: _experiment(Path(folder), engine, overrides) for engine in ("eager", "compiled")
        }
        data = experiments["eager"].splits.train
        steps = min(steps, len(data) // batch_size)
        steps = max(LOG_EVERY, steps - steps % LOG_EVERY)  # a call ends at a record
        runs: dict[str, Run] = {BARE: peers.bare(data.inputs, data.targets, batch_size)}
        notes: dict[str, str] = {}
        for engine, experiment in experiments.items():
            name = f"optlab, {engine}"
            runs[name] = _ours(experiment, Path(folder) / f"{engine}.csv")
            notes[name] = experiment.compile() or ""
        runs["matrix products alone"] = peers.products(batch_size)
        if find_spec("torchvision"):
            where = experiments["eager"].config.data.options["root"]
            runs["textbook loop"] = peers.textbook(Path(where), batch_size)
        if find_spec("jax") and find_spec("optax"):
            runs["JAX + optax, one scan"] = peers.jax_scan(data.inputs, data.targets, batch_size)
        times = _rounds(runs, steps, rounds)
    base = times[BARE]
    return [
        Row(name, own, statistics.median(a / b for a, b in zip(own, base, strict=True)), notes.get(name, ""))
        for name, own in times.items()
    ]


def _rounds(runs: Mapping[str, Run], steps: int, rounds: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, run in runs.items():
            began = time.perf_counter()
            run(steps)
            if number:  # the first round warms up: JAX compiles, caches fill
                times[name].append((time.perf_counter() - began) / steps * 1e6)
    return times


def _experiment(folder: Path, engine: str, overrides: list[str]) -> Experiment:
    path = folder / "bench.yaml"
    path.write_text(CONFIG, encoding="utf-8")
    return build_experiment(catalog.load_config(path, [*overrides, f"train.engine={engine}"]))


def _ours(experiment: Experiment, path: Path) -> Run:
    """Return optlab's own loop with its records written to a table, as in a run."""
    records = train(experiment)
    next(records), next(records)  # the evaluation before the first step, and its checkpoint
    columns = [*POSITION_COLUMNS, *experiment.step_columns()]

    def run(steps: int) -> None:
        target = experiment.progress.step + steps
        with _table(path, columns) as table:
            for record in records:
                if isinstance(record, StepRecord):
                    table.append(record.row())
                if record.step >= target:
                    return

    return run


@contextmanager
def _table(path: Path, columns: list[str]) -> Iterator[rundir.Table]:
    table = rundir.Table(path, columns)
    try:
        yield table
    finally:
        table.close()
