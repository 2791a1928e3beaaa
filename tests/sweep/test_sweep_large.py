"""A thousand tiny runs in one sweep: memory stays constant, the table is fast. Nightly (slow)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from small_sweeps import results, summary, write

OPTLAB = str(Path(sys.executable).with_name("optlab"))


def resident_bytes(pid: int) -> int:
    fields = Path(f"/proc/{pid}/statm").read_text().split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")


def family(pid: int) -> list[int]:
    """The process and its children."""
    actual = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True).stdout.split()
    return [pid, *map(int, actual)]


@pytest.mark.nightly
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads memory from /proc")
def test_a_thousand_runs_in_one_sweep(tmp_path: Path) -> None:
    variants = {f"m{i}": {"optimizer": {"momentum": i / 10}} for i in range(5)}
    axes = {"optimizer.lr": [10 ** (-i / 4) for i in range(20)]}
    sweep = {"base": "base.yaml", "name": "large", "seeds": 10, "variants": variants, "axes": axes}
    file = write(tmp_path, sweep)
    command = [OPTLAB, "sweep", str(file), "train.epochs=1", "--runs", str(tmp_path / "runs")]
    began = time.monotonic()
    process = subprocess.Popen([*command, "--no-figures"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    samples: list[tuple[int, int]] = []

    def watch() -> None:
        while process.poll() is None:
            try:
                state = json.loads((tmp_path / "runs" / "large" / "progress.json").read_text())
                samples.append((state["done"], sum(resident_bytes(pid) for pid in family(process.pid))))
            except (OSError, ValueError):
                pass
            time.sleep(1)

    watcher = threading.Thread(target=watch)
    watcher.start()
    process.communicate(timeout=3000)
    watcher.join()
    seconds = time.monotonic() - began
    assert process.returncode == 0
    root = tmp_path / "runs" / "large"
    assert len(results(root)) == 1000
    assert summary(root)["runs"] == {"done": 1000, "planned": 1000, "failed": 0}

    early = [memory for done, memory in samples if 100 <= done <= 300]
    late = [memory for done, memory in samples if done >= 800]
    grown = max(late) / max(early) - 1
    waits = []
    for _ in range(3):  # a busy machine can delay one of them
        began = time.monotonic()
        table = subprocess.run([OPTLAB, "runs", str(root)], capture_output=True, text=True, check=True).stdout
        waits.append(time.monotonic() - began)
    listed = min(waits)
    print(f"{seconds:.0f} s, memory {max(early) >> 20} -> {max(late) >> 20} MiB, runs in {listed:.2f} s")
    assert table.count("completed") >= 1000
    assert grown < 0.1
    assert listed < 2
