"""How many runs per minute a sweep makes, against one process and against the most the machine can give.

    python scripts/bench/sweep_throughput.py [--runs 40] [--workers 2] [--epochs 20] [--data mnist:/path]

Three times the same list of runs: one after the other in one process; dealt out to that many processes that
know nothing of one another (the ideal: no queue, no parent); and as a sweep. Start-up is left out of all
three: processes are timed from their first run, the sweep from its first finished run to its last. The rounds
alternate, since the speed of a shared machine drifts; the medians count.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

BASE = """\
name: bench
data: {name: digits, val_size: 0.2, batch_size: 32, normalize: dataset}
model: {name: mlp, hidden: [64]}
optimizer: {name: SGD, lr: 0.05, momentum: 0.9}
train: {threads: 1}
log: {every: 30, plots: []}
"""


def train_list(config: Path, folder: Path, seeds: list[int], gate: Any, out: Any) -> None:
    """Train seeds one after the other in this process, from the moment that everybody is ready."""
    from trainer.catalog import load_config
    from trainer.runs import launch
    from trainer.runs.options import RunOptions
    from trainer.training.loaded_data import load_data

    options = RunOptions(loaded_data=load_data(load_config(config)))
    launch.launch(load_config(config, ["seed=999"]), folder / "warm", options)
    gate.wait()
    began = time.perf_counter()
    for seed in seeds:
        launch.launch(load_config(config, [f"seed={seed}"]), folder / f"seed={seed}", options)
    out.put(time.perf_counter() - began)


def in_processes(config: Path, folder: Path, runs: int, count: int) -> float:
    """Return the runs per minute of so many unconnected processes."""
    context = multiprocessing.get_context("spawn")
    gate, out = context.Barrier(count), context.Queue()
    processes = [
        context.Process(
            target=train_list, args=(config, folder / str(i), list(range(i, runs, count)), gate, out)
        )
        for i in range(count)
    ]
    for process in processes:
        process.start()
    slowest = max(out.get() for _ in processes)
    for process in processes:
        process.join()
    return 60 * runs / slowest


def as_sweep(file: Path, folder: Path, workers: int) -> float:
    """Return the runs per minute of a sweep, from its first finished run to its last."""
    from trainer.sweep.file import read_sweep
    from trainer.sweep.plan import SharedData, check_variants, resolve_objective
    from trainer.sweep.progress import Display, Finished, SweepState
    from trainer.sweep.runner import Options, SweepRunner

    moments: list[float] = []

    class Clock(Display):
        def finished(self, run: Finished, state: SweepState) -> None:
            moments.append(time.perf_counter())

    sweep = read_sweep(file)
    folder.mkdir()
    shared_data = SharedData(folder / ".data")
    infos = check_variants(sweep, shared_data)
    objective = resolve_objective(sweep, infos)
    SweepRunner(sweep, folder, infos, objective, shared_data, Options(workers), Clock()).run()
    # The first of every worker carries its start-up.
    return 60 * (len(moments) - workers) / (moments[-1] - moments[workers - 1])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=40)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--epochs", type=float, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--data", default="digits", help="digits, or NAME:ROOT")
    options = parser.parse_args()
    name, _, root = options.data.partition(":")
    base = yaml.safe_load(BASE)
    base["train"]["epochs"] = options.epochs
    base["data"] |= {"name": name} | ({"root": root} if root else {})
    found: dict[str, list[float]] = {"one process": [], "unconnected processes": [], "sweep": []}
    with tempfile.TemporaryDirectory() as temporary:
        top = Path(temporary)
        (top / "base.yaml").write_text(yaml.safe_dump(base))
        sweep = {"base": "base.yaml", "name": "bench", "seeds": options.runs}
        (top / "sweep.yaml").write_text(yaml.safe_dump(sweep))
        for number in range(options.rounds):
            here = top / str(number)
            here.mkdir()
            config, count = top / "base.yaml", options.workers
            found["one process"].append(in_processes(config, here / "one", options.runs, 1))
            found["sweep"].append(as_sweep(top / "sweep.yaml", here / "sweep", count))
            found["unconnected processes"].append(in_processes(config, here / "many", options.runs, count))
            print(json.dumps({key: round(rates[-1], 1) for key, rates in found.items()}), flush=True)
    medians = {key: statistics.median(rates) for key, rates in found.items()}
    for key, rate in medians.items():
        print(f"{key:24} {rate:8.1f} runs/min")
    print(f"sweep / one process      {medians['sweep'] / medians['one process']:8.2f} times")
    print(f"sweep / ideal            {100 * medians['sweep'] / medians['unconnected processes']:8.1f} %")


if __name__ == "__main__":
    main()
