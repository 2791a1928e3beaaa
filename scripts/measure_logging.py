"""What writing a row costs, as a share of a training step: the 784-200-10 MLP, batch 64, one thread.

    python scripts/measure_logging.py [ROUNDS]

Times steps without a row and the writing of a row (loss read, CSV line, one system call; no fsync) in turn,
and prints the medians. Run it on a quiet machine. A row comes every `log.every` steps, 30 by default.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch

from trainer.records import POSITION_COLUMNS, StepRecord
from trainer.runs import rundir

EVERY = 30


def main(rounds: int) -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    model = torch.nn.Sequential(torch.nn.Linear(784, 200), torch.nn.ReLU(), torch.nn.Linear(200, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    inputs, targets = torch.randn(64, 784), torch.randint(10, (64,))
    steps, rows = [], []
    with tempfile.TemporaryDirectory() as folder:
        table = rundir.Table(Path(folder) / "steps.csv", [*POSITION_COLUMNS, "loss", "lr"])
        for number in range(rounds):
            began = time.perf_counter()
            loss = torch.nn.functional.cross_entropy(model(inputs), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            stepped = time.perf_counter()
            values = {"loss": loss.item(), "lr": float(optimizer.param_groups[0]["lr"])}
            table.append(StepRecord(number, number / 938, number * 64, number, stepped, values).row())
            rows.append(time.perf_counter() - stepped)
            steps.append(stepped - began)
        table.close()
    step, row = statistics.median(steps), statistics.median(rows)
    print(
        f"step {step * 1e6:.0f} us, row {row * 1e6:.0f} us: {row / step:.2%} of a step with a row each step,"
    )
    print(f"{row / step / EVERY:.3%} with a row every {EVERY} steps (median of {rounds})")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3000)
