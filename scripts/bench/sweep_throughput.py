"""How long a sweep takes with the eager and with the compiled engine, and how long a kept step takes to load.

    python scripts/bench/sweep_throughput.py [--task digits] [--runs 40] [--rounds 3] [--workers 2]

The tasks are the configs quickstart (digits) and sgd_momentum (mnist). Each round runs `optlab sweep` with
train.engine=eager, with train.engine=compiled and an empty compiler cache, and with train.engine=compiled
again, when the step is kept. Times are of the whole command. The rounds are interleaved, because the speed of
a shared machine drifts; the medians of the ratios within rounds count.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
TASKS = {"digits": ("quickstart.yaml", 20), "mnist": ("sgd_momentum.yaml", 5)}
"""The config and the number of epochs of each task."""

COMPILED, KEPT = "compiled, empty cache", "compiled, kept step"


def run(arguments: list[str], cache: Path) -> tuple[float, str]:
    """Run a command of optlab; return its seconds and its output."""
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "trainer", *arguments],
        env=os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(cache)},
        capture_output=True,
        text=True,
        check=True,
    )
    return time.perf_counter() - began, done.stderr


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--task", choices=TASKS, default="digits")
    parser.add_argument("--runs", type=int, default=40)
    parser.add_argument("--epochs", type=float, help="default: 20 for digits, 5 for mnist")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    config, epochs = TASKS[options.task]
    base = {
        "base": str(CONFIGS / config),
        "name": "bench",
        "train": {"threads": 1, "epochs": options.epochs or epochs},
        "log": {"every": 30, "plots": []},
    }
    seconds: dict[str, list[float]] = {"eager": [], COMPILED: [], KEPT: []}
    prepared: list[float] = []
    with tempfile.TemporaryDirectory() as temporary:
        top = Path(temporary)
        (top / "base.yaml").write_text(json.dumps(base))  # JSON is YAML
        (top / "sweep.yaml").write_text(json.dumps({"base": "base.yaml", "name": "s", "seeds": options.runs}))
        for number in range(options.rounds):
            cache = top / f"cache{number}"
            for name in seconds:
                runs = top / "runs"
                sweep = ["sweep", str(top / "sweep.yaml"), f"train.engine={name.partition(',')[0]}"]
                sweep += ["--runs", str(runs), "--workers", str(options.workers), "--no-figures", "--quiet"]
                seconds[name].append(run(sweep, cache)[0])
                shutil.rmtree(runs)
            train = ["train", str(top / "base.yaml"), "train.engine=compiled", "train.epochs=1"]
            run([*train, "--run-dir", str(top / "run")], cache)
            log = (top / "run" / "train.log").read_text()
            found = re.search(r"earlier run, in ([\d.]+) s", log)
            prepared.append(float(found[1]) if found else float("nan"))
            shutil.rmtree(top / "run")
            shutil.rmtree(cache)
            print(json.dumps({name: round(all_[-1], 2) for name, all_ in seconds.items()}), flush=True)
    for name, all_ in seconds.items():
        ratios = [eager / one for eager, one in zip(seconds["eager"], all_, strict=True)]
        print(f"{name:22} {statistics.median(all_):7.1f} s  {statistics.median(ratios):5.2f} x eager's speed")
    print(f"loading a kept step    {statistics.median(prepared):7.2f} s")


if __name__ == "__main__":
    main()
