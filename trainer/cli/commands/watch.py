"""Implementation of `optlab watch`: serve the live page until Ctrl-C."""

from __future__ import annotations

import os
from collections.abc import Sequence

from trainer import console
from trainer.compare import compare_runs
from trainer.report import render_page, report_contents
from trainer.report.server import LOCAL, LiveServer
from trainer.report.watched_runs import WatchedRuns


def watch(runs: Sequence[str], host: str, port: int) -> None:
    """Print the address of the page and serve it."""
    paths = list(runs) or [os.environ.get("OPTLAB_RUNS") or "runs"]

    def make_report() -> str:
        return render_page(report_contents(compare_runs(paths)))

    with LiveServer(WatchedRuns(paths), make_report, host, port) as server:
        console.print_text(server.address)
        if host not in LOCAL:
            console.print_note(
                "warning: everybody who can reach this machine and knows the address sees the runs"
            )
        console.print_note("Ctrl-C ends it")
        server.serve_forever(poll_interval=0.5)
