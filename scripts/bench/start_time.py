"""How long optlab takes to start, against `import torch` in a Python process.

    python scripts/bench/start_time.py [--rounds 9]

Each round runs every command once, in the same order, because the speed of a shared machine drifts. The
table has the median of the rounds: wall-clock seconds, seconds above `import torch`, and the ratio to it,
both within the round. The goals: a run on digits takes at most 1.0 s above `import torch`, `--help` at most
0.15 of its time, and completion 0.3 s. The exit code is 1 if one is missed.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence

OPTLAB = [sys.executable, "-m", "trainer"]
TORCH, TRAIN, HELP = "import torch", "optlab train quickstart", "optlab --help"
COMMANDS: Mapping[str, Sequence[str]] = {
    TORCH: [sys.executable, "-c", "import torch"],
    TRAIN: [*OPTLAB, "train", "quickstart", "train.epochs=1", "--force"],
    HELP: [*OPTLAB, "--help"],
}
COMPLETIONS = {
    "complete a verb": "optlab tr",
    "complete a config": "optlab train quick",
    "complete a key": "optlab train quickstart optimizer.",
}

MAX_ABOVE_TORCH = 1.0  # seconds
MAX_HELP = 0.15  # of `import torch`
MAX_COMPLETION = 0.3  # seconds


def seconds_of(command: Sequence[str], environment: Mapping[str, str], folder: str) -> float:
    """Return the wall-clock seconds of a command; raise CalledProcessError if it fails."""
    began = time.perf_counter()
    subprocess.run(command, env=environment, cwd=folder, check=True, capture_output=True)
    return time.perf_counter() - began


def measure(rounds: int) -> dict[str, list[float]]:
    """Return the seconds of every command in every round, after a round that is not counted."""
    times: dict[str, list[float]] = {name: [] for name in [*COMMANDS, *COMPLETIONS]}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(rounds + 1):
            for name in times:
                environment = dict(os.environ)
                command = COMMANDS.get(name)
                if command is None:
                    words = COMPLETIONS[name]
                    environment |= {
                        "_OPTLAB_COMPLETE": "complete_bash",
                        "COMP_WORDS": words,
                        "COMP_CWORD": str(words.count(" ")),
                    }
                    command = ["optlab"]
                taken = seconds_of(command, environment, folder)
                if number:
                    times[name].append(taken)
            print(f"round {number} of {rounds}", file=sys.stderr)
    return times


def main() -> int:
    """Print the table; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9, metavar="N", help="rounds that are counted")
    times = measure(parser.parse_args().rounds)
    print(f"{'command':26} {'seconds':>8} {'above':>8} {'ratio':>8}")
    above, ratio = {}, {}
    for name, taken in times.items():
        pairs = list(zip(taken, times[TORCH], strict=True))
        above[name] = statistics.median(own - torch for own, torch in pairs)
        ratio[name] = statistics.median(own / torch for own, torch in pairs)
        print(f"{name:26} {statistics.median(taken):8.2f} {above[name]:8.2f} {ratio[name]:8.2f}")
    missed = []
    if above[TRAIN] > MAX_ABOVE_TORCH:
        missed.append(f"{TRAIN} takes more than {MAX_ABOVE_TORCH} s above {TORCH}")
    if ratio[HELP] > MAX_HELP:
        missed.append(f"{HELP} takes more than {MAX_HELP} of {TORCH}")
    missed += [
        f"{name}: more than {MAX_COMPLETION} s"
        for name in COMPLETIONS
        if statistics.median(times[name]) > MAX_COMPLETION
    ]
    print("\n".join(missed) or "all goals are met")
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
