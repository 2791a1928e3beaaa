"""Train the baselines of a suite and store them next to its file: python scripts/make_baselines.py tiny.

Rerun the script after an interruption: finished runs are kept. At the end the archive is unpacked and its
results are compared with those of the trained runs.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from trainer.cli.commands import sweep as command
from trainer.cli.options import OutputOptions, SweepOptions
from trainer.compare import compare_runs
from trainer.config import packaged
from trainer.suites.baselines import pack, stored, unpack
from trainer.suites.description import description
from trainer.sweep.file import read_sweeps


def main() -> int:
    """Train what is missing, store the baselines and check them; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("suite", help="name of a packaged suite")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="directory of the sweep")
    parser.add_argument("--workers", type=int, help="worker processes (default: one per core)")
    arguments = parser.parse_args()
    file = packaged.names("suite")[arguments.suite]
    options = SweepOptions(workers=arguments.workers, figures=False)
    code = command.sweep(file, [], arguments.runs, options, OutputOptions())
    if code:
        return code
    sweeps = {sweep.config.name.partition("/")[2]: sweep for sweep in read_sweeps(file)}
    root = arguments.runs / file.stem
    info = description(file.stem, sweeps, root)
    for path in pack(file, root, info):
        print(f"wrote {path}, {path.stat().st_size:,} bytes")
    baselines = stored(file)
    assert baselines is not None
    with tempfile.TemporaryDirectory() as folder:
        unpack(baselines, Path(folder))
        unpacked = compare_runs(folder, draw=False).groups
        trained = compare_runs([root / name / "final" for name in sweeps], draw=False).groups
    if not unpacked.equals(trained):
        print("the unpacked runs give other results than the trained ones", file=sys.stderr)
        return 1
    print(f"checked: {len(unpacked)} groups are equal to those of the trained runs")
    return 0


if __name__ == "__main__":
    sys.exit(main())
